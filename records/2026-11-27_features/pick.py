"""Ten features of a built site by a rule, and how well the labels of all of them tell where they fire.

    python pick.py RUN          the chosen member
    python pick.py SAE          the only one

Six are of the report's rule (`unmix.report.features`): the two most frequent of those on at most one token in ten, the
two rarest that fired ten times or more, the two that write most (the largest logit). Two are the clearest: they fire
wherever their favourite token stands (no near miss), their label is right on every window, and of such they fired most.
Two promise ill. Of the features that fired ten times or more, on at most one token in ten: the one whose best match in
the other members is the worst, and the one whose firings are on the most mixed tokens (entropy). Where there is no
other member, the first of these is the one that has the nearest other row in its own dictionary.

A label is tried on the windows on which `unmix explore --explain` tries a description (`describe_text.split`). Read as
a rule and without a model, it says that the feature fires in a window if one of its tokens, those before →, stands
there. The windows are some of the firings that the label was counted from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import unmix
from unmix.explore.describe_text import LEAST, Window, split
from unmix.explore.labels import kind, kinds
from unmix.explore.server_files import read_manifest, read_object
from unmix.explore.site_records import Records
from unmix.report.features import OFTEN, SELDOM, picked

Record = dict[str, Any]
WELL = 0.8
FEW, WEAK = 100, 0.6


def main(run: Path) -> None:
    site = run / "explore/site"
    manifest = read_manifest(site)
    member = manifest["chosen"] or manifest["members"][0]["name"]
    [facts] = [row for row in manifest["members"] if row["name"] == member]
    index, vocabulary, get = read_object(site, f"{member}/index"), _bytes(site), Records(site, manifest, member)
    sae = unmix.open_run(run).sae(member) if (run / "run.yaml").exists() else unmix.load_sae(run)
    threshold = sae.weights.get("threshold")
    records = [get(i) for i in range(facts["features"])]
    print(f"{member}: {len(records)} features, {sum(r['firings'] > 0 for r in records)} of them fired", end=" ")
    print(f"on {facts['tokens']['counted']:,} tokens", end="\n\n" if threshold is None else "; ")
    if threshold is not None:
        print(f"threshold {float(threshold[0]):.3f}\n")
    for why, record in ten(records, index["entropy"], vocabulary):
        i, (what, best) = record["i"], match(record)
        print(f"{why:<13} {i:>5}  {record['firings']:>6} firings  {100 * record['density']:.3g} %", end="  ")
        print(f"entropy {index['entropy'][i]:.2f}  {what} {best:.2f}", end="  ")
        print(f"logit {reach(record):+.1f}  {record['label']}")
    print()
    seldom = [record for record in records if record["firings"] < FEW]
    print(f"{len(seldom)} features fired fewer than {FEW} times", end="")
    if threshold is not None:
        print(f", {sum(record['max'] < WEAK for record in seldom)} of them never at {WEAK} or more", end="")
    else:
        often = [record["max"] for record in records if record["firings"] >= FEW]
        once = [record["max"] for record in seldom if record["firings"]]
        print(f"; median max of those that fired {np.median(once):.2f}, of all others {np.median(often):.2f}", end="")
    print("\n")
    for line in tried(records, vocabulary):
        print(line)


def ten(records: list[Record], entropy: list[float], vocabulary: dict[int, bytes]) -> list[tuple[str, Record]]:
    """(why, the record)."""
    six = picked([record for record in records if record["firings"]], 0)[:6]
    fit = [record for record in records if record["firings"] >= SELDOM and record["density"] <= OFTEN]
    clear = [r for r in fit if judged(r, vocabulary) == (1, 1, None) and not r["groups"]["near"]]
    return [
        *six,
        *(("clearest", record) for record in sorted(clear, key=lambda record: (-record["firings"], record["i"]))[:2]),
        alone(fit),
        ("most mixed", max(fit, key=lambda record: (entropy[record["i"]], -record["i"]))),
    ]


def alone(fit: list[Record]) -> tuple[str, Record]:
    """The one that is least found again; without another member the one most like another of its own dictionary."""
    if fit[0]["stability"]:
        return "least stable", min(fit, key=lambda record: (match(record)[1], record["i"]))
    return "most doubled", max(fit, key=lambda record: (match(record)[1], -record["i"]))


def match(record: Record) -> tuple[str, float]:
    """The largest cosine of decoder rows: with those of any other member, else with the others of its own."""
    if record["stability"]:
        return "best match", max(row["cos"] for row in record["stability"])
    return "nearest row", record["decoder"][0][1]


def reach(record: Record) -> float:
    """The largest logit that its decoder row adds."""
    return max(value for _, value in record["logits"]["plus"])


def tried(records: list[Record], vocabulary: dict[int, bytes]) -> list[str]:
    """What the labels get right: rows of (found, kept silent at random, kept silent at its token, balanced)."""
    rows = [row for record in records if (row := judged(record, vocabulary)) is not None]
    names = ("fires, and the label says so", "silent at a random place, and the label says so")
    lines = [f"{len(rows)} features with {LEAST} windows of each kind or more"]
    for name, column in zip(names, zip(*rows, strict=True), strict=False):
        lines.append(f"{name:<50} {np.mean(column):.3f}")
    both = np.array([(yes + no) / 2 for yes, no, _ in rows])
    near = [share for *_, share in rows if share is not None]
    lines.append(f"{'mean of the two':<50} {both.mean():.3f}")
    lines.append(f"{f'features of which it is {WELL} or more':<50} {(both >= WELL).mean():.3f}")
    lines.append(f"{'silent at its own token, and the label says so':<50} {np.mean(near):.3f} ({len(near)} features)")
    return lines


def judged(record: Record, vocabulary: dict[int, bytes]) -> tuple[float, float, float | None] | None:
    """Shares that the label gets right: of windows with firings, of silent ones, of silent ones with its token."""
    found, near = split(record), {(w["s"], w["p"]) for w in record["groups"]["near"]}
    random = [w for w in found.silent if (w["s"], w["p"]) not in near]
    hard = [w for w in found.silent if (w["s"], w["p"]) in near]
    if len(found.held) < LEAST or len(random) < LEAST:
        return None
    ids, shares, means = zip(*record["tokens"], strict=True)
    masses = [share * mean / record["mean"] for share, mean in zip(shares, means, strict=True)]
    named = set(kinds(ids, masses, vocabulary.__getitem__)[0])

    def says(window: Window) -> bool:
        return any(kind(vocabulary[i]) in named for i in window["ids"])

    yes = np.mean([says(w) for w in found.held])
    return float(yes), 1 - float(np.mean([says(w) for w in random])), _silent(hard, says)


def _silent(windows: list[Window], says: Any) -> float | None:
    return 1 - float(np.mean([says(w) for w in windows])) if windows else None


def _bytes(site: Path) -> dict[int, bytes]:
    there = read_object(site, "vocabulary")
    special = {int(i): text.encode() for i, text in there["special"].items()}
    return special | {int(i): text.encode("latin-1") for i, text in there["bytes"].items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
