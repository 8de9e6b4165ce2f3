"""A folder that has what the commands of the documents name: corpora, runs, dictionaries, all of them small."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

import unmix
from unmix.config import ActivationsConfig, CorpusConfig
from unmix.corpus.documents import documents
from unmix.corpus.tokens import load_tokens

SEQUENCE = 128
RUNS = ("runs/mine", "runs/a")
SAELENS = ("gpt2-small-res-jb/blocks.8.hook_resid_pre", "GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre")
GEMMA = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
TEMPLATE = "{% for m in messages %}# {{ m.role }}\n{{ m.content }}\n{% endfor %}"
FEW = {"batch_tokens": 512, "selection": "fp32", "dense": "fp32", "border": 0.1}


def furnish(folder: Path) -> None:
    """Write all of it; the runs are ten steps on the embedded model."""
    lm = unmix.load_model("embedded")
    load_tokens(CorpusConfig(), lm.tokenizer, ActivationsConfig().sequence_length, "train")  # once, for all pages
    texts = [str(document.content) for document, _ in zip(documents(CorpusConfig()), range(60), strict=False)]
    for name in ("texts", "my-texts", "english"):
        (folder / name).mkdir()
        for n, text in enumerate(texts):
            (folder / name / f"{n:03d}.txt").write_text(text[:4000], encoding="utf-8")
    _corpora(folder, texts, [lm.tokenizer(text[:8000], add_special_tokens=False)["input_ids"] for text in texts])
    run = unmix.sweep(
        hook="resid_post.3", corpus=str(folder / "texts"), features=64, l0=[20, 50], steps=10, name="demo", quiet=True,
        runs=folder / "runs", training=FEW, model={"matmul": "fp32"}, **{"activations.chunk_sequences": 16},
        evaluate=False,
    )  # fmt: skip
    for copy in RUNS:
        shutil.copytree(run.folder, folder / copy)
    for copy in (*SAELENS, "FOLDER", "LAYER_0", "LAYER_1"):
        shutil.copytree(run.members["l0-20"], folder / copy)
    (folder / GEMMA).mkdir(parents=True)
    D, F = 16, 32
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    np.savez(folder / GEMMA / "params.npz", **{key: np.ones(shape, np.float32) for key, shape in shapes.items()})


def _corpora(folder: Path, texts: list[str], ids: list[list[int]]) -> None:
    lines = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    (folder / "wiki.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "wiki.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-100])
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "body"], *enumerate(texts)])
    chats = [
        [
            {"role": "user", "content": text[: len(text) // 2].strip() or "Hello."},
            {"role": "assistant", "content": text[len(text) // 2 :].strip() or "Hello."},
        ]
        for text in texts
    ]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats), encoding="utf-8")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    pq.write_table(pa.table({"input_ids": ids}), folder / "ids.parquet")
    stream = np.array([i for document in ids for i in [*document, 0]], np.uint16)
    stream.tofile(folder / "stream.bin")
    rows = stream[: len(stream) // (SEQUENCE - 1) * (SEQUENCE - 1)].reshape(-1, SEQUENCE - 1)
    np.save(folder / "rows.npy", np.insert(rows, 0, 0, axis=1))
    np.save(folder / "foreign.npy", np.random.default_rng(0).permutation(4096)[rows])
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32))


def place_checkpoints(folder: Path, text: str) -> None:
    """`runs/demo/members/l0-50/step-000002000`, where a page names it, is the newest checkpoint of that member."""
    for run, member, step in set(re.findall(r"runs/([\w-]+)/members/([\w.-]+)/(step-\d{9})", text)):
        there = folder / "runs" / run / "members" / member
        if there.is_dir() and not (there / step).exists():
            shutil.copytree(max(there.glob("step-*")), there / step)
