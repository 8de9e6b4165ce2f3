"""A dictionary to the Hugging Face hub: `cfg.json`, `sae_weights.safetensors`, `samples.safetensors` where it is there,
`README.md`, and nothing else.

In one commit, on top of the one that was looked at, so that nothing is overwritten that came between. A file that the
repository has is not replaced unless that is asked for; the hub's history keeps it then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unmix.dictionary.files import CONFIG, WEIGHTS
from unmix.dictionary.samples import FILE as SAMPLES
from unmix.errors import UserError
from unmix.interop.card import card, config_to_send
from unmix.interop.hub import Unreached, cause, endpoint, one_line
from unmix.interop.saelens import SCALER, unfolded
from unmix.runlog import newest_checkpoints, read_choices

README = "README.md"
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Parcel(NamedTuple):
    """What is sent, and where."""

    repo: str
    folder: Path
    files: dict[str, bytes | Path]
    """Path in the repository -> its content, or the file that has it."""
    card: str
    cut: list[str]
    """Paths of this machine that are cut to their last part in what is sent."""

    def size(self, name: str) -> int:
        """Bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def prepare(folder: Path, repo: str, licence: str | None, within: str = "") -> Parcel:
    """What would be sent of a dictionary's folder, or of a run's choice. Reads, and asks no one.

    Raises `UserError` without a licence, for an id that is none, and for a folder that cannot be sent, or is not whole
    without a file that is not.
    """
    if not _ID.fullmatch(repo):
        raise UserError(f"{repo} is no id of the hub; write OWNER/REPO")
    if licence is None:
        raise UserError(
            "others may not use what has no licence; give --license apache-2.0, mit, cc-by-4.0 or what you decide "
            "(the hub's ids: https://huggingface.co/docs/hub/repositories-licenses)"
        )
    if not _LICENCE.fullmatch(licence):
        raise UserError(f"--license {licence!r:.60} is no id of a licence; write apache-2.0, mit, cc-by-4.0 …")
    if within and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", within):
        raise UserError(f"--into {within} is no folder of a repository; write layer_3 or sweep/l0-40")
    folder = _dictionary(folder)
    if unfolded(folder):
        raise UserError(
            f"{folder} acts on x times the factor in {SCALER}, which is not sent; "
            f"`unmix convert {folder} FOLDER` brings it into the weights: send FOLDER"
        )
    text = card(folder, repo, within, licence)
    config, cut = config_to_send(folder / CONFIG)
    at = f"{within}/" if within else ""
    files: dict[str, bytes | Path] = {f"{at}{CONFIG}": config, f"{at}{WEIGHTS}": folder / WEIGHTS}
    if (folder / SAMPLES).is_file():
        files[f"{at}{SAMPLES}"] = folder / SAMPLES
    return Parcel(repo, folder, files | {f"{at}{README}": text.encode()}, text, cut)


def push(parcel: Parcel, *, private: bool, replace: bool, say: Callable[[str], None]) -> str:
    """Send it; answers the address of the commit.

    Raises `UserError` if the hub refuses, or cannot be reached, or has one of the files and `replace` is not given, or
    if the repository is public and `private` is.
    """
    try:
        with one_line(parcel.repo):
            return _send(parcel, private, replace, say)
    except Unreached as why:
        raise UserError(f"the hub cannot be reached ({why}); nothing was committed: connect and try again") from None
    except RuntimeError as error:  # how its client reports an upload that failed
        raise UserError(
            f"an upload to {parcel.repo} failed ({cause(error.__cause__ or error)}); nothing was committed: try again"
        ) from None
    except ValueError as error:  # the hub's answer to a card whose YAML it does not take
        if README not in str(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise UserError(f"the hub refuses the card of {parcel.repo} ({said}); mend --license") from None


def _send(parcel: Parcel, private: bool, replace: bool, say: Callable[[str], None]) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint())
    # None: the hub's own default, which an organisation may set
    api.create_repo(parcel.repo, private=private or None, exist_ok=True)
    info = api.model_info(parcel.repo)
    if private and info.private is False:
        raise UserError(
            f"{parcel.repo} is there and public, so nothing was sent; make it private on its page on the hub, or leave "
            "--private out"
        )
    there = [name for name in parcel.files if name in set(api.list_repo_files(parcel.repo, revision=info.sha))]
    if there and not replace:
        raise UserError(
            f"{parcel.repo} has {', '.join(there)} already, so nothing was sent; give --into FOLDER for another place, "
            "or --replace (the hub's history keeps the earlier ones)"
        )
    if there:
        say(f"replacing {', '.join(there)}; the hub's history keeps the earlier ones")
    done = api.create_commit(
        parcel.repo,
        [CommitOperationAdd(name, content) for name, content in parcel.files.items()],
        commit_message=f"A dictionary of unmix ({parcel.folder.name})",
        parent_commit=info.sha,
    )
    return str(done.commit_url)


def _dictionary(folder: Path) -> Path:
    """The folder of one dictionary; of a run, the newest checkpoint of its choice."""
    if (folder / "run.yaml").is_file():
        chosen = [choice["member"] for choice in read_choices(folder) if choice.get("member")]
        newest = newest_checkpoints(folder)
        if len(chosen) != 1:
            raise UserError(
                f"{folder} is a run with {len(chosen)} choices; give one checkpoint of it"
                + (f", such as {next(iter(newest.values()))}" if newest else "")
            )
        name = f"{chosen[0]}-extended" if f"{chosen[0]}-extended" in newest else chosen[0]
        if name not in newest:
            raise UserError(f"{folder} has no checkpoint of its choice, {name}; train it with `unmix sweep`")
        return newest[name]
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise UserError(
            f"{folder} has no {missing[0]}: what is sent is a folder of unmix or SAELens; `unmix convert` makes one of "
            "another library's"
        )
    return folder
