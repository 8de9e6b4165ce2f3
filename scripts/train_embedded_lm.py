"""Train the language model that ships with unmix: GPT-2 architecture, 6 layers x 256, on Python source.

    python scripts/train_embedded_lm.py --work .work/lm --out src/unmix/lm/embedded --steps 2440

Data    the train split of this interpreter's standard library and of the permissively licensed packages
        installed beside it; a package file that shares code with a held-out file is left out.
Order   packages early, the standard library alone for the last 40 %; sequences of 256 tokens for the first
        half, of 512 after it. Every sequence begins with <|endoftext|>, which also ends every document.
Update  Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices inside the blocks,
        AdamW for embeddings, norms and biases; both rates constant, then linear to 0 over the last 65 %.

It checkpoints and goes on from its checkpoint; the batch at step s is a pure function of (data, seed, s).
Wants MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 in the environment: reusing memory
instead of returning it saved 17 % of the time.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.metadata
import json
import lzma
import math
import os
import random
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from unmix.corpus.split import is_held_out

EOT = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 512
BATCH_TOKENS = 8192
SEED = 0
PERMISSIVE = ("MIT", "BSD", "Apache", "Python Software Foundation", "PSF", "ISC")


# ---------------------------------------------------------------------------------------------------- documents


def read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def standard_library() -> dict[str, str]:
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for path in sorted(root.rglob("*.py")):
        key = path.relative_to(root).as_posix()
        if key.startswith(("site-packages/", "_sysconfigdata", "config-")) or "/_sysconfigdata" in key:
            continue  # other people's code; build paths of one machine
        text = read(path)
        if text and text.strip():
            found[key] = text
    return found


def packages() -> tuple[dict[str, str], list[str]]:
    found, names = {}, []
    for dist in sorted(importlib.metadata.distributions(), key=lambda d: d.metadata["Name"].lower()):
        meta = dist.metadata
        license_text = " ".join(
            [meta.get("License-Expression") or "", (meta.get("License") or "")[:80]]
            + [c for c in meta.get_all("Classifier") or [] if c.startswith("License")]
        )
        if meta["Name"] == "unmix" or not any(word in license_text for word in PERMISSIVE):
            continue
        if "GPL" in license_text or "MPL" in license_text or "Mozilla" in license_text:
            continue
        names.append(f"{meta['Name']} {dist.version}")
        for file in dist.files or []:
            if file.suffix == ".py":
                text = read(Path(str(dist.locate_file(file))))
                if text and 200 < len(text) < 400_000:
                    found[file.as_posix()] = text
    return found, names


def shingles(text: str) -> set[int]:
    """Hashes of every five consecutive non-trivial lines."""
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 8]
    return {hash(tuple(lines[i : i + 5])) for i in range(len(lines) - 4)}


def prepare(work: Path) -> dict:
    """Documents -> tokenizer -> token files; what is held out never enters either."""
    meta_path = work / "data.json"
    if meta_path.exists():
        return json.loads(meta_path.read_text())
    work.mkdir(parents=True, exist_ok=True)
    stdlib = standard_library()
    held = {k: t for k, t in stdlib.items() if is_held_out(k)}
    train = {k: t for k, t in stdlib.items() if k not in held}
    seen = set().union(*(shingles(t) for t in held.values()))
    others, names = packages()
    kept = {}
    for key, text in others.items():
        own = shingles(text)
        if not own or len(own & seen) / len(own) < 0.02:
            kept[key] = text
    rng = random.Random(SEED)
    keys = sorted(kept)
    rng.shuffle(keys)
    budget, chosen = 30_000_000, []
    for key in keys:
        if budget > 0:
            chosen.append(key)
            budget -= len(kept[key])
    kept = {k: kept[k] for k in chosen}

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((train[k] for k in sorted(train)), trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOT, eos_token=EOT, unk_token=EOT, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(work / "tokenizer")

    meta = {"packages": names, "python": sys.version.split()[0], "splits": {}}
    for split, documents in (("stdlib", train), ("packages", kept), ("held_out", held)):
        order = sorted(documents)
        if split != "held_out":
            random.Random(SEED).shuffle(order)
        ids = []
        for encoding in bpe.encode_batch([documents[k] for k in order]):
            ids.extend(encoding.ids)
            ids.append(0)  # <|endoftext|> ends the document
        np.array(ids, dtype=np.uint16).tofile(work / f"{split}.bin")
        size = sum(len(t.encode()) for t in documents.values())
        meta["splits"][split] = {"documents": len(order), "bytes": size, "tokens": len(ids)}
    overlap = [
        k
        for k, t in held.items()
        if (s := shingles(t)) and any(len(s & shingles(o)) / len(s) > 0.2 for o in near(t, train))
    ]
    meta["held_out_files_with_twins"] = len(overlap)
    everything = b"".join(held[k].encode() for k in sorted(held))
    meta["xz_bits_per_byte"] = 8 * len(lzma.compress(everything, preset=9 | lzma.PRESET_EXTREME)) / len(everything)
    meta["bz2_bits_per_byte"] = 8 * len(bz2.compress(everything, 9)) / len(everything)
    meta["ngram_bits_per_byte"] = ngram_bits(work) / len(everything)
    meta_path.write_text(json.dumps(meta, indent=1))
    return meta


_index: dict[int, set[str]] = {}


def near(text: str, train: dict[str, str]) -> list[str]:
    """Train documents that share at least one shingle with the text."""
    if not _index:
        for key, other in train.items():
            for shingle in shingles(other):
                _index.setdefault(shingle, set()).add(key)
    names = Counter(k for s in shingles(text) for k in _index.get(s, ()))
    return [train[k] for k, _ in names.most_common(3)]


def ngram_bits(work: Path, order: int = 4) -> float:
    """Total bits of the held-out tokens under an interpolated Witten-Bell n-gram model of the train tokens."""
    train = np.concatenate([np.fromfile(work / f"{s}.bin", dtype=np.uint16) for s in ("stdlib", "packages")])
    test = np.fromfile(work / "held_out.bin", dtype=np.uint16)

    def keys(ids: np.ndarray, n: int) -> np.ndarray:
        out = np.zeros(len(ids) - n + 1, dtype=np.uint64)
        for i in range(n):
            out = out * np.uint64(VOCABULARY) + ids[i : len(ids) - n + 1 + i].astype(np.uint64)
        return out

    p = np.full(len(test), 1.0 / VOCABULARY)
    for n in range(1, order + 1):
        grams, counts = np.unique(keys(train, n), return_counts=True)
        contexts, starts = np.unique(grams // np.uint64(VOCABULARY), return_index=True)
        totals = np.add.reduceat(counts, starts)
        types = np.diff(np.append(starts, len(grams)))
        query = keys(test, n)
        at = np.minimum(np.searchsorted(grams, query), len(grams) - 1)
        c = np.where(grams[at] == query, counts[at], 0)
        ctx = np.minimum(np.searchsorted(contexts, query // np.uint64(VOCABULARY)), len(contexts) - 1)
        hit = contexts[ctx] == query // np.uint64(VOCABULARY)
        total, kinds = np.where(hit, totals[ctx], 0), np.where(hit, types[ctx], 1)
        p[n - 1 :] = (c + kinds * p[n - 1 :]) / (total + kinds)
    return float(-np.log2(p).sum())


# -------------------------------------------------------------------------------------------------------- batches


class Batches:
    """batch(s): which tokens step s sees, a pure function of s."""

    def __init__(self, work: Path, steps: int) -> None:
        self.steps = steps
        self.data = {s: np.fromfile(work / f"{s}.bin", dtype=np.uint16) for s in ("stdlib", "packages")}
        self.start = {"stdlib": [], "packages": []}  # sequences drawn before each step
        drawn = {"stdlib": 0, "packages": 0}
        for s in range(steps):
            n = BATCH_TOKENS // self.length(s)
            if s and self.length(s) != self.length(s - 1):
                drawn = dict.fromkeys(drawn, 10**6)  # the second phase has its own shuffles
            k = round(n * self.share_of_packages(s))
            for name, count in (("packages", k), ("stdlib", n - k)):
                self.start[name].append((drawn[name], count))
                drawn[name] += count

    def length(self, step: int) -> int:
        return 256 if step < self.steps // 2 else 512

    def share_of_packages(self, step: int) -> float:
        t = step / self.steps
        return 0.5 if t < 0.3 else (0.25 if t < 0.6 else 0.0)

    def __call__(self, step: int) -> torch.Tensor:
        length = self.length(step)
        rows = []
        for salt, (name, starts) in enumerate(self.start.items()):
            ids = self.data[name]
            per_epoch = (len(ids) - length) // (length - 1)
            first, count = starts[step]
            for i in range(first, first + count):
                epoch, at = divmod(i, per_epoch)
                rng = np.random.default_rng([SEED, salt, epoch, length])
                shift = int(rng.integers(length))
                where = shift + (length - 1) * int(self.order(name, salt, epoch, length, per_epoch)[at])
                rows.append(np.concatenate([[0], ids[where : where + length - 1]]))
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def order(self, name: str, salt: int, epoch: int, length: int, n: int) -> np.ndarray:
        key = (name, epoch, length)
        if getattr(self, "_key", {}).get(name) != key:
            self._key = {**getattr(self, "_key", {}), name: key}
            self._order = {
                **getattr(self, "_order", {}),
                name: np.random.default_rng([SEED + 1, salt, epoch, length]).permutation(n),
            }
        return self._order[name]


# ------------------------------------------------------------------------------------------------------ optimizer


class Muon:
    """Momentum, then the nearest orthogonal matrix to it (five Newton-Schulz steps), for a list of 2-D weights.

    Fused query-key-value weights are orthogonalised as three matrices.
    """

    def __init__(self, weights: list[torch.nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.01):
        self.weights, self.momentum, self.weight_decay = weights, momentum, weight_decay
        self.buffers = [torch.zeros_like(w) for w in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        parts = []
        for w, m in zip(self.weights, self.buffers, strict=True):
            m.lerp_(w.grad, 1 - self.momentum)
            update = w.grad.lerp(m, self.momentum)  # Nesterov
            for i, u in enumerate(update.split(256, dim=1) if update.shape == (256, 768) else (update,)):
                parts.append((w, 256 * i, u if u.shape[0] <= u.shape[1] else u.T, u.shape[0] > u.shape[1]))
        for shape in {p[2].shape for p in parts}:
            group = [p for p in parts if p[2].shape == shape]
            scale = max(1.0, shape[1] / shape[0]) ** 0.5
            for (w, column, _, transposed), o in zip(group, orthogonal([p[2] for p in group]), strict=True):
                o = o.T if transposed else o
                target = w[:, column : column + o.shape[1]]
                target.mul_(1 - lr * self.weight_decay).add_(o, alpha=-lr * scale)


def orthogonal(matrices: list[torch.Tensor]) -> torch.Tensor:
    x = torch.stack(matrices).bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.float()


# ------------------------------------------------------------------------------------------------------- training


def new_model() -> GPT2LMHeadModel:
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=256,
        n_layer=6,
        n_head=4,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = "sdpa"
    return GPT2LMHeadModel(config)


def loss_of(model: GPT2LMHeadModel, ids: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def held_out_bits(model: GPT2LMHeadModel, work: Path, meta: dict, sequences: int | None = None, fp32: bool = False):
    """Bits per byte over the held-out files, packed as in training; every token is predicted once."""
    ids = np.fromfile(work / "held_out.bin", dtype=np.uint16).astype(np.int64)
    step = CONTEXT - 1
    starts = list(range(0, len(ids), step))
    if sequences:
        starts = starts[:: max(1, len(starts) // sequences)]
    nll = tokens = 0.0
    for s in starts:
        row = torch.from_numpy(np.concatenate([[0], ids[s : s + step]]))[None]
        if fp32:
            logits = model(row, use_cache=False).logits
            nll += F.cross_entropy(logits[0, :-1], row[0, 1:], reduction="sum").item()
        else:
            nll += loss_of(model, row, "sum").item()
        tokens += row.shape[1] - 1
    size = meta["splits"]["held_out"]
    return nll / math.log(2) / tokens * size["tokens"] / size["bytes"]


@torch.no_grad()
def norms(model: GPT2LMHeadModel, ids: torch.Tensor) -> list[tuple[float, float, float]]:
    """Per layer: median residual norm, 99.9th percentile, norm of the first token."""
    hidden = model(ids, use_cache=False, output_hidden_states=True).hidden_states
    rows = []
    for h in hidden[:-1]:
        n = h.float().norm(dim=-1)
        rows.append(
            (n.median().item(), n.flatten().kthvalue(int(n.numel() * 0.999)).values.item(), n[:, 0].mean().item())
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2440)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=4e-3)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)

    meta = prepare(args.work)
    print(json.dumps(meta["splits"]), {k: v for k, v in meta.items() if k.endswith("byte")}, flush=True)
    batches = Batches(args.work, args.steps)
    model = new_model()
    inner = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    outer = [p for n, p in model.named_parameters() if not (".h." in n and p.ndim == 2)]
    muon = Muon(inner)
    adam = torch.optim.AdamW(outer, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    checkpoint, log, first, seconds = args.work / "checkpoint.pt", args.work / "log.jsonl", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        for mine, saved in zip(muon.buffers, state["muon"], strict=True):
            mine.copy_(saved)
        first, seconds = state["step"], state["seconds"]

    start = time.time() - seconds
    for step in range(first, args.steps):
        ids = batches(step)
        total = 0.0
        chunks = ids.split(max(1, 4096 // ids.shape[1]))
        for chunk in chunks:
            loss = loss_of(model, chunk) / len(chunks)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(outer, 1.0)
        rate = min(1.0, (step + 1) / 40) * min(1.0, (args.steps - step) / (0.65 * args.steps))
        for group in adam.param_groups:
            group["lr"] = args.adam_lr * rate
        adam.step()
        muon.step(args.muon_lr * rate)
        for p in model.parameters():
            p.grad = None
        done = step + 1
        if done % 20 == 0:
            row = {"step": done, "tokens": done * BATCH_TOKENS, "loss": total, "seconds": time.time() - start}
            if done % 200 == 0 or done == args.steps:
                row["held_out_bits_per_byte"] = held_out_bits(model, args.work, meta, 120)
                row["norms"] = norms(model, batches(args.steps - 1)[:4])
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        if done % 100 == 0 or done == args.steps:
            torch.save(
                {
                    "model": model.state_dict(),
                    "adam": adam.state_dict(),
                    "muon": muon.buffers,
                    "step": done,
                    "seconds": time.time() - start,
                },
                checkpoint.with_suffix(".new"),
            )
            checkpoint.with_suffix(".new").rename(checkpoint)

    export(model, args, meta)


def export(model: GPT2LMHeadModel, args: argparse.Namespace, meta: dict) -> None:
    model = model.half().eval()
    model.generation_config.bos_token_id = model.generation_config.eos_token_id = 0
    model.save_pretrained(args.out)
    PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer").save_pretrained(args.out)
    stored = GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32).eval()
    log = [json.loads(line) for line in (args.work / "log.jsonl").read_text().splitlines()]
    facts = {
        "bits_per_byte": held_out_bits(stored, args.work, meta, fp32=True),
        "parameters": sum(p.numel() for p in stored.parameters()),
        "steps": args.steps,
        "tokens": args.steps * BATCH_TOKENS,
        "seconds": log[-1]["seconds"],
        **meta,
        "curve": [{k: row[k] for k in row if k != "norms"} for row in log if "held_out_bits_per_byte" in row],
    }
    (args.work / "facts.json").write_text(json.dumps(facts, indent=1))
    print(json.dumps({k: v for k, v in facts.items() if k not in ("packages", "curve")}, indent=1))


if __name__ == "__main__":
    main()
