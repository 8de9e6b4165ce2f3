"""A stopped run resumes to the same bits; what may be changed before it does, and what is refused."""

import pytest
import torch
from run_pairs import metrics, same, state, stopping, write_store
from tiny_run import make

from unmix import precision
from unmix.errors import UserError
from unmix.kernels.dispatch import Step
from unmix.kernels.trial import Times
from unmix.runlog import read_extensions, read_manifest, write_manifest
from unmix.training import extension, run
from unmix.training.loop import Stopped
from unmix.training.run import Watch
from unmix.verify import verify


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a if not name.endswith("sum_x_D"))


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


def test_a_run_begun_on_another_device_resumes_here_and_says_so(overrides, tmp_path, monkeypatch):
    """Its first half by the step that a device without kernels has, which is read late."""
    recipe = make(overrides, training__dense="fp32", training__selection="fp32")
    run.sweep(recipe, tmp_path / "whole")
    with monkeypatch.context() as there:
        there.setattr(Step, "_kernels", lambda step, where: "portable")
        stopping(recipe, tmp_path / "moved", 30)
    path, said = tmp_path / "moved" / "run.yaml", []
    assert read_manifest(path)["devices"] == ["cpu"]
    write_manifest(path, read_manifest(path) | {"devices": ["mps"]})
    run.sweep(recipe, tmp_path / "moved", Watch(say=said.append))
    [line] = [line for line in said if "mps" in line]
    assert line.startswith("this run was on mps and resumes on cpu; both compute the same, but round differently")
    assert read_manifest(path)["devices"] == ["mps", "cpu"]
    for mine, theirs in zip(metrics(tmp_path / "moved"), metrics(tmp_path / "whole"), strict=True):
        assert (mine["step"], mine["member"], mine["tokens"]) == (theirs["step"], theirs["member"], theirs["tokens"])
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    write_manifest(path, read_manifest(path) | {"devices": ["cpu", "mps"]})
    for steps, times in ((70, 1), (80, 0)):
        said.clear()
        extension.extend(tmp_path / "moved", "l1-1", steps, watch=Watch(say=said.append))
        assert len([line for line in said if "was on mps and resumes on cpu" in line]) == times
        assert read_extensions(tmp_path / "moved")["l1-1"]["devices"] == ["mps", "cpu"]


def test_compiling_may_be_left_out_of_a_run_that_exists(overrides, tmp_path):
    """As the refusal of a machine without a compiler advises."""
    recipe = make(overrides, training__kernels="portable")
    run.sweep(recipe, tmp_path / "whole")
    stopping(recipe, tmp_path / "cut", 30)
    path = tmp_path / "cut" / "run.yaml"
    began = read_manifest(path)
    began["recipe"]["training"]["compile"] = True
    write_manifest(path, began)
    run.sweep(recipe, tmp_path / "cut")
    assert read_manifest(path)["recipe"]["training"]["compile"] is False
    assert same(state(tmp_path / "whole", "l1-1", 60), state(tmp_path / "cut", "l1-1", 60))


def test_what_was_measured_on_another_device_is_measured_on_this_one(overrides, tmp_path, monkeypatch):
    """What the recipe gave is kept."""
    open_keys = {"training__selection": "auto", "training__border": "auto", "training__dense": "fp32"}
    recipe = make(overrides, **open_keys)
    here = Times({"fp32": 5e-3}, {"fp32": 3e-3, "bf16": 2e-3, "int8": 1e-3}, 8e-3, 64)
    monkeypatch.setattr(precision, "measure", lambda shape: here)
    stopping(recipe, tmp_path / "run", 30)
    path = tmp_path / "run" / "run.yaml"
    began = read_manifest(path)
    assert began["measured"]["auto"] == ["selection", "border"]
    began["recipe"]["training"] |= {"selection": "tf32", "border": 0.03}
    write_manifest(path, began | {"devices": ["cuda:0"]})
    said = []
    run.sweep(recipe, tmp_path / "run", Watch(say=said.append))
    found = read_manifest(path)["recipe"]["training"]
    assert (found["selection"], found["dense"]) == ("int8", "fp32")
    assert found["border"] == round(here.border, 4) != 0.03
    assert len([line for line in said if "selecting in fp32 3, bf16 2, int8 1" in line]) == 1
    said.clear()
    run.sweep(recipe, tmp_path / "run", Watch(say=said.append))
    assert not [line for line in said if "measured here" in line]


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


def test_what_a_longer_run_began_with_is_kept_however_often_it_is_resumed(overrides, tmp_path):
    """The same command again, which gives nothing of what follows from the steps."""
    given = {"training__l1": [3.0], "training__decay_fraction": 0.25}
    for key in ("training.lr", "training.dead_after_tokens"):
        del overrides[key]
    stopping(make(overrides, training__steps=2000, **given), tmp_path / "cut", 20)
    longer = make(overrides, training__steps=4000, **given)
    assert longer.training.lr != 3e-3
    for _ in range(2):
        with pytest.raises(Stopped):
            run.sweep(longer, tmp_path / "cut", Watch(stop=lambda: True))
    found = read_manifest(tmp_path / "cut" / "run.yaml")["recipe"]["training"]
    assert [found[key] for key in ("steps", "lr", "l1_warmup_fraction")] == [4000, 3e-3, 0.025]
    assert [found[key] for key in ("dead_after_tokens", "revive_after_tokens")] == [19_200, 2_400]


def test_fewer_steps_than_were_made_are_refused(overrides, tmp_path):
    recipe = make(overrides, training__steps=30, training__l1=[3.0])
    run.sweep(recipe, tmp_path / "run")
    written = (tmp_path / "run" / "run.yaml").read_bytes()
    with pytest.raises(UserError, match=r"has 30 steps, and 20 are fewer; give --training\.steps 30 to resume it"):
        run.sweep(make(overrides, training__steps=20, training__l1=[3.0]), tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_bytes() == written
    stopping(make(overrides, training__steps=40, training__l1=[3.0]), tmp_path / "cut", 20)
    run.sweep(recipe, tmp_path / "cut")  # fewer than were asked for, but not than were made
    assert same(state(tmp_path / "cut", "l1-3", 30), state(tmp_path / "run", "l1-3", 30))


def test_a_run_that_is_to_end_where_it_was_stopped_has_a_line_of_its_end(overrides, tmp_path):
    given = {"training__l1": [1.0, 3.0], "training__l1_warmup_fraction": 0.0}
    stopping(make(overrides, training__steps=40, **given), tmp_path / "cut", 20)
    shorter, said = make(overrides, training__steps=20, **given), []
    for _ in range(2):
        run.sweep(shorter, tmp_path / "cut", Watch(said.append))
    assert said[-1].endswith("already has its 20 steps")
    assert not [line for line in said if "lacks" in line]
    run.sweep(shorter, tmp_path / "whole")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert same(state(tmp_path / "cut", "l1-3", 20), state(tmp_path / "whole", "l1-3", 20))
    assert verify(tmp_path / "cut").problems == []


def test_a_member_that_is_added_has_a_line_where_a_shorter_run_ended(overrides, tmp_path):
    for steps, l1 in ((30, [3.0]), (45, [3.0]), (45, [1.0, 3.0])):
        longer = make(overrides, training__steps=steps, training__l1=l1, training__revive_after_tokens=36)
        run.sweep(longer, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert [r["step"] for r in rows if r["member"] == "l1-1"] == [7, 14, 21, 28, 30, 35, 42, 45]
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


def test_another_recipe_in_the_same_folder_is_refused(overrides, tmp_path):
    run.sweep(make(overrides, training__steps=5), tmp_path / "run")
    before = (tmp_path / "run" / "run.yaml").read_bytes()
    with pytest.raises(UserError, match=r"training\.lr = 0\.003, the recipe says 0\.1; give another --name"):
        run.sweep(make(overrides, training__steps=5, training__lr=0.1), tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_bytes() == before


def test_a_run_older_than_the_choice_of_number_formats_stays_in_float32(overrides, tmp_path):
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
