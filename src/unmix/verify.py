"""Reads everything in a folder and says what is wrong with it: a run, a store, an SAE; and if that fits a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from unmix.activations.store import read_manifest as read_store
from unmix.config import RunConfig
from unmix.dictionary import samples
from unmix.dictionary.files import CONFIG
from unmix.disk import sha256
from unmix.errors import UserError
from unmix.evaluation.opened import open_subject
from unmix.evaluation.proof import mends, prove
from unmix.evaluation.subject import NO_KEYS
from unmix.interop.load import load_sae, one_inside, recognise
from unmix.runlog import Logged, gaps, logged_steps, parse_metrics, read_choices, read_extensions, read_json
from unmix.training import checkpoint
from unmix.training.extension import extension_ends, extension_logged
from unmix.training.manifest import FORMAT, ends, entries, logged_in, read_run, sweep_schedule

PROOF_TOKENS = 8_192
"""Of a proof that was asked for."""
NOTHING = (
    "none of the neighbouring hooks, b_dec subtracted or not, the usual scales or each token's mean subtracted mends "
    "it: is it another model?"
)


class Found(NamedTuple):
    """What was read, and every problem in a line that names the file."""

    kind: str
    checked: str
    problems: list[str]


def verify(folder: Path) -> Found:
    """Check the folder. Raises `UserError` if it is none of the three."""
    if (folder / "run.yaml").exists() or (folder / "members").is_dir():
        return _run(folder)
    if (folder / "manifest.json").exists() or list(folder.glob("shard-??????.safetensors")):
        return _store(folder)
    if (folder / CONFIG).exists() or (folder / checkpoint.CHECKSUMS).exists() or recognise(folder):
        return Found("sae", "one dictionary", _sae(folder))
    remedy = f"; give a folder inside it that is one, such as {inside}" if (inside := one_inside(folder)) else ""
    raise UserError(f"{folder} is neither a run (run.yaml), nor a store (manifest.json), nor an SAE ({CONFIG}){remedy}")


def prove_folder(
    folder: Path,
    *,
    model: str | None,
    corpus: str | None,
    hook: str | None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
    tokens: int = PROOF_TOKENS,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Whether the dictionaries in it fit the place where they are to be read, and if not, what would mend it.

    Raises `UserError` as `open_subject`, and if `tokens` is none.
    """
    if tokens < 1:
        raise UserError(f"--tokens {tokens} leaves nothing to measure on; give a number above 0")
    subject, lm, held_out = open_subject(
        folder,
        say,
        model=model,
        corpus=corpus,
        hook=hook,
        hook_out=hook_out,
        corpus_keys=corpus_keys,
        read_at_most=20 * tokens,
        fit=False,
    )
    said, problems = [], []
    for at, saes in subject.saes.items():
        for name, sae in saes.items():
            proof = prove(lm, held_out, at, sae, subject.made.get(name), most=tokens, name=name)
            said.append(f"{name} {proof}")
            if proof.fails:
                found = mends(lm, held_out, at, sae, subject.made.get(name), say)
                would = "; ".join(f"{mend.how}: FVU {mend.fvu:.3g}" for mend in found[:3])
                problems.append(f"{name} {proof}; {f'what would mend it: {would}' if would else NOTHING}")
    return Found("fit", "; ".join(said), problems)


def _run(folder: Path) -> Found:
    problems: list[str] = []
    checkpoints = sorted(path for path in folder.glob("members/**/step-?????????") if path.is_dir())
    for path in checkpoints:
        problems += _sae(path)
    for name in ("choice.json", "extension.json", "norms.json", "evaluation.json"):
        problems += _json(folder / name)
    rows = 0
    try:
        recipe, manifest = read_run(folder)
        problems += [] if manifest.get("format") == FORMAT else [f"{folder / 'run.yaml'} has no format {FORMAT}"]
        rows, wrong = _metrics(folder, recipe, manifest)
        problems += wrong
    except UserError as error:
        problems.append(str(error))
    return Found("run", f"{len(checkpoints)} checkpoints, {rows:,} lines of metrics", problems)


def _metrics(folder: Path, recipe: RunConfig, manifest: dict[str, Any]) -> tuple[int, list[str]]:
    """(lines, problems): every member has one line for each logged step up to its phase's newest step."""
    path = folder / "metrics.jsonl"
    rows, damaged, torn = parse_metrics(path)
    problems = [f"{path}, line {number} is damaged" for number in damaged]
    if torn:
        problems.append(f"{path}: the last line is cut short; the command that was stopped makes it again")
    swept, names = sweep_schedule(recipe), [entry.name for entry in entries(recipe)]
    phases: list[tuple[str, list[str], list[str], int, Logged, list[int]]] = [
        ("sweep", names, names, 0, logged_in(manifest, recipe), ends(manifest, swept.steps))
    ]
    with suppress(UserError):  # _json says so
        for extended, plan in read_extensions(folder).items():
            if extended not in names:
                problems.append(f"{folder / 'extension.json'} names {extended}, which the recipe does not have")
            elif isinstance(plan, dict) and {"from_step", "to_step"} <= plan.keys():
                logged, stops = extension_logged(plan, recipe), extension_ends(plan)
                phases.append(("extend", [extended], [f"{extended}-extended"], plan["from_step"], logged, stops))
    planned = {name for phase, members, *_ in phases if phase == "extend" for name in members}
    for phase, members, folders, after, logged, stops in phases:
        of_phase = [row for row in rows if row["phase"] == phase and (phase == "sweep" or row["member"] in members)]
        saved = [step for name in folders for step in checkpoint.steps_on_disk(folder / "members" / name)]
        newest = max([row["step"] for row in of_phase] + saved, default=after)
        steps = logged_steps(after, newest, logged, stops)
        problems += [f"{path}, {phase}: {gap}" for gap in gaps(of_phase, members, steps)]
        if strangers := sorted({row["member"] for row in of_phase} - set(members)):
            problems.append(f"{path}, {phase}: {', '.join(strangers)} is no member")
    if strangers := sorted({row["member"] for row in rows if row["phase"] == "extend"} - planned):
        problems.append(f"{path}, extend: {', '.join(strangers)} has no extension in extension.json")
    with suppress(UserError):  # _json says so
        for choice in read_choices(folder):
            if choice.get("member") not in (None, *names):
                problems.append(f"{folder / 'choice.json'} names {choice['member']}, which the recipe does not have")
    return len(rows), problems


def _sae(folder: Path) -> list[str]:
    """Checksums where there are any, a dictionary that is read, of the shapes its description says, and that answers to
    the sample activations beside it, where there are any, as it says there."""
    is_checkpoint = folder.name.startswith("step-") or (folder / checkpoint.CHECKSUMS).exists()
    if is_checkpoint and (wrong := checkpoint.damage(folder)):
        return [wrong]
    try:
        sae = load_sae(folder)
    except UserError as error:
        return [str(error)]
    return [found] if (found := samples.wrong(sae, folder)) else []


def _store(folder: Path) -> Found:
    try:
        shards = read_store(folder)["shards"]
    except UserError as error:
        return Found("store", "no shard", [str(error)])
    problems = []
    for shard in shards:
        path = folder / shard["file"]
        if not path.exists():
            problems.append(f"{path} is missing")
        elif sha256(path) != shard["sha256"]:
            problems.append(f"{path} is damaged: its checksum differs")
    return Found("store", f"{len(shards)} shards, {sum(shard['rows'] for shard in shards):,} activations", problems)


def _json(path: Path) -> list[str]:
    try:
        read_json(path)
    except UserError as error:
        return [str(error)]
    return []
