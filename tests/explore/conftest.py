"""A run that was explored, for the tests of the explorer."""

import contextlib
import shutil
from pathlib import Path

import pytest
from explore.page_browser import chromium
from explore.page_data import write_site
from explore.scripted_endpoint import Model
from explore.tiny_explored import TOKENS, train, write_page

from unmix.explore import build as building
from unmix.explore import harvest, pages
from unmix.explore.build import Wanted, build


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """`run`, and its whole build in `out`; nothing may write to either."""
    base = tmp_path_factory.mktemp("explored")
    with pytest.MonkeyPatch.context() as patch:
        _small(patch, base, write_page(base / "page"))
        build(train(base), base / "out", Wanted(tokens=TOKENS), [].append)
    return base


@pytest.fixture
def small_shards(explored, monkeypatch):
    """As it was built: shards of 5 sequences, batches of 2, a page of one line, the same cache."""
    _small(monkeypatch, explored, explored / "page")


def _small(patch, base, page):
    patch.setenv("UNMIX_CACHE", str(base / "cache"))
    for where in (harvest, building):
        patch.setattr(where, "SHARD_TOKENS", 80)
    patch.setattr(building, "sequences_at_once", lambda T, vocabulary: 2)
    patch.setattr(pages, "PAGE", page)


@pytest.fixture
def whole(explored):
    return explored / "out"


@pytest.fixture
def folder(explored):
    return explored / "run"


@pytest.fixture
def own(explored, tmp_path):
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(explored / "run", tmp_path / "run"))


@pytest.fixture
def out(explored, tmp_path):
    """A copy of the whole build, to be changed."""
    return Path(shutil.copytree(explored / "out", tmp_path / "out"))


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A made-up site, and what is true of it."""
    folder = tmp_path_factory.mktemp("site")
    return folder, write_site(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from explore.server_client import make_served  # needs Starlette

    return make_served(tmp_path_factory.mktemp("explore") / "site")


@pytest.fixture(scope="module")
def running(served):
    from explore.server_client import Running

    made = Running(served)
    yield made
    made.close()


@pytest.fixture
def model():
    """A language model's endpoint, scripted: called with what it answers."""
    with contextlib.ExitStack() as stack:

        def make(answer):
            made = Model(answer)
            stack.callback(made.close)
            return made

        yield make
