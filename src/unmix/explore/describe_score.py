"""How well a description tells where a feature fires, on examples that it was not made from.

    detection   windows in which the feature fires, and as many in which it does not: which are which?
    fuzzing     windows in which it fires, half with the tokens marked at which it does, half with as many others:
                in which are the marks right?

Both are of Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models" (arXiv
2410.13928): a model that has only the description answers for each example. Detection asks whether it tells the right
texts, fuzzing whether it tells the right tokens in them; chance is ½ in both, since the two kinds are equally many.

With c of n answers right, accuracy is c / n. Its standard error is that of Agresti and Coull (1998), which is not 0
where all are right: √(p (1 - p) / (n + 4)) with p = (c + 2) / (n + 4).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from unmix.explore.describe_ask import Endpoint, Unreadable
from unmix.explore.describe_text import CLOSE, OPEN, BytesOf, Split, active, elsewhere, text_of

AT_ONCE = 5  # examples of one question, at most
_LIST = re.compile(r"\[[\s01,]*\]")
_SYSTEM = (
    "You are given the description of one feature of a language model: of the texts, and of the tokens in them, on "
    "which it is active. You judge texts by that description alone. You answer with a JSON list of one number for each "
    "text, in their order, 1 for yes and 0 for no, such as [0, 1], and nothing else."
)
_DETECTION = "Is the feature active anywhere in the text?"
_FUZZING = f"Some tokens stand between {OPEN} and {CLOSE}. Are these the ones on which the feature is active?"


class Item(NamedTuple):
    """One example of a question."""

    text: str
    right: bool
    """Whether yes is the right answer."""


class Score(NamedTuple):
    """Of n answers, as many with yes as with no for the right one."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def standard_error(self) -> float:
        p = (self.correct + 2) / (self.n + 4)
        return math.sqrt(p * (1 - p) / (self.n + 4))

    def facts(self) -> dict[str, float | int]:
        """As plain data."""
        return {"accuracy": round(self.accuracy, 4), "se": round(self.standard_error, 4), "n": self.n}

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} ± {self.standard_error:.2f} ({self.n})"


def detection_items(found: Split, bytes_of: BytesOf, seed: int) -> list[Item]:
    """As many windows with firings as without, in a drawn order."""
    draw = random.Random(f"detection {seed}")
    n = min(len(found.held), len(found.silent))
    items = [Item(text_of(window, bytes_of), True) for window in draw.sample(found.held, n)]
    items += [Item(text_of(window, bytes_of), False) for window in draw.sample(found.silent, n)]
    draw.shuffle(items)
    return items


def fuzzing_items(found: Split, bytes_of: BytesOf, seed: int) -> list[Item]:
    """Each window once: half of them with its own marks, half with others, in a drawn order."""
    draw = random.Random(f"fuzzing {seed}")
    windows = draw.sample(found.held, len(found.held))
    moved = [(window, marks) for window in windows if (marks := elsewhere(window, draw)) is not None]
    wrong = moved[: len(windows) // 2]
    taken = {id(window) for window, _ in wrong}
    right = [window for window in windows if id(window) not in taken][: len(wrong)]
    items = [Item(text_of(window, bytes_of, marks), False) for window, marks in wrong]
    items += [Item(text_of(window, bytes_of, active(window)), True) for window in right]
    draw.shuffle(items)
    return items


def score(endpoint: Endpoint, description: str, kind: str, items: list[Item], seed: int) -> Score | None:
    """The answers for `detection` or `fuzzing`; none where there are no items. Raises as `Endpoint.ask` does."""
    correct = 0
    for part in _parts(items):
        answers = _ask(endpoint, question(description, kind, part), len(part), seed)
        correct += sum(answer == item.right for answer, item in zip(answers, part, strict=True))
    return Score(correct, len(items)) if items else None


def question(description: str, kind: str, items: list[Item]) -> str:
    """What is asked of a few examples."""
    texts = "\n".join(f"Text {n}: {item.text}" for n, item in enumerate(items, 1))
    asked = _DETECTION if kind == "detection" else _FUZZING
    return f"Description of the feature: {description}\n\n{asked}\n\n{texts}\n\nAnswer with {len(items)} numbers."


def questions(items: list[Item]) -> int:
    """How many are asked for these items."""
    return -(-len(items) // AT_ONCE)


def _parts(items: list[Item]) -> Iterator[list[Item]]:
    """In order, of sizes that differ by one at most."""
    n = questions(items)
    return (items[k * len(items) // n : (k + 1) * len(items) // n] for k in range(n))


def _ask(endpoint: Endpoint, text: str, n: int, seed: int) -> list[bool]:
    """n answers; one that cannot be read is asked for once more."""
    for attempt in range(2):
        answer = endpoint.ask(_SYSTEM, text, seed + attempt)
        numbers = [re.findall("[01]", found) for found in _LIST.findall(answer)]
        if numbers and len(numbers[-1]) == n:
            return [number == "1" for number in numbers[-1]]
    raise Unreadable(answer)
