"""What a run leaves on disk besides weights: the manifest, and a line of metrics per member and logged step."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from unmix import yamltext
from unmix.disk import flush, replacing, writing
from unmix.errors import UserError


class Request(NamedTuple):
    """What a member was asked for. Requests sort as members are shown: rising, those for an L0 first."""

    kind: Literal["l0", "l1"]
    """An L0, active features per token, or a coefficient λ."""
    value: float

    @property
    def number(self) -> str:
        """As the recipe says it: 50, 0.5, 1e-05."""
        return f"{self.value:g}" if math.isfinite(self.value) else "–"

    @property
    def label(self) -> str:
        """`L0 50` or `λ 0.5`."""
        return f"{'L0' if self.kind == 'l0' else 'λ'} {self.number}"


def requested(row: Mapping[str, Any]) -> Request:
    """From a line of metrics, or a candidate of a choice; NaN where it says nothing."""
    kind: Literal["l0", "l1"] = "l1" if row.get("target_l0") is None else "l0"
    value = row.get("target_l0" if kind == "l0" else "l1")
    return Request(kind, float(value) if isinstance(value, (int, float)) else math.nan)


def split_name(name: str) -> tuple[str, str]:
    """The name of a member as (its hook and variant, its request and what follows); either may be empty."""
    found = re.fullmatch(r"(?:(.*)-)?(l[01]-\d.*)", name)
    return (found[1] or "", found[2]) if found else ("", name)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk, rename into place: a reader sees the old file or the new one."""
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """JSON with an indent, written whole."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; none if there is no file. Raises `UserError` if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and run the command that writes it") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no object; remove it, and run the command that writes it")
    return value


def read_extensions(folder: Path) -> dict[str, Any]:
    """Member -> the plan of its extension, from `extension.json`; empty if there is none.

    A file of before there could be several holds one plan, with the member in it.
    """
    found = read_json(folder / "extension.json") or {}
    if isinstance(member := found.get("member"), str):
        return {member: {key: value for key, value in found.items() if key != "member"}}
    return found


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """`evaluation.json` of a run or of an SAE's folder; none if there is none. Raises `UserError` for a file that is
    damaged, or another program's."""
    path = folder / "evaluation.json"
    found = read_json(path)
    if found is not None and not isinstance(found.get("hooks"), list):
        raise UserError(f"{path} was not written by unmix; move it away, so that it is not overwritten")
    return found


def read_choices(folder: Path) -> list[dict[str, Any]]:
    """The choice of each hook, from `choice.json`: a choice, or several under `hooks`; empty if there is none."""
    found = read_json(folder / "choice.json")
    if found is None:
        return []
    several = found.get("hooks")
    return [choice for choice in several if isinstance(choice, dict)] if isinstance(several, list) else [found]


def write_choices(folder: Path, choices: list[dict[str, Any]]) -> None:
    """Write `choice.json`."""
    write_json(folder / "choice.json", choices[0] if len(choices) == 1 else {"hooks": choices})


def newest_checkpoints(run: Path) -> dict[str, Path]:
    """name -> the newest SAE of each member, the extended one beside the one of the sweep."""
    found = {}
    for member in sorted((run / "members").glob("*"), key=lambda path: _place(path.name)):
        if steps := sorted(path.parent for path in member.glob("step-?????????/cfg.json")):
            found[member.name] = steps[-1]
    return found


def _place(name: str) -> tuple[str, str, float, str]:
    """l0-5 stands before l0-20."""
    before, request = split_name(name)
    number = re.match(r"(l[01])-(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", request)
    return (before, number[1], float(number[2]), name) if number else (before, "", 0.0, name)


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """`run.yaml`: the resolved recipe with what it ran on."""
    write_whole(path, yaml.safe_dump(manifest, sort_keys=False, width=110, allow_unicode=True))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest as plain data; nothing else reads it. Raises `UserError` if there is none, or it is damaged."""
    try:
        loaded = yamltext.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}; give one like runs/demo") from None
    except (OSError, ValueError) as error:  # UnicodeDecodeError is one
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("recipe"), dict):
        raise UserError(f"{path} is damaged: it holds no recipe")
    return loaded


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a last line that a crash cut short is left out. Raises `UserError` for a damaged one."""
    rows, damaged, _ = parse_metrics(path)
    if damaged:
        raise UserError(f"{path}, line {damaged[0]} is damaged; bring the file back from a copy, or remove that line")
    return rows


def parse_metrics(path: Path) -> tuple[list[dict[str, Any]], list[int], bool]:
    """(rows, numbers of the lines that are damaged, whether the last line was cut short)."""
    rows, damaged = [], []
    data = path.read_bytes() if path.exists() else b""
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "member": str(row["member"]), "phase": str(row["phase"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(number)
    return rows, damaged, bool(rest)


Logged = Sequence[Sequence[int]]
"""[step, every], …: after the step, in multiples of `every`. It begins with step 0."""


def logged_steps(after: int, upto: int, logged: Logged, ends: Iterable[int]) -> list[int]:
    """The steps in (after, upto] that a run logs: by `logged`, and its ends (a run may have been given more steps)."""
    found = set()
    for n, (first, every) in enumerate(logged):
        last = logged[n + 1][0] if n + 1 < len(logged) else upto
        found |= {step for step in range(max(after, first) + 1, min(last, upto) + 1) if step % every == 0}
    return sorted(found | {end for end in ends if after < end <= upto})


def gaps(rows: Iterable[dict[str, Any]], members: Iterable[str], steps: list[int]) -> list[str]:
    """What is missing, doubled or from no logged step, a line each member; none if each has one row a step."""
    seen = Counter((row["member"], row["step"]) for row in rows)
    found = []
    for member in members:
        missing = [step for step in steps if not seen[member, step]]
        doubled = [step for step in steps if seen[member, step] > 1]
        strange = sorted({step for name, step in seen if name == member} - set(steps))
        for what, which in (("lacks", missing), ("has twice", doubled), ("has, of no logged step,", strange)):
            if which:
                more = f" and {len(which) - 3} more" if len(which) > 3 else ""
                found.append(f"{member} {what} step {', '.join(f'{step:,}' for step in which[:3])}{more}")
    return found


def keep_metrics(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite the file with the rows to keep: a resumed run writes the others again."""
    if path.exists():
        kept = [row for row in read_metrics(path) if keep(row)]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def order_metrics(path: Path, members: Sequence[str]) -> None:
    """Rewrite the file with the rows of the sweep by step, and by member as they are here; other rows behind them."""

    def place(row: dict[str, Any]) -> tuple[int, int, int]:
        return (0, row["step"], members.index(row["member"])) if row["phase"] == "sweep" else (1, 0, 0)

    write_whole(path, "".join(json.dumps(row) + "\n" for row in sorted(read_metrics(path), key=place)))


def append_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows in one write, so that a crash cuts at most the last line."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def flush_metrics(path: Path) -> None:
    """Bring the rows to the disk: a checkpoint must not outlive them."""
    if path.exists():
        with writing(path):
            flush(path)
            flush(path.parent)
