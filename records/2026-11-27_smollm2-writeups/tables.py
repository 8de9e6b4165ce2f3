"""The tables and pictures of write-up 2: python tables.py runs/outliers runs/without

Writes normalized.md, members.jsonl and pareto_HOOK.png beside this file, by functions of `scripts/normalized_sae.py`:
each number at one L0 is linear in log L0 between the two members of a kind around it. by_length.md is made of
members.jsonl; without runs, it alone is written.
"""

import json
import sys
from pathlib import Path

RECORD = Path(__file__).parent
sys.path.insert(0, str(RECORD.parents[1] / "scripts"))
import normalized_sae as before  # noqa: E402

LEVELS = (10, 25, 50)
PANELS = {
    "relu, error over ‖x‖^k": ["sae.k0", "sae.k1", "sae.k2"],
    "normalized, noise": ["sae.k0", "nsae.k0", "nsae.k1", "nsae.k2"],
    "plain cures": ["sae.k0", "masked", "special", "token"],
}


def rows(folder: Path) -> dict[str, list[before.Row]]:
    """Hook -> its evaluated members, flat."""
    found: dict[str, list[before.Row]] = {}
    for result in json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["hooks"]:
        for name, row in result["saes"].items():
            kind, _, l1 = name.removeprefix(f"{result['hook']}-").rpartition("-l1-")
            groups = row["by_norm"]["groups"]
            parts = {"top": groups["top 1 %"], "rest": groups["the rest"], "bottom": groups["bottom 1 %"]}
            found.setdefault(result["hook"], []).append({**row, "kind": kind, "alpha": float(l1), **parts})
    return found


def of_members(members: list[before.Row]) -> list[str]:
    """A line a dictionary, as it was measured; behind `dead`, L0 of the shortest and longest 1 %."""
    lines = [
        "| kind | α | L0 | expl. var. | ΔCE | put everywhere | KL | dead | L0, shortest 1 % | the rest | longest 1 % |"
    ]
    lines.append("|---|" + "--:|" * 10)
    for m in members:
        l0 = [f"{m[part]['l0']:.1f}" for part in ("bottom", "rest", "top")]
        cells = [f"{m['alpha']:g}", f"{m['l0']:.1f}", f"{m['explained_variance']:.3f}"]
        everywhere = (m.get("outliers") or {}).get("delta_ce_everywhere")
        cells += [f"{m['delta_ce']:.3f} ± {m['delta_ce_standard_error']:.3f}"]
        cells += ["" if everywhere is None else f"{everywhere:.3f}", f"{m['kl']:.3f}", f"{m['dead']:.1%}"]
        cells += l0
        lines.append(f"| {m['kind']} | " + " | ".join(cells) + " |")
    return lines


def by_length(members: list[before.Row]) -> list[str]:
    """A line a dictionary: L0 and L1 = Σᵢ fᵢ‖wᵢ‖ of the shortest and longest tokens; the sums' shares."""
    groups = "shortest 1 % | the rest | longest 1 %"
    lines = [f"| kind | α | L0, {groups} | L1, {groups} | of the squared error, longest 1 % | of the penalty |"]
    lines.append("|---|" + "--:|" * 9)
    for m in members:
        parts = [m[part] for part in ("bottom", "rest", "top")]
        cells = [f"{m['alpha']:g}", *(f"{part['l0']:.1f}" for part in parts), *(f"{part['l1']:,.0f}" for part in parts)]
        shares = [f"{m['top'][key]:.1%}" for key in ("share_of_loss", "share_of_penalty")]
        lines.append(f"| {m['kind']} | " + " | ".join(cells + shares) + " |")
    return lines


def write_by_length() -> None:
    """by_length.md, from members.jsonl."""
    kept = [json.loads(line) for line in (RECORD / "members.jsonl").read_text(encoding="utf-8").splitlines()]
    text = ["# Which tokens take the features, every dictionary\n\nWritten by `tables.py`; each in its own units.\n"]
    for hook in dict.fromkeys(row["hook"] for row in kept):
        text += [f"\n## {hook}\n", *by_length([row for row in kept if row["hook"] == hook])]
    (RECORD / "by_length.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    if not sys.argv[1:]:
        write_by_length()
        return
    before.LEVELS = LEVELS
    text, kept = ["# Tables of write-up 2\n\nWritten by `tables.py`.\n"], []
    for hook, members in {hook: of for run in sys.argv[1:] for hook, of in rows(Path(run)).items()}.items():
        (RECORD / f"pareto_{hook}.png").write_bytes(before.pareto(members, hook, PANELS))
        text += [f"\n## {hook}, every dictionary\n", *of_members(members)]
        text += [f"\n## {hook}, at equal L0\n", *before.table_at_levels([members])]
        text += [f"\n## {hook}, by length, at L0 = 25\n", *before.table_by_norm(members, 25)]
        kept += [{"hook": hook} | {key: m[key] for key in (*before.KEPT, "top", "rest", "bottom")} for m in members]
    (RECORD / "normalized.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    (RECORD / "members.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    write_by_length()


if __name__ == "__main__":
    main()
