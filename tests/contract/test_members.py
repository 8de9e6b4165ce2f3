"""A member of every architecture: what it saves is what it trained, masks and noise leave no trace.

Whichever kernels train it: what takes long does so in fewer cases for the portable ones.
"""

from itertools import product

import pytest
import torch
from contract.cases import (
    HOOK,
    F,
    as_trained,
    batch,
    both_kernels,
    every_architecture,
    member_of,
    noise_of,
    train,
)

from unmix.activations.stream import Batch
from unmix.config import MaskConfig
from unmix.dictionary import table
from unmix.dictionary.nonlinearities import BatchTopK
from unmix.dictionary.terms import AuxK, GateError, MoreActive, SquaredError
from unmix.kernels import reference
from unmix.training import checkpoint

SCALINGS = ("none", "dataset", "token")
STEPS = 25
FACTS = {"model": "tiny", "context": 16, "metadata": {}}


def compared(member):
    """f_i W_dec_i and ŷ on raw x, of what is saved; in the scale of the training, of its own form.

    Answers the largest entry of f_i W_dec_i: 0 if nothing was active.
    """
    x_BD = batch(7, width=member.start.width).activations["h"]
    sees_BD = member.view.x(x_BD)
    passed, own, _ = as_trained(member, sees_BD)
    sae = member.sae().double()
    ratio_B1 = (x_BD.norm(dim=1) / member.view.scaled_x(x_BD).norm(dim=1)).double()[:, None]
    centre_D = torch.zeros(()) if member.view.centre_D is None else member.view.centre_D.double()
    with torch.no_grad():
        f_BF = sae.encode(x_BD)
        per_token = sae.token_scale(x_BD.double())
        mine_BFD = f_BF[:, :, None] * sae.W_dec[None] * per_token[:, :, None]
        y_hat_BD = sae(x_BD.double())
    theirs_BFD = passed.f_BF[:, :, None] * own["W_dec"][None] * ratio_B1[:, :, None]
    largest = theirs_BFD.abs().max().item()
    torch.testing.assert_close(mine_BFD, theirs_BFD, rtol=1e-5, atol=1e-5 * largest)
    torch.testing.assert_close(y_hat_BD, (passed.y_hat_BE + centre_D) * ratio_B1, rtol=1e-5, atol=1e-5 * largest)
    sums = reference.alone(sees_BD, sees_BD, member.weights, member.task(0, 0.0), member.threshold).read()
    assert torch.equal(sums.active_F.double(), (f_BF != 0).double().sum(0))
    return largest


@pytest.mark.parametrize(("kernels", "centre"), [*product(["auto"], ["mean", "start", "none"]), ("portable", "mean")])
@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
@pytest.mark.parametrize("scaling", SCALINGS)
@every_architecture
def test_what_is_saved_is_what_was_trained(architecture, scaling, decoder, kernels, centre):
    keys = {"scaling": scaling, "decoder": decoder, "centre": centre}
    member = train(member_of(architecture, kernels=kernels, **keys), STEPS)
    assert (member.view.centre_D is not None and bool(member.view.centre_D.any())) == (centre == "mean")
    assert compared(member) > 0


@both_kernels
@every_architecture
def test_a_decoder_row_of_norm_0_changes_nothing_of_that(architecture, kernels):
    """Its feature is one that would be most active."""
    member = train(member_of(architecture, kernels=kernels), STEPS)
    x_BD = member.view.x(batch(7).activations["h"])
    z_BF = x_BD @ member.weights["W_enc"] + member.weights["b_enc"]
    member.weights["W_dec"][z_BF.sum(0).argmax()] = 0
    compared(member)


@both_kernels
@every_architecture
def test_noise_is_not_in_what_is_saved(architecture, kernels):
    member = train(member_of(architecture, kernels=kernels, noise=noise_of(architecture, 1.0)), STEPS)
    assert member.as_saved is not None
    compared(member)
    x_BD, sae = batch(8).activations["h"], member.sae()
    with torch.no_grad():
        assert torch.equal(sae.encode(x_BD), sae.encode(x_BD))


@pytest.mark.parametrize("l0", [2.0, 4.0, 8.0])
@pytest.mark.parametrize(("kernels", "seed"), [*product(["auto"], range(3)), ("portable", 0)])
@every_architecture
def test_what_is_saved_has_the_k_that_training_had_over_the_batch(architecture, l0, kernels, seed):
    """Within 5 %, over many tokens, after 300 steps at one learning rate."""
    member = member_of(architecture, l0=l0, kernels=kernels, training={"seed": seed})
    if not isinstance(member.start.nonlinearity, BatchTopK):
        pytest.skip("keeps no number of features of a batch")
    train(member, 300, lr=3e-3)
    with torch.no_grad():
        f_BF = member.sae().encode(batch(10_000, tokens=20_000).activations["h"])
    found = (f_BF > 0).sum(1).double().mean().item()
    assert found == pytest.approx(l0, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@both_kernels
@every_architecture
def test_a_batch_of_masked_tokens_changes_nothing(architecture, noise, kernels, tmp_path):
    """Not a bit of the checkpoint: weights, moments, counts, controller, threshold."""
    keys = {"l0": 5.0, "noise": noise_of(architecture, noise), "mask": MaskConfig(special=False)}
    member = train(member_of(architecture, kernels=kernels, **keys), 3)
    member.mask.longest = 1e-6
    checkpoint.save(member, tmp_path / "before", 3, FACTS)
    assert member.update(batch(9), 3, 1e-2, 0.3) == ""
    checkpoint.save(member, tmp_path / "after", 3, FACTS)
    for name in ("cfg.json", "sae_weights.safetensors", "training_state.safetensors"):
        files = [(tmp_path / when / "step-000000003" / name).read_bytes() for when in ("before", "after")]
        assert files[0] == files[1], name


@pytest.mark.parametrize("noise", [0.0, 1.0])
@both_kernels
@every_architecture
def test_masked_tokens_among_others_change_nothing(architecture, noise, kernels, tmp_path):
    """The same bits as of batches that never had them: special tokens, and tokens that are too long."""
    keys = {"kernels": kernels, "l0": 5.0, "noise": noise_of(architecture, noise), "mask": MaskConfig()}
    plain, other = (member_of(architecture, **keys) for _ in range(2))
    plain.mask.special = other.mask.special = torch.tensor([0])  # those of the first chunk are 0
    for step in range(6):
        now = batch(100 + step)
        lr, x_BD, ids_B = 1e-2, now.activations[HOOK], now.token_ids_B + 1
        assert plain.update(now._replace(token_ids_B=ids_B), step, lr, plain.coefficient) == ""
        more_BD, more_B = torch.cat([100 * x_BD[:1], x_BD[:9], x_BD[1:2], x_BD[9:]]), torch.ones(len(ids_B) + 2)
        more_B[10] = 0  # of which the mask leaves out id 0
        more = Batch({HOOK: more_BD}, more_B.to(ids_B.dtype), torch.arange(len(more_B)))
        assert other.update(more, step, lr, other.coefficient) == ""
    for name, member in {"plain": plain, "other": other}.items():
        checkpoint.save(member, tmp_path / name, 6, FACTS)
    for name in ("cfg.json", "sae_weights.safetensors", "training_state.safetensors"):
        files = [(tmp_path / which / "step-000000006" / name).read_bytes() for which in ("plain", "other")]
        alike = files[0] == files[1]
        assert alike, name
    assert plain.metrics(10**9) == other.metrics(10**9)


@pytest.mark.parametrize("norm_power", [0, 1, 2])
@every_architecture
def test_every_error_is_divided_by_the_power_of_the_norm(architecture, norm_power):
    """What is given twice as long (y, rows and b_dec) has an error 2^(2 - k) times as large, in every term of it."""
    keys = {"auxk": 0.3} | ({"multi_k": 0.1} if table.ARCHITECTURES[architecture].penalty is None else {})
    member = train(member_of(architecture, training={"norm_power": norm_power}, centre="none", **keys), 3)
    member.silent_F[:7], member.silence = 10**9, (10**9, member.tokens)
    task, x_BD = member.task(3, 0.3), member.view.x(batch(7).activations[HOOK]).double()
    once = {name: weight.double() for name, weight in member.weights.items()}
    twice = once | {name: 2 * once[name] for name in ("W_dec", "b_dec")}
    errors = (SquaredError, GateError, AuxK, MoreActive)
    terms = [term for _, term in task.objective if isinstance(term, errors)]
    assert {type(term) for term in terms} >= {SquaredError, AuxK}
    for term in terms:
        sums = [term(reference.forward(x_BD, n * x_BD, own, task)).item() for n, own in ((1, once), (2, twice))]
        assert sums[0] > 0
        assert sums[1] == pytest.approx(2 ** (2 - norm_power) * sums[0]), type(term)


@both_kernels
@every_architecture
def test_batches_of_one_token_train(architecture, kernels):
    member = member_of(architecture, kernels=kernels)
    for step in range(STEPS):
        assert member.update(batch(100 + step, tokens=1), step, 1e-3, member.coefficient) == ""
    assert all(weight.isfinite().all() for weight in member.weights.values())
    assert member.metrics(10**9)["over_tokens"] > 0
    compared(member)


@pytest.mark.parametrize("edge", [{"features": 1}, {"l0": F}, {"l0": 1}, {"width": 2}])
@both_kernels
@every_architecture
def test_members_at_the_edges_train(architecture, edge, kernels):
    if edge == {"features": 1} and table.ARCHITECTURES[architecture].penalty is None:
        edge = edge | {"l0": 1}
    member = train(member_of(architecture, kernels=kernels, **edge), STEPS)
    assert all(weight.isfinite().all() for weight in member.weights.values())
    compared(member)


@both_kernels
@every_architecture
def test_every_metric_of_a_member_is_a_number(architecture, kernels):
    member = train(member_of(architecture, l0=5.0, kernels=kernels), STEPS)
    row = member.metrics(100)
    assert row["over_tokens"] > 0
    assert 0 < row["l0"] <= F
    assert row["explained_variance"] == row["explained_variance"]  # not NaN
