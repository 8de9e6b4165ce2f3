"""Descriptions in the site: the last line of each feature, of this site alone; hostile ones are text."""

import json

import pytest
from explore.scripted_endpoint import record
from explore.test_describe import write_site
from rich.console import Console

from unmix.errors import UserError
from unmix.explore import descriptions, manifest
from unmix.explore.pack import read_script, script
from unmix.explore.server_files import read_manifest
from unmix.explore.terminal import open_site, show_feature

SCORE = {"accuracy": 0.8125, "se": 0.0988, "n": 16}
HOSTILE = "</script><img src=x onerror=alert(1)> \x1b[31m \u202e \ud800"


def line(i, text, **more):
    settings = {"member": "l0-5", "site": "abc", "model": "m", "detection": SCORE, "fuzzing": None}
    return {"i": i, "text": text, **settings, **more}


@pytest.fixture
def out(tmp_path):
    write_site(tmp_path)
    (tmp_path / "descriptions").mkdir()
    rows = [line(0, "old"), line(3, HOSTILE), line(0, "new", model="n"), line(1, "of another", site="x")]
    rows.append(line(4, "odd", detection={"accuracy": "<b>"}))
    (tmp_path / "descriptions/l0-5.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_last_line_of_this_site_counts(out):
    found = descriptions.of_member(out, "l0-5", "abc")
    assert found == {
        "0": {"text": "new", "model": "n", "detection": SCORE, "fuzzing": None},
        "3": {"text": HOSTILE, "model": "m", "detection": SCORE, "fuzzing": None},
        "4": {"text": "odd", "model": "m", "detection": None, "fuzzing": None},
    }
    assert descriptions.of_member(out, "l0-50", "abc") == {}


def test_a_site_that_stands_already_gets_them(out):
    manifest.write_json(out / manifest.FILE, {"format": 1, "inputs": {}, "site": ["manifest.js"]})
    assert descriptions.show(out, "l0-5") == 3
    data = (out / "site/l0-5/descriptions.js").read_bytes()
    assert b"<" not in data
    assert read_script(data) == descriptions.of_member(out, "l0-5", "abc")
    [row] = read_manifest(out / "site")["members"]
    assert row["described"] == 3
    assert descriptions.read(out / "site", row) == read_script(data)
    assert manifest.read_manifest(out)["site"] == ["l0-5/descriptions.js", "manifest.js"]  # a build may replace it
    assert descriptions.show(out, "l0-5") == 3


def test_without_any_nothing_is_written(tmp_path):
    write_site(tmp_path)
    assert descriptions.show(tmp_path, "l0-5") == 0
    assert not (tmp_path / "site/l0-5/descriptions.js").exists()
    assert descriptions.read(tmp_path / "site", {"name": "l0-5"}) == {}


def test_a_damaged_line_is_named(out):
    path = out / "descriptions/l0-5.jsonl"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(UserError, match="line 1 is damaged"):
        descriptions.show(out, "l0-5")


def test_the_terminal_shows_them_and_no_control_character(out):
    descriptions.show(out, "l0-5")
    site = out / "site"
    about = read_script((site / "manifest.js").read_bytes())
    about["tokens"] |= {"split": "held_out", "mask": "none", "counted": 10}
    about["members"][0]["tokens"] = {"counted": 10}
    (site / "manifest.js").write_bytes(script("manifest", about, packed=False))
    numbers = {"label": "x", "density": 0.1, "max": 1.0, "mean": 1.0, "logits": None, "coact": [], "stability": []}
    full = [record(i) | numbers | {"tokens": [], "decoder": []} for i in (2, 3)]
    (site / "l0-5/f/00001.js").write_bytes(script("f", full))
    console = Console(record=True, width=200, color_system=None, highlight=False, emoji=False, markup=False)
    with console.capture() as said:
        show_feature(console, open_site(out, "l0-5"), 3, 2)
    text = said.get()
    assert "described as: </script><img src=x onerror=alert(1)> \\u{1b}[31m \\u{202e} ?" in text
    assert "by m; detection 0.81 ± 0.10 of 16; 0.5 is chance" in text
    assert not {"\x1b", "\u202e"} & set(text)
    with console.capture() as said:
        show_feature(console, open_site(out, "l0-5"), 2, 2)
    assert "described as" not in said.get()
