"""The explorer's page in a browser: how long a reader waits, beside the targets of the issue that asked for it.

    python page.py --rounds 15 --json results         from file://, 16,384 and 131,072 features; the served page
    python page.py --gpt2                             the served page on a model of the shape of GPT-2 small too
    python page.py --run runs/demo                    … on a run whose explorer was built

Needs Chromium and Playwright. Every time is by the page's own clock, from the event that a reader causes to the end of
the frame that shows what was asked for: a frame is up to 17 ms, and is in every number. `usable list`: from the start
of the navigation, the browser's cache empty. `open a feature`: the first one of its file, which is read and unpacked;
`next by key`: the one after it. A search is typed, letter by letter, into a list that has stood for a second.

Sites are those of the tests (`tests/explore/page_data.py`), with as many features a file as built ones have. Their
index is whole; texts and examples are short. The served page is answered by the real server, in this process: the model
as it is, a random TopK dictionary of 16,384 features and L0 45. `first token`: of a text of 64 tokens that is
continued, plain and changed, from the click to the first token of both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
import numpy as np
import page_data
from common import machine, markdown

from unmix.explore import pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from unmix.explore.server_api import Served

FEATURES, L0, TOKENS = 16_384, 45, 64
TOKEN = "benchmark"
PROSE = "The river had risen in the night, and by morning the lower fields were a lake with trees standing in it. "
TARGETS = {
    "usable list, 16k": 500, "usable list, 131k": 1500, "open a feature": 100, "next by key": 100, "search, 16k": 50,
    "prompt of 64 tokens, embedded": 300, "prompt of 64 tokens, GPT-2 shape": 1000,
    "first token, embedded": 500, "first token, GPT-2 shape": 1000,
}  # fmt: skip
"""Milliseconds at most, of the median."""

# the frame after the one in which `there()` first holds; a change of the page is looked at as it happens
WAIT = """
window.benchmarkWhen = (there) => new Promise((resolve) => {
  const drawn = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
  if (there()) return drawn();
  const seen = new MutationObserver(() => there() && (seen.disconnect(), drawn()));
  seen.observe(document, { childList: true, subtree: true, characterData: true, attributes: true });
});
window.benchmarkList = window.benchmarkWhen(() => document.querySelector(".virtual .row"));
"""
FEATURE = """async ([i, key]) => {
  const began = performance.now();
  if (key) document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  else [...document.querySelectorAll(".virtual .c-index a")].find((a) => a.textContent === String(i)).click();
  const title = () => document.querySelector("h1")?.textContent;
  const shown = () => title() === `Feature ${i}` && document.querySelector(".rows li");
  return (await benchmarkWhen(shown)) - began;
}"""
SEARCH = """async (text) => {
  const box = document.querySelector("#search"), began = performance.now();
  box.value = text;
  box.dispatchEvent(new InputEvent("input", { bubbles: true }));
  return (await benchmarkWhen(() => box.value === text)) - began;
}"""
PROMPT = """async () => {
  const began = performance.now();
  document.querySelector(".prompt button").click();
  return (await benchmarkWhen(() => document.querySelector(".token-features h2"))) - began;
}"""
STEER = """async () => {
  const began = performance.now();
  [...document.querySelectorAll(".steer button.main")].at(-1).click();
  const written = () => document.querySelectorAll(".steer section[aria-label] p.text-box").length === 2;
  return (await benchmarkWhen(written)) - began;
}"""


class Row(NamedTuple):
    """What was measured, in milliseconds."""

    what: str
    target: int
    median: float
    ninth: float
    """Nine tenths are below."""
    least: float
    most: float
    n: int

    @property
    def met(self) -> bool:
        return self.median <= self.target


def row(what: str, times: list[float]) -> Row:
    """Of the times that one thing took."""
    median, ninth = np.quantile(times, [0.5, 0.9]).tolist()
    return Row(what, TARGETS[what], median, ninth, min(times), max(times), len(times))


def write_site(folder: Path, features: int) -> None:
    """A site of so many features, of which the first file is there, as large as a built one."""
    page_data.write_large(folder, features)
    t, rng = page_data.truth(), np.random.default_rng(2)
    records = [page_data.feature(t, "l0-2", "l0-4", i, rng) for i in range(40)]
    page_data.put(folder, "l0-2/f/00000", [records[i % 40] | {"i": i} for i in range(pages.FEATURES)])
    shards = {"shards": {"features": pages.FEATURES, "sequences": page_data.PAGES}}
    member = page_data.member(t, "l0-2") | {"features": features, "described": 0} | shards
    page_data.put(folder, "manifest", page_data.manifest(t, [member]), plain=True)


@contextlib.contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page of a context of its own: nothing is cached."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(WAIT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    if errors:
        raise SystemExit(f"the page threw: {errors[0]}")


def from_folder(browser: Browser, folder: Path, rounds: int) -> list[Row]:
    """Sites of two sizes from file://."""
    times: dict[str, list[float]] = {}
    sites = {"16k": folder / "16k", "131k": folder / "131k"}
    for size, site in sites.items():
        write_site(site, FEATURES if size == "16k" else 8 * FEATURES)
    for number in range(rounds + 1):
        for size, site in sites.items():
            with opened(browser) as page:
                page.goto((site / "index.html").as_uri() + "#/m/l0-2?alive=all")
                found = {f"usable list, {size}": [page.evaluate("() => benchmarkList")]}
                if size == "16k":
                    page.wait_for_timeout(1000)
                    found["search, 16k"] = [page.evaluate(SEARCH, text) for text in ("d", "de", "def", "")]
                    found["open a feature"] = [page.evaluate(FEATURE, [5, ""])]
                    found["next by key"] = [page.evaluate(FEATURE, [i, "j"]) for i in (6, 7, 8)]
            keep(times, found, number)
        tell(number, rounds)
    return [row(what, of) for what, of in times.items()]


def keep(times: dict[str, list[float]], found: dict[str, list[float]], number: int) -> None:
    """The first round warms up, and does not count."""
    for what, of in found.items():
        times.setdefault(what, []).extend(of if number else [])


def tell(number: int, rounds: int) -> None:
    print(f"round {number} of {rounds}{'' if number else ' (warm-up)'}", file=sys.stderr)


def made_up(folder: Path, checkpoint: str, hook: str) -> Served:
    """A model with a random dictionary, and the site of the tests before it."""
    from unmix.activations.mask import Mask
    from unmix.config import MaskConfig, ModelConfig
    from unmix.dictionary.model import new_dictionary
    from unmix.dictionary.nonlinearities import TopK
    from unmix.explore.server_api import Member, Served
    from unmix.explore.token_bytes import bytes_of
    from unmix.lm.model import load_language_model

    lm = load_language_model(ModelConfig(name=checkpoint))
    write_site(folder, FEATURES)
    sae = new_dictionary(lm.width, FEATURES, 1.0, 0, TopK(L0, weigh_by_norm=False)).requires_grad_(False)
    member = Member("l0-2", hook, sae, Mask(MaskConfig(special=True, norm_above=None), [0], 0.0), folder)
    return Served(lm, bytes_of(lm.tokenizer), {"l0-2": member}, lambda name, request: {"windows": [], "total": 0})


@contextlib.contextmanager
def running(served: Served) -> Iterator[str]:
    """The real server, in a thread; its address."""
    from unmix.explore import server_app
    from unmix.explore.server import listen
    from unmix.explore.server_worker import Worker

    workers, listening = server_app.Workers(Worker(), Worker()), listen(0)
    app = server_app.application(served, next(iter(served.members.values())).site, TOKEN, workers)
    server = server_app.server(app, workers)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        workers.close()


def text_of(served: Served) -> str:
    """Prose of 64 tokens, BOS included: by one character more at a time."""
    from unmix.explore.prompt import prompt_ids

    text = PROSE * 8
    return next(text[:n] for n in range(len(text)) if len(prompt_ids(served.lm, text[:n]).ids_T) == TOKENS)


def as_served(browser: Browser, served: Served, shape: str, rounds: int) -> list[Row]:
    """A prompt, and the first token of a changed text, of the member that is served first."""
    name, member = next(iter(served.members.items()))
    feature = max(range(member.sae.features), key=lambda i: member.maximum_F[i] or 0)
    text, times = text_of(served), dict[str, list[float]]()
    with running(served) as address:
        for number in range(rounds + 1):
            with opened(browser) as page:
                page.goto(f"{address}/#token={TOKEN}")
                page.locator("main").wait_for()
                page.evaluate("view => { location.hash = view; }", f"#/m/{name}/prompt?steer={feature}")
                page.locator("#prompt").fill(text)
                found = {f"prompt of 64 tokens, {shape}": [page.evaluate(PROMPT)]}
                found[f"first token, {shape}"] = [page.evaluate(STEER)]
                page.locator(".steer [aria-busy=false]").wait_for()
            keep(times, found, number)
            tell(number, rounds)
    return [row(what, of) for what, of in times.items()]


def of_run(run: Path) -> Served:
    """What `unmix explore RUN` would answer from."""
    from unmix.explore.server_open import open_served

    return open_served(run, run / "explore", model=None, corpus=None, hook=None, say=lambda line: None)


def measure(args: argparse.Namespace, browser: Browser, folder: Path) -> list[Row]:
    """Everything that was asked for."""
    rows = from_folder(browser, folder, args.rounds)
    served = of_run(args.run) if args.run else made_up(folder / "embedded", "embedded", "resid_post.3")
    rows += as_served(browser, served, "embedded", args.rounds)
    if args.gpt2:
        from gpt2 import make_checkpoint

        make_checkpoint(folder / "checkpoint")
        served = made_up(folder / "gpt2", str(folder / "checkpoint"), "resid_post.5")
        rows += as_served(browser, served, "GPT-2 shape", args.rounds)
    return rows


def report(rows: list[Row], browser: str, out: Path | None) -> None:
    """The table; and as JSON, if there is a folder for it."""
    cells = [
        [
            one.what,
            f"{one.median:.0f} ms",
            f"{one.ninth:.0f} ms",
            f"{one.least:.0f} to {one.most:.0f}",
            one.n,
            f"{one.target} ms",
            "yes" if one.met else "**no**",
        ]
        for one in sorted(rows, key=lambda one: list(TARGETS).index(one.what))
    ]
    print(markdown(["what", "median", "90 %", "least to most", "n", "target", "met"], cells))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        said = {"script": "page.py", "machine": machine() | {"browser": browser}}
        said["rows"] = [one._asdict() | {"met": one.met} for one in rows]
        (out / "page.json").write_text(json.dumps(said, indent=1) + "\n")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="DIR", help="write the results to DIR/page.json")
    parser.add_argument("--run", type=Path, help="serve this run, instead of a random dictionary")
    parser.add_argument("--gpt2", action="store_true", help="a model of the shape of GPT-2 small too")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        rows = measure(args, browser, Path(folder))
        report(rows, browser.version, args.json)
        browser.close()


if __name__ == "__main__":
    main()
