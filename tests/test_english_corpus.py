"""scripts/english_corpus, as far as it can be tried without a network."""

import json
import struct
import tarfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "english_corpus"


@pytest.fixture(scope="module")
def script():
    loader = SourceFileLoader("english_corpus", str(SCRIPT))
    module = module_from_spec(spec_from_loader("english_corpus", loader))
    loader.exec_module(module)
    return module


def test_a_character_vector_of_r(script):
    def item(text):
        return struct.pack(">ii", 0x40009, len(text.encode())) + text.encode()

    head = b"X\n" + struct.pack(">iii", 3, 0x040201, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
    raw = head + struct.pack(">ii", 16, 3) + item("Emma") + struct.pack(">ii", 9, -1) + item("naïve")
    assert list(script._character_vector(raw)) == ["Emma", "", "naïve"]
    with pytest.raises(ValueError, match="not a character vector"):
        list(script._character_vector(head + struct.pack(">ii", 13, 0)))


def test_a_country_is_prose(script, tmp_path):
    folder = tmp_path / "package" / "europe"
    folder.mkdir(parents=True)
    facts = {"Geography": {"Area": {"total": {"text": "83,871 <b>sq km</b>"}, "note": {"text": None}}}}
    (folder / "au.json").write_text(json.dumps(facts))
    assert list(script.factbook(tmp_path)) == ["Geography\ntotal: 83,871  sq km"]


def test_a_package_of_another_checksum_is_refused(script, tmp_path, monkeypatch):
    def pack(command, cwd, **_):
        with tarfile.open(Path(cwd) / "toy-1.tgz", "w:gz") as archive:
            archive.add(SCRIPT, "package/x")
        return type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})()

    monkeypatch.setattr(script.subprocess, "run", pack)
    monkeypatch.setattr(script.shutil, "which", lambda tool: tool)
    source = script.Source("toy", "npm:toy@1", "MIT", "0" * 64, script.moby_dick)
    with pytest.raises(SystemExit, match=r"toy-1.tgz has SHA-256 .*, not 0000"):
        script.fetch(source, tmp_path)


def test_a_tool_that_is_missing_is_named(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda tool: None)
    assert script.fetch(script.SOURCES[2], tmp_path) == "r-cran-janeaustenr wants apt-get"
