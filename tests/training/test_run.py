"""Whole small runs: members do not affect each other; what is said, saved and kept."""

import json
import shutil
import weakref

import pytest
import torch
from run_pairs import metrics, same, state, stopping, write_store
from tiny_run import make

from unmix.errors import UserError
from unmix.interop.load import load_sae
from unmix.runlog import read_manifest, read_metrics
from unmix.training import checkpoint, manifest, run
from unmix.training.inputs import open_inputs
from unmix.training.run import Watch


@pytest.mark.parametrize("dense", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
def test_a_member_alone_is_bit_identical_to_the_member_in_a_sweep(overrides, tmp_path, decoder, dense):
    four = make(overrides, training__steps=50, sae__decoder=decoder, training__dense=dense)
    alone = make(overrides, training__steps=50, sae__decoder=decoder, training__dense=dense, training__l1=[3.0])
    run.sweep(four, tmp_path / "four")
    run.sweep(alone, tmp_path / "alone")
    assert same(state(tmp_path / "four", "l1-3", 50), state(tmp_path / "alone", "l1-3", 50))
    assert [r for r in metrics(tmp_path / "four") if r["member"] == "l1-3"] == metrics(tmp_path / "alone")


def test_a_float32_store_trains_to_the_bits_of_the_stream(overrides, tmp_path):
    recipe = make(overrides, training__steps=20)
    stored = make(overrides, training__steps=20, activations__store=str(write_store(recipe, tmp_path / "store")))
    run.sweep(recipe, tmp_path / "a")
    run.sweep(stored, tmp_path / "b")
    assert same(state(tmp_path / "a", "l1-3", 20), state(tmp_path / "b", "l1-3", 20))
    assert read_manifest(tmp_path / "b" / "run.yaml")["corpus"]["store_dtype"] == "float32"


def test_a_store_is_enough_the_texts_may_be_gone(overrides, tmp_path):
    recipe = make(overrides, training__l1=[3.0], training__steps=20)
    store = write_store(recipe, tmp_path / "store")
    shutil.rmtree(recipe.corpus.source)
    shutil.rmtree(tmp_path / "cache")
    run.sweep(make(overrides, training__l1=[3.0], training__steps=20, activations__store=str(store)), tmp_path / "run")
    assert checkpoint.step_folder(tmp_path / "run/members/l1-3", 20).exists()


def test_what_auto_measured_is_said_and_kept_with_what_it_took(overrides, tmp_path):
    said, auto = [], dict.fromkeys(("training__selection", "training__dense", "training__border"), "auto")
    recipe = make(overrides, device="cpu", model__matmul="auto", training__l1=[3.0], training__steps=7, **auto)
    run.sweep(recipe, tmp_path / "run", Watch(say=said.append))
    manifest = read_manifest(tmp_path / "run/run.yaml")
    took, measured = manifest["recipe"]["training"], manifest["measured"]
    assert manifest["recipe"]["model"]["matmul"] in ("fp32", "bf16")
    assert {took["selection"], took["dense"]} <= {"fp32", "bf16", "int8"}
    assert 0 <= took["border"] < 1
    assert measured
    assert any(line.startswith("measured here, ms per step of ") for line in said)
    before = (tmp_path / "run/run.yaml").read_bytes()
    run.sweep(recipe, tmp_path / "run")
    assert (tmp_path / "run/run.yaml").read_bytes() == before


def test_what_is_read_again_is_said_before_training(overrides, tmp_path):
    recipe = make(overrides, training__l1=[3.0])
    store = write_store(recipe, tmp_path / "store")
    for more, there, first in (
        ({}, None, 0),
        ({"activations__store": str(store)}, "1,500: 1.9", 31),
        ({"corpus__max_tokens": 1600}, "1,600: 1.8", 33),
    ):
        said = []
        run.sweep(make(overrides, training__l1=[3.0], **more), tmp_path / f"run{first}", Watch(say=said.append))
        lines = [line for line in said if "times over" in line]
        if there:  # 60 steps of 48
            assert lines[0].startswith(
                f"2,880 activations are read, and there are {there} times over, repeating from step {first}"
            )
        else:
            assert not lines  # the corpus has enough


def test_the_decoder_rows_of_unit_norm_members_stay_at_one(overrides, tmp_path):
    recipe = make(overrides, sae__decoder="unit_norm", sae__scaling="none", training__l1=[1.0])
    run.sweep(recipe, tmp_path / "run")
    sae = load_sae(tmp_path / "run/members/l1-1/step-000000060")
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))


def test_what_is_saved_acts_on_raw_activations(overrides, tmp_path):
    recipe = make(overrides, training__l1=[0.0], training__steps=300, training__lr=1e-2)
    run.sweep(recipe, tmp_path / "run")
    inputs = open_inputs(recipe)
    batch = next(inputs.source.batches(0, 1)).activations["resid_post.0"]
    sae = load_sae(tmp_path / "run/members/l1-0/step-000000300")
    error = (sae(batch) - batch).square().sum() / (batch - batch.mean(0)).square().sum()
    assert error < 0.5  # scaled activations would be reconstructed with an error above 1
    row = metrics(tmp_path / "run")[-1]
    assert row["explained_variance"] > 0.5


def test_only_the_checkpoints_that_are_needed_stay(overrides, tmp_path):
    recipe = make(overrides, training__checkpoint_every=10, training__decay_fraction=0.25, training__l1=[3.0])
    run.sweep(recipe, tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run/members/l1-3").iterdir())
    assert names == ["step-000000045", "step-000000050", "step-000000060"]  # before the decay; the last two


def test_dead_features_are_not_known_before_enough_tokens(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[30.0]), tmp_path / "run")
    dead = [(r["tokens"], r["dead_fraction"]) for r in metrics(tmp_path / "run")]
    assert all((fraction is None) == (tokens < 500) for tokens, fraction in dead)


def test_a_second_process_changes_nothing(overrides, tmp_path):
    recipe = make(overrides, training__steps=14, training__l1=[3.0])
    seen = []

    def second(rows, steps):
        before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*") if path.is_file()}
        with pytest.raises(UserError, match="another process is training"):
            run.sweep(make(overrides, training__steps=14, training__l1=[3.0], training__log_every=1), tmp_path / "run")
        seen.append(before == {path: path.read_bytes() for path in before})

    run.sweep(recipe, tmp_path / "run", Watch(rows=second))
    assert seen == [True, True]


def test_the_first_chunk_is_let_go(overrides, tmp_path):
    """A run holds one chunk, as its estimate of memory says, not the first and the one being read."""
    recipe = make(overrides, training__l1=[3.0], training__log_every=1)
    kept = []
    real = run.train

    def train(members, source, *words, **more):
        kept.append(weakref.ref(source.head().activations["resid_post.0"]))
        log = more["log"]

        def logged(rows):
            kept.append(kept[0]() is not None)
            log(rows)

        real(members, source, *words, **{**more, "log": logged})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "train", train)
        run.sweep(recipe, tmp_path / "run")
    assert kept[1]
    assert not any(kept[5:])  # 128 tokens a chunk, 48 a step


def test_coefficients_that_look_alike_have_names_of_their_own(overrides):
    names = [entry.name for entry in manifest.entries(make(overrides, training__l1=[1.0, 1.0000001, 0.001]))]
    assert names == ["l1-1", "l1-1.0000001", "l1-0.001"]


def test_a_sweep_says_how_long_its_activations_are_and_again_if_that_was_lost(overrides, tmp_path):
    recipe = make(overrides, training__l1=[1.0])
    run.sweep(recipe, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "norms.json").read_text())
    hook = found["hooks"]["resid_post.0"]
    manifest = read_manifest(tmp_path / "run" / "run.yaml")
    assert hook["mean_norm"] == pytest.approx(manifest["hooks"]["resid_post.0"]["mean_norm"])
    assert hook["top_count"] == 2  # of 8 x 16 tokens
    assert isinstance(hook["top_tokens"][0]["token"], str)
    stopping(make(overrides, training__l1=[2.0]), tmp_path / "cut", 30)
    (tmp_path / "cut" / "norms.json").unlink()
    run.sweep(make(overrides, training__l1=[2.0]), tmp_path / "cut")
    assert (tmp_path / "cut" / "norms.json").exists()


def test_variants_train_beside_each_other_as_they_would_alone(overrides, tmp_path):
    variants = {
        "plain": {},
        "bounded": {"sae": {"nonlinearity": "tanh_relu", "noise": 0.5}, "training": {"l1": [0.1], "lr": 1e-3}},
        "scaled": {"sae": {"scaling": "token", "features": 32}, "training": {"mask": {"special": True}}},
    }
    overrides |= {"training.selection": "int8", "training.dense": "bf16", "training.border": 0.2}  # not what was timed
    both = make(overrides, training__l1=[1.0], variants=variants)
    run.sweep(both, tmp_path / "both")
    alone = make(overrides, training__l1=[1.0], variants={"bounded": variants["bounded"]})
    run.sweep(alone, tmp_path / "alone")
    assert same(state(tmp_path / "both", "bounded-l1-0.1", 60), state(tmp_path / "alone", "bounded-l1-0.1", 60))
    stopping(both, tmp_path / "cut", 30)
    run.sweep(both, tmp_path / "cut")
    for name in ("plain-l1-1", "bounded-l1-0.1", "scaled-l1-1"):
        assert same(state(tmp_path / "both", name, 60), state(tmp_path / "cut", name, 60))
    rows = read_metrics(tmp_path / "both" / "metrics.jsonl")
    assert {(r["member"], r["variant"], r["lr"]) for r in rows if r["step"] == 60} == {
        ("plain-l1-1", "plain", 3e-3), ("bounded-l1-0.1", "bounded", 1e-3), ("scaled-l1-1", "scaled", 3e-3)
    }  # fmt: skip
    masked = [r["over_tokens"] for r in rows if r["variant"] == "scaled"]
    assert all(tokens < 7 * 48 for tokens in masked)  # special tokens are not trained on
    sae = load_sae(tmp_path / "both" / "members" / "scaled-l1-1" / "step-000000060")
    assert (sae.per_token is not None, sae.features) == (True, 32)
