"""A sweep of four coefficients, harvest included: `unmix sweep` beside SAELens' multi-SAE runner.

    python sweep.py --settled-bias --steps 12           from encoders that start with about 100 active features
    python sweep.py --steps 24                          from the usual start, with half of them active

Every run has a process of its own. Its peak memory is that of the process alone: a process begins with the peak of
the one that it was forked from, so a small one stands between. The parent imports nothing large for the same reason.
Speed once settled: over the last third of the steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from common import Comparison, add_common, report

HERE = Path(__file__).parent
CONTENDERS = ("unmix default", "unmix fp32", "unmix bf16", "SAELens default", "SAELens autocast")
CONTENDERS += ("SAELens auto-model", "SAELens auto-model autocast")
PEAK = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


def run(contender: str, job: Path, log: Path) -> dict[str, Any]:
    """What the worker found, and its peak memory in MB (`ru_maxrss` is in KB)."""
    out = job.with_name("out.json")
    out.unlink(missing_ok=True)
    command = [sys.executable, "-S", "-c", PEAK, sys.executable, str(HERE / "sweep_worker.py"), contender]
    with log.open("ab") as file:
        done = subprocess.run([*command, str(job), str(out)], stdout=subprocess.PIPE, stderr=file, check=False)
    if done.returncode:
        sys.exit(f"{contender} failed; see {log}")
    return json.loads(out.read_text()) | {"peak_mb": int(done.stdout.split()[-1]) * 1024 / 1e6}


def rates(found: dict[str, Any], steps: int, tokens: int) -> tuple[float, float]:
    """Tokens a second from step 0, and over the last third."""
    seconds = {0: 0.0} | {int(step): s for step, s in found["marks"]}
    late = min((step for step in seconds if step >= steps * 2 / 3), default=0)
    late = late if late < steps else sorted(seconds)[-2]
    return steps * tokens / seconds[steps], (steps - late) * tokens / (seconds[steps] - seconds[late])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.set_defaults(rounds=1)
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".work" / "gpt2-benchmark")
    parser.add_argument("--steps", type=int, default=12, help="a multiple of 3 periods")
    parser.add_argument("--period", type=int, default=4, help="steps between two harvests, the same for both")
    parser.add_argument("--tokens", type=int, default=4096, help="a batch")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--l1", type=float, nargs="+", default=[1.0, 5.0, 50.0, 500.0])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--settled-bias", action="store_true", help="encoders start with a bias that gives --l0")
    parser.add_argument("--l0", type=float, default=100)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--small", action="store_true", help="width 64, to try the script")
    args = parser.parse_args()
    if args.steps % (3 * args.period):
        parser.error("--steps has to be a multiple of 3 periods, so that the last third holds whole harvests")
    args.folder.mkdir(parents=True, exist_ok=True)
    log = args.folder / "sweep.log"
    sequences = (args.steps + 3 * args.period) * args.tokens // args.length
    prepare = [sys.executable, str(HERE / "gpt2.py"), str(args.folder), "--sequences", str(sequences)]
    prepare += ["--length", str(args.length), "--features", str(args.features), "--l0", str(args.l0)]
    with log.open("wb") as file:
        subprocess.run(prepare + ["--small"] * args.small, check=True, stdout=file, stderr=file)
    facts = json.loads((args.folder / "prepared.json").read_text())
    job = args.folder / "job.json"
    given = {key: value for key, value in vars(args).items() if key not in ("json", "folder")}
    job.write_text(json.dumps(given | facts | {"sequences": sequences, "folder": str(args.folder.resolve())}))
    found: dict[str, list[dict[str, Any]]] = {}
    for round_ in range(args.rounds):
        for contender in args.only:
            print(f"round {round_ + 1} of {args.rounds}: {contender}", file=sys.stderr)
            one = run(contender, job, log)
            found.setdefault(contender, []).append(one)
    summarise(args, found, facts)


def summarise(args: argparse.Namespace, found: dict[str, list[dict[str, Any]]], facts: dict[str, float]) -> None:
    """Tables and comparisons."""
    speed = {name: [rates(one, args.steps, args.tokens) for one in runs] for name, runs in found.items()}
    peak = {name: [one["peak_mb"] for one in runs] for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        row: dict[str, Any] = {"sweep": name}
        row["tokens/s from step 0"] = f"{median(s for s, _ in speed[name]):,.0f}"
        row["tokens/s, last third"] = f"{median(s for _, s in speed[name]):,.0f}"
        row |= {"peak, MB": f"{median(peak[name]):,.0f}", "of it before training": f"{runs[-1]['resident_mb']:,.0f}"}
        for l1, member in runs[-1]["members"].items():
            row[f"L0, loss at l1={l1}"] = f"{member['l0']:.1f}, {member['loss']:.1f}"
        rows.append(row)

    def faster(ours: str, theirs: str, target: float) -> Comparison | None:
        if ours not in speed or theirs not in speed:
            return None
        ratio = median(o[1] / t[1] for o, t in zip(speed[ours], speed[theirs], strict=True))
        values = (median(s for _, s in speed[ours]), median(s for _, s in speed[theirs]))
        if not args.settled_bias:  # the members are dense for the whole of a short run
            return Comparison("sweep, its first steps", ours, theirs, *values, "tokens/s", ratio, 1)
        return Comparison("sweep, settled", ours, theirs, *values, "tokens/s", ratio, target)

    def smaller(ours: str, theirs: str) -> Comparison | None:
        if ours not in peak or theirs not in peak:
            return None
        ratio = median(o / t for o, t in zip(peak[ours], peak[theirs], strict=True))
        values = (median(peak[ours]), median(peak[theirs]))
        return Comparison("peak memory of the sweep", ours, theirs, *values, "MB", ratio, 0.6, "at most")

    comparisons = [
        faster("unmix default", "SAELens default", 7),
        faster("unmix fp32", "SAELens default", 3.5),
        faster("unmix bf16", "SAELens autocast", 4.5),
        faster("unmix default", "SAELens autocast", 1),
        faster("unmix default", "SAELens auto-model", 7),
        faster("unmix default", "SAELens auto-model autocast", 1),
        faster("unmix fp32", "SAELens auto-model", 3.5),
        faster("unmix bf16", "SAELens auto-model autocast", 4.5),
    ]
    comparisons += [smaller("unmix default", name) for name in CONTENDERS if name.startswith("SAELens")]
    start = f"encoders that begin at L0 ≈ {args.l0:g}" if args.settled_bias else "the usual start"
    checks = [
        f"{args.steps} steps of {args.tokens} tokens, {args.features:,} features, lr {args.lr:g}, from {start}",
        f"E||x||² = {facts['mean_square_norm']:.0f}; the same weights, tokens and first dictionary; L0 and loss over "
        f"the last {args.period} steps (the order of the tokens differs)",
    ]
    name = args.name or ("sweep-settled" if args.settled_bias else "sweep")
    report("sweep.py", args, comparisons, rows, checks, args.json, name)


if __name__ == "__main__":
    main()
