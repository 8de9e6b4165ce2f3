"""What cfg.json says for a training that goes on in another library: the penalty in raw units, and the module read."""

import json

import pytest
import torch
from contract.cases import HOOK, as_trained, batch, member_of, train
from tiny_run import make

from unmix.runlog import read_manifest
from unmix.training import run
from unmix.training.checkpoint import raw_coefficient, save, step_folder

RAW = [
    ("relu", {}),
    ("relu", {"decoder": "unit_norm"}),
    ("relu", {"scaling": "none"}),
    ("relu", {"centre": "none"}),
    ("tanh_relu", {"penalty": "decoder_norm"}),
    ("gated", {}),
]
NONE = [
    ("tanh_relu", {}, {}),
    ("topk", {}, {}),
    ("batchtopk", {}, {}),
    ("jumprelu", {}, {}),
    ("relu", {"scaling": "token"}, {}),
    ("relu", {"prefixes": [4]}, {}),
    ("gated", {"random_prefixes": 2}, {}),
    ("relu", {}, {"norm_power": 1}),
]


def raw_loss(member, x_BD, coefficient):
    """‖x̂ - x‖² + λ Σ f ‖W_dec‖ of raw x by what is saved, with a gate's own terms; means in float64."""
    sae = member.sae().double()
    x_BD = x_BD.double()
    with torch.no_grad():
        f_BF, n_F = sae.encode(x_BD), sae.W_dec.norm(dim=1)
        error = (sae.decode(f_BF, x_BD) - x_BD).square().sum()
        if "r_mag" in sae.weights:
            f_BF = (x_BD @ sae.W_enc + sae.b_enc).relu()
            error = error + (f_BF @ sae.W_dec + sae.b_dec - x_BD).square().sum()
    return (error + coefficient * (f_BF * n_F).sum()).item() / len(x_BD)


@pytest.mark.parametrize(("architecture", "keys"), RAW)
def test_the_loss_of_training_is_the_raw_one_times_the_square_of_the_scale(architecture, keys):
    member = train(member_of(architecture, **keys), 40)
    x_BD = batch(7).activations[HOOK]
    objective = member.task(10_000, member.coefficient).objective
    s, coefficient = member.facts.scale, raw_coefficient(member)
    assert coefficient == pytest.approx(member.facts.coefficient / s)
    assert keys.get("scaling") == "none" or not 0.9 < s < 1.1
    found = training_loss(member, objective, member.view.x(x_BD))
    assert found == pytest.approx(s**2 * raw_loss(member, x_BD, coefficient), rel=1e-4)
    assert found != pytest.approx(s**2 * raw_loss(member, x_BD, member.facts.coefficient), rel=1e-2) or s == 1


def training_loss(member, objective, u_BD):
    """Σ coefficient · term of the objective, as it stands, over the tokens in the scale of the training."""
    passed, _, _ = as_trained(member, u_BD)
    return sum(float(coefficient) * term(passed).item() for coefficient, term in objective) / len(u_BD)


@pytest.mark.parametrize(("architecture", "keys", "training"), NONE)
def test_where_there_is_no_such_penalty_nothing_is_said(architecture, keys, training, tmp_path):
    member = train(member_of(architecture, training=training, **keys), 3)
    assert raw_coefficient(member) is None
    save(member, tmp_path, 3, {"model": "m", "context": 16, "metadata": {}})
    config = json.loads((step_folder(tmp_path, 3) / "cfg.json").read_text())
    assert "l1_coefficient" not in config
    assert "hf_hook_name" not in config["metadata"]


def test_a_member_that_is_asked_for_an_l0_says_what_its_controller_came_to():
    member = train(member_of("relu", l0=4.0), 30)
    assert raw_coefficient(member) == pytest.approx(member.controller.coefficient / member.facts.scale)


def test_a_run_writes_both(overrides, tmp_path):
    run.sweep(
        make(overrides, training__l1=[1.0], training__steps=20, activations__hooks=["resid_post.0", "attn_out.1"]),
        tmp_path / "run",
    )
    manifest = read_manifest(tmp_path / "run" / "run.yaml")
    paths = {"resid_post.0": "transformer.h.0.output", "attn_out.1": "transformer.h.1.attn.output"}
    assert manifest["model"]["modules"] == paths
    for name, facts in manifest["members"].items():
        [folder] = (tmp_path / "run" / "members" / name).glob("step-*")
        config = json.loads((folder / "cfg.json").read_text())
        assert config["l1_coefficient"] == pytest.approx(facts["coefficient"] / facts["scale"])
        assert config["metadata"]["l1"] == 1.0
        assert config["metadata"]["hf_hook_name"] == paths[facts["hook"]]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["relu", "gated"])
def test_sae_lens_trains_on_with_it_on_the_same_loss(architecture, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    from sae_lens.saes.sae import TrainingSAE, TrainStepInput

    member = train(member_of(architecture), 40)
    save(member, tmp_path, 40, {"model": "m", "context": 16, "metadata": {}})
    folder = str(step_folder(tmp_path, 40))
    assert sae_lens.SAE.load_from_disk(folder).cfg.d_sae == member.start.features
    theirs = TrainingSAE.load_from_disk(folder)
    coefficient = raw_coefficient(member)
    assert theirs.cfg.l1_coefficient == coefficient
    x_BD = batch(7).activations[HOOK]
    given = TrainStepInput(x_BD, {"l1": theirs.cfg.l1_coefficient}, None, 0, False)
    assert theirs.training_forward_pass(given).loss.item() == pytest.approx(
        raw_loss(member, x_BD, coefficient), rel=1e-4
    )
