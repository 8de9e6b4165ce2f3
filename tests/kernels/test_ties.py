"""Of equal contributions those with the lowest index are kept: token first, then feature. On the processor."""

import pytest
import torch
from kernel_cases import mapped, nan_like

from unmix.dictionary import nonlinearities
from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, TopK
from unmix.dictionary.terms import SquaredError
from unmix.kernels import active, cpu, find, reference
from unmix.kernels.task import Task

B, D, F = 9, 6, 130  # features in three tiles
KINDS = [TopK(1), TopK(7), TopK(7, weigh_by_norm=False), AbsTopK(7), AbsTopK(60, weigh_by_norm=False),
         BatchTopK(0.3), BatchTopK(2.5), BatchTopK(7.25), BatchTopK(40)]  # fmt: skip
FORMATS = [("fp32", torch.float64), ("fp32", torch.float32), ("bf16", torch.float32), ("int8", torch.float32)]


def whole_numbers(seed):
    """x, and weights whose z is exact in every format; the decoder's rows are 0.5, 1 or 2 long."""
    g = torch.Generator().manual_seed(seed)
    x_BD = torch.randint(-1, 2, (B, D), generator=g).double()
    W_enc_FD = torch.randint(-1, 2, (F, D), generator=g).double()
    lengths_F = torch.tensor([1.0, 2.0, 0.5]).double()[torch.randint(0, 3, (F,), generator=g)]
    W_dec_FD = torch.nn.functional.one_hot(torch.arange(F) % D, D).double() * lengths_F[:, None]
    return x_BD, {
        "W_enc": W_enc_FD.T,
        "b_enc": torch.zeros(F).double(),
        "W_dec": W_dec_FD,
        "b_dec": torch.zeros(D).double(),
    }


def contributions(phi, x_BD, weights):
    z_BF = x_BD @ weights["W_enc"]
    f_BF = z_BF.abs() if isinstance(phi, AbsTopK) else z_BF.clamp(min=0)
    return f_BF * (weights["W_dec"].norm(dim=1) if getattr(phi, "weigh_by_norm", True) else 1)


def kept_by_hand(phi, score_BF):
    """(token, feature) of those that are kept, by sorting."""
    each = [(t, i) for t in range(B) for i in range(F) if score_BF[t, i] > 0]
    each.sort(key=lambda at: (-score_BF[at].item(), at))
    if isinstance(phi, BatchTopK):
        return sorted(each[: phi.entries(B)])
    return sorted(at for t in range(B) for at in [one for one in each if one[0] == t][: phi.k])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("select", "dtype"), FORMATS)
@pytest.mark.parametrize("phi", KINDS, ids=repr)
def test_the_lowest_of_equal_ones_are_kept(phi, select, dtype, seed):
    x_BD, weights = whole_numbers(seed)
    score_BF = contributions(phi, x_BD, weights)
    wanted = kept_by_hand(phi, score_BF)
    low = mapped(lambda w: w.to(dtype), weights)
    task = Task(phi, ((1.0, SquaredError()),))
    code = active.find(x_BD.to(dtype), low, task, find.Workspace(select, tile_bytes=1)).code
    found = [
        (t, int(i))
        for t in range(B)
        for i, z in zip(*(of[code.starts_B1[t] : code.starts_B1[t + 1]] for of in code[1:]), strict=True)
        if z != 0
    ]
    assert sorted(found) == wanted
    least = min(score_BF[at].item() for at in wanted)
    assert (score_BF == least).sum() > len([at for at in wanted if score_BF[at] == least]), "nothing was left out of"


@pytest.mark.parametrize(("select", "dtype"), FORMATS)
@pytest.mark.parametrize("phi", KINDS, ids=repr)
def test_so_the_step_is_that_of_the_definition(phi, select, dtype):
    x_BD, weights = whole_numbers(5)
    low, task = mapped(lambda w: w.to(dtype), weights), Task(phi, ((1.0, SquaredError()),))
    mine, theirs = nan_like(low), nan_like(weights)
    got = cpu.step(x_BD.to(dtype), x_BD.to(dtype), low, mine, task, find.Workspace(select, tile_bytes=1))
    want = reference.step(x_BD, x_BD, weights, theirs, task)
    assert torch.equal(got.active_F.double(), want.active_F)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name].double(), gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 7, 129])
def test_where_a_device_has_no_kthvalue_the_same_are_kept(k, monkeypatch):
    """As mps, in torch before 2.9."""
    score_BF = torch.randint(0, 4, (B, F), generator=torch.Generator().manual_seed(k)).double()
    score_BF[2, 5] = float("nan")
    kept_BF = nonlinearities._largest(score_BF, k)
    monkeypatch.setattr(nonlinearities, "_SELECTS", ())
    monkeypatch.setattr(torch.Tensor, "kthvalue", None)
    assert torch.equal(nonlinearities._largest(score_BF, k), kept_BF)
