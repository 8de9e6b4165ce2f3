"""What the features of a built site write, activation times the length of the decoder row, and where.

    python written.py RUN_OR_SAE [FEATURE …] [--like FEATURE]

By how often they fired; the features that are named; the rows that point as that of --like does; the tokens that stand
most often among the ten that a feature raises, and that it lowers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pick import FEW, _bytes

import unmix
from unmix.explore.server_files import read_manifest
from unmix.explore.site_records import Records

Record = dict[str, Any]
SAME = 0.99


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("features", nargs="*", type=int)
    parser.add_argument("--like", type=int)
    args = parser.parse_args()
    site = args.folder / "explore/site"
    manifest = read_manifest(site)
    member = manifest["chosen"] or manifest["members"][0]["name"]
    [facts] = [row for row in manifest["members"] if row["name"] == member]
    run = (args.folder / "run.yaml").exists()
    sae = unmix.open_run(args.folder).sae(member) if run else unmix.load_sae(args.folder)
    get, rows_FD = Records(site, manifest, member), sae.weights["W_dec"].float().numpy()
    records, length_F = [get(i) for i in range(facts["features"])], np.linalg.norm(rows_FD, axis=1)
    print(f"{member}: median length of a token {facts['by_norm']['edges'][5]}; longest row {length_F.max():.3f}\n")
    by_firings(records, length_F)
    for i in args.features:
        print(f"{i:>5}  row {length_F[i]:.3f}  writes at most {records[i]['max'] * length_F[i]:.2f}", end="  ")
        print(f"in the mean {(records[i]['mean'] or 0) * length_F[i]:.2f}", end="  ")
        print("left out:", {reason: out["firings"] for reason, out in records[i]["left_out"].items()})
    if args.like is not None:
        alike(records, rows_FD, length_F, args.like)
    common(records, _bytes(site))


def by_firings(records: list[Record], length_F: np.ndarray) -> None:
    """How much of all that is written on counted tokens is of the frequent, and of the others."""
    firings_F = np.array([record["firings"] for record in records])
    mass_F = firings_F * length_F * np.array([record["mean"] or 0 for record in records])
    for what, these in (
        ("never fired", firings_F == 0),
        (f"fired fewer than {FEW} times", (firings_F > 0) & (firings_F < FEW)),
        (f"fired {FEW} times or more", firings_F >= FEW),
    ):
        print(f"{these.sum():>5} {what:<30} {mass_F[these].sum() / mass_F.sum():.4f} of what is written")
    close_F = np.array([record["decoder"][0][1] for record in records]) > 0.9
    print(f"{close_F.sum():>5} with another row at more than 0.9,", end=" ")
    print(f"{(close_F & (firings_F < FEW)).sum()} of which fired fewer than {FEW} times\n")


def alike(records: list[Record], rows_FD: np.ndarray, length_F: np.ndarray, like: int) -> None:
    """The rows at SAME or more to that of `like`, and their share of what is written where it is not counted."""
    cosine_F = rows_FD @ rows_FD[like] / (length_F * length_F[like])
    top = int(np.abs(rows_FD[like]).argmax())
    group = [int(i) for i in np.argsort(-cosine_F) if cosine_F[i] >= SAME]
    print(f"\n{'row':>5}  cosine  length  of its square on dimension {top}  largest counted, at position 0, long")
    for i in group:
        out = [_out(records[i], reason, "max") for reason in ("first", "long")]
        share = (rows_FD[i, top] / length_F[i]) ** 2
        print(f"{i:>5}  {cosine_F[i]:.4f}  {length_F[i]:.3f}  {share:.3f}  {records[i]['max']:.1f}", *out)
    for reason in ("first", "long"):
        mass_F = length_F * np.array([_out(record, reason, "mass") for record in records])
        print(f"{mass_F[group].sum() / mass_F.sum():.3f} of what is written on tokens left out as {reason!r}")
    near, few = cosine_F > 0.9, np.array([record["firings"] for record in records]) < FEW
    print(f"{near.sum()} rows at more than 0.9 to it, {(near & few).sum()} of which fired fewer than {FEW} times\n")


def _out(record: Record, reason: str, what: str) -> float:
    return float(record["left_out"].get(reason, {what: 0})[what])


def common(records: list[Record], vocabulary: dict[int, bytes]) -> None:
    """Of the features that fired FEW times or more."""
    often = [record for record in records if record["firings"] >= FEW]
    for side, said in (("plus", "raised"), ("minus", "lowered")):
        found = Counter(i for record in often for i, _ in record["logits"][side])
        tokens = (f"{vocabulary[i].decode('utf-8', 'replace')!r} {n / len(often):.3f}" for i, n in found.most_common(8))
        print(f"{said} by the share of {len(often)} features:", ", ".join(tokens))


if __name__ == "__main__":
    main()
