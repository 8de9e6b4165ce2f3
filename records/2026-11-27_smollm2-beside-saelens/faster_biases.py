"""`unmix` with encoder biases that an update moves several times as far: a trial, nothing of it is in the package.

python records/2026-11-27_smollm2-beside-saelens/faster_biases.py TIMES sweep …
"""

from __future__ import annotations

import sys

from unmix.cli import main
from unmix.kernels.dispatch import Step
from unmix.kernels.task import Adam, Weights

usual = Step.adam


def adam(self: Step, weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """As before, and b_enc goes the same way TIMES as far."""
    b_F = weights["b_enc"]
    before_F = b_F.clone()
    usual(self, weights, gradients, first, second, how)
    b_F.add_(b_F - before_F, alpha=float(sys.argv[1]) - 1)


if __name__ == "__main__":
    Step.adam = adam  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
