"""The page from a folder: every view by keyboard and by tap, search, filters, notes, and numbers as in the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from explore.page_browser import PHONE, Opened
from explore.page_data import Truth, feature, write_large, write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser, site: tuple[Path, Truth]) -> Iterator[Open]:
    held: list[Opened] = []

    def start(**options: Any) -> Opened:
        held.append(Opened(browser, site[0], **options))
        return held[-1]

    yield start
    for one in held:
        one.close()


def listed(page: Page) -> list[int]:
    """The features in sight of the list."""
    return [int(text) for text in page.locator(".virtual .row .c-index").all_inner_texts()]


def firings(truth: Truth, name: str = "l0-2") -> np.ndarray:
    return ((truth.f_STF[name] > 0) & truth.counted_ST[:, :, None]).sum((0, 1))


def test_every_view_by_keyboard(opened: Open, site: tuple[Path, Truth]) -> None:
    walk = opened()
    page, press = walk.go("#/"), lambda *keys: [walk.page.keyboard.press(key) for key in keys]
    page.locator("a.open").first.focus()
    press("Enter")
    walk.title("Features of l0-2")
    page.locator(".virtual .row").first.wait_for()
    press("j", "j", "k", "Enter")
    walk.title("Feature 1")
    press("j")
    walk.title("Feature 2")
    press("j")
    walk.title("Feature 4")  # 3 never fired: not in the list
    press("k", "k")
    walk.title("Feature 1")
    for key, name in zip("654321", ["silent", "near misses", "by mass", "by value", "uniform", "top"], strict=True):
        press(key)
        page.locator(f'[role=tab][aria-selected=true]:text-is("{name}")').wait_for()
    page.locator(".rows li").first.focus()
    press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown")
    assert page.locator(".rows li").nth(1).evaluate("e => e === document.activeElement")
    page.locator(".inspector a").wait_for()
    press("Enter")
    walk.title("Text")
    first = page.locator(".token-features h2").inner_text()
    page.locator(".text-box").focus()
    press("ArrowRight")
    page.wait_for_function("old => document.querySelector('.token-features h2').innerText !== old", arg=first)
    press("j", "[")
    page.wait_for_function("name => document.querySelector('.top select').value === name", arg="l0-4")
    press("]", "g")
    page.keyboard.type("7")
    press("Enter")
    walk.title("Feature 7")
    press("n")
    page.keyboard.type("a note")
    press("Escape", "s", "/")
    walk.title("Features of l0-2")
    page.locator("#search:focus").wait_for()
    page.keyboard.type("12")
    page.locator('.count:has-text("of 40")').wait_for()
    press("Escape", "r")
    page.locator("h1", has_text="Feature ").wait_for()
    press("?")
    page.locator("dialog[open]").wait_for()
    press("Escape")
    page.locator("dialog").wait_for(state="hidden")
    page.locator(".top a", has_text="notes").focus()
    press("Enter")
    walk.title("Notes")
    assert "a note" in page.locator(".notes").inner_text()
    page.locator(".home").focus()
    press("Enter")
    walk.title("demo <b>")
    for box in page.locator(".members input").all():
        box.focus()
        press("Space")
    page.locator("button.main").focus()
    press("Enter")
    walk.title("l0-2 and l0-4")
    page.locator(".matches a", has_text="see both").first.focus()
    press("Enter")
    page.locator(".both").wait_for()


def test_every_view_by_tap(opened: Open) -> None:
    walk = opened(**PHONE)
    page = walk.go("#/")
    page.locator("a.open").first.tap()
    walk.title("Features of l0-2")
    page.locator(".virtual .row").nth(4).tap()
    walk.title("Feature 5")
    page.locator("button", has_text="next").tap()
    walk.title("Feature 6")
    for name in ["uniform", "by value", "by mass", "near misses", "silent", "top"]:
        page.locator(f'[role=tab]:text-is("{name}")').tap()
        page.locator(f'[role=tab][aria-selected=true]:text-is("{name}")').wait_for()
    for name in ["8", "all", "16", "row", "off"]:
        page.locator(f'.switch button:text-is("{name}")').tap()
        page.locator(f'.switch button[aria-pressed=true]:text-is("{name}")').wait_for()
    peak = page.locator(".rows .peak").nth(1)
    peak.tap()
    assert page.locator("h1").inner_text() == "Feature 6"  # the first tap looks
    page.locator(".inspector a").tap()
    walk.title("Text")
    page.locator(".text-box [data-at]").nth(6).tap()
    page.locator(".token-features h2").wait_for()
    page.locator(".top button", has_text="random").tap()
    walk.title("Feature")
    page.locator("button", has_text="star").tap()
    page.locator(".top button", has_text="?").tap()
    page.locator("dialog button", has_text="close").tap()
    page.locator(".top a", has_text="notes").tap()
    walk.title("Notes")
    page.locator(".home").tap()
    walk.title("demo <b>")
    for box in page.locator(".members .tick").all():
        box.tap()
    page.locator("button.main").tap()
    walk.title("l0-2 and l0-4")


def test_numbers_are_those_of_the_data(opened: Open, site: tuple[Path, Truth]) -> None:
    truth = site[1]
    walk = opened()
    page = walk.go("#/")
    assert "564 held-out tokens of made up, 12 sequences of 48" in page.locator(".over").inner_text()
    assert "Left out (12 tokens): the first token of every sequence." in page.locator(".over").inner_text()
    row = page.locator(".members tbody tr").nth(1).inner_text()
    assert all(number in row for number in ("l0-4", "0.930", "0.1200 ± 0.0100", "chosen"))
    record = feature(truth, "l0-2", "l0-4", 11, np.random.default_rng(0))
    page = walk.go("#/m/l0-2/f/11")
    line = page.locator(".facts-line").inner_text()
    assert f"({firings(truth)[11]} times)" in line
    assert f"{record['density'] * 100:.1f} %" in line
    assert f"largest {record['max']:.3g}" in line
    values = [float(text) for text in page.locator(".rows .value").all_inner_texts()]
    assert values == [float(f"{dict(w['v'])[w['c']]:.3g}") for w in record["groups"]["top"]]
    bars = page.locator(".histogram .column title").all_text_contents()
    assert [int(text.rsplit(": ")[1]) for text in bars] == record["hist"]["counts"]
    assert page.locator(".panel", has_text="In the other").inner_text().count("0.91") == 1


def test_a_token_shows_all_its_features_sorted(opened: Open, site: tuple[Path, Truth]) -> None:
    f_TF = site[1].f_STF["l0-2"][4]
    position = int((f_TF > 0).sum(1).argmax())
    page = opened().go(f"#/m/l0-2/text/4/{position}")
    rows = page.locator(".token-features tbody tr")
    cells = [row.locator("td").all_inner_texts() for row in rows.all()]
    shown = {int(cell[0]): float(cell[2]) for cell in cells}
    assert len(shown) > 1
    assert shown == pytest.approx({int(i): f_TF[position, i] for i in np.flatnonzero(f_TF[position])}, rel=6e-3)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)


def test_a_text_that_is_not_kept_is_no_dead_end(opened: Open) -> None:
    page = opened().go("#/m/l0-2/text/11/3")
    assert "does not hold sequence 11" in page.locator(".none").inner_text()
    page.locator(".none a").click()
    page.locator("h1", has_text="Text 0").wait_for()


def test_matches_beside_have_names_and_seeds_and_no_links(opened: Open) -> None:
    page = opened().go("#/m/l0-2/f/11")
    panel = page.locator(".panel", has_text="In the other dictionaries")
    assert "This one is of seed 0." in panel.locator(".note").first.inner_text()
    own, beside = panel.locator("tr").all()
    assert own.locator("td").first.inner_text() == "l0-4 seed 0"
    assert own.locator("a").count() == 2
    assert beside.locator("td").all_inner_texts() == ["other <i>run</i>/l0-2 seed 1", "28", "", "0.75", ""]
    assert beside.locator("a").count() == 0
    cut = "e => e.scrollWidth > e.clientWidth"
    assert not any(cell.evaluate(cut) for cell in panel.locator("td:first-child").all())  # long names are whole


def test_builtin_prompts_by_keyboard(opened: Open) -> None:
    """Every token of each text with all its features, in the folder."""
    walk = opened()
    page, press = walk.go("#/m/l0-2"), lambda *keys: [walk.page.keyboard.press(key) for key in keys]
    page.locator(".top a", has_text="prompts").focus()
    press("Enter")
    walk.title("Prompt: every token")
    assert page.locator(".top a[aria-current]").inner_text() == "prompts"
    press("j")
    walk.title("Prompt: a <b>few</b>")
    cells = lambda: [row.locator("td").all_inner_texts() for row in page.locator(".token-features tbody tr").all()]  # noqa: E731
    assert [(row[0], row[2]) for row in cells()] == [("2", "5"), ("9", "1.5")]  # of the last token
    page.locator(".text-box").focus()
    press("ArrowLeft")
    page.locator(".token-features .note", has_text="position 1").wait_for()
    assert [(row[0], row[2]) for row in cells()] == [("1", "4"), ("8", "1.5")]
    assert page.url.endswith("#/m/l0-2/prompts/1/1")
    press("ArrowLeft")
    page.locator(".token-features p", has_text="Left out of all numbers. 0 features").wait_for()
    press("]")
    page.wait_for_function("name => document.querySelector('.top select').value === name", arg="l0-4")
    assert page.url.endswith("#/m/l0-4/prompts/1/0")
    press("k")
    walk.title("Prompt: every token")
    page.locator(".token-features a").first.focus()
    press("Enter")
    walk.title("Feature 37")


def test_builtin_prompts_by_tap(opened: Open) -> None:
    walk = opened(**PHONE)
    page = walk.go("#/m/l0-2")
    page.locator(".top a", has_text="prompts").tap()
    page.locator(".switch button", has_text="few").tap()
    walk.title("Prompt: a <b>few</b>")
    page.locator(".text-box [data-at]").nth(1).tap()
    page.locator(".token-features .note", has_text="position 1").wait_for()
    page.locator(".token-features button", has_text="colour").first.tap()
    assert "h9" in page.locator(".text-box [data-at]").nth(1).get_attribute("class").split()


def test_a_site_without_builtin_prompts_offers_none(browser: Browser, tmp_path: Path) -> None:
    write_large(tmp_path, 40)
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2")
    assert page.locator(".top a").all_inner_texts() == ["unmix", "features", "texts", "notes"]
    page = walk.go("#/m/l0-2/prompts/0")
    assert page.locator("h1").inner_text() == "Nothing here"
    walk.close()


def test_search_and_filters(opened: Open, site: tuple[Path, Truth]) -> None:
    truth = site[1]
    walk = opened(viewport={"width": 1280, "height": 2600})
    page = walk.go("#/m/l0-2")
    fired = firings(truth)
    alive = [i for i in range(40) if fired[i]]
    assert listed(page) == alive
    pick = lambda label, value: page.get_by_label(label, exact=True).select_option(value)  # noqa: E731
    pick("Alive", "never")
    assert listed(page) == [3]
    pick("Alive", "all")
    assert listed(page) == list(range(40))
    pick("Alive", "alive")
    pick("Density", "4")
    density = fired / truth.counted_ST.sum()
    assert listed(page) == [i for i in alive if 0.01 <= density[i] < 0.1]
    pick("Density", "")
    pick("Kind", "2")
    assert listed(page) == [5]  # mostly the first token
    pick("Kind", "")
    search = page.locator("#search")
    search.fill("#12")
    assert listed(page) == [12]
    pick("Search where", "label")
    search.fill("label 2:")
    assert listed(page) == [2]
    pick("Search where", "token")
    search.fill('" def"')
    exact = listed(page)
    search.fill("def")
    assert set(exact) < set(listed(page))
    search.fill("no such token")
    assert "No feature passes" in page.locator(".virtual .none").inner_text()
    search.fill("")
    page.locator("[role=columnheader] button", has_text="density").click()
    order = listed(page)
    assert [fired[i] for i in order] == sorted((fired[i] for i in alive), reverse=True)
    assert "sort=density&down=1" in page.url
    page.locator(".virtual .row").nth(2).click()
    walk.title(f"Feature {order[2]}")
    page.keyboard.press("j")
    walk.title(f"Feature {order[3]}")  # the list's order, not the index's
    page.locator(".kicker a").click()
    walk.title("Features of l0-2")
    assert page.locator(".virtual .row.current .c-index").inner_text() == str(order[3])
    search.fill("def")
    search.press("Escape")
    assert search.input_value() == "def"


def test_an_address_brings_its_choices(opened: Open) -> None:
    page = opened().go("#/m/l0-2?query=%2312&where=index&alive=all")
    page.locator('.count:text-is("1 of 40")').wait_for()
    assert listed(page) == [12]


def test_compare_counts_shared_and_lone_features(opened: Open, site: tuple[Path, Truth]) -> None:
    page = opened().go("#/compare/l0-2/l0-4")
    alive = [i for i in range(40) if i != 3]
    lone = [i for i in alive if i % 4 == 0]  # cosine 0.3 there, 0.91 else
    shares = dict(
        zip(page.locator(".tiles dt").all_inner_texts(), page.locator(".tiles dd").all_inner_texts(), strict=True)
    )
    assert shares["only in l0-2"] == f"{100 * len(lone) / len(alive):.0f} %"
    page.locator(".switch button", has_text="only in l0-2").click()
    rows = page.locator(".matches tbody tr td:first-child")
    assert sorted(map(int, rows.all_inner_texts())) == lone
    page.locator('.switch button:text-is("0.9")').click()
    page.locator('.switch button:text-is("shared")').click()
    page.locator(".matches a", has_text="see both").first.click()
    page.locator(".both .rows").first.wait_for()


def test_notes_survive_and_travel(opened: Open, tmp_path: Path) -> None:
    walk = opened(accept_downloads=True)
    page = walk.go("#/m/l0-2/f/7")
    page.locator("#note").fill("<b>bold</b> claim\nline two")
    page.locator("button", has_text="star").click()
    page = walk.go("#/m/l0-2/f/7")
    assert page.locator("#note").input_value() == "<b>bold</b> claim\nline two"
    assert page.locator("button", has_text="starred").is_visible()
    page = walk.go("#/notes")
    assert page.locator(".notes bdi").inner_text() == "<b>bold</b> claim\nline two"
    with page.expect_download() as download:
        page.locator("button", has_text="Export").click()
    out = tmp_path / "notes.json"
    download.value.save_as(out)
    said = json.loads(out.read_text())
    assert said["notes"]["l0-2/7"]["text"] == "<b>bold</b> claim\nline two"
    said["notes"] = {
        "l0-2/7": {"text": "another", "star": False, "at": ""},
        "l0-2/8": {"text": "eight", "star": True, "at": ""},
    }
    out.write_text(json.dumps(said))
    page.locator("input[type=file]").set_input_files(out)
    page.locator("[role=status]", has_text="2 notes").wait_for()
    texts = page.locator(".notes bdi").all_inner_texts()
    assert texts == ["<b>bold</b> claim\nline two\n\nanother", "eight"]  # joined, not overwritten
    out.write_text(json.dumps(said | {"fingerprint": "beef", "run": "elsewhere", "notes": {"l0-2/9": {"text": "x"}}}))
    page.locator("input[type=file]").set_input_files(out)
    page.locator(".behind", has_text="another run (elsewhere)").wait_for()
    page.locator("button", has_text="Do not").click()
    assert page.locator(".notes li").count() == 2
    out.write_text("not json")
    page.locator("input[type=file]").set_input_files(out)
    page.locator(".failure", has_text="not JSON").wait_for()
    page = walk.go("#/m/l0-2?kind=5")
    page.locator('.count:text-is("2 of 40")').wait_for()


def test_a_long_list_draws_only_what_is_in_sight(browser: Browser, tmp_path: Path) -> None:
    write_large(tmp_path, 131_072)
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2?alive=all")
    page.locator('.count:text-is("131,072 of 131,072")').wait_for()
    assert page.locator(".virtual .row").count() < 60
    page.locator(".virtual").focus()
    page.keyboard.press("End")
    page.locator('.virtual .row.current .c-index a:text-is("131071")').wait_for()
    page.locator("#search").fill("#100000")
    page.locator('.virtual .row.current .c-index a:text-is("100000")').wait_for()
    walk.close()


def test_a_missing_or_damaged_file_is_named(browser: Browser, tmp_path: Path) -> None:
    write_site(tmp_path)
    (tmp_path / "l0-2/f/00000.js").unlink()
    (tmp_path / "l0-2/f/00001.js").write_text('UNMIX.put("l0-2/f/00001", "bm90IGRlZmxhdGU=")')
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2/f/1")
    page.locator(".failure", has_text="l0-2/f/00000.js could not be read").wait_for()
    page = walk.go("#/m/l0-2/f/20")
    page.locator(".failure", has_text="l0-2/f/00001.js is damaged").wait_for()
    (tmp_path / "manifest.js").unlink()
    page = walk.go("#/")
    page.locator(".failure", has_text="manifest.js could not be read").wait_for()
    walk.errors.clear()  # Chromium says in its console too which files it lacks
    walk.close()


@pytest.mark.parametrize("view", ["#/m/l0-2/f/400", "#/m/none", "#/m/l0-2/f/x", "#/compare/l0-2/none", "#/%E0%A4%A"])
def test_an_address_that_names_nothing_says_so(opened: Open, view: str) -> None:
    page = opened().go(view)
    assert page.locator("h1").inner_text() in ("No feature 400", "Nothing here")
    assert page.locator("main a").count() == 1
