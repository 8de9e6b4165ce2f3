"""The page when there is a server: prompts, interventions and more examples, against a small scripted one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from explore.page_browser import Opened, axe
from explore.page_data import SPECIAL, VOCABULARY, window, write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
TOKEN = "s3cret-token"


class Scripted(SimpleHTTPRequestHandler):
    """The site's files, and answers that say what was asked."""

    asked: list[tuple[str, dict[str, Any]]]
    windows: list[dict[str, Any]]
    let_go: Event
    last: dict[str, Any] | None = None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        status, answer = 200, getattr(self, self.path.rsplit("/", 1)[1])(body)
        if self.headers["X-Unmix-Token"] != TOKEN:
            status, answer = 403, {"error": "X-Unmix-Token is missing; open the address that unmix printed last"}
        elif body.get("text") == "busy":
            status, answer = 429, {"error": "four requests are waiting already; ask again in a moment"}
        if status == 200 and body.get("stream"):
            return self.tell(answer)
        said = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def tell(self, answer: dict[str, Any]) -> None:
        """What is predicted; once it is let go, what is written, in two pieces that end in the midst of a line."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        written = {"generated": answer["generated"]}
        lines = [answer | {"generated": {"plain": [], "changed": []}}, written, self.last or answer]
        said = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        cut = said.index(b"\n") + 20
        self.wfile.write(said[:cut])
        self.let_go.wait(20)
        self.wfile.write(said[cut:])

    def prompt(self, body: dict[str, Any]) -> dict[str, Any]:
        words = [(SPECIAL, "<|endoftext|>"), (23, " the"), (500, "<img src=x onerror=window.hacked=1>")]
        tokens = [
            {"id": k, "bytes": text, "norm": 3.0, "err": 0.1, "masked": not n} for n, (k, text) in enumerate(words)
        ]
        active: list[list[Any]] = [[], [[11, 4.0], [7, 1.0]], [[12, 2.0]]]
        return {
            "tokens": [token | {"f": f, "more": 0} for token, f in zip(tokens, active, strict=True)],
            "truncated": False,
        }

    def intervene(self, body: dict[str, Any]) -> dict[str, Any]:
        following = [[24, " cat", 0.5], [501, "<script>", 0.25]]
        written = {side: [{"id": k, "bytes": VOCABULARY[k].decode()}] for side, k in (("plain", 24), ("changed", 25))}
        both = {"next": {"plain": following, "changed": following[::-1]}, "generated": written}
        return {"kl": [0.0, 0.5, 0.1], "delta_logp": [0.2, -1.5, None], "cut": False, "truncated": False, **both}

    def feature(self, body: dict[str, Any]) -> dict[str, Any]:
        first = body["offset"]
        return {"windows": self.windows[first : first + 2], "total": len(self.windows)}

    def log_message(self, *args: Any) -> None:
        pass


class Served:
    def __init__(self, opened: Opened, address: str, handler: type[Scripted]) -> None:
        self.opened, self.address, self.handler = opened, address, handler
        self.page: Page = opened.page

    def go(self, view: str) -> Page:
        """Opens a view in a tab that was given the token."""
        self.page.goto(f"{self.address}/#token={TOKEN}")
        self.page.locator("main").wait_for()
        assert "token" not in self.page.url
        self.page.evaluate("view => { location.hash = view; }", view)
        self.page.wait_for_timeout(100)
        self.opened.settle()
        return self.page


@pytest.fixture
def served(browser: Browser, tmp_path: Path) -> Iterator[Served]:
    truth = write_site(tmp_path, server=True)
    f_ST = truth.f_STF["l0-2"][:, :, 11]
    places = [(s, p) for s in range(12) for p in range(1, 48) if f_ST[s, p] > 0]
    windows = [window(truth, f_ST, s, p) for s, p in places[:15]]
    for w in windows:  # a server sends the ids too
        w["ids"] = truth.ids_ST[w["s"], w["p"] : w["p"] + w["n"]].tolist()
    let_go = Event()
    let_go.set()
    handler = type("Handler", (Scripted,), {"asked": [], "windows": windows, "let_go": let_go})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    opened = Opened(browser, tmp_path, offline=False, bypass_csp=False)
    yield Served(opened, f"http://127.0.0.1:{server.server_port}", handler)
    opened.context.close()
    server.shutdown()
    server.server_close()
    thread.join()
    errors = [error for error in opened.errors if "status of 4" not in error]  # Chromium notes refusals in its console
    assert not errors, errors


def test_a_prompt_shows_its_tokens_and_their_features(served: Served) -> None:
    page = served.go("#/m/l0-2/prompt")
    page.locator("#prompt").fill("the <img>")
    page.keyboard.press("Control+Enter")
    page.locator(".text-box").wait_for()
    assert served.handler.asked == [("/api/prompt", {"member": "l0-2", "text": "the <img>"})]
    assert page.locator(".text-box").text_content() == "<|endoftext|> the<img src=x onerror=window.hacked=1>"
    assert page.locator(".token-features tbody tr").count() == 1  # of the last token
    page.locator(".text-box [data-at]").nth(1).click()
    assert page.locator(".token-features tbody tr td:first-child").all_inner_texts() == ["11", "7"]
    page.locator("button", has_text="colour").first.click()
    assert "h9" in page.locator(".text-box [data-at]").nth(1).get_attribute("class").split()
    assert page.evaluate("window.hacked") is None


def test_builtin_texts_are_a_start(served: Served) -> None:
    page = served.go("#/m/l0-2/prompt")
    assert page.locator(".top a", has_text="prompt").all_inner_texts() == ["prompt"]
    page.locator('.switch[aria-label="texts"] button', has_text="few").click()
    page.locator(".text-box").wait_for()
    assert page.locator("#prompt").input_value() == "the cat"
    assert served.handler.asked == [("/api/prompt", {"member": "l0-2", "text": "the cat"})]
    pressed = page.locator('.switch[aria-label="texts"] button[aria-pressed=true]')
    assert pressed.all_inner_texts() == ["a <b>few</b>"]
    page.locator("#prompt").fill("the cat sat")
    assert pressed.count() == 0


def test_features_are_changed_and_both_texts_stand_side_by_side(served: Served) -> None:
    page = served.go("#/m/l0-2/f/11")
    page.locator("a", has_text="steer").click()
    page.locator("#prompt").fill("the cat")
    page.locator("button", has_text="Show its features").click()
    page.locator(".text-box [data-at]").nth(1).click()
    page.locator(".acts button", has_text="change").last.click()  # feature 7
    page.get_by_label("What to do with feature 7").select_option("ablate")
    page.get_by_label("strength of feature 11").fill("-2.5")
    page.get_by_label("tokens to write").fill("12")
    page.locator(".switch button", has_text="position 1").click()
    page.locator("button", has_text="Run plain and changed").click()
    page.locator("h3", has_text="changed").wait_for()
    path, body = served.handler.asked[-1]
    assert path == "/api/intervene"
    assert body["changes"] == [
        {"feature": 11, "kind": "add", "strength": -2.5},
        {"feature": 7, "kind": "ablate", "strength": 1},
    ]
    assert (body["where"], body["generate"], body["seed"], body["text"]) == (1, 12, 0, "the cat")
    plain, changed = page.locator("section[aria-label=plain]"), page.locator("section[aria-label=changed]")
    assert plain.locator(".text-box").inner_text() == VOCABULARY[24].decode()
    assert changed.locator("tbody tr").first.inner_text().split() == ["<script>", "25", "%"]
    shift = page.locator(".steer figure .text-box span[title][class]").all()
    assert [span.get_attribute("class") for span in shift] == ["h3", "b9"]
    assert page.evaluate("window.hacked") is None


def test_what_is_written_comes_as_it_is_written(served: Served) -> None:
    page = served.go("#/m/l0-2/prompt?steer=11")
    page.locator("#prompt").fill("the cat")
    served.handler.let_go.clear()
    run = page.locator("button.main", has_text="Run")
    run.click()
    changed = page.locator("section[aria-label=changed]")
    changed.locator("tbody tr").first.wait_for()
    assert changed.locator("tbody tr").first.inner_text().split() == ["<script>", "25", "%"]
    assert changed.locator(".text-box").count() == 0
    assert run.is_disabled()
    assert page.locator("[aria-live][aria-busy=true]").count() == 1
    served.handler.let_go.set()
    changed.locator(".text-box").wait_for()
    assert changed.locator(".text-box").inner_text() == VOCABULARY[25].decode()
    page.locator("button.main:enabled", has_text="Run").wait_for()
    assert page.locator("[aria-live][aria-busy=false]").count() == 1
    assert page.locator(".failure").count() == 0


def test_what_goes_wrong_while_it_writes_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.handler, "last", {"error": "the server is stopping"})
    page = served.go("#/m/l0-2/prompt?steer=11")
    page.locator("#prompt").fill("the cat")
    page.locator("button.main", has_text="Run").click()
    page.locator(".failure", has_text="the server is stopping").wait_for()
    assert page.locator("section[aria-label=plain] .text-box").inner_text() == VOCABULARY[24].decode()
    page.locator("button.main:enabled", has_text="Run").wait_for()


def test_more_examples_come_from_the_store(served: Served) -> None:
    page = served.go("#/m/l0-2/f/11")
    top = page.locator(".rows li").count()
    page.locator("button", has_text="More examples").click()
    page.wait_for_function("n => document.querySelectorAll('.rows li').length === n", arg=top + 2)
    path, body = served.handler.asked[-1]
    assert (path, body) == (
        "/api/feature",
        {"member": "l0-2", "feature": 11, "offset": top, "limit": 50, "order": "top"},
    )


def test_more_examples_that_repeat_a_text_are_grey(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.handler, "windows", [served.handler.windows[0]] * 40)
    page = served.go("#/m/l0-2/f/11")
    before = page.locator(".rows li.again").count()
    top = page.locator(".rows li").count()
    page.locator("button", has_text="More examples").click()
    page.wait_for_function("n => document.querySelectorAll('.rows li').length === n", arg=top + 2)
    assert page.locator(".rows li.again").count() in (before + 1, before + 2)  # the second for certain


def test_refusals_are_one_line_on_the_page(served: Served) -> None:
    page = served.go("#/m/l0-2/prompt")
    page.locator("#prompt").fill("busy")
    page.locator("button", has_text="Show its features").click()
    page.locator(".failure", has_text="ask again in a moment").wait_for()
    page.evaluate("sessionStorage.clear()")
    page.locator("#prompt").fill("x")
    page.locator("button", has_text="Show its features").click()
    page.locator(".failure", has_text="open the address that unmix printed last").wait_for()


def test_axe_finds_nothing_serious_when_served(browser: Browser, served: Served) -> None:
    source = axe()
    page = served.go("#/m/l0-2/prompt?steer=11")
    page.locator("#prompt").fill("the cat")
    page.locator("button", has_text="Show its features").click()
    page.locator(".token-features").wait_for()
    page.locator("button", has_text="Run plain and changed").click()
    page.locator("h3", has_text="changed").wait_for()
    page.evaluate(source)
    found = page.evaluate("async () => (await axe.run({preload: false})).violations.map(v => [v.impact, v.id])")
    assert not [row for row in found if row[0] in ("serious", "critical")]
