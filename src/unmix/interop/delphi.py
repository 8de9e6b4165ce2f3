"""A cache of activations for Delphi (eai-delphi 0.1.3, latents/cache.py, loader.py), which explains features by them.

    FOLDER/MODULE/{start}_{end}.safetensors
        locations     [n, 3]: sequence, position, feature - start; uint16, or uint32 where a number needs it
        activations   [n] float16, or float32 where one is above 65,504
        tokens        [N, T] int64, the same in every file
    FOLDER/MODULE/config.json
        what its `CacheConfig` says, and `model_name`

Features start … end, the last included, are in a file; the files follow each other from 0 on, and none is empty. FOLDER
is called `latents` in Delphi's own runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.lm.model import LanguageModel
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors

EXAMPLE = 32
"""Tokens of an example in Delphi; sequences are cut into these."""
MOST_FLOAT16 = 65_504.0
AT_ONCE = 8  # sequences a pass


def write_cache(
    lm: LanguageModel,
    ids_NT: Tensor,
    hook: str,
    sae: Dictionary,
    folder: Path,
    *,
    module: str | None = None,
    splits: int = 5,
    dataset: str = "",
    dataset_split: str = "",
) -> Path:
    """Encode the sequences and write the cache; answers `folder/module`, `module` being the hook unless given.

    Every position is in it but those that the dictionary was not trained on (`sae.longest`). What is active is held in
    memory until it is written, 14 bytes an entry. Raises `UserError` if T is no multiple of 32, if features may be
    negative, if nothing is active, or if the folder holds something.
    """
    T, F = ids_NT.shape[1], sae.features
    if T % EXAMPLE:
        raise UserError(f"sequences of {T} tokens cannot be cut into Delphi's examples of {EXAMPLE}; give a multiple")
    if sae.nonlinearity.name == "abstopk":
        raise UserError("features of an abstopk may be negative, and Delphi takes activations for positive")
    target = folder / (module or hook)
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} holds something; give a folder that does not, or move it away")
    at_n3, value_n = _active(lm, ids_NT, hook, sae)
    if not len(value_n):
        raise UserError(f"no feature is active on these {ids_NT.numel():,} tokens; there is nothing to cache")
    target.mkdir(parents=True, exist_ok=True)
    ranges = _ranges(np.bincount(at_n3[:, 2], minlength=F), splits)
    for start, end in ranges:
        inside_n = (at_n3[:, 2] >= start) & (at_n3[:, 2] <= end)
        locations = at_n3[inside_n] - np.array([0, 0, start])
        values = value_n[inside_n]
        narrow = locations.max() < 2**16
        half = float(np.abs(values).max()) <= MOST_FLOAT16
        save_tensors(
            target / f"{start}_{end}.safetensors",
            {
                "locations": torch.from_numpy(locations.astype(np.uint16 if narrow else np.uint32)),
                "activations": torch.from_numpy(values.astype(np.float16 if half else np.float32)),
                "tokens": ids_NT.long(),
            },
        )
    write_json(
        target / "config.json",
        {
            "dataset_repo": dataset,
            "dataset_split": dataset_split,
            "dataset_name": "",
            "dataset_column": "text",
            "batch_size": AT_ONCE,
            "ctx_len": T,
            "n_tokens": ids_NT.numel(),
            "n_splits": len(ranges),
            "model_name": lm.name,
        },
    )
    return target


def _active(lm: LanguageModel, ids_NT: Tensor, hook: str, sae: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """([n, 3] of (sequence, position, feature), their values), in order."""
    found: list[Tensor] = []
    values: list[Tensor] = []
    for start in range(0, len(ids_NT), AT_ONCE):
        x_nTD = lm.activations(ids_NT[start : start + AT_ONCE], [hook])[hook].to(sae.W_enc.device)
        with torch.no_grad():
            for row, x_TD in enumerate(x_nTD):
                f_TF = sae.encode(x_TD) * ~sae.leaves(x_TD)[:, None]
                at_m2 = f_TF.nonzero()
                values.append(f_TF[at_m2[:, 0], at_m2[:, 1]].cpu())
                found.append(torch.cat([torch.full((len(at_m2), 1), start + row), at_m2.cpu()], 1).int())
    return torch.cat(found).numpy().astype(np.int64), torch.cat(values).float().numpy()


def _ranges(counts_F: np.ndarray, splits: int) -> list[tuple[int, int]]:
    """(first, last) feature of each file: as even as can be, and none without an entry."""
    edges = np.linspace(0, len(counts_F), max(1, min(splits, len(counts_F))) + 1).astype(int)
    kept = [0]
    for edge in edges[1:-1]:
        if counts_F[kept[-1] : edge].any() and counts_F[edge:].any():
            kept.append(int(edge))
    return [(start, end - 1) for start, end in zip(kept, [*kept[1:], len(counts_F)], strict=True)]
