"""Full disks, limits on files, folders that cannot be written: one line, and the last good state goes on."""

import os
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import yaml
from tiny_run import make

from unmix import config, disk
from unmix.activations.store import harvest
from unmix.cli import main
from unmix.errors import UserError
from unmix.runlog import read_metrics
from unmix.training import checkpoint, run
from unmix.training.inputs import open_model, open_stream, store_facts
from unmix.verify import verify


@pytest.fixture
def recipe(overrides, tmp_path):
    """On disk, as the command line wants it: 8 checkpoints of a dictionary of 60 kB."""
    training = {"l1": [3.0], "checkpoint_every": 10, "steps": 40}
    found = make(overrides, sae__features=200, **{f"training__{key}": value for key, value in training.items()})
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config.dump(found)))
    return path


def same_bits(a, b, step=40):
    """Every file of the newest checkpoints, and all metrics but the clock."""
    for path in sorted(a.glob(f"members/*/step-{step:09d}/*")):
        assert path.read_bytes() == (b / path.relative_to(a)).read_bytes()
    mine, theirs = ([{k: v for k, v in row.items() if k not in ("tokens_per_s", "seconds")} for row in rows]
                    for rows in (read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl")))  # fmt: skip
    assert mine == theirs


LIMITED = """
import resource, sys
import unmix.training.checkpoint as checkpoint
from unmix.cli import main
save = checkpoint.save
def limited(member, folder, step, facts):
    if step == 30:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, resource.RLIM_INFINITY))
    save(member, folder, step, facts)
checkpoint.save = limited
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("limit", "file"), [(20_000, "sae_weights"), (60_000, "samples"), (76_000, "training_state"), (0, "")]
)
def test_a_limit_on_the_size_of_files_is_one_line_and_the_run_goes_on_after_it(recipe, tmp_path, limit, file):
    words = ["sweep", str(recipe), "--train-only", "--runs"]
    script = LIMITED.replace("BYTES", str(limit))
    done = subprocess.run(
        [sys.executable, "-c", script, *words, str(tmp_path / "runs")], capture_output=True, text=True, check=False
    )
    folder = tmp_path / "runs/tiny"
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"unmix: cannot write {folder}/members/l1-3/step-000000030.new/{file}")
    assert "(File too large); raise the limit on the size of files" in last
    assert "Traceback" not in done.stderr
    assert checkpoint.steps_on_disk(folder / "members/l1-3") == [10, 20]
    assert not list(folder.rglob("*.new"))  # what was half written takes no room
    assert main([*words, str(tmp_path / "runs")]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    same_bits(folder, tmp_path / "whole/tiny")


def mounted(script, tmp_path, options):
    """Run shell lines with a small file system of their own at tmp_path/small; nothing outside them sees it."""
    small = tmp_path / "small"
    small.mkdir(exist_ok=True)
    lines = f"set -e; mount -t tmpfs -o {options} none {small}; {textwrap.dedent(script)}"
    return subprocess.run(["unshare", "--mount", "sh", "-c", lines], capture_output=True, text=True, check=False)


def can_mount(tmp_path):
    return bool(shutil.which("unshare")) and mounted("true", tmp_path, "size=1m").returncode == 0


def test_a_full_disk_and_a_read_only_one(recipe, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("no file systems can be mounted here")
    unmix = f"{sys.executable} -m unmix.cli"
    small, away = tmp_path / "small", tmp_path / "away"
    done = mounted(
        f"""
        {unmix} sweep {recipe} --train-only --force --runs {small} 2>{tmp_path}/full || echo full: $?
        {unmix} verify {small}/tiny >{tmp_path}/verify || true
        mount -o remount,ro {small}
        {unmix} sweep {recipe} --train-only --force --runs {small} 2>{tmp_path}/readonly || echo read-only: $?
        cp -r {small} {away}
        """,
        tmp_path,
        "size=320k",
    )
    assert done.stdout.splitlines() == ["full: 2", "read-only: 2"], done.stderr
    full = (tmp_path / "full").read_text().splitlines()
    assert "No space left on device); make room and give the same command again" in full[-1]
    readonly = (tmp_path / "readonly").read_text().splitlines()
    assert "Read-only file system); make it writable, or write elsewhere" in readonly[-1]
    assert not any("Traceback" in line for line in full + readonly)
    assert checkpoint.steps_on_disk(away / "tiny/members/l1-3")
    assert not [p for p in (tmp_path / "verify").read_text().splitlines() if "checkpoint" in p and "whole" not in p]
    for runs in (away, tmp_path / "whole"):  # with room again
        assert main(["sweep", str(recipe), "--train-only", "--runs", str(runs)]) == 0
    same_bits(away / "tiny", tmp_path / "whole/tiny")


@pytest.mark.parametrize(("name", "flag"), [("nt", os.O_RDWR), ("posix", os.O_RDONLY)])
def test_a_file_is_flushed_as_its_system_has_it(tmp_path, monkeypatch, name, flag):
    """Windows flushes no file that was opened to be read: nothing could be written there."""
    opened, system = [], SimpleNamespace(**{key: getattr(os, key) for key in ("O_RDONLY", "O_RDWR", "fsync", "close")})
    system.name, system.open = name, lambda path, flags: opened.append(flags) or os.open(path, flags)
    (tmp_path / "file").write_text("content")
    monkeypatch.setattr(disk, "os", system)
    disk.flush(tmp_path / "file")
    assert opened == [flag]


def test_a_file_in_the_place_of_a_folder(recipe, tmp_path, capsys):
    runs = tmp_path / "runs"
    runs.write_text("in the way")
    assert main(["sweep", str(recipe), "--train-only", "--runs", str(runs)]) == 2
    assert "move away what stands in its place" in capsys.readouterr().err
    runs.unlink()
    runs.mkdir()
    (runs / "tiny").write_text("in the way")
    assert main(["sweep", str(recipe), "--train-only", "--runs", str(runs)]) == 2
    assert "tiny is a file, and a run is a folder" in capsys.readouterr().err
    assert main(["harvest", str(recipe), "--out", str(runs / "tiny")]) == 2
    assert "tiny is a file, and a store is a folder" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(recipe, tmp_path, monkeypatch):
    """An error that comes and goes (a quota, a network disk), at ten of the writes of a run in turn."""
    whole = tmp_path / "whole"
    run.sweep(config.load(recipe), whole)
    replacing, calls = os.fsync, []

    def fails(descriptor):
        calls.append(descriptor)
        if len(calls) == at:
            raise OSError(122, os.strerror(122))  # EDQUOT
        replacing(descriptor)

    for at in range(1, 30, 3):
        calls.clear()
        folder = tmp_path / f"run-{at}"
        monkeypatch.setattr(disk.os, "fsync", fails)
        with pytest.raises(UserError, match=r"\(Disk quota exceeded\); make room and give the same command again"):
            run.sweep(config.load(recipe), folder)
        monkeypatch.setattr(disk.os, "fsync", replacing)
        run.sweep(config.load(recipe), folder)
        same_bits(folder, whole)
        assert verify(folder).problems == []


def test_what_cannot_fit_is_refused_before_it_begins(overrides, tmp_path, monkeypatch):
    """The estimate against what is written, then against the disk."""
    recipe = make(overrides, training__checkpoint_every=10, training__decay_fraction=0.25, sae__features=200)
    run.sweep(recipe, tmp_path / "run")
    there = sum(p.stat().st_size for p in (tmp_path / "run/members/l1-3").rglob("*") if p.is_file())
    one = checkpoint.room(16, 200)
    assert there == pytest.approx(3 * one, rel=0.25)  # three checkpoints stay: what is asked for is what it takes

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(UserError, match=r"the checkpoints of 4 members need 3\.\d MB in .*where 100\.0 kB are free"):
        run.sweep(recipe, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    run.sweep(recipe, tmp_path / "other", force=True)
    run.sweep(recipe, tmp_path / "run")  # nothing is left to write
    model, tokens = open_model(recipe, lambda text: None)
    stream, facts = open_stream(recipe, model, tokens), store_facts(recipe, model, tokens)
    with pytest.raises(UserError, match=r"3,000 activations need 2\d\d\.\d kB .*give --force"):
        harvest(stream, tmp_path / "store", tokens=3000, dtype="float32", shard_tokens=500, facts=facts)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2e9, "2.0 GB")])
def test_sizes_are_written_as_people_do(count, said):
    assert disk.size(count) == said
