"""What the page may ask for, and what it is answered: names that are listed, whole numbers, strengths and text.

Every request is an object that is closed to keys that are not below. Answers are plain data; what is not a finite
number is null, and a token's bytes are a text of characters 0 to 255, one a byte. An answer may be told in parts before
it is given whole: the keys of a part replace those of parts before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from unmix.activations.mask import Mask
from unmix.config.messages import problems_line
from unmix.config.section import Section
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.explore.intervene import Change, Continuation, Kind, Outcome, intervene
from unmix.explore.prompt import Read, prompt_ids, read_prompt
from unmix.explore.server_files import read_object
from unmix.explore.server_worker import Asked
from unmix.lm.model import LanguageModel

CHARACTERS = 20_000  # of a prompt; far more than LONGEST tokens of prose
GENERATED = 128
CHANGES = 32  # of one request
WINDOWS = 200  # of one answer
KEPT = 2048  # features of a token; more are active only where a dictionary is hardly sparse
Answer = dict[str, Any]
Tell = Callable[[Answer], None]
"""Sends a part of an answer."""


class _Request(Section):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    member: str


class PromptRequest(_Request):
    """All features of a text."""

    text: str = Field(max_length=CHARACTERS)


class ChangeRequest(Section):
    """One change of a feature; the strength is in units of the feature's maximum on the site's tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    feature: int = Field(ge=0)
    kind: Kind
    strength: float = Field(default=0.0, ge=-1e6, le=1e6)


class InterveneRequest(_Request):
    """What changes of features do to a text and to what is written after it."""

    text: str = Field(max_length=CHARACTERS)
    changes: list[ChangeRequest] = Field(max_length=CHANGES)
    where: Literal["all"] | int = "all"
    generate: int = Field(default=0, ge=0, le=GENERATED)
    seed: int = Field(default=0, ge=0, lt=2**53)
    temperature: float = Field(default=1.0, ge=0, le=100)
    stream: bool = False
    """Whether to tell what is predicted, and what is written, as it comes."""


class FeatureRequest(_Request):
    """More examples of a feature than the site's files hold."""

    feature: int = Field(ge=0)
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=50, ge=1, le=WINDOWS)
    order: Literal["top", "uniform"] = "top"


@dataclass(frozen=True)
class Member:
    """A dictionary of the site."""

    name: str
    hook: str
    sae: Dictionary
    mask: Mask
    site: Path
    hook_out: str | None = None
    """Where the y of a transcoder is read, and its features are changed."""

    @cached_property
    def maximum_F(self) -> list[float | None]:
        """The largest value of each feature on the site's tokens."""
        found: list[float | None] = read_object(self.site, f"{self.name}/index")["max"]
        return found

    def unit(self, feature: int) -> float:
        """What strengths of a feature are multiplied by. Raises `UserError` if it never fired there."""
        if not 0 <= feature < self.sae.features:
            raise UserError(f"{self.name} has no feature {feature}; give 0 to {self.sae.features - 1}")
        if not (maximum := self.maximum_F[feature]):
            raise UserError(
                f"feature {feature} of {self.name} never fired on the site's tokens: strengths are in units of its "
                "maximum there; choose another feature"
            )
        return abs(maximum)


@dataclass(frozen=True)
class Served:
    """What requests are answered from."""

    lm: LanguageModel
    bytes_of: Callable[[int], bytes]
    members: dict[str, Member]
    windows: Callable[[str, FeatureRequest], Answer]
    """More examples of a member's feature, out of the store."""
    bos: bool = True
    """Whether texts are read behind a BOS, as the sequences of the training were."""

    def member(self, name: str) -> Member:
        """Raises `UserError` for a name that is not listed."""
        if name not in self.members:
            raise UserError(f"there is no member {name[:80]!r}; it is one of {', '.join(self.members)}")
        return self.members[name]

    def read(self, member: Member, text: str) -> Read:
        """A text as the member reads it. Raises `UserError` for what `read_prompt` does."""
        return read_prompt(
            self.lm, member.hook, member.sae, text, hook_out=member.hook_out, bos=self.bos, mask=member.mask
        )


def parse(kind: type[_Request], body: bytes) -> _Request:
    """The request in the body. Raises `UserError`, one line, if it is not one."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise UserError(problems_line(error, kind)) from None


def answer_prompt(served: Served, request: PromptRequest, asked: Asked, tell: Tell) -> Answer:
    """Every token with its norm, its error, and all features that are active on it.

    `more`: how many there are beyond the KEPT largest, which are not sent.
    """
    member = served.member(request.member)
    read = served.read(member, request.text)
    columns = zip(read.norm_T.tolist(), read.error_T.tolist(), read.masked_T.tolist(), read.features, strict=True)
    tokens = [
        token
        | {"norm": number(norm), "err": number(error), "masked": masked}
        | {"f": [[i, number(f)] for i, f in active[:KEPT]], "more": max(0, len(active) - KEPT)}
        for token, (norm, error, masked, active) in zip(_tokens(served, read.ids_T.tolist()), columns, strict=True)
    ]
    return {"tokens": tokens, "truncated": read.truncated}


def answer_intervene(served: Served, request: InterveneRequest, asked: Asked, tell: Tell) -> Answer:
    """The plain text beside the changed one."""
    member = served.member(request.member)
    changes = [
        Change(c.feature, c.kind, c.strength, 1.0 if c.kind == "ablate" else member.unit(c.feature))
        for c in request.changes
    ]
    prompt = prompt_ids(served.lm, request.text, bos=served.bos)

    def whole(found: Outcome) -> Answer:
        return {
            "tokens": _tokens(served, prompt.ids_T.tolist()),
            "truncated": prompt.truncated,
            "cut": found.cut,
            "kl": numbers(found.kl_T.tolist()),
            "delta_logp": numbers(found.delta_logp_T.tolist()),
            **{name: _predicted(row) for name, row in _rows(found)},
            "next": {name: [[i, _text(served, i), number(p)] for i, p in row.next] for name, row in _rows(found)},
            **_written(served, found),
        }

    def heard(found: Outcome) -> None:
        tell(_written(served, found) if found.plain.generated else whole(found))

    found = intervene(
        served.lm,
        member.hook,
        member.sae,
        prompt.ids_T,
        changes,
        hook_out=member.hook_out,
        where=None if request.where == "all" else request.where,
        generate=request.generate,
        temperature=request.temperature,
        seed=request.seed,
        cancelled=asked,
        heard=heard if request.stream else None,
    )
    return whole(found)


def answer_feature(served: Served, request: FeatureRequest, asked: Asked, tell: Tell) -> Answer:
    """A page of examples."""
    member = served.member(request.member)
    if request.feature >= member.sae.features:
        raise UserError(f"{member.name} has no feature {request.feature}; give 0 to {member.sae.features - 1}")
    return served.windows(member.name, request)


def _rows(found: Outcome) -> tuple[tuple[str, Continuation], ...]:
    return (("plain", found.plain), ("changed", found.changed))


def _written(served: Served, found: Outcome) -> Answer:
    return {"generated": {name: _tokens(served, row.generated) for name, row in _rows(found)}}


def _predicted(row: Continuation) -> Answer:
    """log p of the token behind each position, the last one null, and the mean of -log p."""
    logp = row.logp_T[:-1]
    return {"logp": numbers(row.logp_T.tolist()), "loss": number(-logp.mean().item() if len(logp) else math.nan)}


def _tokens(served: Served, ids: Iterable[int]) -> list[Answer]:
    return [{"id": i, "bytes": _text(served, i)} for i in ids]


def _text(served: Served, token_id: int) -> str:
    return served.bytes_of(token_id).decode("latin-1")


def numbers(values: Iterable[float]) -> list[float | None]:
    """Each as `number`."""
    return [number(value) for value in values]


def number(value: float) -> float | None:
    """To seven digits, about what float32 holds; none if it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
