"""Descriptions of features by a language model, each with two scores of how well it predicts the feature.

For every feature: one question for a description, from examples with the active tokens marked; then detection and
fuzzing on examples that were kept back (`describe_score`, after Paulo et al. 2024, arXiv 2410.13928). Questions go to
one endpoint, one at a time. A description that scores ½ is worth nothing, however well it reads.

Answers are kept as lines of JSON, one a feature, as they come: a run that was stopped resumes at the first feature
without one.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unmix.disk import flush, writing
from unmix.errors import UserError
from unmix.explore.describe_ask import Endpoint, Unreadable
from unmix.explore.describe_score import detection_items, fuzzing_items, questions, score
from unmix.explore.describe_text import CLOSE, LEAST, OPEN, BytesOf, Split, active, split, text_of
from unmix.explore.server_files import read_manifest, read_object
from unmix.explore.site_records import Records

PROMPTS = 1  # raised when a question is worded otherwise: older answers are then asked for again
MOST = 300  # characters of a description
FEATURES = 50  # that are described where none are named
ASKED = 9  # questions about one: a description, 16 examples of detection and 20 of fuzzing, five at a time
GIVE_UP = 5  # features in a row whose answers cannot be read
Record = dict[str, Any]
Say = Callable[[str], None]
_MARK = "DESCRIPTION:"
_SYSTEM = (
    "You describe features of a language model. A feature is a direction in its activations that is active on some "
    f"tokens. You are given texts in which the tokens that it is active on stand between {OPEN} and {CLOSE}, with "
    "their strengths from 1 to 10, and the tokens that the feature makes likelier to come next. Say what the marked "
    "tokens and the text before them have in common, as exactly as the texts allow: the feature cannot see what comes "
    "after. Name a word or a sign where it is always the same one. Do not list the texts. End with one line of at most "
    f"25 words that begins with {_MARK}"
)


def describe_site(
    out: Path,
    endpoint: Endpoint,
    *,
    member: str | None = None,
    features: Sequence[int] = (),
    seed: int = 0,
    say: Say = print,
) -> Path:
    """Describe features of a member of the site in `out`, in `out/descriptions/MEMBER.jsonl`; answers that path.

    Without a member it is the chosen one, or the only one; without features, FEATURES of those that fire, drawn at
    random. Raises `UserError` for what `describe` does, if there is no site, or for a member or feature that it lacks.
    """
    site = out / "site"
    manifest = read_manifest(site)
    members = {str(row["name"]): row for row in manifest["members"]}
    name = member or manifest.get("chosen") or (next(iter(members)) if len(members) == 1 else None)
    if name is None or name not in members:
        given = f"the site has no member {member}" if member else "the site has several members, and none is chosen"
        raise UserError(f"{given}; give --member with one of {', '.join(members)}")
    total = int(members[name]["features"])
    if wrong := [i for i in features if not 0 <= i < total]:
        raise UserError(f"{name} has no feature {wrong[0]}; give 0 to {total - 1}")
    chosen = sorted(set(features)) or _drawn(read_object(site, f"{name}/index")["density"], seed)
    path, about = out / "descriptions" / f"{name}.jsonl", {"member": name, "site": manifest["fingerprint"]}
    record_of = Records(site, manifest, name)
    describe(chosen, record_of, _vocabulary(site), path, endpoint, about=about, seed=seed, say=say)
    return path


def describe(
    features: Sequence[int],
    record_of: Callable[[int], Record],
    bytes_of: BytesOf,
    path: Path,
    endpoint: Endpoint,
    *,
    about: dict[str, Any],
    seed: int = 0,
    say: Say = print,
) -> None:
    """Append a line to `path` for each of the features that has none yet.

    `record_of` answers a feature's record as the site has it, `bytes_of` the bytes of a token. `about` says which
    features they are (member, site): a line counts if its `about`, model, seed and PROMPTS are these. Raises
    `UserError` if the endpoint cannot be asked, or if what it answers for GIVE_UP features in a row cannot be read;
    what was answered until then is kept.
    """
    settings = {**about, "model": endpoint.model, "seed": seed, "prompts": PROMPTS}
    there = {row["i"] for row in read_lines(path) if all(row.get(key) == value for key, value in settings.items())}
    if not (missing := [i for i in features if i not in there]):
        say(f"all {len(features)} features are described in {path}; nothing is asked")
        return
    where = "on this machine" if endpoint.local else "NOT on this machine"
    say(
        f"asking {endpoint.url} ({where}), model {endpoint.model}, about {len(missing)} features of "
        f"{about.get('member', 'a dictionary')}: about {ASKED} questions each, with text of the corpus"
    )
    unread = 0
    for i in missing:
        record = record_of(i)
        if record["max"] is None:
            say(f"feature {i}: it has values that are not finite; left out")
            continue
        found = split(record)
        if min(len(found.shown), len(found.held)) < LEAST:
            say(f"feature {i}: too few examples that do not overlap; left out")
            continue
        try:
            line = {"i": i, **settings, **_described(endpoint, record, found, bytes_of, seed)}
        except Unreadable as error:
            unread += 1
            began = _one_line(str(error))[:80]
            say(f"feature {i}: {endpoint.model} answered {began!r}, which cannot be read; left out")
            if unread == GIVE_UP:
                raise UserError(
                    f"{endpoint.model} gave no answer that can be read for {GIVE_UP} features in a row; give another "
                    "model, one that follows instructions"
                ) from None
            continue
        unread = 0
        _append(path, line)
        say(f"feature {i}: {line['text']}  [{_scores(line) or 'no score: too few examples'}]")


def _scores(line: dict[str, Any]) -> str:
    kinds = [kind for kind in ("detection", "fuzzing") if line[kind]]
    return ", ".join(f"{kind} {line[kind]['accuracy']:.2f} ± {line[kind]['se']:.2f}" for kind in kinds)


def _described(endpoint: Endpoint, record: Record, found: Split, bytes_of: BytesOf, seed: int) -> dict[str, Any]:
    text = _description(endpoint.ask(_SYSTEM, question(record, found, bytes_of), seed))
    kinds = {
        "detection": detection_items(found, bytes_of, seed),
        "fuzzing": fuzzing_items(found, bytes_of, seed),
    }
    scores = {kind: score(endpoint, text, kind, items, seed) for kind, items in kinds.items()}
    return {
        "text": text,
        **{kind: found.facts() if found else None for kind, found in scores.items()},
        "asked": 1 + sum(map(questions, kinds.values())),
        "shown": [[window["s"], window["p"] + window["c"]] for window in found.shown],
    }


def question(record: Record, found: Split, bytes_of: BytesOf) -> str:
    """What a description is asked from."""

    def quoted(token: int) -> str:
        return json.dumps(bytes_of(token).decode("utf-8", "replace"), ensure_ascii=False)

    values = [
        {offset: abs(value) for offset, value in window["v"] if offset not in window["m"]} for window in found.shown
    ]
    largest = max(value for of_window in values for value in of_window.values())
    lines = []
    for n, (window, of_offset) in enumerate(zip(found.shown, values, strict=True), 1):
        fires = active(window)
        strengths = [f"{quoted(window['ids'][at])} {max(1, round(10 * of_offset[at] / largest))}" for at in fires]
        lines += [f"Text {n}: {text_of(window, bytes_of, fires)}", f"Strengths: {', '.join(strengths)}"]
    likelier = [quoted(i) for i, _ in (record.get("logits") or {}).get("plus", [])]
    return "\n".join([*lines, f"Tokens made likelier: {', '.join(likelier)}"])


def _description(answer: str) -> str:
    """The line that was asked for, or an answer that is one line anyway. Raises `Unreadable` if it is neither."""
    lines = [line for line in answer.splitlines() if line.strip()]
    marked = [line.partition(_MARK)[2] for line in lines if _MARK in line]
    text = _one_line((marked or (lines if len(lines) == 1 else [""]))[-1])
    if not text or (not marked and len(text) > MOST):
        raise Unreadable(answer)
    return text[:MOST]


def _one_line(text: str) -> str:
    """Without what breaks, hides or turns a line."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    return re.sub(r"\s+", " ", kept).strip(" *_`")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every line. Raises `UserError` for one that is damaged, but the last, which a crash may cut."""
    *lines, last = (path.read_bytes() if path.exists() else b"").split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if (row := _row(line)) is None:
            raise UserError(f"{path}, line {number} is damaged; remove that line: its feature is asked about again")
        found.append(row)
    return found + [row for row in [_row(last)] if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("i"), int) else None


def _append(path: Path, row: dict[str, Any]) -> None:
    """One more line, on the disk; what a crash left of an unfinished one is cut off."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            data = path.read_bytes()
            end = data.rfind(b"\n") + 1
            if _row(data[end:]) is not None:  # whole but for its end, as an editor may leave it
                file.write(b"\n")
            else:
                file.truncate(end)
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        flush(path)


def _drawn(density_F: Sequence[float | None], seed: int) -> list[int]:
    alive = [i for i, density in enumerate(density_F) if density]
    return sorted(random.Random(f"features {seed}").sample(alive, min(FEATURES, len(alive))))


def _vocabulary(site: Path) -> BytesOf:
    """id -> bytes, of the tokens that are in the site."""
    found = read_object(site, "vocabulary")
    table = {int(i): text.encode("latin-1") for i, text in found["bytes"].items()}
    table |= {int(i): text.encode() for i, text in found["special"].items()}
    return lambda i: table.get(i, b"")
