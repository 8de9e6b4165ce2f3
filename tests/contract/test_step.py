"""The step of every architecture: its gradient against finite differences, the sparse step against the definition."""

import math
from unittest import mock

import pytest
import torch
from contract.cases import (
    ARCHITECTURES,
    BANDWIDTH,
    config_of,
    draw,
    every_architecture,
    some_prefixes,
    task_of,
    weights_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import mapped, nan_like
from torch import Tensor

from unmix.dictionary.nonlinearities import BatchTopK, JumpRelu
from unmix.dictionary.terms import L0, AuxK, Gate, GateError, L0Target, SquaredError
from unmix.kernels import cpu, find, reference
from unmix.kernels.dispatch import Step

BY_DEFINITION = (Gate, GateError, AuxK)
"""Terms that hold a part of the pass fixed."""
STRAIGHT_THROUGH = "threshold"
DIRECTIONS = 6
"""In which a gradient is looked at; one that is wrong in any entry is wrong along almost every direction."""
OPTIONS = {
    "plain": {},
    "norm power": {"norm_power": 1},
    "norm power 2, prefixes": {"norm_power": 2, "prefixes": True},
    "unit norm": {"decoder": "unit_norm"},
    "auxk": {"auxk": 0.5},
    "auxk, prefixes": {"auxk": 0.5, "prefixes": True, "norm_power": 1},
    "weighed": {"penalty": "decoder_norm"},
    "four times k": {"multi_k": 0.5, "norm_power": 1},
    "pre-activations of dead features": {"preactivation": 0.5},
}


def prepared(architecture, *, D=5, E=4, F=12, B=9, k=3, seed=0, prefixes=False, norm_power=0, **keys):
    config = config_of(architecture, F, prefixes=some_prefixes(F) if prefixes else [], **keys)
    both_signs = architecture == "abstopk"
    auxk = None
    if config.auxk_coefficient:
        auxk = AuxK(2, torch.tensor([1, 4, 7]), 2, both_signs, SquaredError(norm_power))
    asked = task_of(config, k, 0.3, norm_power=norm_power, auxk=auxk, dead_N=torch.tensor([0, 4, 9]).clamp(max=F - 1))
    return draw(B, D, seed=seed), draw(B, E, seed=seed + 1), weights_of(config, asked.phi, D, E, seed), asked


def mean_loss(x_BD, y_BE, weights, task):
    """As `reference.step` takes it, without its gradient."""
    passed = reference.forward(x_BD, y_BE, weights, task)
    return sum(coefficient * term(passed) for coefficient, term in task.objective).item() / len(x_BD)


def assert_slopes(loss, weights, gradients, tolerance=1e-6, but=(), step=1e-6):
    """Along random directions of each parameter, central differences of the loss are what its gradient says."""
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, weight in weights.items():
        if name in but:
            continue
        for seed in range(DIRECTIONS):
            direction = draw(*weight.shape, seed=seed)
            direction /= direction.norm()
            there, back = (loss(weights | {name: weight + sign * step * direction}) for sign in (1, -1))
            slope, wanted = (there - back) / (2 * step), (gradients[name] * direction).sum().item()
            assert abs(slope - wanted) <= tolerance * (largest + abs(wanted)), f"{name}: {slope}, and not {wanted}"


def assert_close(mine, theirs, tolerance, but=()):
    """Every entry, up to the largest entry of all gradients times the tolerance."""
    assert mine.keys() == theirs.keys()
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name in theirs.keys() - set(but):
        apart = (mine[name].double() - theirs[name]).abs()
        assert (apart <= tolerance * (largest + theirs[name].abs()) + 1e-12).all(), f"{name}: {apart.max()} apart"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@every_architecture
def test_the_gradient_is_the_slope_of_the_loss(architecture, options):
    """Of the loss itself: without what is held fixed by definition, and not of what is trained straight through."""
    x_BD, y_BE, weights, asked = prepared(architecture, **options)
    asked = asked._replace(objective=tuple(t for t in asked.objective if not isinstance(t[1], BY_DEFINITION)))
    gradients = nan_like(weights)
    reference.step(x_BD, y_BE, weights, gradients, asked)
    but = {STRAIGHT_THROUGH} & weights.keys()
    if isinstance(asked.phi, JumpRelu) and asked.phi.to_input:
        but |= {"W_enc", "b_enc"}
    assert_slopes(lambda at: mean_loss(x_BD, y_BE, at, asked), weights, gradients, but=but)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@every_architecture
def test_the_gradient_is_the_slope_with_what_is_held_fixed_kept_as_it_was(architecture, options):
    """Every term, every parameter: what the loss detaches is recorded at the point and given back beside it."""
    x_BD, y_BE, weights, asked = prepared(architecture, **options)
    gradients = nan_like(weights)
    reference.step(x_BD, y_BE, weights, gradients, asked)
    real, kept = Tensor.detach, []

    def recorded(tensor):
        kept.append(real(tensor).clone())
        return kept[-1]

    with mock.patch.object(Tensor, "detach", recorded):
        mean_loss(x_BD, y_BE, weights, asked)

    def loss(at):
        with mock.patch.object(Tensor, "detach", side_effect=list(kept)):
            return mean_loss(x_BD, y_BE, at, asked)

    assert_slopes(loss, weights, gradients)


@every_architecture
def test_a_threshold_moves_straight_through_the_jump(architecture):
    """dθ_i = -(1/B) Σ_{|z - θ_i| < ε/2} (θ_i d loss/d f + c) / ε, by loops; z gets the first part of it, `to_input`."""
    x_BD, y_BE, weights, asked = prepared(architecture, B=40)
    if not isinstance(asked.phi, JumpRelu):
        pytest.skip("has no threshold")
    gradients = nan_like(weights)
    reference.step(x_BD, y_BE, weights, gradients, asked)
    z_BF, theta_F = x_BD @ weights["W_enc"] + weights["b_enc"], weights[STRAIGHT_THROUGH]
    f_BF = z_BF * (z_BF > theta_F)
    df_BF = 2 * (f_BF @ weights["W_dec"] + weights["b_dec"] - y_BE) @ weights["W_dec"].T
    one_more_B = torch.zeros(len(x_BD), dtype=torch.float64)
    if asked.term(L0):
        one_more_B += 0.3
    elif asked.term(L0Target):  # d of 0.3 · (2/3) (L0 - 3)²
        one_more_B += 0.3 * (4 / 3) * ((z_BF > theta_F).sum(1) - 3)
    else:
        w_F = weights["W_dec"].norm(dim=1)
        df_BF += 0.3 * w_F / torch.cosh(f_BF * w_F).square()
    theta_gets_F, b_enc_gets_F, inside = torch.zeros_like(theta_F), torch.zeros_like(theta_F), 0
    for t in range(len(x_BD)):
        for i in range(len(theta_F)):
            b_enc_gets_F[i] += df_BF[t, i] * (z_BF[t, i] > theta_F[i]) / len(x_BD)
            if abs(z_BF[t, i] - theta_F[i]) < BANDWIDTH / 2:
                theta_gets_F[i] -= (theta_F[i] * df_BF[t, i] + one_more_B[t]) / BANDWIDTH / len(x_BD)
                b_enc_gets_F[i] += asked.phi.to_input * theta_F[i] * df_BF[t, i] / BANDWIDTH / len(x_BD)
                inside += 1
    assert inside > 20
    torch.testing.assert_close(gradients[STRAIGHT_THROUGH], theta_gets_F)
    torch.testing.assert_close(gradients["b_enc"], b_enc_gets_F)


# ------------------------------------------------------------------------------------- the sparse step, the definition


def both(x_BD, y_BE, weights, asked, select="fp32", dtype=torch.float64):
    """(sums, gradients) of the sparse step in that dtype, and those of the definition in double precision."""
    assert cpu.covers(asked)
    low = mapped(lambda w: w.to(dtype), weights)
    mine, theirs = nan_like(low), nan_like(weights)
    got = cpu.step(x_BD.to(dtype), y_BE.to(dtype), low, mine, asked, find.Workspace(select, tile_bytes=1))
    want = reference.step(x_BD, y_BE, weights, theirs, asked)
    return (got, mine), (want, theirs)


def assert_agree(mine, theirs, tolerance, but=()):
    (got, gradients), (want, wanted) = mine, theirs
    torch.testing.assert_close(got.active_F.double(), want.active_F)
    largest = want.square_B.max().item()
    nearly = tolerance * (largest + 1e-3)
    torch.testing.assert_close(got.square_B.double(), want.square_B, rtol=tolerance, atol=nearly)
    for field in ("squared_error", "penalty"):
        # a small difference of what is near 1 is rounded as that is
        allowed = pytest.approx(getattr(want, field), rel=tolerance, abs=max(1e-9, 1e-3 * tolerance))
        assert getattr(got, field) == allowed, field
    assert got.terms == pytest.approx(want.terms, rel=10 * tolerance, abs=1e-7)
    assert (got.threshold is None) == (want.threshold is None)
    if want.threshold is not None:
        assert got.threshold == pytest.approx(want.threshold, rel=tolerance)
    assert_close(gradients, wanted, tolerance, but)


def cases(
    architecture, *, B, D, E, F, k, shift, seed, c, norm_power, decoder, penalty, in_prefixes, sigma, auxk, more=False
):
    config = config_of(
        architecture,
        F,
        prefixes=some_prefixes(F) if in_prefixes else [],
        decoder=decoder,
        penalty=penalty,
        auxk=1 / 32 if auxk else 0.0,
        multi_k=0.3 if more else 0.0,
        preactivation=0.2 if more and not sigma else 0.0,
    )
    dead_N = torch.nonzero(draw(F, seed=seed + 5) < -0.5).flatten()
    centre_E = draw(E, seed=seed + 6) if norm_power == 2 else None
    term = None
    if auxk:
        stride, share = auxk
        dead_N = torch.nonzero(draw(F, seed=seed + 5) < share).flatten()
        error = SquaredError(norm_power, (), centre_E)
        term = AuxK(3, dead_N, stride, architecture == "abstopk", error) if len(dead_N) else None
    asked = task_of(
        config, min(k, F), c, norm_power=norm_power, sigma=sigma, auxk=term, dead_N=dead_N, seed=seed,
        centre_E=centre_E,
    )  # fmt: skip
    weights = weights_of(config, asked.phi, D, E, seed)
    weights["b_enc"].add_(shift)
    return draw(B, D, seed=seed + 2), draw(B, E, seed=seed + 3), weights, asked


SHAPES = {
    "B": st.integers(1, 60),
    "D": st.integers(1, 9),
    "E": st.integers(1, 9),
    "F": st.integers(1, 70),
    "k": st.sampled_from([1.0, 2.5, 7.0, 500.0]),
    "shift": st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    "seed": st.integers(0, 10**6),
    "c": st.sampled_from([0.3, 20.0]),
    "norm_power": st.sampled_from([0, 1, 2]),
    "decoder": st.sampled_from(["free", "unit_norm"]),
    "penalty": st.sampled_from(["auto", "decoder_norm"]),
    "in_prefixes": st.booleans(),
    "more": st.booleans(),
}
AUXK = st.sampled_from([None, (1, 0.0), (3, 0.0), (3, -1.0)])


@every_architecture
@settings(max_examples=25)
@given(**SHAPES, noise_or_auxk=st.one_of(st.sampled_from([0.5, 2.0]), AUXK))
def test_the_sparse_step_is_the_definition(architecture, noise_or_auxk, **shape):
    """In double precision, so that no feature is at the edge of being active."""
    sigma, auxk = (noise_or_auxk, None) if isinstance(noise_or_auxk, float) else (0.0, noise_or_auxk)
    assert_agree(*both(*cases(architecture, sigma=sigma, auxk=auxk, **shape)), 1e-8)


@pytest.mark.parametrize("stride", [1, 3])
@every_architecture
def test_dead_features_with_noise_are_left_to_the_reference(architecture, stride):
    """z of a dead feature has the noise that all z have, which the sparse step does not make for it."""
    shape = {"B": 20, "D": 5, "E": 4, "F": 30, "k": 4, "shift": 0.0, "seed": 1, "c": 0.3, "norm_power": 0}
    shape |= {"decoder": "free", "penalty": "auto", "in_prefixes": False}
    x_BD, y_BE, weights, asked = cases(architecture, sigma=1.0, auxk=(stride, 0.0), **shape)
    assert not cpu.covers(asked)
    mine, theirs = nan_like(weights), nan_like(weights)
    step = Step()
    step.sparse = True
    got = step(x_BD, y_BE, weights, mine, asked)
    want = reference.step(x_BD, y_BE, weights, theirs, asked)
    assert got.terms == want.terms
    assert all(torch.equal(mine[name], theirs[name]) for name in weights)


@every_architecture
def test_terms_agree_while_the_coefficient_is_zero(architecture):
    """The first step of a warm-up, or l1 = 0: the terms are logged all the same."""
    x_BD, y_BE, weights, asked = prepared(architecture)
    asked = asked._replace(objective=tuple((0.0 if n else 1.0, t) for n, (_, t) in enumerate(asked.objective)))
    assert_agree(*both(x_BD, y_BE, weights, asked), 1e-8)


@pytest.mark.parametrize("norm_power", [1, 2])
@pytest.mark.parametrize("auxk", [0.0, 0.5])
@every_architecture
def test_a_token_of_length_zero_weighs_nothing_in_both(architecture, norm_power, auxk):
    x_BD, y_BE, weights, asked = prepared(architecture, norm_power=norm_power, auxk=auxk)
    y_BE[2] = 0
    assert_agree(*both(x_BD, y_BE, weights, asked), 1e-8)


@pytest.mark.parametrize("select", ["fp32", "int8", "bf16"])
@every_architecture
@settings(max_examples=12)
@given(**SHAPES, auxk=AUXK)
def test_in_single_precision_it_differs_by_rounding(architecture, select, auxk, **shape):
    """int8 and bf16 may miss a feature at the edge of being active: then little else is held against the definition."""
    shape["D"] = max(shape["D"], 2) if select == "int8" else shape["D"]
    x_BD, y_BE, weights, asked = cases(architecture, sigma=0.0, auxk=auxk, **shape)
    rounded = [t.bfloat16().double() if select == "bf16" else t.float().double() for t in (x_BD, y_BE)]
    weights = mapped(lambda w: w.bfloat16().double() if select == "bf16" else w.float().double(), weights)
    mine, theirs = both(*rounded, weights, asked, select, torch.float32)
    apart = (mine[0].active_F.double() - theirs[0].active_F).abs().sum().item()
    if apart:
        assert apart <= (1 if select == "fp32" else 2 + 0.03 * theirs[0].active_F.sum().item())
        assert all(gradient.isfinite().all() for gradient in mine[1].values())
    else:  # nor do active features show the edge below which a threshold is not moved
        assert_agree(mine, theirs, 2e-4, () if select == "fp32" else {STRAIGHT_THROUGH} & weights.keys())


@pytest.mark.parametrize("select", ["fp32", "int8", "bf16"])
@every_architecture
def test_in_single_precision_with_all_found_every_gradient_agrees(architecture, select):
    """A case in which no feature is at an edge, so that the one above is not all that is said of int8 and bf16."""
    shape = {"B": 24, "D": 8, "E": 6, "F": 20, "k": 4, "shift": 0.0, "c": 0.3, "norm_power": 1}
    shape |= {"decoder": "free", "penalty": "auto", "in_prefixes": True}
    for seed in range(40):
        x_BD, y_BE, weights, asked = cases(architecture, sigma=0.0, auxk=(3, 0.0), seed=seed, **shape)
        x_BD, y_BE = x_BD.bfloat16().double(), y_BE.bfloat16().double()
        weights = mapped(lambda w: w.bfloat16().double(), weights)
        if not at_an_edge(x_BD, y_BE, weights, asked):
            break
    else:
        raise AssertionError("every case has a feature at an edge")
    assert_agree(*both(x_BD, y_BE, weights, asked, select, torch.float32), 2e-4)


@pytest.mark.parametrize("select", ["fp32", "int8", "bf16"])
@pytest.mark.parametrize("tokens", [1, 64])
@every_architecture
def test_activations_of_width_one(architecture, tokens, select):
    """No feature is near an edge, and k is that of the whole batch."""
    x_BD, y_BE, weights, asked = prepared(architecture, B=tokens, D=1, E=1, F=40, k=40)
    weights = weights | {"b_enc": weights["b_enc"].sign() * 20}
    x_BD, y_BE, weights = (
        x_BD.bfloat16().double(),
        y_BE.bfloat16().double(),
        mapped(lambda w: w.bfloat16().double(), weights),
    )
    assert_agree(*both(x_BD, y_BE, weights, asked, select, torch.float32), 2e-4)


def at_an_edge(x_BD, y_BE, weights, asked):
    """Whether moving all z by 0.003 makes the gradients jump: they are then another piece of the function."""
    found = []
    for seed in range(6):
        gradients = nan_like(weights)
        moved = weights | {
            "b_enc": weights["b_enc"] + 0.003 * draw(len(weights["b_enc"]), seed=seed).sign() * bool(seed)
        }
        reference.step(x_BD, y_BE, moved, gradients, asked)
        found.append(torch.cat([g.flatten() for g in gradients.values()]))
    return max((g - found[0]).abs().max() for g in found[1:]) > 0.02 * found[0].abs().max()


# ------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("how", ["plain", "noise", "prefixes", "auxk", "inactive"])
@pytest.mark.parametrize("step", ["reference", "fp32", "int8", "bf16"])
@every_architecture
def test_nan_in_an_activation_shows(architecture, step, how):
    shape = {"B": 7, "D": 5, "E": 5, "F": 20, "k": 4, "shift": -30.0 if how == "inactive" else 0.0, "seed": 1, "c": 0.3}
    shape |= {"norm_power": 0, "decoder": "free", "penalty": "auto", "in_prefixes": how == "prefixes"}
    auxk = (1, 0.0) if how == "auxk" else None
    x_BD, y_BE, weights, asked = cases(architecture, sigma=float(how == "noise"), auxk=auxk, **shape)
    x_BD[3, 2] = math.nan  # y has none: only z and what is made of it
    x_BD, y_BE, weights = x_BD.float(), y_BE.float(), mapped(lambda w: w.float(), weights)
    gradients = mapped(torch.zeros_like, weights)
    if step == "reference":
        sums = reference.step(x_BD, y_BE, weights, gradients, asked)
    else:
        sums = cpu.step(x_BD, y_BE, weights, gradients, asked, find.Workspace(step))
    square = reference.finish(weights, gradients, asked.unit_norm)
    assert not all(map(math.isfinite, (sums.squared_error, *sums.terms, square)))


# ------------------------------------------------------------------------------------------------------------ edges

EDGES = {
    "one feature": {"F": 1},
    "one token": {"B": 1},
    "one of all": {"B": 1, "D": 1, "E": 1, "F": 1, "k": 1, "multi_k": 0.5, "preactivation": 0.5},
    "k is F": {"F": 12, "k": 12},
    "k is more than are positive": {"k": 11, "shift": -1.5},
    "all features inactive": {"shift": -50.0},
    "a decoder row of norm 0": {},
    "every decoder row of norm 0": {},
}


@pytest.mark.parametrize("edge", EDGES)
@every_architecture
def test_edges(architecture, edge):
    shape = {"B": 9, "D": 5, "E": 4, "F": 12, "k": 3} | EDGES[edge]
    shift = shape.pop("shift", 0.0)
    x_BD, y_BE, weights, asked = prepared(architecture, **shape)
    weights["b_enc"].add_(shift)
    if "row" in edge:
        weights["W_dec"][3 if edge.startswith("a ") else slice(None)] = 0
    mine, theirs = both(x_BD, y_BE, weights, asked)
    assert_agree(mine, theirs, 1e-8)
    assert all(gradient.isfinite().all() for gradient in theirs[1].values())
    if shift == -50:
        assert theirs[0].active_F.sum() == (9 * 3 if architecture == "abstopk" else 0)  # z of any sign is active
        assert theirs[0].threshold in (None, 0.0)


def test_every_row_names_a_form_that_can_be_saved():
    """A guard of the parameters above: the table is what they are made from."""
    assert len(ARCHITECTURES) >= 7
    assert all(isinstance(task_of(config_of(name, 8), 2, 0.1).error, SquaredError) for name in ARCHITECTURES)
    assert any(isinstance(task_of(config_of(name, 8), 2, 0.1).phi, BatchTopK) for name in ARCHITECTURES)
