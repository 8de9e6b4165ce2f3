"""Dictionaries on the Hugging Face hub: `OWNER/REPO[@REVISION][/SUB/FOLDER]`, kept in the hub's own cache.

What stands on this disk under the name comes first; `hf://OWNER/REPO…` is the hub's in any case. A release of SAELens,
`gpt2-small-res-jb/blocks.8.hook_resid_pre`, is looked up in SAELens' own table where that is installed. Of a repository
no more is downloaded than the files of the one folder, or the one file, and those that say how to read it; the weights
last, so that weights in the cache have everything beside them. `huggingface_hub` does the transfers, with its settings
(HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from unmix.dictionary.files import CONFIG, WEIGHTS
from unmix.disk import REFUSALS, at_home
from unmix.errors import UserError
from unmix.interop import releases
from unmix.interop.hub_files import Asked, needed, weights_last
from unmix.interop.source import IN_CACHE

Say = Callable[[str], None]
SCHEME = re.compile(r"hf:/{1,2}")  # as a path, // becomes /
_PART = r"\w[\w.-]*"
_ID = re.compile(rf"({_PART})/({_PART})(?:@([^/]+))?(?:/(.+?))?/?")
_SECONDS_TO_ANSWER = 20
_RESULTS = Path("runs")
_said: set[str] = set()


class Fetched(NamedTuple):
    """What lies in the hub's cache."""

    path: Path
    """The folder or file that was asked for."""
    snapshot: Path
    """The repository at its commit, as far as it was downloaded."""
    names: list[str]
    """In it: the files that make up what was asked for."""


def folder_of(
    name: str | Path,
    subfolder: str | None = None,
    revision: str | None = None,
    *,
    pickles: bool = False,
    say: Say | None = None,
) -> Path:
    """The folder or file on this disk for a path, an id of the hub or a release of SAELens; downloaded if need be.

    `pickles`: `.pt` files are wanted too. `say` is given what the user should know; without it, that is a warning. A
    path that is neither here nor looks like an id is answered as it is. Raises `UserError` as `fetch`.
    """
    say = say or _warn
    text = str(name)
    if not SCHEME.match(text):
        here = Path(text)
        if here.exists():
            return _meant(_here(here, subfolder, revision, say))
    asked = asked_of(text, subfolder, revision, say)
    return Path(text) if asked is None else _meant(fetch(asked, pickles=pickles, say=say).path)


def kept_of(name: Path) -> Path:
    """Where what is made of a dictionary is kept: its own folder; for a file the folder beside it of its name without
    the ending; `runs/OWNER--REPO--SUB--FOLDER` for one on the hub, whose cache is left as it is."""
    asked = None if name.exists() else asked_of(str(name))
    if asked is not None:
        return _RESULTS / str(asked).replace("/", "--")
    meant = _meant(name)
    return meant.with_suffix("") if meant.is_file() else meant


def _meant(path: Path) -> Path:
    """The folder for its `sae_weights.safetensors`, which its cfg.json explains; any other path as it is."""
    return path.parent if path.name == WEIGHTS and (path.parent / CONFIG).is_file() else path


def named_on_the_hub(path: Path) -> str | None:
    """What a folder or file of the hub's cache is called in its repository, whose own name a root has; None: another
    path."""
    found = place_on_the_hub(path)
    return None if found is None else found[1].rpartition("/")[2] or found[0].rpartition("/")[2]


def place_on_the_hub(path: Path) -> tuple[str, str] | None:
    """(OWNER/REPO, path within it) of a folder or file of the hub's cache; None: another path."""
    whole = path.absolute()  # a file of the cache is a link to a blob: what it resolves to says nothing
    found = IN_CACHE.search(whole.as_posix())
    return None if found is None else (f"{found[1]}/{found[2]}", (found[3] or "").strip("/"))


def asked_of(
    name: str, subfolder: str | None = None, revision: str | None = None, say: Say = lambda text: None
) -> Asked | None:
    """What the words mean on the hub; None: a path. Raises `UserError` for a release without its table."""
    scheme = SCHEME.match(name)
    plain = name[scheme.end() :] if scheme else name
    if not scheme:
        release, _, rest = plain.partition("/")
        if re.fullmatch(_PART, release) and not Path(release).exists():
            found = releases.find(release, "/".join(filter(None, (rest, subfolder))), say)
            if found is not None:
                return Asked(*found, revision)
            if "/" not in plain and subfolder is not None:
                raise releases.unknown(release)
    parts = _ID.fullmatch(plain)
    if parts is None or (not scheme and Path(parts[1]).exists()):  # a slip in a path asks no one else
        if scheme:
            raise UserError(f"{name} names nothing on the hub; write hf://OWNER/REPO[@REVISION][/SUB/FOLDER]")
        return None
    owner, repo, at, within = parts.groups()
    if at and revision and at != revision:
        raise UserError(f"{name} says revision {at}, and revision = {revision} is given too; give one")
    whole = "/".join(filter(None, (within, (subfolder or "").strip("/"))))
    return Asked(f"{owner}/{repo}", whole, at or revision)


def endpoint() -> str | None:
    """Where the hub is; None: where its client thinks, which reads HF_ENDPOINT once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def one_line(asked: Asked | str) -> Iterator[None]:
    """What the hub's client raises, as one line with a remedy; what says that it was not reached, as `Unreached`."""
    from huggingface_hub import errors

    repo = asked.repo if isinstance(asked, Asked) else asked
    login = "`hf auth login`, or set HF_TOKEN"
    network: tuple[type[Exception], ...] = (errors.HfHubHTTPError.__mro__[1], OSError)  # of the library it talks with
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{repo} is gated: ask for access on its page on the hub, then log in with {login}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub shows no {repo} here: there is none of that name, or it is private; "
            f"mend the name, or log in with {login}{releases.perhaps() if isinstance(asked, Asked) else ''}"
        ) from None
    except errors.RevisionNotFoundError:
        at = asked.revision if isinstance(asked, Asked) else None
        raise UserError(f"{repo} has no revision {at}; give one of its branches, tags or commits") from None
    except errors.HFValidationError as error:
        raise UserError(f"{repo} is no id of the hub ({cause(error)}); write OWNER/REPO") from None
    except errors.OfflineModeIsEnabled:
        raise Unreached("HF_HUB_OFFLINE is set") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise UserError(f"the hub refuses {repo} ({status}); log in with {login} as one who may") from None
        if status >= 500 or not status:
            raise Unreached(f"it answers {status}" if status else cause(error)) from None
        raise UserError(f"the hub refuses {repo}: {error.server_message or cause(error)}; mend that") from None
    except network as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:  # of this disk
            raise
        raise Unreached(cause(error)) from None


def cause(error: BaseException) -> str:
    """The first line of what an error says, cut short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Unreached(Exception):
    """The hub could not be asked."""


def _here(here: Path, subfolder: str | None, revision: str | None, say: Say) -> Path:
    """The path, which is there, and what of it was asked for."""
    parts = _ID.fullmatch(str(here))
    there = f", or write hf://{here} for the repository on the hub" if parts else ""
    if revision is not None:
        raise UserError(f"{here} is on this disk, which has no revision {revision}; leave the revision out{there}")
    inside = here if subfolder is None else here / subfolder
    if not inside.exists():
        raise UserError(f"{here} is on this disk and has no {subfolder}; mend that{there}")
    if parts and (_cache() / f"models--{parts[1]}--{parts[2]}").is_dir():
        _once(say, f"{inside} on this disk is read; hf://{here} is the repository on the hub")
    return inside


def fetch(asked: Asked, *, pickles: bool = False, every: bool = False, say: Say) -> Fetched:
    """Bring what is asked for into the hub's cache, as far as it is not there.

    `every`: all files of weights in the folder, pickles too, where otherwise one is wanted. Raises `UserError` if the
    hub has no such repository, revision or folder, asks for a token, or cannot be reached and the files are not in the
    cache.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise UserError(
            f"{asked} is on the hub, which is read with huggingface_hub: pip install huggingface_hub"
        ) from None

    try:
        with one_line(asked):
            api = HfApi(endpoint=endpoint())
            commit = api.model_info(asked.repo, revision=asked.revision, timeout=_SECONDS_TO_ANSWER).sha
            tree = api.list_repo_tree(asked.repo, recursive=True, revision=commit)
            sizes = {file.path: int(file.size) for file in tree if hasattr(file, "size")}
            names = needed(asked, sizes, pickles, every)
            for group in weights_last(names):
                at = snapshot_download(
                    asked.repo,
                    revision=asked.revision,
                    allow_patterns=[_literally(name) for name in group],
                    endpoint=endpoint(),
                )
                if Path(at).name != commit:  # a part of each state would be read as one
                    raise UserError(f"{asked.repo} was changed on the hub while it was read; give the same words again")
    except Unreached as why:
        return _from_cache(asked, pickles, every, str(why), say)
    return Fetched(Path(at) / asked.within, Path(at), names)


def _from_cache(asked: Asked, pickles: bool, every: bool, why: str, say: Say) -> Fetched:
    from huggingface_hub import errors, snapshot_download

    remedy = f"the hub cannot be reached ({why}); connect, and the same words download it{releases.perhaps()}"
    if every:
        raise UserError(f"of {asked} the hub's cache may hold a part only, and {remedy}")
    try:
        at = Path(snapshot_download(asked.repo, revision=asked.revision, allow_patterns=[], local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError):
        raise UserError(f"{asked} is not in the hub's cache, and {remedy}") from None
    there = {file.relative_to(at).as_posix(): file.stat().st_size for file in at.rglob("*") if file.is_file()}
    try:
        names = needed(asked, there, pickles, every)
    except UserError:
        raise UserError(f"{asked} is not whole in the hub's cache, and {remedy}") from None
    say(f"the hub cannot be reached ({why}): {asked} is read from its cache, commit {at.name[:12]}")
    return Fetched(at / asked.within, at, names)


def _literally(name: str) -> str:
    """The name as a pattern that fits nothing else."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _cache() -> Path:
    """Where the hub's client keeps what it downloads, as it says itself."""
    named = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return at_home(Path(named)) if named else at_home(Path(home)) / "hub"


def _once(say: Say, text: str) -> None:
    """Say it, if this process has not: one command may open a folder several times."""
    if text not in _said:
        _said.add(text)
        say(text)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
