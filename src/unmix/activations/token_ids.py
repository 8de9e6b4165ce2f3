"""The token ids of activations that somebody has already: which rows are left out, and which tokens are the longest.

Nobody knows a tokenizer here: ids are numbers, and which of them are special is said by `activations.special_ids`. Rows
of those are neither trained on nor judged on, as `training.mask: {special: true}` leaves them out of a model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmix.errors import UserError

_MOST = 10  # ids that are named


def parted(given: Any) -> tuple[Any, Any]:
    """(rows, their token ids): of a pair of rows and a vector or list of integers, as a DataLoader gives it; else no
    ids."""
    if isinstance(given, tuple | list) and len(given) == 2 and _is_ids(given[1]):
        return given[0], given[1]
    return given, None


def _is_ids(given: Any) -> bool:
    if isinstance(given, Tensor):
        return given.ndim == 1 and not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if isinstance(given, list | tuple):
        return bool(given) and all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in given)
    return isinstance(given, np.ndarray) and given.ndim == 1 and np.issubdtype(given.dtype, np.integer)


def open_ids(path: Path) -> NDArray[Any]:
    """The integers of a `.npy` file, mapped. Raises `UserError` if there is no such file, or it holds others."""
    try:
        ids_R: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; activations.token_ids takes a .npy file of [rows] integers"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"activations.token_ids = {path} cannot be read: {error}") from None
    if not _is_ids(ids_R):
        raise UserError(
            f"{path} holds {ids_R.dtype} of shape {ids_R.shape}; want the token id of each row: [rows] integers"
        )
    return ids_R


def checked(ids_R: Any, rows: int) -> NDArray[np.int64]:
    """As int64. Raises `UserError` if there is not one for each row."""
    found_R = (ids_R.cpu().numpy() if isinstance(ids_R, Tensor) else np.asarray(ids_R)).astype(np.int64)
    if len(found_R) != rows:
        raise UserError(f"{len(found_R):,} token ids stand beside {rows:,} activations; give one for each")
    return found_R


def kept(ids_R: NDArray[np.int64] | None, special_ids: Sequence[int], rows: int) -> NDArray[np.bool_]:
    """Which rows are not of special tokens. Raises `UserError` if nobody says which tokens they are of."""
    if not special_ids:
        return np.ones(rows, dtype=np.bool_)
    if ids_R is None:
        raise UserError(
            f"activations.special_ids = {list(special_ids)} needs the token id of each row; give "
            "activations.token_ids, a .npy file of [rows] integers, or in Python activations=(rows, token_ids)"
        )
    return ~np.isin(ids_R, list(special_ids))


def longest(ids_R: NDArray[np.int64], far_R: NDArray[np.bool_]) -> list[dict[str, int]]:
    """The tokens that are outliers most often: their id, how often they are, and how often they occur."""
    ids, counts = np.unique(ids_R[far_R], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:_MOST]
    return [{"id": int(ids[i]), "outliers": int(counts[i]), "occurrences": int((ids_R == ids[i]).sum())} for i in first]
