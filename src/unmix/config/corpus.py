"""Where the documents come from: one source, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from unmix.config.messages import problems_line
from unmix.config.section import Section
from unmix.errors import UserError

_OF_CHATS = ("roles", "template_tokens", "template")
_ADDED = ("revision", *_OF_CHATS, "packed", "ids_dtype", "sources")
"""Keys that recipes of older runs and stores lack: they are written only where they are not at their default."""


class SourceConfig(Section):
    """One source, and how it is read."""

    source: str = Field(default="stdlib", min_length=1)
    """`stdlib`, a file of text, records (.jsonl, .json, .csv, .tsv, .parquet, .arrow) or token ids (.npy, .bin), a
    folder of these or of `save_to_disk`, or `datasets:NAME[:CONFIG[:SPLIT]]` (docs/corpora.md). Text, JSON and CSV may
    be compressed (.gz, .bz2, .xz, .zst)."""
    field: str = "text"
    """The field (JSON, datasets) or column (CSV, Parquet, Arrow) to read. What it holds is seen from the data: a text,
    a list of token ids (`input_ids`), or a chat (`messages`, `conversations`)."""
    revision: str | None = None
    """Commit, branch or tag of a dataset on the hub; none reads the newest."""
    roles: list[str] = Field(default=[])
    """Of chats: the roles (`assistant`) whose messages become activations; none given, every token does."""
    template_tokens: bool | None = None
    """Of chats: whether tokens that the chat template adds become activations. null: only if `roles` is not given."""
    template: Path | None = None
    """Of chats: a Jinja file to use in place of the tokenizer's chat template."""
    packed: bool | None = None
    """Of token ids: whether rows are pieces of one stream (true) or documents (false). null: pieces, if they are all of
    one length and none is padded."""
    ids_dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None
    """Number format of token ids in a .bin file, little-endian."""

    @field_validator("roles", mode="before")
    @classmethod
    def _one_role(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _revision_of_a_dataset(self) -> SourceConfig:
        if self.revision is not None and not self.source.startswith("datasets:") and not getattr(self, "sources", []):
            raise ValueError(
                f"revision = {self.revision} is for a dataset on the hub, and source = {self.source} is none; "
                "write datasets:NAME, or leave revision out"
            )
        return self

    @property
    def masks(self) -> bool:
        """Whether some tokens do not become activations."""
        return bool(self.roles) or self.template_tokens is False

    @property
    def counts_template(self) -> bool:
        """Whether the tokens of a chat template become activations."""
        return not self.roles if self.template_tokens is None else self.template_tokens

    @property
    def counted_of_chats(self) -> str:
        """Whose messages become activations, and whether the template's tokens do."""
        whose = f"messages of {' and '.join(self.roles)}" if self.roles else "all messages"
        return f"{whose}, template tokens {'too' if self.counts_template else 'left out'}"

    @property
    def settled(self) -> SourceConfig:
        """The same, with every key where it is read."""
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Its keys, settled, without those that older versions do not know and that are at their default."""
        data: dict[str, Any] = dump(self.settled)
        if data.get("sources"):
            data.pop("source", None)  # it only describes them
        fields = type(self).model_fields
        return {key: value for key, value in data.items() if key not in _ADDED or value != fields[key].default}


class WeightedSource(SourceConfig):
    """One of several sources."""

    source: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    """Its share of the tokens, relative to the other weights."""


class CorpusConfig(SourceConfig):
    """The documents of a run. Several sources are a list, `corpus: [{source: a.jsonl, weight: 0.7}, …]`; further keys
    of the corpus then stand beside it under `sources`."""

    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents kept out of training, by hash of the document."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Stop reading after this many tokens of a split; none reads the whole corpus, but of one far longer than the run
    needs no more than that."""
    sources: list[WeightedSource] = Field(default=[])
    """Several sources. Their keys, where not given, are those of the corpus; `source` then describes them."""

    @model_validator(mode="before")
    @classmethod
    def _several(cls, data: Any) -> Any:
        """A list of sources, or of `PATH=WEIGHT` in `source`, as `sources`."""
        data = corpus_keys(data)
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("source"), list | tuple):
            given = list(data.pop("source"))
            if data.get("sources"):
                raise ValueError("source and sources both name several; leave out one")
            if len(given) == 1:
                data["source"] = given[0]
            else:
                data["sources"] = [_weighted(word) for word in given]
        if isinstance(data.get("sources"), list) and len(data["sources"]) == 1:
            raise ValueError("sources holds one source; name it as corpus.source, or give several")
        return data

    @model_validator(mode="after")
    def _described(self) -> CorpusConfig:
        if not self.sources:
            return self
        said = _description(self.sources)
        if "source" in self.model_fields_set and self.source != said:
            raise ValueError(f"source = {self.source} stands beside sources; leave out one of them")
        same = [(part.source, part.field) for part in self._settled_sources]
        if twice := next((pair for pair in same if same.count(pair) > 1), None):
            raise ValueError(f"{twice[0]} stands twice in sources; name it once, with the sum of the weights")
        object.__setattr__(self, "source", said)
        return self

    @property
    def parts(self) -> list[tuple[float, SourceConfig]]:
        """(share of the tokens, source): the shares sum to 1; one source has all."""
        if not self.sources:
            return [(1.0, self)]
        total = sum(part.weight for part in self.sources)
        return [(part.weight / total, part) for part in self._settled_sources]

    @property
    def _settled_sources(self) -> list[WeightedSource]:
        """The sources, with the keys that they do not give as the corpus gives them."""
        own = {key: getattr(self, key) for key in SourceConfig.model_fields if key in self.model_fields_set}
        own.pop("source", None)
        found = []
        for part in self.sources:
            more = {key: value for key, value in own.items() if key not in part.model_fields_set}
            if not part.source.startswith("datasets:"):
                more.pop("revision", None)
            found.append(part.model_copy(update=more))
        return found

    @property
    def settled(self) -> CorpusConfig:
        """Of several sources, each with its keys: written so, a key of the corpus and one that a source does not give
        cannot be mistaken for each other."""
        if not self.sources:
            return self
        fields = SourceConfig.model_fields
        plain = {key: fields[key].get_default(call_default_factory=True) for key in fields if key != "source"}
        return self.model_copy(update={**plain, "sources": self._settled_sources})

    @property
    def any_masks(self) -> bool:
        """Whether some tokens of any source do not become activations."""
        return any(part.masks for _, part in self.parts)

    @property
    def counted(self) -> str:
        """Which tokens become activations, where not all do: `messages of assistant, template tokens left out`."""
        found = dict.fromkeys(part.counted_of_chats for _, part in self.parts if part.masks)
        return "; ".join(found)

    def pinned(self, names: Sequence[str], commits: Sequence[str | None]) -> CorpusConfig:
        """The corpus with a revision for each of its datasets on the hub that asks for none; `names` are theirs."""
        if [part.source for _, part in self.parts] != list(names):
            return self
        if not self.sources:
            return self if self.revision is not None else self.model_copy(update={"revision": commits[0]})
        sources = [
            part
            if part.revision is not None or self.revision is not None
            else part.model_copy(update={"revision": commit})
            for part, commit in zip(self.sources, commits, strict=True)
        ]
        return self.model_copy(update={"sources": sources})

    def at(self, source: str) -> CorpusConfig:
        """The corpus with another source, read as its data say; `field`, the split and the bound stay."""
        fields = type(self).model_fields
        fresh = {key: fields[key].get_default(call_default_factory=True) for key in _ADDED}
        read = {part.field for _, part in self.parts}
        field = read.pop() if len(read) == 1 else fields["field"].default
        return self.model_copy(update=fresh | {"source": source, "field": field})

    def changed(self, keys: Mapping[str, Any]) -> CorpusConfig:
        """The corpus with these keys; of several sources, one of a source holds for each of them.

        Raises `UserError` for keys that there are not, and for values that do not fit.
        """
        if not keys:
            return self
        data = self.model_dump()
        if self.sources:
            of_each = {key: value for key, value in keys.items() if key in SourceConfig.model_fields}
            data["sources"] = [part | of_each for part in data["sources"]]
            keys = {key: value for key, value in keys.items() if key not in of_each}
        try:
            return _Alone.model_validate({"corpus": data | dict(keys)}).corpus
        except ValidationError as error:
            raise UserError(problems_line(error, _Alone)) from None


class _Alone(Section):
    """A corpus under its name, so that what is wrong with a key names it as it is given."""

    corpus: CorpusConfig


def corpus_keys(value: Any) -> Any:
    """A corpus as its keys: a list is one of sources; what is neither is left for pydantic to refuse."""
    return {"sources": value} if isinstance(value, list) else value


def of_earlier(corpus: Any) -> Any:
    """The keys of a corpus that was written, without what an earlier version wrote that nobody gave.

    It wrote `field: text` into each of several sources, whatever the corpus said; this one says nothing else of `field`
    beside sources (`settled`).
    """
    if not isinstance(corpus, dict) or not isinstance(corpus.get("sources"), list):
        return corpus
    usual = SourceConfig.model_fields["field"].default
    if corpus.get("field", usual) == usual:
        return corpus
    bare = [
        {k: v for k, v in part.items() if (k, v) != ("field", usual)} if isinstance(part, dict) else part
        for part in corpus["sources"]
    ]
    return {**corpus, "sources": bare}


def as_written_now(corpus: Any) -> Any:
    """The keys of a corpus that an earlier version wrote, as this one writes them. Raises `ValidationError`."""
    if not isinstance(corpus, dict) or not corpus.get("sources"):
        return corpus
    return CorpusConfig.model_validate(of_earlier(corpus)).model_dump(mode="json")


def _weighted(word: Any) -> Any:
    """`a.jsonl=0.7` as its keys; without a number behind the last `=`, the whole is the source."""
    if not isinstance(word, str):
        return word
    source, _, weight = word.rpartition("=")
    try:
        return {"source": source, "weight": float(weight)} if source else {"source": word}
    except ValueError:
        return {"source": word}


def _description(sources: list[WeightedSource]) -> str:
    """`0.7 a.jsonl + 0.3 code/`."""
    return " + ".join(f"{part.weight:g} {part.source}" for part in sources)
