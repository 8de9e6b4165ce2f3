"""The explorer at its size: derive and pack a store of many entries; size of the site, seconds, memory at the peak.

    python explore.py --entries 50e6 --features 16384        a random store, then `features/` and `site/` from it
    python explore.py --store FOLDER …                       keeps the store there, and takes it if it is there

The text is Zipf-distributed ids in documents of 300 tokens on average. Feature i fires on each token with probability
p_i, log-uniform over 1e-5 … 0.1 and scaled so that they add up to L0; values are gamma-distributed (shape 2). The
language model is the embedded one, which gives the readout and the bytes of tokens; the dictionary is random.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from unmix.config import CorpusConfig, MaskConfig, ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.evaluation.subject import Subject
from unmix.explore import manifest
from unmix.explore.duck import write_parquet
from unmix.explore.publish import publish
from unmix.explore.store import open_store
from unmix.lm.model import LanguageModel, load_language_model
from unmix.runlog import write_json

HOOK, MEMBER = "resid_post.3", "made-up"
T, SHARD = 256, 65_536
DOCUMENT = 300  # tokens, on average


def write_store(folder: Path, entries: float, features: int, l0: float, vocabulary: int, seed: int = 0) -> None:
    """A store of about so many entries, at L0 a token."""
    rng = np.random.default_rng(seed)
    p_F = 10 ** rng.uniform(-5, -1, features)
    for _ in range(20):  # scaled to L0; none above one half
        p_F = np.minimum(p_F * l0 / p_F.sum(), 0.5)
    sequences = max(1, round(entries / l0 / T))
    zipf_V = 1 / np.arange(2, vocabulary + 1)
    zipf_V /= zipf_V.sum()
    shards, document = [], 0
    for number, first in enumerate(range(0, sequences * T, SHARD)):
        n = min(SHARD, sequences * T - first)
        token = np.arange(first, first + n, dtype=np.uint32)
        id_n = rng.choice(np.arange(1, vocabulary), n, p=zipf_V)
        id_n[::T] = 0
        document_n = document + np.cumsum(rng.random(n) < 1 / DOCUMENT)
        document = int(document_n[-1])
        norm_n = rng.lognormal(3, 0.3, n).astype(np.float32)
        masked_n = norm_n > 100
        masked_n[::T] = True
        firings_F = rng.binomial(n, p_F)
        code = np.unique(np.repeat(np.arange(features) * n, firings_F) + rng.integers(0, n, firings_F.sum()))
        feature, at = code // n, code % n
        act = rng.gamma(2, 1, len(code)).astype(np.float32) + np.float32(0.01)
        narrow = np.uint16 if features <= 2**16 else np.uint32
        where = f"shard-{number:05d}.parquet"
        files: dict[str, dict[str, np.ndarray]] = {
            f"tokens/{where}": {
                "token": token,
                "seq": token // T,
                "pos": (token % T).astype(np.uint16),
                "id": id_n.astype(np.uint32),
                "document": document_n.astype(np.uint32),
            },
            f"norms/{HOOK}/{where}": {"token": token, "norm": norm_n, "deviation": norm_n**2, "masked": masked_n},
            f"acts/{MEMBER}/{where}": {"feature": feature.astype(narrow), "token": token[at], "act": act},
            f"errors/{MEMBER}/{where}": {
                "token": token,
                "err": norm_n**2 * rng.uniform(0.1, 0.3, n).astype(np.float32),
                "l0": np.bincount(at, minlength=n).astype(np.uint32),
            },
        }
        for path, columns in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_parquet(folder / path, columns)
        shards.append({"shard": number, "first_token": first, "tokens": n, "files": dict.fromkeys(files, "")})
    inputs = {
        "sequences": sequences,
        "sequence_length": T,
        "split": "held_out",
        "members": {MEMBER: {"hook": HOOK, "features": features, "checkpoint": "."}},
    }
    made = manifest.begin(folder, inputs, {})
    made["shards"] = shards
    write_json(folder / manifest.FILE, made)


def subject(features: int, lm: LanguageModel) -> Subject:
    """One random dictionary, as if a run had trained it."""
    sae = new_dictionary(lm.width, features, 1.0, 0)
    return Subject({HOOK: {MEMBER: sae}}, {MEMBER: "."}, ModelConfig(name="embedded"), CorpusConfig(), T, MaskConfig())


class Peak:
    """Resident memory, looked at twenty times a second; /proc is Linux's."""

    def __init__(self) -> None:
        self.largest = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._end.wait(0.05):
            self.largest = max(self.largest, int(Path("/proc/self/statm").read_text().split()[1]) * page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=50e6)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--l0", type=float, default=45.0)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    lm = load_language_model(ModelConfig(name="embedded"))
    folder = args.store or Path(tempfile.mkdtemp(prefix="unmix-explore-"))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / manifest.FILE).exists():
        began = time.perf_counter()
        write_store(folder, args.entries, args.features, args.l0, lm.vocabulary)
        print(f"made the store in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    store = open_store(folder)
    entries = int(store.firings(MEMBER).sum())
    began, used = time.perf_counter(), time.process_time()
    with Peak() as peak:
        publish(folder, store, subject(args.features, lm), lm, print)
    took, used = time.perf_counter() - began, time.process_time() - used
    sizes: dict[str, int] = {}
    for path in (folder / "site").rglob("*.js"):
        kind = path.parent.name if path.parent.name in ("f", "t", "text") else path.stem
        sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
    print(f"{entries:,} entries, {args.features:,} features, {store.inputs['sequences'] * T:,} tokens")
    print(f"derive and pack: {took:.1f} s ({used:.1f} s of processor)")
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"memory at the peak: {peak.largest / 1e9:.2f} GB (since the start of the process {highest / 1e9:.2f} GB)")
    print(f"site: {sum(sizes.values()) / 1e6:.1f} MB: " + ", ".join(f"{k} {v / 1e6:.1f}" for k, v in sizes.items()))
    if args.store is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
