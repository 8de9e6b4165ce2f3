"""The site's files, and no others."""

import json

import pytest

from unmix.errors import UserError
from unmix.explore.pack import script
from unmix.explore.server_files import read_file, read_manifest, read_object

MANIFEST = {"format": 1, "run": "</script><b>", "server": False, "members": [{"name": "l0-5"}]}


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "run" / "explore" / "site"
    (folder / "l0-5" / "f").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "app.js").write_text("'use strict'")
    (folder / "manifest.js").write_bytes(script("manifest", MANIFEST, packed=False))
    (folder / "l0-5" / "index.js").write_bytes(script("l0-5/index", {"max": [1.5, None]}))
    (folder / "l0-5" / "f" / "00000.js").write_text("2")
    (folder / "notes.txt").write_text("private")
    (folder / ".hidden.js").write_text("private")
    (tmp_path / "run" / "secret.js").write_text("private")
    (tmp_path / "run" / "explore" / "siteother").mkdir()
    (tmp_path / "run" / "explore" / "siteother" / "x.js").write_text("private")
    return folder


def test_files_of_the_site_are_read(site):
    assert read_file(site, "") == (b"<!doctype html>", "text/html; charset=utf-8")
    assert read_file(site, "l0-5/f/00000.js") == (b"2", "text/javascript; charset=utf-8")


@pytest.mark.parametrize(
    "asked",
    [
        "../../secret.js", "..", "l0-5/../../../secret.js", "../siteother/x.js", "/etc/passwd", "//etc/passwd", ".",
        "l0-5", "l0-5/", "l0-5/f", "..\\..\\secret.js", "l0-5/..\\..\\..\\secret.js", "C:/secret.js", "app.js\0.html",
        ".hidden.js", "notes.txt", "absent.js", "app.js/x.js", "%2e%2e/secret.js", "a" * 5000 + ".js", "app.js::$DATA",
        "app.js ", "app.JS\n", "./app.js", "l0-5//index.js",
    ],
)  # fmt: skip
def test_nothing_else_is(site, asked):
    assert read_file(site, asked) is None


def test_a_link_out_of_the_folder_is_not_followed(site):
    (site / "out.js").symlink_to(site.parent.parent / "secret.js")
    (site / "folder").symlink_to(site.parent / "siteother")
    (site / "notes.js").symlink_to(site / "notes.txt")
    (site / "round.js").symlink_to(site / "round.js")
    (site / "in.js").symlink_to(site / "app.js")
    for asked in ("out.js", "folder/x.js", "notes.js", "round.js"):
        assert read_file(site, asked) is None
    assert read_file(site, "in.js").content == b"'use strict'"


def test_the_site_itself_may_be_behind_a_link(site, tmp_path):
    (tmp_path / "link").symlink_to(site)
    assert read_file(tmp_path / "link", "app.js") is not None


def test_the_manifest_says_that_it_is_served(site):
    text = read_file(site, "manifest.js").content.decode()
    assert "<" not in text
    assert json.loads(text.removeprefix('UNMIX.put("manifest", ').removesuffix(");\n")) == MANIFEST | {"server": True}
    assert read_manifest(site) == MANIFEST


@pytest.mark.parametrize("content", ["", "alert(1)", 'UNMIX.put("manifest", {)', 'UNMIX.put("manifest", []);', "\xff"])
def test_a_damaged_manifest_is_said_in_a_line(site, content):
    (site / "manifest.js").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.js is damaged; build the site again"):
        read_manifest(site)


def test_a_folder_without_a_site_is_said(tmp_path):
    with pytest.raises(UserError, match=r"holds no site \(manifest.js\); build it"):
        read_manifest(tmp_path / "nowhere")


def test_packed_scripts_are_read(site):
    assert read_object(site, "l0-5/index") == {"max": [1.5, None]}
    with pytest.raises(UserError, match=r"cannot read .*00001\.js .*; build the site again"):
        read_object(site, "l0-5/f/00001")


@pytest.mark.parametrize("value", ["AAAA", "!", "", "H4sI", "SyvNyQEA"])
def test_a_damaged_packed_script_is_said(site, value):
    (site / "l0-5" / "index.js").write_text(f'UNMIX.put("l0-5/index", "{value}");\n')
    with pytest.raises(UserError, match="is damaged"):
        read_object(site, "l0-5/index")
