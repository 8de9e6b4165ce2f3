"""Feature pages for Neuronpedia: a folder as its importer reads it, and the payloads of its upload API.

    FOLDER/bulk/MODEL/L-SET/{release,model,sourceset,source}.jsonl
    FOLDER/bulk/MODEL/L-SET/features/batch-0.jsonl.gz          a line a feature, FEATURES a file
    FOLDER/bulk/MODEL/L-SET/activations/batch-0.jsonl.gz       a line an example of these
    FOLDER/upload/L-SET/batch-0.json                           POST /api/feature/upload-batch, a key is asked for

The columns are those of its convert-saedashboard-to-neuronpedia-export.py and db_models (2026). What unmix does not
measure (correlated neurons, the histogram of all logits) is empty; every line has the same columns, because an insert
takes them from the first. An upload leaves out features without an example, which it does not take.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unmix.runlog import write_whole

FEATURES = 128
"""In a file: the most that an upload takes."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""DEFAULT_CREATOR_ID of its own export script: the user that a fresh instance has."""
MOST_TOKENS, MOST_LOGITS, MOST_TEXT, MOST_BOUND = 1024, 20, 512, 99_999_999.0
TOP = (-1.0, -1.0)
"""(binMin, binContains) of the examples with the largest values; binMax is the feature's maximum."""
_EMPTY = (
    "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "decoder_weights_dist",
)  # fmt: skip


class Example(NamedTuple):
    """A stretch of text, with the feature's value on each token."""

    tokens: list[str]
    values: list[float]
    peak: int
    """The token that it was chosen for."""
    low: float
    high: float
    share: float
    """Of the firings, that lie in (low, high]; `TOP` for the largest."""


class Feature(NamedTuple):
    """What a page shows of a feature."""

    number: int
    density: float
    max: float
    edges: list[float]
    counts: list[int]
    plus: list[tuple[str, float]]
    minus: list[tuple[str, float]]
    nearest: list[tuple[int, float]]
    """Features by the cosine of their decoder rows."""
    vector: list[float]
    """The row of W_dec; empty if it is not at hand."""
    examples: list[Example]
    description: str | None


class Source(NamedTuple):
    """The dictionary whose features they are."""

    model: str
    """Its id there, such as gpt2-small."""
    layers: int
    width: int
    set: str
    """Its source set, such as res-16k."""
    layer: int
    hook: str
    """As TransformerLens names it."""
    creator: str
    created: str
    dataset: str
    sequences: int
    tokens: int
    """Of each sequence."""
    config: dict[str, Any] | None
    """cfg.json, if it is at hand."""

    @property
    def id(self) -> str:
        """`3-res-16k`."""
        return f"{self.layer}-{self.set}"


def write_source(folder: Path, source: Source, features: Iterable[Feature]) -> Path:
    """Write both; answers the folder of the bulk import. Features are taken as they come, FEATURES in memory."""
    bulk, upload = folder / "bulk" / source.model / source.id, folder / "upload" / source.id
    for name in ("features", "activations"):
        (bulk / name).mkdir(parents=True, exist_ok=True)
    upload.mkdir(parents=True, exist_ok=True)
    for name, line in _about(source).items():
        write_whole(bulk / f"{name}.jsonl", json.dumps(line) + "\n")
    for number, batch in enumerate(_batches(features)):
        _lines(bulk / "features" / f"batch-{number}.jsonl.gz", [_feature(source, one) for one in batch])
        _lines(
            bulk / "activations" / f"batch-{number}.jsonl.gz",
            [_activation(source, one, n, example) for one in batch for n, example in enumerate(one.examples)],
        )
        if sent := [_uploaded(one) for one in batch if one.examples]:
            asked = {"modelId": source.model.lower(), "source": source.id.lower(), "features": sent}
            write_whole(upload / f"batch-{number}.json", json.dumps(asked))
    return bulk


def _about(source: Source) -> dict[str, dict[str, Any]]:
    """The four descriptions."""
    by = {"creatorId": source.creator, "createdAt": source.created}
    return {
        "release": {
            "name": source.set,
            "description": source.set,
            "descriptionShort": source.set,
            "urls": [],
            "creatorName": "unmix",
            "creatorNameShort": "unmix",
            **by,
        },
        "model": {
            "id": source.model,
            "instruct": source.model.endswith("-it"),
            "displayName": source.model,
            "displayNameShort": source.model,
            "layers": source.layers,
            "neuronsPerLayer": 4 * source.width,
            "owner": "",
            **by,
            "updatedAt": source.created,
        },
        "sourceset": {
            "modelId": source.model,
            "name": source.set,
            "creatorName": "unmix",
            "releaseName": source.set,
            "description": source.set,
            "visibility": "PUBLIC",
            "urls": [],
            **by,
        },
        "source": {
            "id": source.id,
            "modelId": source.model,
            "setName": source.set,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "saelensConfig": source.config,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": None,
            "hfFolderId": None,
            "visibility": "PUBLIC",
            "defaultOfModelId": None,
            "hasUmap": False,
            "num_prompts": source.sequences,
            "num_tokens_in_prompt": source.tokens,
            "dataset": source.dataset,
            "notes": None,
            **by,
        },
    }


def _feature(source: Source, feature: Feature) -> dict[str, Any]:
    return {
        "modelId": source.model,
        "layer": source.id,
        "index": str(feature.number),
        "creatorId": source.creator,
        "createdAt": source.created,
        "maxActApprox": feature.max,
        "hasVector": bool(feature.vector),
        "vector": feature.vector,
        "vectorLabel": None,
        "vectorDefaultSteerStrength": feature.max,
        "hookName": source.hook if feature.vector else None,
        "topkCosSimIndices": [j for j, _ in feature.nearest],
        "topkCosSimValues": [cosine for _, cosine in feature.nearest],
        "neg_str": [text for text, _ in feature.minus],
        "neg_values": [value for _, value in feature.minus],
        "pos_str": [text for text, _ in feature.plus],
        "pos_values": [value for _, value in feature.plus],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_heights": feature.counts,
        "freq_hist_data_bar_values": [
            (low + high) / 2 for low, high in zip(feature.edges, feature.edges[1:], strict=False)
        ],
        **{name: [] for name in _EMPTY},
        "sourceSetName": source.set,
    }


def _activation(source: Source, feature: Feature, number: int, example: Example) -> dict[str, Any]:
    largest = max(example.values)
    return {
        "id": f"{source.model}_{source.id}_{feature.number}_{number}",
        "tokens": example.tokens,
        "index": str(feature.number),
        "layer": source.id,
        "modelId": source.model,
        "maxValue": largest,
        "maxValueTokenIndex": example.values.index(largest),
        "minValue": min(example.values),
        "values": example.values,
        "creatorId": source.creator,
        "createdAt": source.created,
        "dataSource": None,
        "dataIndex": None,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "lossValues": [],
        "logitContributions": None,
        "binMin": example.low,
        "binMax": example.high,
        "binContains": example.share,
        "qualifyingTokenIndex": example.peak,
    }


def _uploaded(feature: Feature) -> dict[str, Any]:
    """What the API takes of a feature with examples."""
    logits = {
        name: [{"token": text, "value": value} for text, value in side[:MOST_LOGITS]]
        for name, side in (("topLogits", feature.plus), ("bottomLogits", feature.minus))
        if side
    }
    said = {"explanations": [{"text": feature.description[:MOST_TEXT]}]} if feature.description else {}
    return {"index": feature.number, "density": feature.density, **logits, **said} | {
        "activations": [_shown(example) for example in feature.examples]
    }  # fmt: skip


def _shown(example: Example) -> dict[str, Any]:
    shown: dict[str, Any] = {"tokens": example.tokens[:MOST_TOKENS], "values": example.values[:MOST_TOKENS]}
    if (example.low, example.share) == TOP or max(abs(example.low), abs(example.high)) > MOST_BOUND:
        return shown
    return shown | {"quantileMin": example.low, "quantileMax": example.high, "quantileFraction": example.share}


def _batches(features: Iterable[Feature]) -> Iterator[list[Feature]]:
    batch: list[Feature] = []
    for feature in features:
        batch.append(feature)
        if len(batch) == FEATURES:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(path, gzip.compress(text.encode(), 5, mtime=0))
