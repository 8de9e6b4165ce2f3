"""The page in the package is what web/ gives, and small."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from explore.page_data import PAGE

ROOT = Path(__file__).parents[2]


def test_the_committed_page_equals_a_fresh_build(tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("no Node here: the page cannot be built")
    subprocess.run([ROOT / "scripts/build_page", tmp_path], check=True, timeout=300)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"app.js", "app.css", "index.html"} == {file.name for file in PAGE.iterdir()}
    for name in names:
        assert (PAGE / name).read_bytes() == (tmp_path / name).read_bytes(), f"run scripts/build_page: {name} differs"


def test_the_page_is_one_small_classic_script() -> None:
    script = (PAGE / "app.js").read_text()
    assert (PAGE / "app.js").stat().st_size <= 80_000
    assert "sourceMappingURL" not in script
    html = (PAGE / "index.html").read_text()
    assert "type=module" not in html
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert not re.search(r"https?://", html)


def test_no_text_becomes_markup_or_code() -> None:
    """What Preact could do with markup, the source never asks of it."""
    source = "".join(file.read_text() for file in (ROOT / "web/src").glob("*.ts*"))
    banned = r"innerHTML|outerHTML|insertAdjacent|document\.write|createContextualFragment|\beval\b|Function\(|Worker\("
    assert len(source) > 50_000
    assert not re.search(banned, source)


def test_the_tools_are_pinned() -> None:
    package = (ROOT / "web/package.json").read_text()
    versions = re.findall(r'"(?:preact|axe-core|esbuild|typescript)": "([^"]+)"', package)
    assert len(versions) == 4
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
