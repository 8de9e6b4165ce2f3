"""Members that are trained to give y for x: against SAEs where y is x, the definition, and a map that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import ARCHITECTURES, HOOK, TOKENS, K, batch, every_architecture, member_of
from kernel_cases import nan_like
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch, Pair
from unmix.config import EVERY_TOKEN, MaskConfig, SAEConfig, TrainingConfig
from unmix.dictionary.terms import AuxK, PreActivation
from unmix.errors import UserError
from unmix.interop.load import load_sae, read
from unmix.kernels import reference
from unmix.kernels.dispatch import Step
from unmix.training import checkpoint
from unmix.training.checkpoint import raw_coefficient
from unmix.training.late import Late
from unmix.training.measure import Facts, measure
from unmix.training.member import Entry, Member, new_member
from unmix.training.schedule import Schedule

D, E, F = 12, 7, 40
SETTINGS: dict[str, Any] = {"selection": "fp32", "dense": "fp32", "border": 0.12}
FACTS = {"model": None, "context": None, "metadata": {}}


def with_targets(number: int, tokens: int = TOKENS, width: int = E) -> Batch:
    """y is a fixed map of a batch's x, with kinks, another scale, and a mean of its own."""
    found = batch(number, tokens)
    x_BD, g = found.activations[HOOK], torch.Generator().manual_seed(9)
    W_DH, V_HE = torch.randn(D, 20, generator=g), torch.randn(20, width, generator=g)
    return found._replace(targets={HOOK: 30 * ((x_BD @ W_DH - 2).relu() @ V_HE) + 500})


def transcoder(architecture: str, *, l0: float | None = None, mask: MaskConfig = EVERY_TOKEN, **keys: Any) -> Member:
    """As `member_of`; keys are of `sae` or of `training`."""
    training = {key: keys.pop(key) for key in [*keys] if key in TrainingConfig.model_fields}
    config = SAEConfig(architecture=architecture, features=F, **keys)
    if l0 is None and (config.takes_k or config.has_target):
        l0 = K
    settings = TrainingConfig(**({"l0": [l0]} if l0 else {"l1": [0.3]}), **SETTINGS | training)
    head, alpha = with_targets(0), 0.0 if l0 else 0.3
    facts = measure(head, HOOK, config, settings, alpha, [])
    return new_member(
        Entry("m", HOOK, "", None if l0 else alpha, l0), D, config=config, training=settings, facts=facts,
        mask=Mask(mask, [0], facts.median_norm), head=head, target_width=E,
    )  # fmt: skip


def train(member: Member, steps: int, first: int = 0, lr: float = 1e-2) -> Member:
    for step in range(first, first + steps):
        assert member.update(with_targets(100 + step), step, lr, member.coefficient) == ""
    return member


# -------------------------------------------------------------------------------------------------- where y is x


@pytest.mark.parametrize("kernels", ["auto", "portable"])
@every_architecture
def test_where_the_targets_are_x_itself_every_step_has_the_bits_of_an_sae(architecture: str, kernels: str):
    """From the same weights: a transcoder's own start is another, as its encoder is no transpose of its decoder."""
    plain = member_of(architecture, training={"kernels": kernels})
    start = plain.start.changed({name: weight.clone() for name, weight in plain.weights.items()})
    facts = plain.facts._replace(target_scale=plain.facts.scale)
    other = Member(plain.entry, start, config=plain.config, training=plain.training, facts=facts, mask=plain.mask)
    assert plain.view.centre_D is not None
    assert other.view.centre_D is not None
    assert other.view.target_centre_E is not None
    other.view.centre_D.copy_(plain.view.centre_D)
    other.view.target_centre_E.copy_(plain.view.centre_D)
    for step in range(25):
        now = batch(100 + step)
        assert plain.update(now, step, 1e-2, plain.coefficient) == ""
        copied = now._replace(targets={HOOK: now.activations[HOOK].clone()})
        assert other.update(copied, step, 1e-2, other.coefficient) == ""
    for name, weight in plain.weights.items():
        assert torch.equal(weight, other.weights[name]), name
    assert plain.metrics(10**9) == other.metrics(10**9)
    for name, weight in plain.sae().weights.items():
        assert torch.equal(weight, other.sae().weights[name]), name


def test_what_is_measured_of_targets_that_are_x_is_what_is_measured_of_x():
    head, config, training = batch(0), SAEConfig(features=F), TrainingConfig(l1=[0.3])
    plain = measure(head, HOOK, config, training, 0.3, [])
    found = measure(head._replace(targets={HOOK: head.activations[HOOK].clone()}), HOOK, config, training, 0.3, [])
    assert plain.target_scale is None
    assert found == plain._replace(target_scale=plain.scale)
    assert "target_scale" not in plain.written()
    assert Facts.read(found.written() | {"hook": "h"}) == found
    assert Facts.read(plain.written()) == plain


# ------------------------------------------------------------------------------------------------------ scales, masks


def test_x_and_y_have_each_a_scale_and_a_mean_of_their_own():
    member, head = transcoder("relu"), with_targets(0)
    raw = head.pair(HOOK)
    seen = member.view.of(raw)
    assert member.facts.scale == pytest.approx((D / raw.x_BD.square().sum(1).mean().item()) ** 0.5)
    assert member.facts.target_scale == pytest.approx((E / raw.y_BE.square().sum(1).mean().item()) ** 0.5)
    assert member.facts.mean_norm == pytest.approx(member.facts.target_scale * raw.y_BE.norm(dim=1).mean().item())
    for rows in seen:
        assert rows.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(seen.y_BE, member.view.scaled_y(raw.y_BE - raw.y_BE.mean(0)), rtol=1e-4, atol=1e-4)


def test_the_mask_goes_by_x_and_outliers_of_y_scale_nothing():
    head = with_targets(0)
    far = head._replace(activations={HOOK: head.activations[HOOK].clone()}, targets={HOOK: head.targets[HOOK].clone()})
    far.activations[HOOK][0] *= 1e4
    far.targets[HOOK][1] *= 1e4
    config, training = SAEConfig(features=F), TrainingConfig(l1=[0.3], mask="auto")
    plain, found = (measure(one, HOOK, config, training, 0.3, []) for one in (head, far))
    assert (found.tokens, found.masked) == (TOKENS - 1, 1)
    assert found.target_scale == pytest.approx(plain.target_scale, rel=0.1)
    member = transcoder("relu", mask=MaskConfig())
    assert member.update(far, 0, 1e-2, 0.3) == ""
    assert member.tokens == TOKENS - 1


def test_targets_of_no_length_are_a_users_mistake():
    head = batch(0)._replace(targets={HOOK: torch.zeros(TOKENS, E)})
    with pytest.raises(UserError, match=r"the targets of h have E\|\|y\|\|\^2 = 0.0"):
        measure(head, HOOK, SAEConfig(features=F), TrainingConfig(l1=[1.0]), 1.0, [])


def test_targets_that_are_mostly_zero_are_no_mistake():
    """Their median has no length, by which any other would be an outlier."""
    head = with_targets(0)
    head.targets[HOOK][: TOKENS * 2 // 3] = 0
    found = measure(head, HOOK, SAEConfig(features=F), TrainingConfig(l1=[0.3]), 0.3, [])
    wanted = (E / head.targets[HOOK].square().sum(1).mean().item()) ** 0.5
    assert found.target_scale == pytest.approx(wanted)


def test_the_power_of_the_norm_is_that_of_y():
    member = transcoder("relu", norm_power=2)
    raw = with_targets(3).pair(HOOK)
    weight_B = member.task(0, 0.3).error.weigh(member.view.of(raw).y_BE)
    scale = member.facts.target_scale
    assert scale is not None
    torch.testing.assert_close(weight_B, (scale * raw.y_BE).norm(dim=1) ** -2, rtol=1e-3, atol=0)


def test_a_target_that_is_not_finite_is_said():
    member, spoiled = transcoder("relu"), with_targets(5)
    spoiled.targets[HOOK][3, 2] = torch.nan
    assert "a target is not finite" in member.update(spoiled, 0, 1e-2, 0.3)
    assert member.halted_at == 0


def test_the_start_is_no_transpose():
    member = transcoder("relu")
    assert (member.weights["W_enc"].shape, member.weights["W_dec"].shape) == ((D, F), (F, E))
    norms = member.weights["W_enc"].norm(dim=0), member.weights["W_dec"].norm(dim=1)
    for norm_F in norms:
        torch.testing.assert_close(norm_F, torch.full((F,), member.config.initial_row_norm))
    again = transcoder("relu")
    assert all(torch.equal(w, again.weights[name]) for name, w in member.weights.items())


# ------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("revived", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@every_architecture
def test_a_step_is_the_definition(architecture: str, sparse: bool, revived: bool):
    """The kernels that a member takes, dense or sparse, on x and y of different widths; in double precision, so that
    no feature is at the edge of being active."""
    keys = {"preactivation": 0.1} if architecture == "jumprelu_tanh" else {"auxk": 0.3}
    keys = keys if revived else dict.fromkeys(("auxk", "preactivation"), 0.0)
    member = train(transcoder(architecture, norm_power=1, **keys), 20)
    if revived:
        member.silent_F[:5], member.silence = 10**8, (10**8, member.tokens)
    seen, task = Pair(*(rows.double() for rows in member.view.of(with_targets(7).pair(HOOK)))), member.task(20, 0.3)
    assert task.has(AuxK) or task.has(PreActivation) or not revived
    weights = {name: weight.double() for name, weight in member.weights.items()}
    mine, theirs, step = nan_like(weights), nan_like(weights), Step()
    step.sparse = sparse
    got, want = step(*seen, weights, mine, task), reference.step(*seen, weights, theirs, task)
    assert got.squared_error == pytest.approx(want.squared_error)
    assert got.terms == pytest.approx(want.terms, rel=1e-7, abs=1e-7)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        apart = (mine[name] - gradient).abs().max().item()
        assert apart <= 1e-8 * largest, f"{name}: {apart} apart of {largest}"


# ------------------------------------------------------------------------------------------------------ what is saved


@pytest.mark.parametrize("centre", ["mean", "start", "none"])
@pytest.mark.parametrize("scaling", ["dataset", "none"])
@every_architecture
def test_what_is_saved_gives_raw_y_for_raw_x(architecture: str, scaling: str, centre: str, tmp_path: Path):
    """It opens as a transcoder, with the bits of the member's own and what its window says of it."""
    member = train(transcoder(architecture, scaling=scaling, centre=centre), 25)
    checkpoint.save(member, tmp_path, 25, FACTS)
    folder = checkpoint.step_folder(tmp_path, 25)
    sae, (_, made) = load_sae(folder), read(folder)
    assert made.transcoder
    assert (sae.d_in, sae.d_sae, sae.W_dec.shape[1]) == (D, F, E)
    assert all(torch.equal(weight, sae.weights[name]) for name, weight in member.sae().weights.items())
    config = json.loads((folder / "cfg.json").read_text())
    assert config["d_out"] == E
    assert config["architecture"].endswith("transcoder")

    raw = with_targets(7).pair(HOOK)
    seen = member.view.of(raw)
    weights = {name: weight.double() for name, weight in member.weights.items()}
    phi, own = member.start.nonlinearity.alone(weights, float(member.threshold))
    f_BF = phi(seen.x_BD.double() @ own["W_enc"] + own["b_enc"], own)
    y_hat_BE = f_BF @ own["W_dec"] + own["b_dec"]
    if member.view.centre_E is not None:
        y_hat_BE = y_hat_BE + member.view.centre_E
    y_hat_BE = y_hat_BE / member.facts.target_scale
    with torch.no_grad():
        found_BE = sae.double()(raw.x_BD.double())
    assert (f_BF != 0).any()
    torch.testing.assert_close(found_BE, y_hat_BE, rtol=1e-4, atol=1e-4 * y_hat_BE.abs().max().item())


def test_architectures_are_called_as_our_readers_know_them(tmp_path: Path):
    names = {}
    for architecture in ARCHITECTURES:
        checkpoint.save(transcoder(architecture), tmp_path / architecture, 0, FACTS)
        config = json.loads((checkpoint.step_folder(tmp_path / architecture, 0) / "cfg.json").read_text())
        names[architecture] = config["architecture"]
    assert names["relu"] == "transcoder"
    assert names["batchtopk"] == names["matryoshka"] == names["jumprelu"] == "jumprelu_transcoder"
    assert names["topk"] == "unmix_topk_transcoder"
    assert names["gated"] == "unmix_gated_transcoder"


def test_what_is_logged_is_of_y_by_what_is_saved():
    """Explained variance of raw y, against the mean of y over the same tokens."""
    member = train(transcoder("relu"), 30)
    member.metrics(10**9)
    sae, raw = member.sae().double(), with_targets(100 + 30).pair(HOOK)
    with torch.no_grad():
        y_BE = raw.y_BE.double()
        error = (sae(raw.x_BD.double()) - y_BE).square().sum()
    wanted = 1 - (error / (y_BE - y_BE.mean(0)).square().sum()).item()
    train(member, 1, first=30, lr=1e-9)
    assert member.metrics(10**9)["explained_variance"] == pytest.approx(wanted, abs=1e-4)


def test_the_coefficient_in_raw_units_is_by_the_scale_of_y():
    member = train(transcoder("relu"), 20)
    assert member.facts.target_scale is not None
    assert raw_coefficient(member) == pytest.approx(member.facts.coefficient / member.facts.target_scale)
    raw, lam = with_targets(7).pair(HOOK), raw_coefficient(member)
    assert lam is not None
    sae = member.sae().double()
    with torch.no_grad():
        f_BF = sae.encode(raw.x_BD.double())
        error = (sae.decode(f_BF) - raw.y_BE).square().sum() + lam * (f_BF @ sae.W_dec.norm(dim=1)).sum()
    gradients = nan_like(member.weights)
    task = member.task(10_000, member.coefficient)
    sums = reference.step(*member.view.of(raw), member.weights, gradients, task)
    trained = sum(float(c) * float(s) for (c, _), s in zip(task.objective, sums.terms, strict=True))
    assert trained == pytest.approx(member.facts.target_scale**2 * error.item(), rel=1e-3)


@pytest.mark.parametrize("kernels", ["auto", "portable"])
@every_architecture
def test_saved_and_loaded_it_goes_on_to_the_same_bits(architecture: str, kernels: str, tmp_path: Path):
    def as_a_run_does(member: Member, first: int, last: int) -> Member:
        taking = Late(member, Schedule(30, 3, 3, 5))
        said = [line for step in range(first, last) for line in taking.take(step, with_targets(100 + step))]
        assert said + taking.settle() == []
        return member

    whole = as_a_run_does(transcoder(architecture, kernels=kernels, lr=1e-2), 0, 30)
    cut = as_a_run_does(transcoder(architecture, kernels=kernels, lr=1e-2), 0, 17)
    checkpoint.save(cut, tmp_path, 17, FACTS)
    loaded = transcoder(architecture, kernels=kernels, lr=1e-2)
    for weight in loaded.weights.values():
        weight.fill_(torch.nan)
    if loaded.view.target_centre_E is not None:
        loaded.view.target_centre_E.fill_(torch.nan)
    checkpoint.load(loaded, checkpoint.step_folder(tmp_path, 17))
    as_a_run_does(loaded, 17, 30)
    for name, weight in whole.weights.items():
        assert torch.equal(weight, loaded.weights[name]), name
    assert whole.metrics(10**9) == loaded.metrics(10**9)


def test_a_checkpoint_takes_no_more_room_than_was_said(tmp_path: Path):
    member = train(transcoder("relu"), 3)
    checkpoint.save(member, tmp_path, 3, FACTS)
    there = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert there <= checkpoint.room(D, F, E)


# ------------------------------------------------------------------------------------------------------- ground truth

HIDDEN = 24


def known_map(rows: int, seed: int) -> Pair:
    """y = 5 relu(x W - 1.3) V + c of Gaussian x: one in ten of the units is active, and none of it is linear."""
    fixed, g = torch.Generator().manual_seed(1), torch.Generator().manual_seed(seed)
    W_DH = torch.nn.functional.normalize(torch.randn(D, HIDDEN, generator=fixed), dim=0)
    V_HE = torch.nn.functional.normalize(torch.randn(HIDDEN, 9, generator=fixed), dim=1)
    x_RD = torch.randn(rows, D, generator=g)
    return Pair(x_RD + 3, 5 * (x_RD @ W_DH - 1.3).relu() @ V_HE - 7)


def linear_fvu(train_on: Pair, test: Pair) -> float:
    """What the best affine map of x leaves of the variance of y."""
    ones = [torch.cat([one.x_BD, torch.ones(len(one.x_BD), 1)], 1).double() for one in (train_on, test)]
    map_DE = torch.linalg.lstsq(ones[0], train_on.y_BE.double()).solution
    return fvu(ones[1] @ map_DE, test.y_BE)


def fvu(y_hat_BE: Tensor, y_BE: Tensor) -> float:
    y_BE = y_BE.double()
    return ((y_hat_BE - y_BE).square().sum() / (y_BE - y_BE.mean(0)).square().sum()).item()


@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"])
def test_a_known_sparse_map_is_learned(architecture: str, tmp_path: Path):
    """Held-out FVU below 0.15, where the best linear map leaves more than twice that."""
    import unmix

    rows, test = known_map(20_000, 2), known_map(4000, 3)
    run = unmix.sweep(
        activations=rows.x_BD.numpy(), targets=rows.y_BE.numpy(), architecture=architecture, features=64, l0=6,
        steps=900, runs=tmp_path, quiet=True, evaluate=False,
        training={"batch_tokens": 256, "lr": 5e-3, "checkpoint_every": 10_000, **SETTINGS},
    )  # fmt: skip
    [member] = run.members
    with torch.no_grad():
        found = fvu(run.sae(member)(test.x_BD).double(), test.y_BE)
    linear = linear_fvu(rows, test)
    assert linear > 0.3
    assert found < 0.15
    assert np.isfinite(run.metrics()["explained_variance"][-1])
