"""A feature, or a text with the features of its tokens, as lines of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unmix.errors import UserError
from unmix.explore.descriptions import SCORES
from unmix.explore.descriptions import read as read_descriptions
from unmix.explore.marks import shown
from unmix.explore.server_files import read_manifest, read_object
from unmix.explore.site_records import Records

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from unmix.explore.prompt import Read

PEAK, ACTIVE, QUIET = "bold black on dark_orange", "black on navajo_white1", "dim"
LEFT_OUT = {"first": "at position 0", "long": "of norms above the mask's bound", "special": "of the mask's other kinds"}
STRONG = 0.5  # of the feature's maximum: from there on a token that is no peak is bold


class Shown(NamedTuple):
    """A built site, with the member that is asked for."""

    site: Path
    manifest: dict[str, Any]
    member: dict[str, Any]
    piece: Callable[[int], str]
    """A token as it stands in a line."""


def open_site(out: Path, member: str | None) -> Shown:
    """The site in an explore folder. Raises `UserError` if there is none, or it has not the member, or several."""
    site = out / "site"
    manifest = read_manifest(site)
    members = {str(row["name"]): row for row in manifest["members"]}
    name = member or manifest["chosen"] or (next(iter(members)) if len(members) == 1 else None)
    if name is None:
        raise UserError(f"{out} shows several members, none of them chosen; give --member, one of {_list(members)}")
    if name not in members:
        raise UserError(f"{out} shows no member {name}; give one of {_list(members)}")
    return Shown(site, manifest, members[name], _pieces(read_object(site, "vocabulary")))


def asked_feature(text: str, member: str | None) -> tuple[str | None, int]:
    """(member, index) of `MEMBER:INDEX` or `INDEX`. Raises `UserError` for anything else."""
    named, _, index = text.rpartition(":")
    if not (index.isascii() and index.isdigit()):
        raise UserError(f"{text!r} is no feature; give its number, or MEMBER:NUMBER")
    if named and member not in (None, named):
        raise UserError(f"{text} is of {named}, and --member says {member}; leave one of them out")
    return named or member, int(index)


def show_feature(console: Console, view: Shown, feature: int, examples: int) -> None:
    """Print one feature: what it fires on, what it promotes, which features are like it, examples."""
    name, features = view.member["name"], int(view.member["features"])
    if feature >= features:
        raise UserError(f"{name} has no feature {feature}; give 0 to {features - 1}")
    record = Records(view.site, view.manifest, name)(feature)
    tokens, split = view.member["tokens"], view.manifest["tokens"]["split"]
    line = _printer(console)
    line(f"feature {feature} of {name}", "bold")
    line(record["label"])
    if said := read_descriptions(view.site, view.member).get(str(feature)):
        line(f"described as: {_safe(said['text'])}")
        line(f"  by {_safe(said['model'])}; {_scores(said)}", QUIET)
    line(
        f"fires on {_percent(record['density'])} of {tokens['counted']:,} tokens (split {split}), "
        f"max {_number(record['max'])}, mean {_number(record['mean'])}"
    )
    line(f"mask: {view.manifest['tokens']['mask']}", QUIET)
    if outside := _left_out(record.get("left_out", {}), tokens.get("left_out", {})):
        line(f"not counted: {outside}", QUIET)
    for title, pairs in (
        ("tokens", [(_quoted(view, i), _percent(share)) for i, share, _ in record["tokens"]]),
        ("promotes", _effects(view, record["logits"], "plus")),
        ("suppresses", _effects(view, record["logits"], "minus")),
        ("decoder", [(f"#{j}", _number(cosine)) for j, cosine in record["decoder"][:5]]),
        ("together", [(f"#{j}", _number(jaccard)) for j, _, jaccard in record["coact"][:5]]),
        ("matches", [(f"{row['member']}:{row['i']}", _number(row["cos"])) for row in record["stability"]]),
    ):
        if pairs:
            line(f"{title:<11}" + "   ".join(f"{what} {value}".rstrip() for what, value in pairs))
    for title, group in (("top", "top"), ("uniform", "uniform"), ("near misses", "near")):
        windows = record["groups"][group][:examples]
        if windows:
            line("")
            line(title, "bold")
        for window in windows:
            console.print(_row(window, view, record["max"], console.width), no_wrap=True, overflow="crop")


def show_text(console: Console, view: Shown, read: Read, most: int) -> None:
    """Print every token of a text with its strongest features and their labels."""
    from rich.text import Text

    labels = read_object(view.site, f"{view.member['name']}/index")["label"]
    described = read_descriptions(view.site, view.member)
    line = _printer(console)
    line(f"{view.member['name']} at {view.member['hook']}; the {most} strongest features of each token", "bold")
    if read.truncated:
        line(f"only the first {len(read.ids_T)} tokens were read", QUIET)
    columns = (read.ids_T.tolist(), read.norm_T.tolist(), read.error_T.tolist(), read.masked_T.tolist(), read.features)
    for i, norm, error, masked, active in zip(*columns, strict=True):
        said = Text()
        said.append(f" {view.piece(i)} ", style=QUIET if masked else PEAK)
        marked = ", masked" if masked else ""
        said.append(f"  norm {norm:.4g}, error {error:.2%}, L0 {len(active)}{marked}", style=QUIET)
        console.print(said, no_wrap=True, overflow="crop")
        for feature, value in active[:most]:
            description = described.get(str(feature))
            what = _safe(description["text"]) if description else labels[feature]
            console.print(Text(f"    #{feature:<7}{value:>9.4g}  {what}"), no_wrap=True, overflow="crop")


def _left_out(found: dict[str, Any], tokens: dict[str, int]) -> str:
    """Where else it fires: on the tokens that the mask leaves out."""
    return "; ".join(
        f"{out['firings']:,} of {tokens[reason]:,} tokens {LEFT_OUT[reason]}, max {_number(out['max'])}"
        for reason, out in found.items()
    )


def _row(window: dict[str, Any], view: Shown, largest: float | None, width: int) -> Text:
    """Peaks stand below each other."""
    from rich.text import Text

    values = dict(window["v"])
    pieces = [view.piece(i) for i in window["ids"]]
    before, peak, after = "".join(pieces[: window["c"]]), pieces[window["c"]], pieces[window["c"] + 1 :]
    column = max(20, (width - 16) // 2)
    found = Text(f"{_number(values.get(window['c'])):>8}  ")
    cut = max(0, len(before) - column)
    found.append(" " * max(0, column - len(before)))
    at = 0
    for offset, piece in enumerate(pieces[: window["c"]]):
        seen = piece[max(0, cut - at) :]
        at += len(piece)
        found.append(seen, style=_style(values.get(offset), largest))
    found.append(f"▐{peak}▌", style=PEAK)
    for offset, piece in enumerate(after, window["c"] + 1):
        found.append(piece, style=_style(values.get(offset), largest))
    return found


def _style(value: float | None, largest: float | None) -> str:
    if value is None:
        return ""
    return f"bold {ACTIVE}" if largest is not None and abs(value) >= STRONG * largest else ACTIVE


def _effects(view: Shown, logits: dict[str, Any] | None, side: str) -> list[tuple[str, str]]:
    return [(_quoted(view, i), "") for i, _ in logits[side]] if logits else []


def _quoted(view: Shown, i: int) -> str:
    return f"“{view.piece(i)}”"


def _pieces(vocabulary: dict[str, Any]) -> Callable[[int], str]:
    special, entries = vocabulary["special"], vocabulary["bytes"]

    def piece(i: int) -> str:
        key = str(i)
        return str(special[key]) if key in special else shown(entries.get(key, "").encode("latin-1"))

    return piece


def _printer(console: Console) -> Callable[..., None]:
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    return line


def _safe(text: str) -> str:
    return shown(text.encode("utf-8", "replace"))


def _scores(said: dict[str, Any]) -> str:
    """½ is chance in both."""
    found = [
        f"{kind} {said[kind]['accuracy']:.2f} ± {said[kind]['se']:.2f} of {said[kind]['n']}"
        for kind in SCORES
        if said[kind]
    ]
    return f"{', '.join(found)}; 0.5 is chance" if found else "no score: too few examples"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
