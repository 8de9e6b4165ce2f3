"""A built site as pages for Neuronpedia: its features, with the text of their examples and the rows of W_dec."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from unmix.dictionary.files import CONFIG
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.explore import descriptions
from unmix.explore.manifest import read_manifest as read_store
from unmix.explore.server_files import MANIFEST, read_manifest, read_object
from unmix.explore.site_records import Records
from unmix.explore.texts import Record
from unmix.hooknames import canonical, transformer_lens
from unmix.interop.card import without_paths
from unmix.interop.load import load_sae
from unmix.interop.neuronpedia import CREATOR, MOST_TOKENS, TOP, Example, Feature, Source, write_source
from unmix.runlog import read_json

DIGITS = 5  # significant, of a decoder row


class Asked(NamedTuple):
    """What the site does not say."""

    model: str | None = None
    """The model's id there; of the site's if not given."""
    set: str = "unmix"
    creator: str = CREATOR


def write_pages(out: Path, folder: Path | None, to: Path, asked: Asked, say: Callable[[str], None]) -> list[Path]:
    """Write `to` from the explore folder `out`; answers the folder of each member's bulk import.

    `folder`: the run or the dictionary that was explored, for its decoder rows; as the store says, if not given. Raises
    `UserError` without a site, for a damaged one, for ids that cannot be ones, for a hook that names no layer, and for
    an abstopk, whose features are negative on some tokens.
    """
    site = out / "site"
    manifest = read_manifest(site)
    if signed := [row["name"] for row in manifest["members"] if row.get("architecture") == "abstopk"]:
        raise UserError(
            f"features of an abstopk ({', '.join(signed)}) may be negative, and Neuronpedia shows the largest values; "
            "build a site of the other members (--member)"
        )
    model = (asked.model or _id(Path(str(manifest["model"]["name"])).name)).lower()
    for flag, value in (("--model", model), ("--set", asked.set)):
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
            raise UserError(f"{flag} {value!r:.60} is no id of Neuronpedia's; write letters, digits and dashes")
    piece = _pieces(read_object(site, "vocabulary"))
    created = datetime.fromtimestamp((site / MANIFEST).stat().st_mtime, UTC).replace(microsecond=0).isoformat()
    written = []
    for row in manifest["members"]:
        name, hook = str(row["name"]), str(row.get("hook_in", row["hook"]))
        sae, config = _dictionary(out, folder, name, say)
        if "hook_out" in row:  # a vector of theirs is added where the source reads
            say(f"pages of {name} have no decoder rows: it reads {hook}, and they belong to {row['hook_out']}")
            sae = None
        source = Source(
            model=model,
            layers=int(manifest["model"]["layers"]),
            width=int(manifest["model"]["width"]),
            set=asked.set if len(manifest["members"]) == 1 else f"{asked.set}-{_id(name)}",
            layer=_layer(hook),
            hook=transformer_lens(hook),
            creator=asked.creator,
            created=created,
            dataset=str(without_paths(str(manifest["tokens"]["corpus"]))),
            sequences=int(manifest["tokens"]["sequences"]),
            tokens=int(manifest["tokens"]["context"]),
            config=without_paths(config),
        )
        said = descriptions.read(site, row)
        written.append(write_source(to, source, _features(Records(site, manifest, name), row, piece, sae, said)))
    return written


def _features(
    records: Records,
    row: dict[str, Any],
    piece: Callable[[int], str],
    sae: Dictionary | None,
    said: descriptions.Descriptions,
) -> Iterator[Feature]:
    for i in range(int(row["features"])):
        record = records(i)
        logits = record["logits"] or {"plus": [], "minus": []}
        yield Feature(
            number=i,
            density=record["density"],
            max=record["max"],
            edges=record["hist"]["edges"],
            counts=record["hist"]["counts"],
            plus=[(piece(j), value) for j, value in logits["plus"]],
            minus=[(piece(j), value) for j, value in logits["minus"]],
            nearest=[(j, cosine) for j, cosine in record["decoder"]],
            vector=[] if sae is None else [float(f"{x:.{DIGITS}g}") for x in sae.W_dec[i].tolist()],
            examples=list(_examples(record, piece)),
            description=said.get(str(i), {}).get("text"),
        )


def _examples(record: Record, piece: Callable[[int], str]) -> Iterator[Example]:
    """The strongest sequences, then those of equal widths of (0, max]; each place once. Masked tokens have the value 0:
    a BOS would stand above the feature's maximum, and its examples first. None of a feature with values that are not
    finite."""
    if record["max"] is None:
        return
    seen: set[tuple[int, int]] = set()
    bands = [(*TOP, record["max"], window) for window in record["groups"]["top"]]
    bands += [
        (band["low"], band["firings"], band["high"], window)
        for band in record["groups"]["value"]
        for window in band["windows"]
    ]
    for low, share, high, window in bands:
        at = (window["s"], window["p"] + window["c"])
        if at in seen:
            continue
        seen.add(at)
        values = [0.0] * window["n"]
        for offset, value in window["v"]:
            if offset not in window["m"]:
                values[offset] = value
        tokens = [piece(i) for i in window["ids"]]
        yield Example(tokens[:MOST_TOKENS], values[:MOST_TOKENS], window["c"], low, high, share)


def _dictionary(
    out: Path, folder: Path | None, member: str, say: Callable[[str], None]
) -> tuple[Dictionary | None, dict[str, Any] | None]:
    """(the dictionary that was explored, its cfg.json); none if it is not where it was, which is said."""
    store = read_store(out) or {"inputs": {"members": {}}, "about": {}}
    facts = store["inputs"]["members"].get(member, {})
    at = (folder or Path(str(store["about"].get("folder", "")))) / str(facts.get("checkpoint", ""))
    try:
        sae = load_sae(at)
    except UserError as error:
        say(f"pages of {member} have no decoder rows, which steering needs: {error}")
        return None, None
    if facts.get("fingerprint") != sae.fingerprint:
        say(f"pages of {member} have no decoder rows, which steering needs: {at} is another dictionary by now")
        return None, None
    return sae, read_json(at / CONFIG) if at.is_dir() else None


def _layer(hook: str) -> int:
    found = re.search(r"\.(\d+)(?:\.|$)", canonical(hook))
    if found is None:
        raise UserError(f"hook {hook} names no layer, which Neuronpedia's ids begin with; it cannot be written for it")
    return int(found[1])


def _id(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unmix"


def _pieces(vocabulary: dict[str, Any]) -> Callable[[int], str]:
    """id -> text; NUL, which its database does not take, as a space."""
    special, entries = vocabulary["special"], vocabulary["bytes"]

    def piece(i: int) -> str:
        key = str(i)
        if key in special:
            return str(special[key])
        return str(entries.get(key, "").encode("latin-1").decode(errors="replace").replace("\0", " "))

    return piece
