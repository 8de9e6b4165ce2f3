"""Files that are damaged after they were written: named, put aside, and the checkpoint before is gone on from."""

import json

import pytest
import safetensors.torch
import torch
from tiny_run import make

from unmix.errors import UserError
from unmix.runlog import read_metrics
from unmix.training import checkpoint, chosen, extension, manifest, run
from unmix.training.run import Watch

FILES = ("cfg.json", "sae_weights.safetensors", "training_state.safetensors", "checksums.json")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


def bits(folder, step):
    """Every file of every member's checkpoint, and the metrics without the clock."""
    files = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"members/*/step-{step:09d}/*"))
    }
    rows = read_metrics(folder / "metrics.jsonl")
    return files, [{k: v for k, v in row.items() if k not in ("tokens_per_s", "seconds")} for row in rows]


@pytest.fixture
def recipe(overrides):
    return make(overrides, training__checkpoint_every=10, training__l1=[1.0, 3.0], training__steps=30)


def newest(folder, member, step):
    return folder / "members" / member / f"step-{step:09d}"


@pytest.mark.parametrize("harm", [truncate, flip, remove])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_run_ends_with_the_same_bits(recipe, tmp_path, name, harm):
    folder, said = tmp_path / "run", []
    run.sweep(recipe, folder)
    whole = bits(folder, 30)
    harm(newest(folder, "l1-3", 30) / name)
    run.sweep(recipe, folder, Watch(say=said.append))
    [warning] = [line for line in said if line.startswith("warning")]
    assert name in warning
    assert "l1-3/step-000000030" in warning
    assert "resuming at step 20" in said
    assert bits(folder, 30) == whole
    assert (folder / "members/l1-3/step-000000030.damaged").is_dir()  # kept, but no part of the run


def test_two_damaged_checkpoints_leave_the_start(recipe, tmp_path):
    folder, said = tmp_path / "run", []
    run.sweep(recipe, folder)
    whole = bits(folder, 30)
    for step, name in ((30, FILES[2]), (20, FILES[1])):
        flip(newest(folder, "l1-1", step) / name)
    run.sweep(recipe, folder, Watch(say=said.append))
    assert sum(line.startswith("warning") for line in said) == 2
    assert "l1-1 has no whole checkpoint: beginning at step 0" in said
    assert bits(folder, 30) == whole


def test_a_member_that_lacks_a_checkpoint_catches_up(recipe, tmp_path):
    folder, said = tmp_path / "run", []
    run.sweep(recipe, folder)
    whole = bits(folder, 30)
    newest(folder, "l1-1", 30).rename(tmp_path / "away")
    run.sweep(recipe, folder, Watch(say=said.append))
    assert "the others are at step 30; catching up: l1-1 from step 20" in said
    assert bits(folder, 30) == whole


def test_an_extension_falls_back_too_and_needs_its_beginning(recipe, tmp_path):
    folder, said = tmp_path / "run", []
    run.sweep(recipe, folder)
    extension.extend(folder, "l1-3", 60)
    whole = bits(folder, 60)
    flip(folder / "members/l1-3-extended/step-000000060/cfg.json")
    extension.extend(folder, "l1-3", 60, watch=Watch(say=said.append))
    assert "training l1-3 further from step 50" in said
    assert bits(folder, 60) == whole
    truncate(newest(folder, "l1-3", 30) / "training_state.safetensors")
    with pytest.raises(UserError, match=r"l1-3/step-000000030/training_state\.safetensors is damaged"):
        extension.extend(folder, "l1-3", 90)


def test_metrics_that_were_lost_behind_a_checkpoint_are_named(recipe, tmp_path):
    folder, said = tmp_path / "run", []
    run.sweep(recipe, folder)
    flip(newest(folder, "l1-3", 30) / "cfg.json")
    path = folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    run.sweep(recipe, folder, Watch(say=said.append))
    assert any("l1-1 lacks step 7" in line for line in said)


def test_a_damaged_line_of_metrics_is_named(recipe, tmp_path):
    folder = tmp_path / "run"
    run.sweep(recipe, folder)
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff\x00{\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged; bring the file back"):
        extension.extend(folder, "l1-3", 40)


def test_retention_keeps_the_last_ones_every_kth_and_the_one_before_the_decay(overrides, tmp_path):
    more = {"training__checkpoint_every": 5, "training__decay_fraction": 0.3, "training__l1": [3.0]}
    run.sweep(make(overrides, training__keep_last=1, training__keep_every=20, **more), tmp_path / "run")
    assert checkpoint.steps_on_disk(tmp_path / "run/members/l1-3") == [20, 40, 42, 60]
    there = sorted(path.name for path in newest(tmp_path / "run", "l1-3", 60).iterdir())
    assert there == sorted((*FILES, "samples.safetensors"))


def test_what_a_kill_left_half_written_is_cleared_away(recipe, tmp_path):
    folder = tmp_path / "run"
    run.sweep(recipe, folder)
    member = folder / "members/l1-3"
    (member / "step-000000007.new").mkdir()
    (member / "step-000000030").rename(member / "step-000000030.old")
    run.sweep(recipe, folder)
    assert sorted(p.name for p in member.iterdir()) == ["step-000000020", "step-000000030"]


def test_a_run_killed_before_its_manifest_begins_again(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "norms.json").write_text("{}")
    (folder / "run.yaml.new").write_text("half")
    run.sweep(recipe, folder)
    assert checkpoint.steps_on_disk(folder / "members/l1-3") == [20, 30]


def test_weights_that_are_not_finite_are_never_saved(recipe, tmp_path):
    folder = tmp_path / "run"
    run.sweep(recipe, folder)
    state = safetensors.torch.load_file(newest(folder, "l1-3", 30) / "training_state.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    wild = recipe.model_copy(update={"training": recipe.training.model_copy(update={"lr": 3e38, "steps": 1})})
    with pytest.raises(
        UserError,
        match=r"the weights of l1-\d are not finite at step 1, .*; give a lower training\.lr, and another --name",
    ):
        run.sweep(wild, tmp_path / "wild")
    assert not list((tmp_path / "wild").glob("members/*/step*"))


@pytest.mark.parametrize("said", [{}, {"format": 0}, {"format": 2}])
def test_a_run_of_another_format_is_read_but_not_gone_on_with(recipe, tmp_path, said):
    import yaml

    from unmix.report.data import read

    folder = tmp_path / "run"
    run.sweep(recipe, folder)
    path = folder / "run.yaml"
    manifest = yaml.safe_load(path.read_text())
    assert manifest.pop("format") == 1
    path.write_text(yaml.safe_dump(said | manifest))
    for go_on in (lambda: run.sweep(recipe, folder), lambda: extension.extend(folder, "l1-3", 40)):
        with pytest.raises(UserError, match=r"resumes 1: finish it with the unmix that made it"):
            go_on()
    assert read(folder).members
    assert chosen.make_choices(folder, 300)[0]["candidates"]


def test_what_does_not_change_the_bits_may_differ_on_resuming(overrides, tmp_path):
    recipe = make(overrides, training__steps=5)
    run.sweep(recipe, tmp_path / "run")
    run.sweep(make(overrides, training__steps=5, training__keep_last=7), tmp_path / "run")
    assert manifest.read_run(tmp_path / "run")[0].training.keep_last == 7
    assert json.loads((tmp_path / "run/norms.json").read_text())
