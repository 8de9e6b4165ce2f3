"""Metrics in TensorBoard and in Weights & Biases (offline), and what stands in their way, said before anything runs."""

import json
import sys
from types import SimpleNamespace

import pytest
from tiny_run import make

from unmix.cli import main
from unmix.errors import UserError
from unmix.sinks import check_sinks, open_sinks
from unmix.training import run
from unmix.training.extension import extend


def test_tensorboard_holds_the_curves(overrides, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.sweep(make(overrides, training__l1=[1.0], sinks=["tensorboard"]), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    points = events.Scalars("l0/l1-1")
    assert [point.step for point in points] == [row["step"] for row in rows]
    assert [point.value for point in points] == pytest.approx([row["l0"] for row in rows])


def test_what_was_trained_further_is_a_curve_of_its_own(overrides, tmp_path):
    """It begins before the sweep's decay: in one curve, each step of that stood twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = make(overrides, training__l1=[1.0], training__decay_fraction=0.5, sinks=["tensorboard"])
    run.sweep(recipe, tmp_path / "run")
    extend(tmp_path / "run", "l1-1", 80)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for phase, curve in (("sweep", "l0/l1-1"), ("extend", "l0/l1-1-extended")):
        steps = [row["step"] for row in rows if row["phase"] == phase]
        assert [point.step for point in events.Scalars(curve)] == steps


def test_wandb_offline_holds_the_curves(overrides, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.sweep(make(overrides, training__l1=[1.0], sinks=["wandb"]), tmp_path / "run")
    wandb.teardown()  # the end of the process, for the library: its service writes the file behind `finish`
    [log] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"l1-1/explained_variance" in content


class Wandb(SimpleNamespace):
    """A stand-in for the library: `login` answers, or raises, as the real one does."""

    def __init__(self, answer=True, mode="online"):
        super().__init__(answer=answer, mode=mode, logins=[], begun=[])

    def setup(self):
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, key=None, verify=True, prompt=True):
        self.logins.append({"verify": verify, "prompt": prompt})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def init(self, **keywords):
        raise RuntimeError("the server is busy\nand more")


@pytest.fixture
def library(monkeypatch):
    def put(library):
        monkeypatch.setitem(sys.modules, "wandb", library)
        return library

    return put


def refused(names, words):
    with pytest.raises(UserError, match=words) as error:
        check_sinks(names)
    assert "\n" not in str(error.value)


REMEDY = (
    r"; run `wandb login`, set WANDB_MODE=offline to keep the metrics on this machine, or leave wandb out of sinks$"
)


def test_wandb_without_a_key_is_one_line_with_the_remedies(library):
    wandb = library(Wandb(answer=False))
    refused(["wandb"], "sinks: wandb has no key" + REMEDY)
    assert wandb.logins == [{"verify": True, "prompt": False}]


def test_wandb_that_refuses_a_key_or_cannot_be_reached_is_one_line(library):
    library(Wandb(answer=ConnectionError("Failed to authenticate with https://api.example.org:\n503")))
    refused(["wandb"], r"sinks: wandb cannot log in \(Failed to authenticate with https://api.example.org:\)" + REMEDY)


def test_an_older_wandb_that_always_asks_is_not_given_a_word_it_does_not_know(library):
    wandb = library(Wandb())
    wandb.login = lambda key=None, verify=False: verify
    check_sinks(["wandb"])


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_wandb_offline_needs_no_key(library, mode):
    wandb = library(Wandb(answer=False, mode=mode))
    check_sinks(["wandb"])
    assert wandb.logins == []


def test_the_real_wandb_without_a_key(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr("wandb.sdk.wandb_setup._singleton", None, raising=False)  # as in a process of its own
    refused(["wandb"], r"sinks: wandb (has no key|cannot log in)")


def test_a_run_that_wandb_does_not_begin_is_one_line(library, tmp_path):
    library(Wandb())
    with pytest.raises(UserError, match=r"sinks: wandb cannot start a run \(the server is busy\)" + REMEDY):
        open_sinks(["wandb"], tmp_path, {"name": "one"})


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_library_that_is_not_installed_is_one_line_with_the_command(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    refused([name], rf"sinks: {name} cannot be imported \(.*\); pip install {name}, or leave it out of sinks")


def test_a_sink_that_cannot_work_stops_a_sweep_before_the_model_is_loaded(library, overrides, tmp_path, monkeypatch):
    library(Wandb(answer=False))
    monkeypatch.setattr("unmix.training.inputs.load_language_model", lambda config: pytest.fail("loaded"))
    with pytest.raises(UserError, match="wandb has no key"):
        run.sweep(make(overrides, sinks=["wandb"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sink_that_does_not_exist_is_one_line(capsys, tmp_path):
    assert main(["sweep", "--name", "one", "--sinks", "mlflow", "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sinks" in said
    assert "tensorboard" in said
