"""The definition with its products in bf16, by torch's autocast; all else, and the weights, stay in float32.

What enters a product is rounded to 8 binary digits, and so is what comes out. The mean μ of x over the batch, in which
most of the length of a language model's activations lies, is not:

    z = (x - μ) W_enc + (b_enc + μ W_enc)

where the second term is in float32, and so are its gradients. float64 stays float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.kernels import reference
from unmix.kernels.task import Sums, Task, Weights


def launch(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    first_token: int = 0,
    passed: reference.Passed = reference.passed,
) -> Sums:
    """As `reference.launch`."""
    leaves, mean_D = reference.grown(weights), x_BD.mean(0)
    moved = leaves | task.phi.moved(leaves, mean_D @ leaves["W_enc"])
    # nothing is kept from one product to the next: each weight enters one or two
    with torch.autocast(x_BD.device.type, torch.bfloat16, cache_enabled=False):
        found, terms = passed(x_BD - mean_D, y_BE, moved, task, first_token)
    return reference.descend(found, terms, leaves, gradients, task)
