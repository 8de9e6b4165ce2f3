"""The heat map of norms over layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from unmix.report import axes


def heat_map(found: dict[str, Any]) -> bytes:
    """A PNG: a column a place in the residual stream, log-norm bins up, colour the log of the share of tokens."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    hooks = [hook for number, hook in enumerate(found["hooks"]) if not number or hook.startswith("resid_post.")]
    share_HB = np.array([found["hooks"][hook]["proportions"] for hook in hooks])
    edges = np.array(found["edges"])
    with axes.style():
        figure = Figure(figsize=(max(axes.WIDTH, 0.42 * len(hooks) + 2), 3.9), layout="constrained")
        figure.suptitle("How long activations are, layer by layer", x=0.015, ha="left", fontsize=12, fontweight="bold")
        panel = figure.add_subplot()
        panel.grid(visible=False)
        shown = np.ma.masked_equal(share_HB.T, 0)
        mesh = panel.pcolormesh(
            np.arange(len(hooks) + 1) - 0.5, edges, shown, norm=LogNorm(1 / found["tokens"], 1), cmap="viridis"
        )
        medians = [found["hooks"][hook]["quantiles"]["0.5"] for hook in hooks]
        panel.plot(range(len(hooks)), medians, "_", color="white", markersize=12, markeredgewidth=1.6)
        panel.set_yscale("log")
        panel.set_ylabel("||x||")
        panel.set_xticks(range(len(hooks)), ["in", *(hook.removeprefix("resid_post.") for hook in hooks[1:])])
        panel.set_xlabel("residual stream: into the first block, then after block 0, 1, …")
        figure.colorbar(mesh, ax=panel, label="share of tokens")
        return axes.png(figure)
