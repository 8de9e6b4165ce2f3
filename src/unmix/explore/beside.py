"""Dictionaries of other runs, and of other libraries, whose features are matched with those that are explored.

    unmix explore RUN --build --beside OTHER …        OTHER: a run, a member of one, or whatever `load_sae` opens

A match is the largest cosine of decoder rows (`geometry.matches`), so both have to be of the same hook of the same
model, transcoders of the same two hooks. Each is named by the end of its run's path, or of the folder around it, and by
its own name: OTHER/l0-20. No value of the store depends on them: its manifest names them beside its `inputs`, and every
build matches anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unmix.dictionary.files import hook_of
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.explore.about import seeds_of
from unmix.explore.manifest import Manifest
from unmix.interop.hub import asked_of, folder_of
from unmix.interop.load import load_sae, newest, read
from unmix.lm.hooks import usual_name
from unmix.lm.model import LanguageModel
from unmix.runlog import newest_checkpoints, read_manifest

Say = Callable[[str], None]
Hooks = Mapping[str, Mapping[str, Dictionary]]
"""hook -> name -> SAE, of those that are explored."""
Outs = Mapping[str, str]
"""hook -> where the y of its transcoders is read."""


@dataclass(frozen=True)
class Beside:
    """A dictionary that is matched, and not shown."""

    name: str
    asked: str
    """What it was found by, for the next build."""
    path: Path
    hook: str
    features: int
    fingerprint: str
    seed: int | None
    """Of its training, where its run says it."""

    def load(self) -> Dictionary:
        """It is kept on disk until it is matched: several large ones would fill the memory."""
        return load_sae(self.path)

    @property
    def shown(self) -> dict[str, Any]:
        """What the page says of it."""
        return {"name": self.name, "hook": self.hook, "features": self.features, "seed": self.seed}

    @property
    def facts(self) -> dict[str, Any]:
        """What the store says of it, under its name."""
        return {key: getattr(self, key) for key in ("asked", "hook", "features", "fingerprint", "seed")}


class _Place(NamedTuple):
    """Where one of them lies, before it is opened."""

    asked: str
    path: Path
    around: Path
    """Its run; of any other the folder that it lies in."""
    own: str
    run: Path | None


def find_beside(
    asked: Sequence[Path] | None,
    there: Manifest | None,
    folder: Path,
    saes: Hooks,
    lm: LanguageModel,
    say: Say,
    outs: Outs,
) -> list[Beside]:
    """Those that are asked for; if nothing was said (None), those of the last build, which `there` names.

    Raises `UserError`, which names it, for one of another hook, width or model, for a transcoder beside SAEs or an SAE
    beside a transcoder, and for whatever `load_sae` does not open; also if nothing is left but what is explored.
    """
    if asked is not None:
        return _find(asked, folder, saes, lm, say, outs)
    rows = (there or {}).get("beside", {}).values()
    try:
        return _find([Path(row["asked"]) for row in rows], folder, saes, lm, say, outs)
    except UserError as error:
        raise UserError(f"{error}; the last build had it beside, and `--beside` alone leaves it out") from None


def _place_of(lm: LanguageModel, saes: Hooks, outs: Outs) -> Callable[[str], str]:
    """A hook's name among those that are explored, whose place may have several; the hook as it is, if it has none."""

    def usual(hook: str) -> str:
        with suppress(UserError):  # not of this model
            return usual_name(lm.model, hook)
        return hook

    explored = {usual(hook): hook for hook in (*saes, *outs.values())}
    return lambda hook: explored.get(usual(hook), hook)


def _find(asked: Iterable[Path], folder: Path, saes: Hooks, lm: LanguageModel, say: Say, outs: Outs) -> list[Beside]:
    names = list(dict.fromkeys(asked))
    called = _place_of(lm, saes, outs)
    places = {place.path: place for name in names for place in _places(name, saes, lm, say, called)}
    labels = _labels([_absolute(folder), *(place.around for place in places.values())])
    seeds = {run: seeds_of(run) for run in {place.run for place in places.values() if place.run is not None}}
    opened = [
        _open(place, f"{labels[place.around]}/{place.own}", saes, seeds, outs, called) for place in places.values()
    ]
    explored = {sae.fingerprint for members in saes.values() for sae in members.values()}
    found = [one for one in opened if one.fingerprint not in explored]
    if opened and not found:
        raise UserError(
            f"--beside {' '.join(map(str, names))} holds nothing but what is explored; give other dictionaries"
        )
    if same := [one.name for one in opened if one.fingerprint in explored]:
        say(f"among those explored, and not matched with itself: {', '.join(same)}")
    return found


def _places(name: Path, saes: Hooks, lm: LanguageModel, say: Say, called: Callable[[str], str]) -> list[_Place]:
    on_hub = None if name.exists() else asked_of(str(name))
    at = _absolute(folder_of(name, say=say))
    if on_hub is not None:
        whole = Path(str(on_hub))
        return [_Place(str(name), at, whole.parent, whole.name, None)]
    if (at / "run.yaml").exists():
        _require_model(at, lm)
        return _of_run(at, saes, say, called)
    path = newest(at)
    run = path.parents[2] if len(path.parents) > 2 and path.parents[1].name == "members" else None
    if run is not None and (run / "run.yaml").exists():
        _require_model(run, lm)
        return [_Place(str(at), path, run, path.parent.name, run)]
    return [_Place(str(at), path, path.parent, path.name, None)]


def _of_run(run: Path, saes: Hooks, say: Say, called: Callable[[str], str]) -> list[_Place]:
    """Every member at the hooks that are explored."""
    there = newest_checkpoints(run)
    if not there:
        raise UserError(f"--beside {run} has no checkpoint yet; train it with `unmix sweep`")
    hooks = {name: hook_of(path) for name, path in there.items()}
    kept = [name for name, hook in hooks.items() if called(hook) in saes]
    if not kept:
        raise _other_hook(run, ", ".join(dict.fromkeys(hooks.values())), saes)
    if others := len(hooks) - len(kept):
        say(f"{run}: {others} of its {len(hooks)} dictionaries are at other hooks, and not matched")
    return [_Place(str(run), there[name], run, name, run) for name in kept]


def _open(
    place: _Place,
    name: str,
    saes: Hooks,
    seeds: Mapping[Path, dict[str, int]],
    outs: Outs,
    called: Callable[[str], str],
) -> Beside:
    sae, made = read(place.path)
    if made.transcoder and not outs:
        raise UserError(f"--beside {place.path} is a transcoder, whose decoder writes elsewhere; give an SAE")
    if made.hook is None and len(saes) > 1:
        raise UserError(
            f"--beside {place.path} names no hook, and {', '.join(saes)} are explored; "
            "explore members of one (--member)"
        )
    hook = called(made.hook or next(iter(saes)))
    if hook not in saes:
        raise _other_hook(place.path, hook, saes)
    out = outs.get(hook)
    if out is not None and (called(made.hook_out or out) if made.transcoder else hook) != out:
        at = f"{hook} -> {made.hook_out}" if made.transcoder else f"{hook}, an SAE"
        raise UserError(
            f"--beside {place.path} is at {at}, and what is explored at {hook} -> {out}; give a transcoder of the same "
            "two hooks"
        )
    E, width = sae.W_dec.shape[1], next(iter(saes[hook].values())).W_dec.shape[1]
    if width != E:
        raise UserError(
            f"--beside {place.path} is for activations of width {E}, and those at {hook} have {width}; give a "
            "dictionary of the same model and hook"
        )
    seed = None if place.run is None else seeds[place.run].get(place.own.removesuffix("-extended"))
    return Beside(name, place.asked, place.path, hook, sae.features, sae.fingerprint, seed)


def _require_model(run: Path, lm: LanguageModel) -> None:
    facts = read_manifest(run / "run.yaml").get("model")
    fingerprint = facts.get("fingerprint") if isinstance(facts, dict) else None
    if fingerprint not in (None, lm.fingerprint):
        raise UserError(
            f"--beside {run} was trained on another model (its fingerprint is {fingerprint}, that of {lm.name} is "
            f"{lm.fingerprint}); give a run on the same one"
        )


def _other_hook(what: Path, hooks: str, saes: Hooks) -> UserError:
    at = ", ".join(saes)
    return UserError(f"--beside {what} is at {hooks}, and what is explored at {at}; give one of the same hook")


def _labels(folders: Iterable[Path]) -> dict[Path, str]:
    """The end of each path that no other has."""
    distinct, found = list(dict.fromkeys(folders)), {}
    for folder in distinct:
        own, others = folder.parts, [other.parts for other in distinct if other != folder]
        ends = (own[-n:] for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        found[folder] = "/".join(next(ends, own))
    return found


def _absolute(path: Path) -> Path:
    """A file's link stays: in the hub's cache it leads to a name that says nothing."""
    return path.resolve() if path.is_dir() else path.absolute()
