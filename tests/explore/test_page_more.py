"""What the page adds to its numbers: descriptions, what is left out counted in, repeats, by norm; every row opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from explore.page_browser import Opened, axe
from explore.page_data import Truth, feature, put, put_bytes, tokens, write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(browser: Browser, site: tuple[Path, Truth]) -> Iterator[Opened]:
    one = Opened(browser, site[0])
    yield one
    one.close()


def test_a_description_stands_with_its_scores_and_is_searched(opened: Opened) -> None:
    page = opened.go("#/m/l0-2/f/11")
    assert page.locator(".lead").inner_text() == "the word mat, after cat"
    assert "Described by m<b>; detection 0.81 ± 0.10 (n 16); 0.5 is chance" in page.locator("main").inner_text()
    assert "label 11: <b>11</b>" in page.locator("main").inner_text()
    page = opened.go("#/m/l0-2?query=After%20cat&where=label")
    page.locator('.count:text-is("1 of 40")').wait_for()
    assert page.locator(".virtual .row .c-note").inner_text() == "the word mat, after cat"
    page = opened.go("#/m/l0-4/f/11")
    assert "Described by" not in page.locator("main").inner_text()


def test_a_hostile_description_is_text(opened: Opened) -> None:
    page = opened.go("#/m/l0-2/f/12")
    assert page.locator(".lead").inner_text().startswith("</script><img src=x onerror=window.hacked=1>")
    assert page.locator(".lead .chip").get_attribute("data-name") == "RLO"
    assert "no score: too few examples" in page.locator("main").inner_text()
    page = opened.go("#/m/l0-2?query=onerror")
    page.locator(".virtual .row .c-note .chip").wait_for(state="attached")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_what_is_left_out_can_be_counted_in_and_says_so(opened: Opened, site: tuple[Path, Truth]) -> None:
    truth = site[1]
    f_ST = truth.f_STF["l0-2"][:, :, 7]
    inside, outside = f_ST[truth.counted_ST & (f_ST > 0)], f_ST[:, 0]
    page = opened.go("#/m/l0-2/f/7")
    line, bars = page.locator(".facts-line"), page.locator(".histogram .column:not(.in) title")
    before, counts = line.inner_text(), bars.all_text_contents()
    assert f"({len(inside)} times)" in before
    assert page.locator(".behind").count() == 0
    assert page.locator(".switch[aria-label='count in'] button").all_inner_texts() == ["position 0 · 12"]
    page.locator("button", has_text="position 0").click()
    both = np.concatenate([inside, outside])
    after = line.inner_text()
    assert f"({len(both)} times)" in after
    assert f"{100 * len(both) / (truth.counted_ST.sum() + 12):.1f} %" in after
    assert f"largest {both.max():.3g}" in after
    assert f"mean {both.mean():.3g}" in after
    assert "median" not in after  # it does not follow
    said = page.locator(".behind").inner_text()
    assert "Counted in: position 0 (12 firings)" in said
    assert "no other number does, here or in the list" in said
    assert bars.all_text_contents()[:20] == counts
    layered = [int(text.rsplit(": ")[1]) for text in page.locator(".histogram .column.in title").all_text_contents()]
    assert len(layered) == 21
    assert sum(layered) == len(both)
    values = [float(text) for text in page.locator(".rows .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert page.locator(".rows .peak.masked").count() == 3
    page.keyboard.press("j")
    opened.title("Feature 8")  # kept, and said there too
    assert "Counted in: position 0 (0 firings)" in page.locator(".behind").inner_text()
    page.keyboard.press("k")
    opened.title("Feature 7")
    page.locator("button", has_text="position 0").click()
    assert line.inner_text() == before


def test_by_norm_shows_error_and_shares(opened: Opened) -> None:
    page = opened.go("#/")
    figure = page.locator("figure", has=page.locator('h2:text-is("By norm")'))
    heights = set()
    for name in ("explained variance", "error", "share of L0", "share of L1"):
        figure.locator(f'button:text-is("{name}")').click()
        figure.locator(f'svg[aria-label^="{name} by norm"]').wait_for()
        lines = figure.locator("polyline.line")
        assert lines.count() == 2
        assert len(lines.first.get_attribute("points").split()) == 10
        heights.add(lines.first.get_attribute("points"))
    assert len(heights) > 1
    assert page.locator("polyline.through").count() > 0
    assert all(line.get_attribute("points") for line in page.locator("polyline").all())


def test_rows_that_repeat_a_text_are_grey_and_said(browser: Browser, tmp_path: Path) -> None:
    truth = write_site(tmp_path)
    record = feature(truth, "l0-2", "l0-4", 0, np.random.default_rng(0))
    shown = record["groups"]["top"]
    record["groups"]["top"] = [*shown, *shown[:3]]
    put(tmp_path, "l0-2/f/00000", [record])
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2/f/0")
    again = [row.get_attribute("class") == "again" for row in page.locator(".rows li").all()]
    assert again == [False] * len(shown) + [True] * 3
    assert "Grey: 3 rows with the text of a row above." in page.locator("#examples .note").first.inner_text()
    colour = "e => getComputedStyle(e).backgroundColor"
    assert page.locator(".rows li.again .peak").first.evaluate(colour) == "rgba(0, 0, 0, 0)"
    assert page.locator(".rows li:not(.again) .peak").first.evaluate(colour) != "rgba(0, 0, 0, 0)"
    assert page.locator(".rows li.again .value").first.inner_text().split()[-1] == "again"  # for ears
    walk.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_what_is_switched_on(browser: Browser, tmp_path: Path, scheme: str) -> None:
    source, truth = axe(), write_site(tmp_path)
    record = feature(truth, "l0-2", "l0-4", 7, np.random.default_rng(0))
    record["groups"]["top"] *= 2
    put(tmp_path, "l0-2/f/00000", [record])
    walk = Opened(browser, tmp_path, bypass_csp=True, color_scheme=scheme)
    page = walk.go("#/m/l0-2/f/7")
    page.locator("button", has_text="position 0").click()
    assert page.locator(".rows li.again").count() > 0
    page.keyboard.press("?")
    page.add_script_tag(content=source)
    for _ in range(2):  # over the page, and behind
        found = page.evaluate("async () => (await axe.run({preload: false})).violations.map(v => [v.impact, v.id])")
        assert not [row for row in found if row[0] in ("serious", "critical")]
        page.keyboard.press("Escape")
    walk.close()


def test_every_row_opens_its_text(browser: Browser, tmp_path: Path) -> None:
    truth = write_site(tmp_path)
    put_bytes(tmp_path, "l0-2/t/00002", tokens(truth, "l0-2", range(8, 12)))
    from unmix.explore.pack import read_script

    index = read_script((tmp_path / "l0-2/index.js").read_bytes())
    put(tmp_path, "l0-2/index", index | {"sequence_ids": [*range(12)]})
    about = read_script((tmp_path / "manifest.js").read_bytes())
    about["members"][0]["sequences"] = 12
    put(tmp_path, "manifest", about, plain=True)
    walk = Opened(browser, tmp_path)
    for tab in ("top", "uniform", "near", "silent"):
        page = walk.go(f"#/m/l0-2/f/11?tab={tab}")
        count = page.locator(".rows li").count()
        assert count
        for n in range(count):
            page = walk.go(f"#/m/l0-2/f/11?tab={tab}")
            page.locator(".rows li").nth(n).locator(".peak").click()
            walk.title("Text")
            assert page.locator(".text-box .peak").count() == 1
    walk.close()


def test_a_text_of_which_the_strongest_are_kept_says_so(browser: Browser, tmp_path: Path) -> None:
    truth = write_site(tmp_path)
    page_bytes = bytearray(tokens(truth, "l0-2", range(4)))
    n = int.from_bytes(page_bytes[:4], "little")
    page_bytes[8 + n + 5] = 9  # more, of the sixth token
    put_bytes(tmp_path, "l0-2/t/00000", bytes(page_bytes))
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2/text/0/5")
    assert "Of each token the 64 strongest features are kept in this folder" in page.locator("main").inner_text()
    assert "and 9 weaker features more." in page.locator(".token-features").inner_text()
    page = walk.go("#/m/l0-2/text/5/5")
    assert "strongest" not in page.locator("main").inner_text()
    walk.close()


def test_a_missing_or_damaged_page_of_text_is_named(browser: Browser, tmp_path: Path) -> None:
    write_site(tmp_path)
    (tmp_path / "text/00001.js").unlink()
    (tmp_path / "l0-2/t/00001.js").write_text('UNMIX.put("l0-2/t/00001", "bm90IGRlZmxhdGU=");')
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2/f/11")
    page.locator(".failure", has_text="text/00001.js could not be read").wait_for()
    page = walk.go("#/m/l0-2/text/5/1")
    page.locator(".failure", has_text="l0-2/t/00001.js is damaged").wait_for()
    walk.errors.clear()  # Chromium says in its console too which files it lacks
    walk.close()
