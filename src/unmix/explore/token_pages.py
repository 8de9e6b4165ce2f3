"""Texts with the features of every token: MEMBER/t/00000.js, SEQUENCES a file.

Which sequences, and how many features of each token, is `token_budget`'s; features beyond those are counted.

A page is n tokens and m entries (feature, value), the entries by token, then by feature:

    n, m                    4 bytes each, little-endian
    entries[n] 1 byte       how many are kept of each token
    more[n] 3               how many are not
    masked[n] 1             1 where left out of all numbers
    norm[n], err[n] 3       ||x||, ||y - ŷ||² / ||y||², where y = x but of transcoders
    step[m] 3               from the feature before it of the same token, or from 0
    value[m] 3

all but the first two as planes (`pack`). A real number is the upper three bytes of a float32, rounded to BITS bits of
mantissa: within 0.05 %, as four significant digits are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.explore.pack import of_planes, planes
from unmix.explore.store import Floats, Ints, Store, Text
from unmix.kernels.code_cache import numba

SEQUENCES = 16  # a file
A_PAGE, A_TOKEN, AN_ENTRY = 8, 11, 6  # bytes, before they are packed
BITS, MANTISSA = 10, 23


def token_pages(
    store: Store, member: str, text: Text, sequences: Sequence[int], strongest: int
) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of each page of these sequences, ascending, with the `strongest` features of each token."""
    err_R, l0_R = store.errors(member)
    waiting: list[tuple[Ints, Ints, Ints, Floats]] = []
    for number, row in enumerate(_sequences(store, member, sequences, strongest), 1):
        waiting.append(row)
        if len(waiting) == SEQUENCES or number == len(sequences):
            page = (number - 1) // SEQUENCES
            yield f"{member}/t/{page:05d}", _page(waiting, text, err_R, l0_R)
            waiting = []


def _sequences(
    store: Store, member: str, sequences: Sequence[int], strongest: int
) -> Iterator[tuple[Ints, Ints, Ints, Floats]]:
    """(tokens, kept entries of each, features, values) of each sequence in turn."""
    T, wanted = store.T, np.array(sequences)
    for range_ in store.ranges():
        some = wanted[(wanted >= range_.start) & (wanted < range_.stop)]
        if not len(some):
            continue
        first = int(some[0])
        starts_R1, feature_n, act_n = store.by_token(member, range(first, int(some[-1]) + 1))
        for s in some.tolist():
            at = (s - first) * T
            starts_T1 = starts_R1[at : at + T + 1]
            here = slice(int(starts_T1[0]), int(starts_T1[-1]))
            chosen_n = np.zeros(here.stop - here.start, dtype=np.bool_)
            count_T = np.zeros(T, dtype=np.int64)
            size_n = np.nan_to_num(np.abs(act_n[here]), nan=-1.0, posinf=np.inf)  # NaN is no larger than any
            _strongest(starts_T1 - starts_T1[0], size_n, strongest, chosen_n, count_T)
            yield np.arange(s * T, (s + 1) * T), count_T, feature_n[here][chosen_n], act_n[here][chosen_n]


@numba.njit(cache=True)
def _strongest(starts_T1: Any, a_n: Any, most: int, chosen_n: Any, count_T: Any) -> None:
    """Mark the `most` largest of each token; of equal ones the first."""
    for t in range(len(starts_T1) - 1):
        first, last = starts_T1[t], starts_T1[t + 1]
        count_T[t] = min(most, last - first)
        if last - first <= most:
            chosen_n[first:last] = True
            continue
        cut = np.sort(a_n[first:last])[last - first - most]
        left = most
        for n in range(first, last):
            if a_n[n] > cut:
                chosen_n[n] = True
                left -= 1
        for n in range(first, last):
            if left and a_n[n] == cut:
                chosen_n[n] = True
                left -= 1


def _page(rows: list[tuple[Ints, Ints, Ints, Floats]], text: Text, err_R: Floats, l0_R: Ints) -> bytes:
    token_n, count_n, feature_m, act_m = (np.concatenate(column) for column in zip(*rows, strict=True))
    length_n = text.length_R[token_n].astype(np.float64)
    error_n = np.divide(err_R[token_n], length_n**2, out=np.full(len(token_n), np.nan), where=length_n > 0)
    step_m = np.diff(feature_m, prepend=0)
    begins_n = count_n.cumsum() - count_n
    first_n = begins_n[count_n > 0]
    step_m[first_n] = feature_m[first_n]
    return b"".join(
        [
            np.array([len(token_n), len(feature_m)], dtype="<u4").tobytes(),
            planes(count_n, 1),
            planes(l0_R[token_n] - count_n, 3),
            planes(~text.counted_R[token_n], 1),
            planes(real(text.norm_R[token_n]), 3),
            planes(real(error_n), 3),
            planes(step_m, 3),
            planes(real(act_m), 3),
        ]
    )


def real(x_n: NDArray[Any]) -> NDArray[np.uint32]:
    """float32 without its lowest byte, rounded to BITS bits of mantissa, to even."""
    word_n = np.ascontiguousarray(x_n, dtype=np.float32).view(np.uint32).astype(np.uint64)
    lost = MANTISSA - BITS
    word_n += (1 << (lost - 1)) - 1 + (word_n >> np.uint64(lost) & np.uint64(1))
    word_n = word_n >> np.uint64(lost) << np.uint64(lost)
    return np.where(np.isnan(x_n), 0x7FC000, word_n >> np.uint64(8)).astype(np.uint32)


def unreal(word_n: NDArray[np.uint32]) -> Floats:
    """float32 again."""
    return (word_n << np.uint32(8)).view(np.float32)


def read_tokens(data: bytes, T: int) -> list[dict[str, Any]]:
    """The sequences of a page: norm, err, m (masked positions), f ([feature, value] of each token, the largest first,
    of equal ones the lowest feature), more. Raises ValueError if it is damaged."""
    n, m = np.frombuffer(data, "<u4", 2).tolist()
    at, columns = 8, []
    for count, width in ((n, 1), (n, 3), (n, 1), (n, 3), (n, 3), (m, 3), (m, 3)):
        columns.append(of_planes(data, at, count, width))
        at += count * width
    count_n, more_n, masked_n, norm_n, error_n, step_m, act_m = columns
    ends_n, value_m = count_n.astype(np.int64).cumsum(), unreal(act_m)
    found = []
    for first in range(0, n, T):
        features = []
        for end, count in zip(ends_n[first : first + T].tolist(), count_n[first : first + T].tolist(), strict=True):
            here = slice(end - count, end)
            feature = step_m[here].astype(np.int64).cumsum()
            order = np.argsort(-np.abs(value_m[here]), kind="stable")
            features.append(list(zip(feature[order].tolist(), value_m[here][order].tolist(), strict=True)))
        part = slice(first, first + T)
        found.append(
            {
                "norm": unreal(norm_n[part]).tolist(),
                "err": unreal(error_n[part]).tolist(),
                "m": np.flatnonzero(masked_n[part]).tolist(),
                "f": features,
                "more": more_n[part].tolist(),
            }
        )
    return found
