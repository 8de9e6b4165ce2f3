"""Draw the picture of docs/norms.md: tanh(relu(z)) beside relu(z).

python scripts/draw_theory.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from unmix.report import axes

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHRUNK = 4.0
LEFT, RIGHT, TOP = -2.0, 4.0, 3.2


def tanh_relu() -> bytes:
    """A PNG: relu, tanh(relu), and between them the bounded feature that is shrunk and read with a larger row."""
    z = np.linspace(LEFT, RIGHT, 1201)
    relu = np.maximum(z, 0.0)
    bounded, shrunk = np.tanh(relu), SHRUNK * np.tanh(relu / SHRUNK)
    dark, light, _ = axes.colours([0, 1, 2]).values()
    with axes.style():
        figure = Figure(figsize=(axes.WIDTH, 3.3), layout="constrained")
        figure.suptitle("Bounded by 1, until its decoder row grows", x=0.015, ha="left", fontsize=12, fontweight="bold")
        panel = figure.add_subplot()
        panel.set(xlim=(LEFT, RIGHT), ylim=(-0.15, TOP), xlabel="pre-activation z", ylabel="feature × decoder norm")
        panel.xaxis.set_major_locator(MultipleLocator(1))
        panel.yaxis.set_major_locator(MultipleLocator(1))
        panel.axhline(1, color=axes.GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        panel.plot(z, relu, color=axes.GREY, linewidth=1.8)
        panel.plot(z, shrunk, color=light, linewidth=2.0, linestyle=axes.DASHES[1])
        panel.plot(z, bounded, color=dark, linewidth=2.4)
        for at, height, text, colour in (
            (2.5, 2.8, "relu(z)", axes.GREY),
            (3.95, 1.55, f"{SHRUNK:.0f} tanh(relu(z)/{SHRUNK:.0f})", light),
            (3.95, 0.75, "tanh(relu(z))", dark),
        ):
            panel.text(at, height, text, color=colour, ha="right", va="center", fontweight="bold")
        return axes.png(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "tanh_relu.png").write_bytes(tanh_relu())
