"""Values of a recipe as words of the command line: how they are read, and how they are written to be read so again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any

LISTS = (
    "training.l0",
    "training.l1",
    "sae.prefixes",
    "training.betas",
    "activations.hooks",
    "activations.special_ids",
    "corpus.roles",
    "sinks",
)  # keys that take several values


def read(word: str) -> Any:
    """The value of a word, as YAML; in quotes it is text. Raises `ValueError` if it has none."""
    import yaml  # the command line reads no value before it knows the command

    try:
        return yaml.load(word, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def value_of(key: str, words: Sequence[str]) -> Any:
    """The value of `--KEY WORD …`; of a key that holds a list, a single word may be the list, or null.

    Raises `ValueError` for a word that has no value.
    """
    values = [read(word) for word in words]
    several = key in LISTS and not (len(values) == 1 and isinstance(values[0], list | None))
    return values if several else values[0]


def option(key: str, value: Any) -> str:
    """`--KEY WORD …` for a shell, such that `value_of` gives this value: plain data, as a recipe is dumped.

    `architecture` is the option of that name, which takes several too.
    """
    several = key in (*LISTS, "architecture") and isinstance(value, list) and value
    words = value if several and not isinstance(value[0], list | None) else [value]
    return shlex.join([f"--{key}", *map(_word, words)])


@cache
def _loader() -> Any:
    """YAML 1.1, but for 1e-3, which is text there, and 010, which is 8: people mean the decimal number."""
    import yaml

    class Words(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
    Words.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    Words.add_constructor("tag:yaml.org,2002:int", _decimal)
    return Words


def _decimal(loader: Any, node: Any) -> int:
    digits = loader.construct_scalar(node).replace("_", "")
    return int(digits) if re.fullmatch(r"[-+]?\d+", digits) else int(loader.construct_yaml_int(node))


def _word(value: Any) -> str:
    return value if isinstance(value, str) and _is_plain(value) else json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """Whether a text can stand without quotes."""
    try:
        return not text.startswith("--") and bool(read(text) == text)
    except ValueError:
        return False
