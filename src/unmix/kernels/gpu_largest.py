"""The entries of a topk, abstopk or batchtopk on a GPU (Triton): exactly those that contribute most.

Of equal contributions those with the lowest index are kept, token first, then feature.

    1  the largest score of each group of features. The k-th largest of these is at most the k-th largest score, so
       that nothing below it is kept: a floor, with next to nothing above it that is not
    2  what lies above the floor becomes sparse rows (`gpu_find`): the candidates
    3  the k-th largest score of the candidates, and how many equal to it are still wanted; these are the first ones

Where z is known up to a margin alone (`gpu_near`), the floor is taken of what scores are at least, candidates are what
may be above it, and their z is taken anew before the third step.

Scores are compared as whole numbers (`gpu_find.score_key`), whose bits are found from the top, 8 at a time, by
histograms. Nothing is sorted or estimated, and the host need not know anything.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, TopK
from unmix.kernels import gpu_find, gpu_near
from unmix.kernels.gpu_find import Entries, Margin, Scores, score_key
from unmix.kernels.gpu_launch import FUSED
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Noise, Weights

GROUPS_PER_KEPT = 6  # groups of features for each entry that is kept of a token: about 1.1 candidates for each
LARGEST_GROUP = 64
BLOCK = 1024  # scores that a program looks at at once


def topk(
    x_BD: Tensor,
    weights: Weights,
    phi: TopK | AbsTopK,
    noise: Noise | None,
    workspace: Workspace,
    w_F: Tensor,
    stop_1: Tensor,
) -> tuple[Entries, Tensor]:
    """(the entries, how many candidates there were in the tile that had most)."""
    B, F, both_signs = len(x_BD), len(w_F), isinstance(phi, AbsTopK)
    k, w_F = min(phi.k, F), w_F if phi.weigh_by_norm else torch.ones_like(w_F)
    found, needed = entries(workspace, B, B * k), torch.zeros(1, dtype=torch.int64, device=x_BD.device)
    near = workspace.margin(x_BD, weights, noise)
    for first in range(0, B, workspace.tile):
        part = slice(first, first + workspace.tile)
        margin = near and near.of(part)
        z_TF = workspace.encode(x_BD[part], weights, noise, first, margin)
        T = len(z_TF)
        least_TG, most_TG, group = _of_groups(z_TF, weights["b_enc"], w_F, margin, k, both_signs)
        start_T1 = torch.arange(T + 1, device=x_BD.device) * least_TG.shape[1]
        scores = Scores(w_F, most_TG, _kth(least_TG, start_T1, k, stop_1)[0].clamp_(min=1), group, both_signs)
        words = x_BD[part], z_TF, weights, scores, margin, workspace
        start_T1, candidates, end_1 = _candidates(*words, int(1.5 * k * T), T, stop_1)
        torch.maximum(needed, end_1, out=needed)
        least_T, ties_T = _kth(candidates[2], start_T1, k, stop_1)
        _keep(candidates, start_T1, least_T, ties_T, start_T1.diff().clamp_(max=k), first, found, stop_1)
    return found, needed


def batchtopk(
    x_BD: Tensor,
    weights: Weights,
    phi: BatchTopK,
    noise: Noise | None,
    workspace: Workspace,
    w_F: Tensor,
    stop_1: Tensor,
) -> tuple[Entries, Tensor, Tensor]:
    """(the entries, how many candidates there were, the least contribution that was kept). The batch is one tile."""
    B, F = len(x_BD), len(w_F)
    asked = phi.entries(B)
    wanted = min(asked, B * F)
    found = entries(workspace, B, wanted)
    if not wanted:
        return found, found.start_B1[-1:], w_F.new_zeros(1)
    near = workspace.margin(x_BD, weights, noise)
    z_BF = workspace.encode(x_BD, weights, noise, 0, near)
    least_BG, most_BG, group = _of_groups(z_BF, weights["b_enc"], w_F, near, wanted // B + 1, False)
    few = wanted < least_BG.numel()
    floor_1 = _kth_of_all(least_BG.view(-1), wanted)[0].clamp_(min=1) if few else least_BG.new_ones(1)
    scores = Scores(w_F, most_BG, floor_1.repeat(B), group, False)
    words = x_BD, z_BF, weights, scores, near, workspace
    start_B1, candidates, end_1 = _candidates(*words, int(1.25 * wanted), wanted, stop_1)
    least_1, ties_1 = _kth_of_all(candidates[2], wanted)
    above_B, equal_B = _tally(candidates[2], start_B1, least_1.repeat(B), stop_1)
    ties_B = (ties_1 - (equal_B.cumsum(0) - equal_B)).clamp_(min=0).minimum(equal_B)
    _keep(candidates, start_B1, least_1.repeat(B), ties_B, above_B + ties_B, 0, found, stop_1)
    least_1 = least_1.view(w_F.dtype)
    return found, end_1, torch.where(end_1 >= asked, least_1, 0)


def entries(workspace: Workspace, B: int, room: int) -> Entries:
    """Room for that many, none there yet."""
    room = max(1, room)
    feature_N = workspace.array("feature", room, torch.int32).fill_(workspace.features)
    start_B1 = torch.zeros(B + 1, dtype=torch.int64, device=feature_N.device)
    return Entries(start_B1, feature_N, workspace.array("value", room), workspace.array("token", room, torch.int32))


def _of_groups(
    z_TF: Tensor, b_F: Tensor, w_F: Tensor, margin: Margin | None, k: int, both_signs: bool
) -> tuple[Tensor, Tensor, int]:
    """(what the largest key of each group of features is at least, at most, (T, G); features in a group), enough groups
    for k of a token. Without a margin the two are one."""
    T, F = z_TF.shape
    most = max(1, F // (GROUPS_PER_KEPT * k))
    group = min(LARGEST_GROUP, gpu_find.CHUNK, 1 << (most.bit_length() - 1))
    least_TG = torch.empty(T, triton.cdiv(F, group), dtype=_keys(w_F.dtype), device=z_TF.device)
    most_TG = least_TG if margin is None else torch.empty_like(least_TG)
    _groups_kernel[(T, triton.cdiv(F, gpu_find.CHUNK))](
        z_TF,
        b_F,
        w_F,
        *(margin or Margin(w_F, w_F)),
        least_TG,
        most_TG,
        F,
        least_TG.shape[1],
        CHUNK=gpu_find.CHUNK,
        GROUP=group,
        BOTH=both_signs,
        WIDE=w_F.dtype == torch.float64,
        NEAR=margin is not None,
        **FUSED,
    )
    return least_TG, most_TG, group


def _keys(numbers: torch.dtype) -> torch.dtype:
    return torch.int64 if numbers == torch.float64 else torch.int32


def _candidates(
    x_TD: Tensor,
    z_TF: Tensor,
    weights: Weights,
    scores: Scores,
    margin: Margin | None,
    workspace: Workspace,
    expected: int,
    at_least: int,
    stop_1: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """(where each token's begin, (features, values, keys) of what is above, how many). Behind them, keys are 0."""
    room = workspace.room("candidates", 0, max(expected, at_least))
    zero_1 = torch.zeros(1, dtype=torch.int64, device=z_TF.device)
    end_TC = gpu_find.ends(z_TF, weights["b_enc"], scores, margin, zero_1)
    gpu_find.stop_beyond(stop_1, end_TC, room)
    names = ("candidate", torch.int32), ("z of candidate", None), ("key of candidate", scores.key_TG.dtype)
    feature_n, value_n, key_n = (workspace.array(name, room, dtype) for name, dtype in names)
    key_n.zero_()
    found = feature_n, value_n, key_n
    gpu_find.compact(z_TF, weights["b_enc"], scores, margin, zero_1, end_TC, 0, found, stop_1)
    start_T1 = torch.cat([zero_1, end_TC[:, -1]])
    if margin is not None:
        scored = gpu_near.Scored(scores.w_F, key_n, scores.both_signs)
        gpu_near.refine(x_TD, weights, Entries(start_T1, feature_n, value_n, feature_n), scored, False, stop_1)
    return start_T1, found, end_TC[-1, -1:]


def _kth(key: Tensor, start_T1: Tensor, k: int, stop_1: Tensor) -> tuple[Tensor, Tensor]:
    """(the k-th largest key of each token's, as which of its equals it is counted), (T,) each; 0 if there are fewer."""
    T = len(start_T1) - 1
    least_T, ties_T = key.new_zeros(T), torch.zeros(T, dtype=torch.int64, device=key.device)
    _kth_kernel[(T,)](key, start_T1, k, least_T, ties_T, stop_1, BYTES=key.element_size(), BLOCK=BLOCK, **FUSED)
    return least_T, ties_T


def _kth_of_all(key_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(the k-th largest of at least k keys, as which of its equals it is counted), (1,) each."""
    N = len(key_N)
    prefix_1, rank_1 = key_N.new_zeros(1), torch.full((1,), k, dtype=torch.int64, device=key_N.device)
    count_P256 = torch.empty(triton.cdiv(N, BLOCK), 256, dtype=torch.int32, device=key_N.device)
    for shift in range(8 * key_N.element_size() - 8, -1, -8):
        _histogram_kernel[(len(count_P256),)](key_N, prefix_1, count_P256, N, shift, BLOCK=BLOCK, **FUSED)
        _digit_kernel[(1,)](count_P256.sum(0), prefix_1, rank_1, shift, **FUSED)
    return prefix_1, rank_1


def _tally(key_n: Tensor, start_T1: Tensor, least_T: Tensor, stop_1: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each token's keys are above the least, and equal to it, (T,) each."""
    T = len(least_T)
    above_T, equal_T = (torch.zeros(T, dtype=torch.int64, device=key_n.device) for _ in range(2))
    _tally_kernel[(T,)](key_n, start_T1, least_T, above_T, equal_T, stop_1, BLOCK=BLOCK, **FUSED)
    return above_T, equal_T


def _keep(
    candidates: tuple[Tensor, Tensor, Tensor],
    start_T1: Tensor,
    least_T: Tensor,
    ties_T: Tensor,
    kept_T: Tensor,
    first: int,
    into: Entries,
    stop_1: Tensor,
) -> None:
    """Of each token the candidates above its least, and the first so many equal to it; none that contributes nothing,
    as a candidate within a margin may. Its place then stays empty: its feature is F."""
    T = len(kept_T)
    torch.add(into.start_B1[first : first + 1], kept_T.cumsum(0), out=into.start_B1[first + 1 : first + T + 1])
    _keep_kernel[(T,)](*candidates, start_T1, least_T, ties_T, *into, stop_1, first, BLOCK=BLOCK, **FUSED)


@triton.jit
def _groups_kernel(
    z_TF,
    b_F,
    w_F,
    off_T,
    off_F,
    least_TG,
    most_TG,
    F,
    G,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    BOTH: tl.constexpr,
    WIDE: tl.constexpr,
    NEAR: tl.constexpr,
):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    g = c * (CHUNK // GROUP) + tl.arange(0, CHUNK // GROUP)
    i = g[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    z = tl.load(z_TF + t * F + i, mask=i < F, other=0) + tl.load(b_F + i, mask=i < F, other=0)
    w, off = tl.load(w_F + i, mask=i < F, other=0), tl.full((), 0.0, z.dtype)
    if NEAR:
        off = tl.load(off_T + t) * tl.load(off_F + i, mask=i < F, other=0)
        tl.store(most_TG + t * G + g, tl.max(score_key(z, w, off, BOTH, WIDE), 1), mask=g < G)
    tl.store(least_TG + t * G + g, tl.max(score_key(z, w, -off, BOTH, WIDE), 1), mask=g < G)


@triton.jit
def _digits(key, here, prefix, shift, BLOCK: tl.constexpr):
    """How often each value of the 8 bits at `shift` occurs among the keys whose bits above are the prefix's, (256,)."""
    rest = (key ^ prefix) >> shift  # the bits above are 0 then, and these the key's own: the prefix has none there yet
    like = here & ((rest >> 8) == 0)
    count = tl.histogram(tl.where(like, rest & 255, 0).to(tl.int32), 256)
    return count - tl.where(tl.arange(0, 256) == 0, BLOCK - tl.sum(like.to(tl.int32), 0), 0)


@triton.jit
def _digit(count, rank):
    """(the value that the key of that rank from the top has, its rank among those that have it)."""
    d = tl.arange(0, 256)
    above = tl.sum(count, 0) - tl.cumsum(count, 0)
    chosen = (above < rank) & (above + count >= rank)
    return tl.sum(tl.where(chosen, d, 0), 0), rank - tl.sum(tl.where(chosen, above, 0), 0)


@triton.jit
def _kth_kernel(key, start_T1, k, least_T, ties_T, stop_1, BYTES: tl.constexpr, BLOCK: tl.constexpr):
    if tl.load(stop_1) != 0:
        return
    t, j = tl.program_id(0), tl.arange(0, BLOCK)
    start, end = tl.load(start_T1 + t), tl.load(start_T1 + t + 1)
    if end - start >= k:
        prefix, rank = tl.full((), 0, key.dtype.element_ty), tl.full((), 0, tl.int32) + k
        for byte in range(BYTES):
            shift = 8 * (BYTES - 1 - byte)
            count = tl.full((256,), 0, tl.int32)
            for n in tl.range(start, end, BLOCK, num_stages=1):
                here = n + j < end
                count += _digits(tl.load(key + n + j, mask=here, other=0), here, prefix, shift, BLOCK)
            digit, rank = _digit(count, rank)
            prefix = prefix | (digit.to(prefix.dtype) << shift)
        tl.store(least_T + t, prefix)
        tl.store(ties_T + t, rank.to(tl.int64))


@triton.jit
def _histogram_kernel(key_N, prefix_1, count_P256, N, shift, BLOCK: tl.constexpr):
    p, n = tl.program_id(0), tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = _digits(tl.load(key_N + n, mask=n < N, other=0), n < N, tl.load(prefix_1), shift, BLOCK)
    tl.store(count_P256 + p * 256 + tl.arange(0, 256), count)


@triton.jit
def _digit_kernel(count_256, prefix_1, rank_1, shift):
    prefix = tl.load(prefix_1)
    digit, rank = _digit(tl.load(count_256 + tl.arange(0, 256)), tl.load(rank_1))
    tl.store(prefix_1, prefix | (digit.to(prefix.dtype) << shift))
    tl.store(rank_1, rank)


@triton.jit
def _tally_kernel(key_n, start_T1, least_T, above_T, equal_T, stop_1, BLOCK: tl.constexpr):
    if tl.load(stop_1) != 0:
        return
    t = tl.program_id(0)
    start, end, least = tl.load(start_T1 + t), tl.load(start_T1 + t + 1), tl.load(least_T + t)
    j = tl.arange(0, BLOCK)
    above, equal = tl.full((BLOCK,), 0, tl.int32), tl.full((BLOCK,), 0, tl.int32)
    for n in tl.range(start, end, BLOCK, num_stages=1):
        key = tl.load(key_n + n + j, mask=n + j < end, other=-1)
        above += (key > least).to(tl.int32)
        equal += (key == least).to(tl.int32)
    tl.store(above_T + t, tl.sum(above, 0).to(tl.int64))
    tl.store(equal_T + t, tl.sum(equal, 0).to(tl.int64))


@triton.jit
def _keep_kernel(
    candidate_n,
    z_n,
    key_n,
    start_T1,
    least_T,
    ties_T,
    start_B1,
    feature_N,
    value_N,
    token_N,
    stop_1,
    first,
    BLOCK: tl.constexpr,
):
    if tl.load(stop_1) != 0:
        return
    t, j = tl.program_id(0), tl.arange(0, BLOCK)
    start, end = tl.load(start_T1 + t), tl.load(start_T1 + t + 1)
    least, ties, at = tl.load(least_T + t), tl.load(ties_T + t), tl.load(start_B1 + first + t)
    for n in tl.range(start, end, BLOCK, num_stages=1):
        here = n + j < end
        key = tl.load(key_n + n + j, mask=here, other=-1)
        equal = here & (key == least) & (key > 0)  # what contributes nothing fills no place
        kept = (here & (key > least)) | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= ties))
        place = at - 1 + tl.cumsum(kept.to(tl.int32), 0)
        tl.store(feature_N + place, tl.load(candidate_n + n + j, mask=kept, other=0), mask=kept)
        tl.store(value_N + place, tl.load(z_n + n + j, mask=kept, other=0), mask=kept)
        tl.store(token_N + place, (first + t + tl.zeros_like(j)).to(tl.int32), mask=kept)
        ties -= tl.sum(equal.to(tl.int32), 0)
        at += tl.sum(kept.to(tl.int32), 0)
