"""A small site by brute force, as the builder would write it, for tests of the page: hostile tokens, known numbers.

Features fire on tokens of their own with random values over `sequences` x `length` random tokens; every number in the
site is counted from that array f_STF. Feature 3 never fires; feature 7 fires at every position 0 too, which is left
out. Members A and B share their features, permuted.
"""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import unmix.explore

PAGE = Path(unmix.explore.__file__).parent / "site"
QUANTILES = [0.5, 0.9, 0.99, 0.999]
SHARD, PAGES, CONTEXT = 16, 4, 12  # features a file, sequences a page, tokens either side of a peak
TEXT_PAGE = 500  # tokens; there are 576
HOSTILE = [
    b"</script><script>window.hacked=1</script>",
    b"<img src=x onerror=window.hacked=1>",
    b'" onmouseover="window.hacked=1',
    b"javascript:window.hacked=1",
    "\u202egnitrofni\u202c".encode(),  # right-to-left override
    "\u2066\u2067\u2069".encode(),
    b"\x00",
    b"\x1b[31m",
    "\u200b\u200d\ufeff".encode(),
    "\U000e0041".encode(),  # a tag character
    b"\xf0\x9f",  # an emoji in two tokens: these, and the next
    b"\x98\x80",
    b"\xe2",  # lone bytes
    b"\xff",
    "مرحبا".encode(),
    " שלום".encode(),
    "नमस्ते".encode(),
    b"\n",
    b"\r\n",
    b"\t",
    b"        ",
    b"&lt;b&gt;",
    b"{{7*7}}${7*7}",
]
WORDS = b" the| cat|def| def| return|import|(|)|self|.| mat| sat|s| 12".split(b"|")
VOCABULARY = [*HOSTILE, *WORDS]
SPECIAL = len(VOCABULARY)  # <|endoftext|>
GRIN = (HOSTILE.index(b"\xf0\x9f"), HOSTILE.index(b"\x98\x80"))
OTHER = "other <i>run</i>/l0-2"  # matched, and not shown


class Truth(NamedTuple):
    ids_ST: np.ndarray
    f_STF: dict[str, np.ndarray]  # by member
    counted_ST: np.ndarray  # False: masked
    match: dict[str, np.ndarray]  # by member: the best match of each feature in the other


def packed(value: Any) -> str:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    return base64.b64encode(deflate.compress(json.dumps(value).encode()) + deflate.flush()).decode()


def put(site: Path, key: str, value: Any, *, plain: bool = False) -> None:
    file = site / f"{key}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    said = json.dumps(value if plain else packed(value)).replace("<", "\\u003c")
    file.write_text(f"UNMIX.put({json.dumps(key)}, {said});\n")


def put_bytes(site: Path, key: str, data: bytes) -> None:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    file = site / f"{key}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    said = base64.b64encode(deflate.compress(data) + deflate.flush()).decode()
    file.write_text(f'UNMIX.put("{key}", "{said}");\n')


def planes(numbers: list[int], width: int) -> bytes:
    return b"".join(bytes(x >> 8 * k & 255 for x in numbers) for k in range(width))


def real(x: float | None) -> int:
    """The upper three bytes of a float32."""
    return int(np.float32(np.nan if x is None else x).view(np.uint32)) >> 8


def rounded(x: float | None) -> float | None:
    return None if x is None or not np.isfinite(x) else float(f"{x:.4g}")


def truth(sequences: int = 12, length: int = 48, features: int = 40, seed: int = 0) -> Truth:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, len(VOCABULARY), (sequences, length))
    for s in range(sequences):  # emoji whole, split over two tokens
        at = rng.choice(np.arange(2, length - 2, 2), 3, replace=False)
        ids[s, at], ids[s, at + 1] = GRIN
    ids[:, 0] = SPECIAL
    counted = np.ones_like(ids, bool)
    counted[:, 0] = False
    f = np.zeros((*ids.shape, features))
    for i in range(features):
        if i == 3:
            continue
        likes = {i % len(VOCABULARY), (7 * i + 2) % len(VOCABULARY)}
        fires = np.isin(ids, list(likes)) & (rng.random(ids.shape) < 0.8)
        f[:, :, i] = np.where(fires, rng.gamma(2.0, 1.0 + i % 5, ids.shape) + 0.05, 0)
    f[:, 0, 7] = 2 + np.arange(sequences)  # where nothing counts
    to_b = rng.permutation(features)  # feature i of A is feature to_b[i] of B
    other = np.zeros_like(f)
    other[:, :, to_b] = f * 0.9
    return Truth(ids, {"l0-2": f, "l0-4": other}, counted, {"l0-2": to_b, "l0-4": np.argsort(to_b)})


def window(t: Truth, f_ST: np.ndarray, s: int, p: int) -> dict[str, Any]:
    first, last = max(0, p - CONTEXT), min(t.ids_ST.shape[1], p + CONTEXT + 1)
    v = [[n - first, rounded(f_ST[s, n])] for n in range(first, last) if f_ST[s, n] > 0]
    masked = [n - first for n in range(first, last) if not t.counted_ST[s, n]]
    return {"s": s, "p": first, "c": p - first, "n": last - first, "v": v, "m": masked}


def feature(t: Truth, name: str, other: str, i: int, rng: np.random.Generator) -> dict[str, Any]:
    f_ST = np.where(t.counted_ST, t.f_STF[name][:, :, i], 0)
    where = np.argwhere(f_ST > 0)
    values = f_ST[f_ST > 0]
    silent = np.argwhere((f_ST == 0) & t.counted_ST)
    some = lambda places, n: [window(t, f_ST, int(s), int(p)) for s, p in places[rng.permutation(len(places))[:n]]]  # noqa: E731
    groups: dict[str, Any] = {key: [] for key in ("top", "uniform", "value", "mass", "near")}
    groups["silent"] = some(silent, 4)
    outside = np.where(t.counted_ST, 0, t.f_STF[name][:, :, i])
    common: dict[str, Any] = {"i": i, "firings": len(values), "label": f"label {i}: <b>{i}</b>", "groups": groups}
    match = int(t.match[name][i])
    common |= {
        "logits": {"plus": [[k, 2.5 - k / 10] for k in range(10)], "minus": [[k + 12, k / 10 - 2] for k in range(10)]},
        "decoder": [[j, rounded(0.9 - 0.1 * n)] for n, j in enumerate(rng.permutation(40)[:5].tolist())],
        "stability": [
            {"member": other, "i": match, "cos": 0.91 if i % 4 else 0.3},
            {"member": OTHER, "i": 39 - i, "cos": 0.75},
        ],
    }
    if not len(values):
        empty = {"density": 0, "max": 0, "mean": None, "std": None, "q": [], "hist": {"edges": [], "counts": []}}
        common["left_out"] = {}
        return common | empty | {"coact": [], "tokens": [], "by_norm": [None] * 10, "by_position": [None] * 8}
    best = [(int(s), int(f_ST[s].argmax())) for s in np.argsort(-f_ST.max(1), kind="stable")[:20] if f_ST[s].max() > 0]
    groups |= {"top": [window(t, f_ST, s, p) for s, p in best], "uniform": some(where, 10)}
    groups["near"] = some(np.argwhere((t.ids_ST == i % len(VOCABULARY)) & (f_ST == 0) & t.counted_ST), 4)
    edges = {"value": np.linspace(0, values.max(), 6)}
    rising = np.sort(values)
    fifths = rising[np.searchsorted(np.cumsum(rising), values.sum() * np.arange(1, 5) / 5)]
    edges["mass"] = np.r_[0, fifths, values.max()]
    for key, cuts in edges.items():
        for low, high in pairwise(cuts):
            inside = (f_ST > low) & (f_ST <= high)
            share = {"firings": rounded(inside.sum() / len(values)), "mass": rounded(f_ST[inside].sum() / values.sum())}
            windows = some(np.argwhere(inside), 4)
            groups[key].append({"low": rounded(low), "high": rounded(high), **share, "windows": windows})
    counts, bins = np.histogram(values, 20, (0, values.max()))
    common["left_out"] = left_out(t, outside, bins) if outside.any() else {}
    ids = t.ids_ST[f_ST > 0]
    rows = [(int(k), rounded((ids == k).mean()), rounded(values[ids == k].mean())) for k in np.unique(ids)]
    tokens = sorted(rows, key=lambda row: -row[1])
    return common | {
        "density": rounded(len(values) / t.counted_ST.sum()), "max": rounded(values.max()),
        "mean": rounded(values.mean()), "std": rounded(values.std()),
        "q": [rounded(q) for q in np.quantile(values, QUANTILES)],
        "hist": {"edges": [rounded(x) for x in bins], "counts": counts.tolist()}, "coact": [[(i + 1) % 40, 0.5, 0.25]],
        "by_norm": [0.1] * 10, "by_position": [0.125] * 8, "tokens": tokens[:10],
    }  # fmt: skip


def left_out(t: Truth, f_ST: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    values = f_ST[f_ST > 0]
    best = [(int(s), 0) for s in np.argsort(-f_ST[:, 0], kind="stable")[:3]]
    numbers = {"firings": len(values), "mass": rounded(values.sum()), "max": rounded(values.max())}
    counts = [int(((values > low) & (values <= high)).sum()) for low, high in pairwise([*edges, np.inf])]
    return {"first": numbers | {"counts": counts, "windows": [window(t, f_ST, s, p) for s, p in best]}}


def index_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    column = lambda key: [record[key] for record in records]  # noqa: E731
    tokens = [[row[0] for row in record["tokens"][:3]] for record in records]
    share = [record["tokens"][0][1] if record["tokens"] else None for record in records]
    spark = [[min(9, count) for count in record["hist"]["counts"][:8]] or [0] * 8 for record in records]
    return {
        "density": column("density"), "max": column("max"), "mean": column("mean"), "tokens": tokens, "spark": spark,
        "entropy": [None if x is None else rounded(-np.log2(x)) for x in share], "top_share": share,
        "promotes": [[row[0] for row in record["logits"]["plus"][:3]] for record in records],
        "suppresses": [[row[0] for row in record["logits"]["minus"][:3]] for record in records],
        "nearest": [record["decoder"][0][0] for record in records],
        "nearest_cos": [record["decoder"][0][1] for record in records],
        "first": [0.9 if i == 5 else 0.0 for i in range(len(records))],
        "long": [0.0] * len(records), "label": column("label"),
    }  # fmt: skip


def tokens(t: Truth, name: str, sequences: range) -> bytes:
    """The page of these sequences, every feature of every token."""
    f_RF = t.f_STF[name][sequences.start : sequences.stop].reshape(-1, t.f_STF[name].shape[2])
    active = [np.flatnonzero(f).tolist() for f in f_RF]
    n, length = len(f_RF), t.ids_ST.shape[1]
    steps = [i - before for row in active for before, i in zip([0, *row], row, strict=False)]
    values = [real(f[i]) for f, row in zip(f_RF, active, strict=True) for i in row]
    return b"".join(
        [
            np.array([n, len(steps)], "<u4").tobytes(),
            planes([len(row) for row in active], 1),
            planes([0] * n, 3),
            planes([int(k % length == 0) for k in range(n)], 1),
            planes([real(10 + k % length % 7) for k in range(n)], 3),
            planes([real(0.1)] * n, 3),
            planes(steps, 3),
            planes(values, 3),
        ]
    )


def write_texts(site: Path, t: Truth, page: int) -> None:
    ids = t.ids_ST.ravel().tolist()
    for number, first in enumerate(range(0, len(ids), page)):
        put_bytes(site, f"text/{number:05}", planes(ids[first : first + page], 3))


def member(t: Truth, name: str) -> dict[str, Any]:
    f_STF = np.where(t.counted_ST[:, :, None], t.f_STF[name], 0)
    counted, outside = int(t.counted_ST.sum()), {"first": 12, "long": 0, "special": 0}
    features = f_STF.shape[2]
    density = (f_STF > 0).sum((0, 1)) / t.counted_ST.sum()
    edges = np.linspace(-4, 0, 17)
    counts, _ = np.histogram(np.log10(density[density > 0]), edges)
    second = name == "l0-4"
    l0 = (f_STF > 0).sum(2)[t.counted_ST].mean() * (1.6 if second else 1)
    explained = [0.7 + n / 50 for n in range(10)]
    return {
        "name": name, "hook": "resid_post.3", "architecture": "batchtopk", "features": features,
        "asked": {"l0": 4 if second else 2}, "step": 2000, "seed": 0, "training_tokens": 1024000, "l0": rounded(l0),
        "explained_variance": 0.93 if second else 0.81, "delta_ce": 0.12 if second else 0.31, "delta_ce_se": 0.01,
        "dead": 0.01, "frequent": 0.03, "never": int((density == 0).sum()),
        "shards": {"features": SHARD, "sequences": PAGES},
        "sequences": len(t.ids_ST) - 2, "density": {"edges": edges.tolist(), "counts": counts.tolist()},
        "by_norm": {"edges": [*range(11)], "tokens": [10] * 10, "explained_variance": explained, "l0": [2] * 10,
                    "error": [0.2] * 10, "l0_share": [0.1] * 10, "l1_share": [0.05] * 5 + [0.15] * 5},
        "tokens": {"counted": counted, "masked": 12, "left_out": outside},
        "strongest": 64, "described": 0 if second else 2,
        "chosen": second,
    }  # fmt: skip


SCORE = {"accuracy": 0.8125, "se": 0.0988, "n": 16}
HOSTILE_WORDS = "</script><img src=x onerror=window.hacked=1>\u202e"
DESCRIPTIONS = {
    "11": {"text": "the word mat, after cat", "model": "m<b>", "detection": SCORE, "fuzzing": None},
    "12": {"text": HOSTILE_WORDS, "model": "", "detection": None, "fuzzing": None},
}


def prompts() -> list[dict[str, Any]]:
    """Texts that come with the site: every token once, and a few."""
    texts = [("every token", "all", [SPECIAL, *range(len(VOCABULARY))]), ("a <b>few</b>", "the cat", [SPECIAL, 23, 24])]
    return [
        {
            "name": name,
            "text": text,
            "ids": ids,
            "norm": [10.0 + p % 7 for p in range(len(ids))],
            "err": [0.1] * len(ids),
            "m": [0],
            "more": [0] * len(ids),
            "truncated": False,
            "f": [[[p % 40, 3.0 + p], [(p + 7) % 40, 1.5]] if p else [] for p in range(len(ids))],
        }
        for name, text, ids in texts
    ]


def write_page(site: Path) -> None:
    site.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "app.js", "app.css"):
        shutil.copyfile(PAGE / name, site / name)


def write_vocabulary(site: Path) -> None:
    texts = {str(k): text.decode("latin-1") for k, text in enumerate(VOCABULARY)}
    put(site, "vocabulary", {"special": {str(SPECIAL): "<|endoftext|>"}, "bytes": texts})


def manifest(t: Truth, members: list[dict[str, Any]], *, server: bool = False) -> dict[str, Any]:
    mask = "the first token of every sequence"
    tokens = {"counted": int(t.counted_ST.sum()), "masked": int((~t.counted_ST).sum()), "split": "held_out"}
    tokens |= {"sequences": len(t.ids_ST), "context": t.ids_ST.shape[1], "corpus": "made up", "mask": mask}
    tokens |= {"page": TEXT_PAGE}
    model = {"name": "embedded", "layers": 4, "width": 256, "vocabulary": len(VOCABULARY) + 1}
    head = {"format": 1, "run": "demo <b>", "version": "0.1.0", "fingerprint": "f00d" * 8, "model": model}
    return head | {"tokens": tokens, "members": members, "chosen": "l0-4", "server": server}


def write_site(site: Path, *, server: bool = False) -> Truth:
    """Two members of 40 features over 12 sequences of 48 tokens, of which the first ten are kept token by token."""
    t = truth()
    write_page(site)
    write_vocabulary(site)
    members = []
    for name, other in (("l0-2", "l0-4"), ("l0-4", "l0-2")):
        rng = np.random.default_rng(1)
        members.append(member(t, name))
        records = [feature(t, name, other, i, rng) for i in range(t.f_STF[name].shape[2])]
        match = {other: {"j": t.match[name].tolist(), "cos": [0.91 if i % 4 else 0.3 for i in range(len(records))]}}
        put(site, f"{name}/index", index_of(records) | {"match": match, "sequence_ids": [*range(len(t.ids_ST) - 2)]})
        for page in range(0, len(records), SHARD):
            put(site, f"{name}/f/{page // SHARD:05}", records[page : page + SHARD])
        put(site, f"{name}/prompts", prompts())
        for page in range(0, len(t.ids_ST) - 2, PAGES):
            kept = range(page, min(page + PAGES, len(t.ids_ST) - 2))
            put_bytes(site, f"{name}/t/{page // PAGES:05}", tokens(t, name, kept))
    write_texts(site, t, TEXT_PAGE)
    put(site, "l0-2/descriptions", DESCRIPTIONS)
    more = {"beside": [{"name": OTHER, "hook": "resid_post.3", "features": 40, "seed": 1}], "prompts": 2}
    put(site, "manifest", manifest(t, members, server=server) | more, plain=True)
    return t


def write_large(site: Path, features: int = 16384) -> None:
    """A list of many features, for its speed: the index is whole, of the records only the first file is there."""
    t = truth()
    write_page(site)
    write_vocabulary(site)
    rng = np.random.default_rng(2)
    records = [feature(t, "l0-2", "l0-4", i, rng) for i in range(40)]
    index = {key: [column[i % 40] for i in range(features)] for key, column in index_of(records).items()}
    index["density"] = [0 if i % 40 == 3 else rounded(10 ** rng.uniform(-5, -0.5)) for i in range(features)]
    index["label"] = [f"label {i}" for i in range(features)]
    write_texts(site, t, TEXT_PAGE)
    put(site, "l0-2/index", index)
    put(site, "l0-2/f/00000", records[:SHARD])
    put(site, "manifest", manifest(t, [member(t, "l0-2") | {"features": features, "described": 0}]), plain=True)
