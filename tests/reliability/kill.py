"""Kill runs anywhere, resume them, and hold what they leave against runs that nothing disturbed.

    python tests/reliability/kill.py --kills 100 --steps 300

Every life of a run is a process of its own: harvest (where the run is from a store), sweep, choice, extension, report,
with a checkpoint every other step, on the processor. Runs take turns: streamed and from a store, each by the kernels of
the processor and by the portable ones. The first of each share the kills, so that every kind is killed. Members are
relu at two coefficients, batchtopk, and a jumprelu whose coefficient and thresholds are moved towards an L0. A life is
sent SIGKILL at a moment drawn uniformly from the time that an undisturbed one of its kind takes, unless it is done
before; then the same commands are given again, until a life ends by itself. A run whose training is done is killed once
more at most, for the report would take most of the kills. All files must then be those of the undisturbed run, byte for
byte, but for the clock in run.yaml, in metrics.jsonl and in the report.

Processes are forked from a parent that has imported everything and computed nothing, so that a life costs what
the work costs and not the imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SHARD = 500
MEMBERS = 4
REPORT = "choice or report"
EVERYTHING = (
    "matplotlib.pyplot", "transformers.models.gpt2.modeling_gpt2", "unmix.activations.store", "unmix.cli",
    "unmix.kernels.cpu", "unmix.report.html", "unmix.training.run", "unmix.verify",
)  # fmt: skip
CLOCK = ("tokens_per_s", "seconds")


class Size(NamedTuple):
    """How long a run is."""

    steps: int

    @property
    def extended(self) -> int:
        """The steps of the extension's end."""
        return self.steps * 5 // 4

    @property
    def rows(self) -> int:
        """Of the store."""
        return 50 * self.steps


class Kind(NamedTuple):
    """Where a run's activations come from, and what trains on them."""

    stored: bool
    kernels: str
    """As `training.kernels` has it."""

    def __str__(self) -> str:
        return f"{'store' if self.stored else 'stream'}-{self.kernels}"


KINDS = (Kind(False, "portable"), Kind(True, "auto"), Kind(True, "portable"), Kind(False, "auto"))


# ------------------------------------------------------------------------------------------------------- what is run


def prepare(world: Path, size: Size) -> None:
    """A model, texts and a recipe that all lives share."""
    from tiny_models import tiny_model_folder
    from tiny_run import write_texts

    shutil.copytree(tiny_model_folder("gpt2"), world / "model")
    write_texts(world / "texts")
    recipe = {
        "name": "run",
        "model": {"name": str(world / "model"), "matmul": "bf16"},
        "corpus": {"source": str(world / "texts")},
        "activations": {"hooks": ["resid_post.0"], "sequence_length": 16, "chunk_sequences": 8},
        "sae": {"features": 48},
        "training": {
            "l1": [1.0, 30.0], "revive_after_tokens": 200,
            "steps": size.steps, "batch_tokens": 48, "lr": 3e-3, "lr_warmup_steps": 5,
            "decay_fraction": 0.25, "log_every": 3, "checkpoint_every": 2, "keep_every": 20,
            "dead_after_tokens": 500,
            "selection": "int8", "dense": "bf16", "border": 0.1,  # each life would time anew
        },
        "variants": {
            "relu": {},
            "batchtopk": {"sae": {"architecture": "batchtopk"}, "training": {"l0": [6.0]}},
            "jumprelu": {"sae": {"architecture": "jumprelu"}, "training": {"l0": [6.0]}},
        },
        "choice": {"max_active": 40, "extend_to": size.extended, "extend_decay_fraction": 0.1},
    }  # fmt: skip
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    live(world, world / "first", KINDS[-1], size)  # compiles the kernels, which is kept on disk: none is longer for it


def live(world: Path, home: Path, kind: Kind, size: Size) -> int:
    """One life: what a user would type, until it is done."""
    from unmix import config
    from unmix.activations.store import harvest
    from unmix.cli import main
    from unmix.training.inputs import open_model, open_stream, store_facts

    os.environ["UNMIX_CACHE"] = str(home / "cache")
    words = ["sweep", str(world / "recipe.yaml"), "--runs", str(home), "--no-evaluate", "--device", "cpu"]
    words += ["--training.kernels", kind.kernels]
    if kind.stored:
        recipe = config.load(world / "recipe.yaml", {"device": "cpu"})
        model, tokens = open_model(recipe, print)
        facts, stream = store_facts(recipe, model, tokens), open_stream(recipe, model, tokens)
        harvest(stream, home / "store", tokens=size.rows, dtype="float32", shard_tokens=SHARD, facts=facts)
        words += ["--activations.store", str(home / "store")]
    return main(words)


def verified(home: Path) -> int:
    """What `unmix verify` says of the run."""
    from unmix.cli import main

    return main(["verify", str(home / "run")])


def forked(work: Callable[[], Any], log: Path) -> int:
    """The id of a new process that does the work, its output appended to a file."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = int(work() or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float = 600.0) -> int | None:
    """Its exit status once it has ended; None if it has not within this time."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


# ------------------------------------------------------------------------------------------------- where a kill fell


def phase(home: Path, stored: bool, size: Size) -> str:
    """What the process was doing when it was killed, from what it left."""
    if stored:
        manifest = home / "store" / "manifest.json"
        if list((home / "store").glob("*.new")):
            return "harvest, writing a file"
        shards = len(json.loads(manifest.read_text())["shards"]) if manifest.exists() else 0
        if shards * SHARD < size.rows:
            return "harvest, or before it"
    run = home / "run"
    if not (run / "run.yaml").exists():
        return "before run.yaml: reading, tokenizing, measuring"
    members = sorted((run / "members").glob("*"))
    part = "extension" if (run / "extension.json").exists() else "sweep"
    if any(list(member.glob("step-*.new")) + list(member.glob("step-*.old")) for member in members):
        return f"{part}, writing or removing a checkpoint"
    newest = {member.name: max((int(p.name[5:]) for p in member.glob("step-*")), default=0) for member in members}
    swept = [step for name, step in newest.items() if not name.endswith("-extended")]
    if not any(swept):
        return "sweep, before the first checkpoint"
    if len(swept) < MEMBERS or len(set(swept)) > 1:
        return "sweep, between two members' checkpoints"
    if min(swept) < size.steps:
        return "sweep, between checkpoints"
    if part == "extension" and max(newest.values()) < size.extended:
        return "extension, between checkpoints"
    return REPORT


# -------------------------------------------------------------------------------------------------------- comparison


def differences(mine: Path, theirs: Path) -> list[str]:
    """Files of two homes that are not the same, but for the clock."""
    found = []
    names = sorted({*_files(mine), *_files(theirs)})
    for name in names:
        a, b = mine / name, theirs / name
        if not (a.exists() and b.exists()):
            found.append(f"{name} is only in {mine.name if a.exists() else theirs.name}")
        elif not name.startswith(("run/report", "run/plots")) and _content(a) != _content(b):
            found.append(f"{name} differs")
    return found


def _files(home: Path) -> set[str]:
    parts = (home / "run", home / "store")
    paths = (path for part in parts for path in part.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(home)) for path in paths}


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]
    if path.name == "run.yaml":
        manifest = yaml.safe_load(path.read_text())
        del manifest["created"]
        for section, key in (("corpus", "store"), ("recipe", "activations")):  # where the store is differs
            manifest[section].pop(key, None)
        return manifest
    return path.read_bytes()


# ---------------------------------------------------------------------------------------------------------- the test


def undisturbed(world: Path, kind: Kind, size: Size) -> tuple[Path, float]:
    """A run to hold the others of its kind against, and how long such a life is."""
    home = world / f"whole-{kind}"
    home.mkdir()
    began = time.monotonic()
    process = forked(lambda: live(world, home, kind, size), home / "log")
    if wait(process) != 0:
        raise SystemExit(f"the undisturbed run failed:\n{(home / 'log').read_text()}")
    return home, time.monotonic() - began


def torment(
    world: Path, home: Path, kind: Kind, size: Size, length: float, kills: int, chance: random.Random
) -> tuple[Counter[str], float]:
    """Kill and resume until a life ends by itself, or enough is done; then let it end.

    Answers where kills fell, and how long a whole life is: less than before, if the machine was busier then.
    """
    home.mkdir()
    fell: Counter[str] = Counter()
    while True:
        born = time.monotonic()
        process = forked(lambda: live(world, home, kind, size), home / "log")
        go_on = _kills(fell) < kills and not fell[REPORT]
        code = wait(process, chance.uniform(0, length) if go_on else 600)
        if code is None:
            os.kill(process, signal.SIGKILL)
            code = wait(process)
            if code == -signal.SIGKILL:
                fell[phase(home, kind.stored, size)] += 1
                path = home / "run" / "metrics.jsonl"
                if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
                    fell["(of these, a line of metrics cut short)"] += 1
                continue
        if code != 0:
            raise SystemExit(f"a resumed run ended with {code}:\n{(home / 'log').read_text()[-3000:]}")
        return fell, length if fell else min(length, time.monotonic() - born)


def _kills(fell: Counter[str]) -> int:
    return sum(count for where, count in fell.items() if not where.startswith("("))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="steps of a run")
    args = parser.parse_args()
    size = Size(args.steps)

    # everything a life imports, before it is born
    for module in EVERYTHING:
        importlib.import_module(module)

    began, chance, runs, bad = time.monotonic(), random.Random(args.seed), 0, []
    fell, by_kind = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        world = Path(name)
        if wait(forked(lambda: prepare(world, size), world / "log")) != 0:
            raise SystemExit((world / "log").read_text())
        whole = {kind: undisturbed(world, kind, size) for kind in KINDS}
        for home, length in whole.values():
            print(f"{home.name}: {length:.1f} s undisturbed", flush=True)
        for home, _ in whole.values():
            assert differences(home, home) == []
        kills = 0
        while kills < args.kills:
            kind, home = KINDS[runs % len(KINDS)], world / f"run-{runs:03d}"
            reference, length = whole[kind]
            most = math.ceil((args.kills - kills) / max(1, len(KINDS) - runs))
            here, length = torment(world, home, kind, size, length, most, chance)
            whole[kind] = reference, length
            found = differences(home, reference)
            check = home / "verify"
            if wait(forked(lambda home=home: verified(home), check)) != 0:
                found.append(check.read_text())
            bad += [f"{home.name}: {what}" for what in found]
            by_kind[str(kind)] += _kills(here)
            runs, fell = runs + 1, fell + here
            kills = _kills(fell)
            print(f"run {runs}, {kind}: {kills} kills, {found or 'the same bits'}", flush=True)
            shutil.rmtree(home)
    seconds = round(time.monotonic() - began)
    found = {"kills": kills, "runs": runs, "seconds": seconds, "of": by_kind, "fell": dict(fell.most_common())}
    print(json.dumps(found, indent=1))
    for what in bad:
        print(f"DIFFERENT {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
