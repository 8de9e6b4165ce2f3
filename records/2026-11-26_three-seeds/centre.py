"""A store with the mean of its first shard taken from every row, or another scale: what centring is worth, and why.

    python records/2026-11-26_three-seeds/centre.py STORE OUT HOW

HOW is `centred`; or, for training with `--sae.scaling none`, one of the two things that centring changes when the
scale is `dataset`: `mean-only` takes the mean away and leaves the scale that a raw x would have (E||x||² = D), and
`scale-only` leaves the mean and brings what is beside it to D. Explained variance does not change with any of them, nor
does what a dictionary can say: its biases take the mean up.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HOOK = "resid_post.3"


def main(store: Path, out: Path, how: str) -> None:
    """Shard by shard."""
    out.mkdir(parents=True)
    manifest = json.loads((store / "manifest.json").read_text())
    first_RD = load_file(store / manifest["shards"][0]["file"])[HOOK].float()
    mean_D, square = first_RD.mean(0), first_RD.square().sum(1).mean()
    beside = square - mean_D.square().sum()
    print(f"the mean has {1 - beside / square:.1%} of E||x||²")
    D = len(mean_D)
    factor = {"centred": 1.0, "mean-only": (D / square) ** 0.5, "scale-only": (D / beside) ** 0.5}[how]
    for shard in manifest["shards"]:
        tensors = load_file(store / shard["file"])
        x_RD = tensors[HOOK].float()
        if how != "scale-only":
            x_RD = x_RD - mean_D
        tensors[HOOK] = (x_RD * factor).to(torch.bfloat16)
        save_file(tensors, out / shard["file"])
        shard["sha256"] = hashlib.sha256((out / shard["file"]).read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
