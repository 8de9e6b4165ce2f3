"""The README's picture: a view of a built site, as a browser shows it without a network.

    python picture.py RUN/explore/site "#/m/l0-40/f/1825" feature.png

It needs Playwright and Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 900}


def main(site: Path, view: str, out: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.context.set_offline(True)
        page.goto((site.resolve() / "index.html").as_uri() + view)
        page.locator("main h1").wait_for()
        page.locator(".waiting").first.wait_for(state="detached")
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
