"""Text is text: hostile tokens do nothing and are seen, copies are true, and what is shown reads without colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from explore.page_browser import PHONE, VIEWS, Opened, axe
from explore.page_data import GRIN, HOSTILE, SPECIAL, VOCABULARY, Truth, feature, put, write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
CSS = Path(__file__).parents[2] / "web/src/base.css"


@pytest.fixture
def opened(browser: Browser, site: tuple[Path, Truth]) -> Iterator[Opened]:
    one = Opened(browser, site[0])
    yield one
    one.close()


def expected(ids: list[int]) -> str:
    """The text of a run of tokens: a byte that is no character as \\xE2, NUL as nothing."""
    text, run = "", b""
    for token in [*ids, SPECIAL]:
        if token != SPECIAL:
            run += VOCABULARY[token]
            continue
        text += re.sub(
            "[\udc80-\udcff]", lambda m: f"\\x{ord(m[0]) - 0xDC00:02X}", run.decode(errors="surrogateescape")
        )
        text, run = text + "<|endoftext|>", b""
    return text.removesuffix("<|endoftext|>").replace("\x00", "")


def test_every_text_is_drawn_as_it_is(opened: Opened, site: tuple[Path, Truth]) -> None:
    for s in range(10):
        page = opened.go(f"#/m/l0-2/text/{s}/0")
        box = page.locator(".text-box")
        assert box.text_content() == expected(site[1].ids_ST[s].tolist())
        inside = set(box.evaluate("e => [...e.querySelectorAll('*')].map(x => x.tagName)"))
        assert inside == {"SPAN"}


def test_nothing_of_a_token_runs(opened: Opened) -> None:
    shown = ""
    for i in range(0, 40, 4):
        page = opened.go(f"#/m/l0-2/f/{i}")
        shown += page.locator("main").inner_text()
        for tab in ("by value", "by mass", "near misses", "silent", "uniform"):
            if page.locator("[role=tab]").count():
                page.locator(f'[role=tab]:text-is("{tab}")').click()
    assert all(token.decode() in shown for token in HOSTILE[:4])
    page = opened.go("#/m/l0-2?query=%3Cscript")
    page.locator(".count", has_text="of 40").wait_for()
    assert page.locator(".virtual .row").count() > 0
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, main script, main b:has(b), [onerror], [onmouseover]").count() == 0


def test_builtin_prompts_are_text_too(opened: Opened) -> None:
    ids = [SPECIAL, *range(len(VOCABULARY))]
    page = opened.go("#/m/l0-2/prompts/0")
    box = page.locator(".text-box")
    assert box.text_content() == expected(ids)
    assert set(box.evaluate("e => [...e.querySelectorAll('*')].map(x => x.tagName)")) == {"SPAN"}
    for n in range(box.locator("[data-at]").count()):
        box.locator("[data-at]").nth(n).dispatch_event("click")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, main script, main b, [onerror], [onmouseover]").count() == 0


def test_what_cannot_be_seen_has_a_name(opened: Opened, site: tuple[Path, Truth]) -> None:
    names = {
        b"\x00": r"\x00",
        b"\x1b[31m": r"\x1B",
        "\u202egnitrofni\u202c".encode(): "RLO",
        "\u200b\u200d\ufeff".encode(): "ZWSP",
    }
    names |= {"\U000e0041".encode(): "U+E0041", "\u2066\u2067\u2069".encode(): "LRI"}
    for token, name in names.items():
        k = HOSTILE.index(token)
        s, p = np.argwhere(site[1].ids_ST[:10] == k)[0]
        page = opened.go(f"#/m/l0-2/text/{s}/{p}")
        chip = page.locator(".token-features h2 .chip").first
        assert chip.get_attribute("data-name") == name
        assert chip.evaluate("e => getComputedStyle(e, '::before').content") == f'"{name}"'.replace("\\", "\\\\")
        assert chip.bounding_box()["width"] > 8
    for token in (b"\xe2", b"\xff"):
        where = np.argwhere(site[1].ids_ST[:10] == HOSTILE.index(token))[0]
        page = opened.go(f"#/m/l0-2/text/{where[0]}/{where[1]}")
        assert page.locator(".token-features h2 .byte").inner_text() == f"\\x{token.hex().upper()}"


def test_bidi_controls_turn_nothing_around(opened: Opened, site: tuple[Path, Truth]) -> None:
    """The token after an override stands to its right."""
    k = HOSTILE.index("\u202egnitrofni\u202c".encode())
    page = opened.go("#/m/l0-2/f/4")
    label = page.locator(".token", has_text="gnitrofni").first
    left = label.evaluate(
        """e => [...e.childNodes].map(n => {
            const range = document.createRange();
            range.selectNode(n);
            return range.getBoundingClientRect().left;
        })"""
    )
    assert len(left) == 3  # the override, the letters, its end
    assert left == sorted(left)
    assert (site[1].ids_ST == k).any()


def test_tokens_in_one_character_are_one_span(opened: Opened, site: tuple[Path, Truth]) -> None:
    truth = site[1]
    s, p = next((s, p) for s, p in np.argwhere(truth.ids_ST[:10] == GRIN[0]) if truth.ids_ST[s, p + 1] == GRIN[1])
    page = opened.go(f"#/m/l0-2/text/{s}/{p}")
    assert page.locator(".text-box .peak").text_content() == "😀"
    page = opened.go("#/m/l0-2/f/10")  # fires on the first half
    lines = page.locator(".rows li", has=page.locator('.peak:text-is("😀")'))
    line = lines.first
    line.locator(".peak").hover()
    inspector = page.locator(".inspector")
    assert "2 tokens in one character" in inspector.inner_text()
    assert line.locator(".value").inner_text() in inspector.inner_text()


def test_copies_are_true(opened: Opened, site: tuple[Path, Truth]) -> None:
    """What a selection of a text holds: every new line, tab and space of it, and none of the marks."""
    ids = site[1].ids_ST
    s = next(s for s in range(10) if {HOSTILE.index(b"\n"), HOSTILE.index(b"\t")} <= set(ids[s].tolist()))
    page = opened.go(f"#/m/l0-2/text/{s}/0")
    selected = page.locator(".text-box").evaluate(
        "e => { getSelection().selectAllChildren(e); return String(getSelection()); }"
    )
    assert selected.replace("\r\n", "\n") == expected(ids[s].tolist()).replace("\r\n", "\n")
    assert not re.search("[↵→·␍]", selected)
    for i in range(40):
        page = opened.go(f"#/m/l0-2/f/{i}")
        lines = page.locator(".rows .after", has=page.locator(".newline, .tab"))
        if lines.count():
            line = lines.first
            said = line.evaluate("e => { getSelection().selectAllChildren(e); return String(getSelection()); }")
            assert said.replace("\r\n", "\n") == line.text_content().replace("\r\n", "\n")
            return
    pytest.fail("no example holds a new line or a tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(browser: Browser, site: tuple[Path, Truth], view: str, scheme: str) -> None:
    source = axe()
    walk = Opened(browser, site[0], bypass_csp=True, color_scheme=scheme)
    page = walk.go(VIEWS[view])
    page.add_script_tag(content=source)
    found = page.evaluate(
        "async () => (await axe.run({preload: false})).violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)])"
    )
    assert not [row for row in found if row[0] in ("serious", "critical")]
    walk.close()


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_scrolls_one_way(browser: Browser, site: tuple[Path, Truth], view: str) -> None:
    walk = Opened(browser, site[0], **PHONE)
    page = walk.go(VIEWS[view])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        """[...document.querySelectorAll('button, select, input:not([type=checkbox]):not(.unseen)')]
        .map(e => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
        .filter(([, box]) => box.width > 1 && Math.min(box.width, box.height) < 24).map(([html]) => html)"""
    )
    assert small == []
    walk.close()


def test_the_peak_reads_without_colour(opened: Opened) -> None:
    page = opened.go("#/m/l0-2/f/14")
    style = "e => { const s = getComputedStyle(e); return [s.fontWeight, s.outlineStyle, s.textDecorationLine]; }"
    peak = page.locator(".rows .peak").first
    assert peak.evaluate(style)[:2] == ["700", "solid"]
    page.emulate_media(media="print")
    assert peak.evaluate(style) == ["700", "solid", "underline"]
    assert not page.locator(".top").is_visible()
    page.emulate_media(media="screen", forced_colors="active")
    assert peak.evaluate(style)[:2] == ["700", "solid"]
    assert "underline" in peak.evaluate(style)[2]


def test_values_below_zero_are_blue_with_a_line_above(browser: Browser, tmp_path: Path) -> None:
    truth = write_site(tmp_path)
    record = feature(truth, "l0-2", "l0-4", 0, np.random.default_rng(0))
    for w in record["groups"]["top"]:
        w["v"] = [[at, -value] for at, value in w["v"]]
    put(tmp_path, "l0-2/f/00000", [record])
    walk = Opened(browser, tmp_path)
    page = walk.go("#/m/l0-2/f/0")
    peak = page.locator(".rows .peak").first
    assert "b9" in peak.get_attribute("class").split()
    assert peak.evaluate("e => getComputedStyle(e).textDecorationLine") == "overline"
    assert page.locator(".rows .value").first.inner_text().startswith("−")
    walk.close()


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L₁ + 0.05) / (L₂ + 0.05)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_ramps_are_legible_and_grow_steadily(scheme: str) -> None:
    light, dark = CSS.read_text().split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))
    for ramp in "hb":
        steps = [colours[f"{ramp}{n}"] for n in range(1, 10)]
        assert min(contrast(step, colours["hot"]) for step in steps) >= 7
        assert min(contrast(step, colours["ink"]) for step in steps[:4]) >= 7
        against = [contrast(step, colours["paper"]) for step in steps]
        assert against == sorted(against)  # in greyscale too
