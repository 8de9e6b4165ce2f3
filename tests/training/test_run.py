"""Whole small runs: members do not see each other, a stopped run resumes to the same bits, extension has no seam."""

import json
import weakref

import pytest
import safetensors.torch
import torch
from tiny_run import make

from unmix.activations.store import harvest
from unmix.dictionary.files import load_sae
from unmix.errors import UserError
from unmix.runlog import read_extensions, read_json, read_manifest, read_metrics, write_json, write_manifest
from unmix.training import chosen, extension, manifest, run
from unmix.training.inputs import open_inputs, open_model, open_stream, store_facts
from unmix.training.loop import Stopped
from unmix.training.run import Watch
from unmix.verify import verify

CLOCK = ("tokens_per_s", "seconds")


def state(folder, member, step):
    path = folder / "members" / member / f"step-{step:09d}" / "training_state.safetensors"
    return safetensors.torch.load_file(path)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a if not name.endswith("sum_x_D"))


def metrics(folder):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder / "metrics.jsonl")]


def stopping(recipe, folder, at):
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        return calls == at

    with pytest.raises(Stopped) as caught:
        run.sweep(recipe, folder, Watch(stop=stop))
    assert caught.value.step == at


def write_store(recipe, folder, dtype="float32", rows=1500):
    model, tokens = open_model(recipe, lambda text: None)
    stream = open_stream(recipe, model, tokens)
    facts = store_facts(recipe, model, tokens)
    harvest(stream, folder, tokens=rows, dtype=dtype, shard_tokens=500, facts=facts)
    return folder


@pytest.mark.parametrize("dense", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
def test_a_member_alone_is_bit_identical_to_the_member_in_a_sweep(overrides, tmp_path, decoder, dense):
    four = make(overrides, training__steps=50, sae__decoder=decoder, training__dense=dense)
    alone = make(overrides, training__steps=50, sae__decoder=decoder, training__dense=dense, training__l1=[3.0])
    run.sweep(four, tmp_path / "four")
    run.sweep(alone, tmp_path / "alone")
    assert same(state(tmp_path / "four", "l1-3", 50), state(tmp_path / "alone", "l1-3", 50))
    assert [r for r in metrics(tmp_path / "four") if r["member"] == "l1-3"] == metrics(tmp_path / "alone")


@pytest.mark.parametrize(("source", "dense"), [("stream", "fp32"), ("stream", "bf16"), ("store", "bf16")])
def test_a_run_stopped_at_30_and_resumed_equals_the_unstopped_one_at_60(overrides, tmp_path, source, dense):
    overrides = overrides | {"training.dense": dense}
    recipe = make(overrides)
    if source == "store":  # 1,500 rows for 2,880: the second epoch is reached
        recipe = make(overrides, activations__store=str(write_store(recipe, tmp_path / "store")))
    run.sweep(recipe, tmp_path / "whole")
    stopping(recipe, tmp_path / "cut", 30)
    run.sweep(recipe, tmp_path / "cut")
    for member in ("l1-0", "l1-1", "l1-3", "l1-30"):
        assert same(state(tmp_path / "whole", member, 60), state(tmp_path / "cut", member, 60))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    assert [r["step"] for r in metrics(tmp_path / "cut") if r["member"] == "l1-0"] == [*range(7, 60, 7), 60]


def test_a_float32_store_trains_to_the_bits_of_the_stream(overrides, tmp_path):
    recipe = make(overrides, training__steps=20)
    stored = make(overrides, training__steps=20, activations__store=str(write_store(recipe, tmp_path / "store")))
    run.sweep(recipe, tmp_path / "a")
    run.sweep(stored, tmp_path / "b")
    assert same(state(tmp_path / "a", "l1-3", 20), state(tmp_path / "b", "l1-3", 20))
    assert read_manifest(tmp_path / "b" / "run.yaml")["corpus"]["store_dtype"] == "float32"


def test_an_extension_has_no_seam(overrides, tmp_path):
    """30 steps, extended to 60, is one run of 60 steps (whose warm-ups are those of the first)."""
    short = make(overrides, training__steps=28, training__l1=[3.0], training__l1_warmup_fraction=0.25)
    long = make(overrides, training__steps=56, training__l1=[3.0], training__l1_warmup_fraction=0.125)
    run.sweep(short, tmp_path / "short")
    extension.extend(tmp_path / "short", "l1-3", 56)
    run.sweep(long, tmp_path / "long")
    assert same(state(tmp_path / "short", "l1-3-extended", 56), state(tmp_path / "long", "l1-3", 56))
    drop = ("phase",)
    joined = [{k: v for k, v in r.items() if k not in drop} for r in metrics(tmp_path / "short")]
    assert joined == [{k: v for k, v in r.items() if k not in drop} for r in metrics(tmp_path / "long")]


def test_an_extension_begins_before_the_decay_and_can_be_extended_again(overrides, tmp_path):
    recipe = make(overrides, training__steps=40, training__decay_fraction=0.25, training__l1=[3.0])
    run.sweep(recipe, tmp_path / "run")
    extension.extend(tmp_path / "run", "l1-3", 50, 0.2)
    rows = [r for r in metrics(tmp_path / "run") if r["phase"] == "extend"]
    assert rows[0]["step"] == 35  # the sweep was stable until 30
    assert rows[-1]["lr"] < rows[0]["lr"]
    with pytest.raises(UserError, match=r"extended to 50 steps, and it decays from step 40.*--anew"):
        extension.extend(tmp_path / "run", "l1-3", 80)
    assert metrics(tmp_path / "run")[-1]["step"] == 50, "something was moved without being asked for"
    extension.extend(tmp_path / "run", "l1-3", 80, anew=True)
    rows = [r for r in metrics(tmp_path / "run") if r["phase"] == "extend"]
    assert rows[-1]["step"] == 80
    assert rows[-1]["lr"] == rows[0]["lr"]
    assert read_metrics(tmp_path / "run" / "metrics.superseded.jsonl")
    assert (
        tmp_path / "run/members/l1-3-extended/superseded/1/step-000000050/cfg.json"
    ).exists()  # the first end is kept
    extension.extend(tmp_path / "run", "l1-3", 60, 0.4, anew=True)
    aside = tmp_path / "run/members/l1-3-extended/superseded"
    assert (aside / "1/step-000000050/cfg.json").exists()
    assert (aside / "2/step-000000080/cfg.json").exists()


def test_a_longer_extension_continues_one_without_a_decay(overrides, tmp_path):
    recipe = make(overrides, training__steps=30, training__l1=[3.0])
    for name in ("twice", "once"):
        run.sweep(recipe, tmp_path / name)
    extension.extend(tmp_path / "twice", "l1-3", 50)
    extension.extend(tmp_path / "twice", "l1-3", 80, 0.25)
    extension.extend(tmp_path / "once", "l1-3", 80, 0.25)
    assert same(state(tmp_path / "twice", "l1-3-extended", 80), state(tmp_path / "once", "l1-3-extended", 80))
    assert not (tmp_path / "twice/members/l1-3-extended/superseded").exists()
    with pytest.raises(UserError, match="extended to 80 steps already; --steps 60 is less"):
        extension.extend(tmp_path / "twice", "l1-3", 60)


def test_an_extension_planned_anew_and_stopped_goes_on_from_its_own_checkpoint(overrides, tmp_path):
    recipe = make(overrides, training__steps=30, training__l1=[3.0])
    for name in ("cut", "whole"):
        run.sweep(recipe, tmp_path / name)
    extension.extend(tmp_path / "cut", "l1-3", 60, 0.5)  # ends decayed
    calls = iter([False] * 9 + [True])
    with pytest.raises(Stopped):
        extension.extend(tmp_path / "cut", "l1-3", 80, watch=Watch(stop=lambda: next(calls, False)), anew=True)
    extension.extend(tmp_path / "cut", "l1-3", 80)
    extension.extend(tmp_path / "whole", "l1-3", 80)
    assert same(state(tmp_path / "cut", "l1-3-extended", 80), state(tmp_path / "whole", "l1-3-extended", 80))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_any_number_of_members_is_extended_each_on_its_own(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=30, training__l1=[1.0, 3.0]), tmp_path / "run")
    extension.extend(tmp_path / "run", "l1-3", 40)
    before = state(tmp_path / "run", "l1-3-extended", 40)
    extension.extend(tmp_path / "run", "l1-1", 50)
    extended = [(r["member"], r["step"]) for r in metrics(tmp_path / "run") if r["phase"] == "extend"]
    assert extended == [("l1-3", 35), ("l1-3", 40), ("l1-1", 35), ("l1-1", 42), ("l1-1", 49), ("l1-1", 50)]
    assert same(before, state(tmp_path / "run", "l1-3-extended", 40))
    assert read_extensions(tmp_path / "run").keys() == {"l1-3", "l1-1"}
    assert verify(tmp_path / "run").problems == []


def test_an_extension_of_before_there_could_be_several_is_read(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=30, training__l1=[1.0, 3.0]), tmp_path / "run")
    extension.extend(tmp_path / "run", "l1-3", 40)
    plan = read_json(tmp_path / "run" / "extension.json")["l1-3"]
    write_json(tmp_path / "run" / "extension.json", {"member": "l1-3", **plan})
    extension.extend(tmp_path / "run", "l1-1", 40)
    assert read_extensions(tmp_path / "run") == {"l1-3": plan, "l1-1": plan}


def test_a_decay_that_would_begin_before_the_extension_is_refused(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=30, training__l1=[3.0]), tmp_path / "run")
    with pytest.raises(UserError, match=r"begin before step 30.*give at most 0\.25"):
        extension.extend(tmp_path / "run", "l1-3", 40, 0.5)


def test_a_store_that_grew_or_differs_is_noticed(overrides, tmp_path):
    recipe = make(overrides)
    folder = write_store(recipe, tmp_path / "store")
    stored = make(overrides, activations__store=str(folder), training__steps=10, training__checkpoint_every=4)
    stopping(stored, tmp_path / "run", 5)
    write_store(recipe, folder, rows=2500)
    with pytest.raises(UserError, match="the store is not as it was"):
        run.sweep(stored, tmp_path / "run")
    other = make(overrides, activations__store=str(folder), corpus__held_out_fraction=0.3)
    with pytest.raises(UserError, match=r"harvested with corpus\.held_out_fraction = 0\.1"):
        run.sweep(other, tmp_path / "other")


def test_what_is_read_again_is_said_before_training(overrides, tmp_path):
    recipe = make(overrides, training__l1=[3.0])
    store = write_store(recipe, tmp_path / "store")
    for more, there in (({}, None), ({"activations__store": str(store)}, 1500)):
        said = []
        run.sweep(make(overrides, training__l1=[3.0], **more), tmp_path / f"run{there}", Watch(say=said.append))
        lines = [line for line in said if "times over" in line]
        if there:  # 60 steps of 48
            assert lines[0].startswith(
                "2,880 activations are read, and there are 1,500: 1.9 times over, anew from step 31"
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


def test_members_may_be_added(overrides, tmp_path):
    """They see the batches that the others saw."""
    run.sweep(make(overrides, training__l1=[1.0, 30.0]), tmp_path / "grown")
    before = state(tmp_path / "grown", "l1-1", 60)
    said = []
    run.sweep(make(overrides, training__l1=[1.0, 3.0, 30.0]), tmp_path / "grown", Watch(say=said.append))
    assert "new members: l1-3" in said
    run.sweep(make(overrides, training__l1=[1.0, 3.0, 30.0]), tmp_path / "whole")
    assert same(before, state(tmp_path / "grown", "l1-1", 60))
    assert same(state(tmp_path / "grown", "l1-3", 60), state(tmp_path / "whole", "l1-3", 60))
    assert (
        read_manifest(tmp_path / "grown/run.yaml")["members"] == read_manifest(tmp_path / "whole/run.yaml")["members"]
    )
    key = lambda r: (r["step"], r["member"])  # noqa: E731
    assert sorted(metrics(tmp_path / "grown"), key=key) == sorted(metrics(tmp_path / "whole"), key=key)
    assert verify(tmp_path / "grown").problems == []
    with pytest.raises(UserError, match=r"training\.l1 = \[1\.0, 3\.0, 30\.0\], the recipe says \[1\.0\]"):
        run.sweep(make(overrides, training__l1=[1.0]), tmp_path / "grown")


def test_a_member_is_added_to_a_run_that_was_stopped(overrides, tmp_path):
    stopping(make(overrides, training__l1=[1.0]), tmp_path / "cut", 30)
    run.sweep(make(overrides, training__l1=[1.0, 3.0]), tmp_path / "cut")
    run.sweep(make(overrides, training__l1=[1.0, 3.0]), tmp_path / "whole")
    for member in ("l1-1", "l1-3"):
        assert same(state(tmp_path / "cut", member, 60), state(tmp_path / "whole", member, 60))


def test_more_steps_before_the_decay_are_the_run_that_was_longer_from_the_start(overrides, tmp_path):
    schedule = {"training__decay_fraction": 0.25, "training__l1": [3.0]}
    stopping(make(overrides, training__steps=60, **schedule), tmp_path / "cut", 30)
    del (
        overrides["training.lr"],
        overrides["training.dead_after_tokens"],
    )  # as the run began: they follow from the steps
    run.sweep(make(overrides, training__steps=80, **schedule), tmp_path / "cut")
    found = read_manifest(tmp_path / "cut" / "run.yaml")["recipe"]["training"]
    assert (found["steps"], found["lr"], found["dead_after_tokens"]) == (80, 3e-3, 500)
    long = {"training__lr": 3e-3, "training__l1_warmup_fraction": 3 / 80, "training__dead_after_tokens": 500}
    run.sweep(make(overrides, training__steps=80, **long, **schedule), tmp_path / "long")
    assert same(state(tmp_path / "cut", "l1-3", 80), state(tmp_path / "long", "l1-3", 80))


def test_a_run_that_ended_without_a_decay_is_given_more_steps(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=30, training__l1=[3.0]), tmp_path / "run")
    said = []
    run.sweep(make(overrides, training__steps=45, training__l1=[3.0]), tmp_path / "run", Watch(say=said.append))
    assert not [line for line in said if line.startswith("warning")]
    assert [r["step"] for r in metrics(tmp_path / "run")] == [7, 14, 21, 28, 30, 35, 42, 45]
    assert verify(tmp_path / "run").problems == []


def test_more_steps_after_the_decay_are_an_extension(overrides, tmp_path):
    schedule = {"training__decay_fraction": 0.25, "training__l1": [3.0]}
    run.sweep(make(overrides, training__steps=40, **schedule), tmp_path / "run")
    written = (tmp_path / "run" / "run.yaml").read_bytes()
    with pytest.raises(UserError, match=r"unmix extend .*run --steps 80; or give --training\.steps 40 to resume"):
        run.sweep(make(overrides, training__steps=80, **schedule), tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_bytes() == written


def test_intervals_may_change(overrides, tmp_path):
    stopping(make(overrides, training__l1=[3.0]), tmp_path / "cut", 30)
    run.sweep(
        make(overrides, training__l1=[3.0], training__log_every=4, training__checkpoint_every=20), tmp_path / "cut"
    )
    assert [r["step"] for r in metrics(tmp_path / "cut")] == [7, 14, 21, 28, *range(32, 61, 4)]
    run.sweep(make(overrides, training__l1=[3.0]), tmp_path / "whole")
    assert same_weights(state(tmp_path / "cut", "l1-3", 60), state(tmp_path / "whole", "l1-3", 60))
    assert verify(tmp_path / "cut").problems == []


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


def test_another_recipe_in_the_same_folder_is_refused(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=5), tmp_path / "run")
    before = (tmp_path / "run" / "run.yaml").read_bytes()
    with pytest.raises(UserError, match=r"training\.lr = 0\.003, the recipe says 0\.1; give another --name"):
        run.sweep(make(overrides, training__steps=5, training__lr=0.1), tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_bytes() == before


def test_a_run_from_before_there_was_a_choice_of_numbers_goes_on_in_float32(overrides, tmp_path):
    folder = tmp_path / "run"
    recipe = make(
        overrides, training__steps=5, training__selection="fp32", training__dense="fp32", model__matmul="fp32"
    )
    run.sweep(recipe, folder)
    written = read_manifest(folder / "run.yaml")
    del written["recipe"]["training"]["selection"], written["recipe"]["training"]["dense"]
    del written["recipe"]["model"]["matmul"]
    write_manifest(folder / "run.yaml", written)
    auto = dict.fromkeys(("training__selection", "training__dense", "training__border", "model__matmul"), "auto")
    run.sweep(make(overrides, training__steps=5, **auto), folder)
    found = read_manifest(folder / "run.yaml")["recipe"]
    assert (found["training"]["selection"], found["training"]["dense"]) == ("fp32", "fp32")
    assert found["model"]["matmul"] == "fp32"


def test_a_damaged_section_of_the_manifest_is_one_line(overrides, tmp_path):
    folder = tmp_path / "run"
    recipe = make(overrides, training__steps=5)
    run.sweep(recipe, folder)
    written = read_manifest(folder / "run.yaml")
    for damage in (5, None, []):
        written["recipe"]["training"] = damage
        write_manifest(folder / "run.yaml", written)
        with pytest.raises(UserError, match=r"the recipe in .*run\.yaml cannot be read"):
            run.sweep(recipe, folder)
        with pytest.raises(UserError, match=r"the recipe in .*run\.yaml cannot be read"):
            extension.extend(folder, "l1-0", 10)


def test_another_corpus_under_the_same_name_is_refused(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=5, training__checkpoint_every=2), tmp_path / "run")
    (tmp_path / "run/members/l1-0/step-000000005").rename(tmp_path / "away")
    (tmp_path / "texts" / "000.txt").write_text("changed " * 50)
    (tmp_path / "texts" / "001.txt").write_text("changed too " * 50)
    with pytest.raises(UserError, match="the corpus is not the one"):
        run.sweep(make(overrides, training__steps=5, training__checkpoint_every=2), tmp_path / "run")


def test_the_choice_is_written_with_its_numbers_and_later_with_what_came_true(overrides, tmp_path):
    run.sweep(make(overrides, choice__extend_to=90), tmp_path / "run")
    choice = chosen.make_choices(tmp_path / "run", max_active=40)[0]
    assert choice["predict_step"] == 90
    assert choice["member"] in {"l1-0", "l1-1", "l1-3", "l1-30"}
    extension.extend(tmp_path / "run", choice["member"], 90)
    chosen.note_what_came_true(tmp_path / "run")
    assert json.loads((tmp_path / "run/choice.json").read_text())["came_true"]["step"] == 90


def test_killed_between_two_checkpoints_of_one_step_the_older_step_is_whole(overrides, tmp_path, monkeypatch):
    recipe = make(overrides, training__checkpoint_every=20)
    run.sweep(recipe, tmp_path / "whole")
    save, calls = run.checkpoint.save, []

    def dies_on_the_sixth(member, folder, step, facts):
        calls.append(step)
        if len(calls) == 6:  # the second member at step 40
            raise KeyboardInterrupt
        save(member, folder, step, facts)

    monkeypatch.setattr(run.checkpoint, "save", dies_on_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run.sweep(recipe, tmp_path / "cut")
    monkeypatch.undo()
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    run.sweep(recipe, tmp_path / "cut")
    for member in ("l1-0", "l1-1", "l1-3", "l1-30"):
        assert same(state(tmp_path / "whole", member, 60), state(tmp_path / "cut", member, 60))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


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
    assert (sae.per_token_scaling, sae.features) == (True, 32)
