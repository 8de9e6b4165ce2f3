"""A headless Chromium that has no network, for the tests of the page."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
VIEWS = {
    "sweep": "#/",
    "list": "#/m/l0-2",
    "feature": "#/m/l0-2/f/11",
    "bands": "#/m/l0-2/f/11?tab=mass",
    "dead": "#/m/l0-2/f/3",
    "text": "#/m/l0-2/text/2/7",
    "prompts": "#/m/l0-2/prompts/0",
    "compare": "#/compare/l0-2/l0-4",
    "both": "#/compare/l0-2/l0-4/11",
    "notes": "#/notes",
}


def chromium() -> Iterator[Browser]:
    """For a fixture of module scope; skips where there is no browser or no Playwright."""
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page on its way through a site: what went wrong is kept, and nothing but the folder's files is asked for."""

    def __init__(self, browser: Browser, site: Path, *, offline: bool = True, **options: Any) -> None:
        self.site, self.errors, self.asked = site, [], []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(20_000)
        if offline:
            self.context.set_offline(True)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.errors.append(said.text))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def go(self, view: str) -> Page:
        """Opens a view afresh and waits until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto((self.site / "index.html").as_uri() + view)
        self.page.locator("main").wait_for()
        self.settle()
        return self.page

    def settle(self) -> None:
        """Until no part of the page is still reading."""
        self.page.locator(".waiting").first.wait_for(state="detached")

    def title(self, text: str) -> None:
        """Waits for a view by its heading."""
        self.page.locator("h1", has_text=text).wait_for()
        self.settle()

    def close(self) -> None:
        """Ends it, and holds that nothing was thrown and nothing was asked of a network."""
        self.context.close()
        assert not self.errors, self.errors
        assert all(url.startswith(("file://", "data:", "blob:", "about:")) for url in self.asked)


def axe() -> str:
    """The source of axe-core, which web/ has among its tools."""
    file = ROOT / "web/node_modules/axe-core/axe.min.js"
    if not file.exists():
        if not shutil.which("npm"):
            pytest.skip("no npm here: axe-core comes with web/'s tools")
        subprocess.run(["npm", "ci", "--no-fund", "--no-audit"], cwd=ROOT / "web", check=True, timeout=300)
    return file.read_text()
