"""The page says of a transcoder what its errors are of, and where its features are changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from explore.page_browser import Opened
from explore.page_data import put, write_site

from unmix.explore.pack import read_script

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_errors_are_of_y_and_changes_at_the_output_hook(browser: Browser, tmp_path: Path) -> None:
    write_site(tmp_path, server=True)
    manifest = read_script((tmp_path / "manifest.js").read_bytes())
    manifest["members"][0] |= {"hook": "ln_2 -> mlp_out.3", "hook_in": "ln_2", "hook_out": "mlp_out.3"}
    put(tmp_path, "manifest", manifest, plain=True)
    opened = Opened(browser, tmp_path)
    for name, of, changed in (("l0-2", "y", "y + Δf · d at mlp_out.3."), ("l0-4", "x", "x + Δf · d.")):
        page = opened.go(f"#/m/{name}/text/2/7")
        assert f"of ‖{of}‖²" in (page.locator(".token-features").text_content() or "")
        page = opened.go(f"#/m/{name}/prompt")
        assert f"The dictionary's error is kept: {changed}" in (page.locator(".steer").text_content() or "")
    page = opened.go("#/m/l0-2")
    assert "ln_2 -> mlp_out.3" in (page.locator("header.page").text_content() or "")
    opened.close()
