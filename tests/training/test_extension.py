"""A member trained on: there is no seam, it begins before any decay, and it can be trained on again."""

import json

import pytest
from run_pairs import metrics, same, state
from tiny_run import make

from unmix.errors import UserError
from unmix.runlog import read_extensions, read_json, read_metrics, write_json
from unmix.training import chosen, extension, run
from unmix.training.loop import Stopped
from unmix.training.run import Watch
from unmix.verify import verify


def test_an_extension_has_no_seam(overrides, tmp_path):
    """28 steps extended to 56 are the same as one run of 56 steps with the same warm-ups."""
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
    assert verify(tmp_path / "twice").problems == []  # 50 is no multiple of the interval, and has its line
    with pytest.raises(UserError, match="60 steps are fewer than the 80 that l1-3-extended has; give the total"):
        extension.extend(tmp_path / "twice", "l1-3", 60)


def test_an_extension_at_another_interval_of_lines_is_whole(overrides, tmp_path):
    recipe = make(overrides, training__steps=30, training__l1=[3.0])
    run.sweep(recipe, tmp_path / "run")
    extension.extend(tmp_path / "run", "l1-3", 50)
    run.sweep(make(overrides, training__steps=30, training__l1=[3.0], training__log_every=4), tmp_path / "run")
    assert verify(tmp_path / "run").problems == []
    extension.extend(tmp_path / "run", "l1-3", 80)
    steps = [row["step"] for row in metrics(tmp_path / "run") if row["phase"] == "extend"]
    assert steps == [35, 42, 49, 50, *range(52, 81, 4)]
    assert verify(tmp_path / "run").problems == []


def test_an_extension_that_is_to_end_where_it_was_stopped_has_a_line_of_its_end(overrides, tmp_path):
    for name in ("cut", "whole"):
        run.sweep(make(overrides, training__steps=30, training__l1=[3.0]), tmp_path / name)
    calls = iter([False] * 9 + [True])
    with pytest.raises(Stopped):
        extension.extend(tmp_path / "cut", "l1-3", 60, watch=Watch(stop=lambda: next(calls, False)))
    said = []
    for _ in range(2):
        extension.extend(tmp_path / "cut", "l1-3", 40, watch=Watch(said.append))
    extension.extend(tmp_path / "whole", "l1-3", 40)
    assert said[-1] == "l1-3 already has its 40 steps"
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert same(state(tmp_path / "cut", "l1-3-extended", 40), state(tmp_path / "whole", "l1-3-extended", 40))
    assert verify(tmp_path / "cut").problems == []


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


def test_the_choice_is_written_with_its_numbers_and_later_with_what_came_true(overrides, tmp_path):
    run.sweep(make(overrides, choice__extend_to=90), tmp_path / "run")
    choice = chosen.make_choices(tmp_path / "run", max_active=40)[0]
    assert choice["predict_step"] == 90
    assert choice["member"] in {"l1-0", "l1-1", "l1-3", "l1-30"}
    extension.extend(tmp_path / "run", choice["member"], 90)
    chosen.note_what_came_true(tmp_path / "run")
    assert json.loads((tmp_path / "run/choice.json").read_text())["came_true"]["step"] == 90
