"""A language model's matrix products in bf16, its residual stream in float32.

The weights of its linear layers are kept in bf16, and the forward pass runs under torch's autocast: what goes into a
linear layer or into attention is rounded to bf16, what comes out is added to a residual stream in float32, norms are
in float32. This moves the activations by a part of a percent (measured, and kept beside the model) and halves the time
where the processor has instructions for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.lm.model import LanguageModel


def multiply_in_bf16(lm: LanguageModel, ids_NT: Tensor, hooks: Sequence[str]) -> LanguageModel:
    """The model with its linear layers in bf16, for good; `bf16_change` is measured on these tokens.

    The output head is left as it is: its weights may be those of the embedding.
    """
    from transformers.pytorch_utils import Conv1D

    before = lm.activations(ids_NT, hooks)
    head = lm.model.get_output_embeddings()
    for module in lm.model.modules():
        if module is not head and isinstance(module, (nn.Linear, Conv1D)):
            weight_OI = module.weight if isinstance(module, nn.Linear) else module.weight.T
            module.weight = nn.Parameter(weight_OI.to(torch.bfloat16).contiguous(), requires_grad=False)
            if module.bias is not None:
                module.bias = nn.Parameter(module.bias.to(torch.bfloat16), requires_grad=False)
            vars(module)["forward"] = MethodType(_forward, module)
    vars(lm.model)["forward"] = torch.autocast(lm.model.device.type, dtype=torch.bfloat16)(lm.model.forward)
    after = lm.activations(ids_NT, hooks)
    # the median token: over all, a few attention sinks of a hundred times its length would be all that is seen
    change = {hook: _relative(after[hook], x_NTD).median().item() for hook, x_NTD in before.items()}
    return replace(lm, bf16_change=change)


def _relative(after_NTD: Tensor, before_NTD: Tensor) -> Tensor:
    """||x' - x|| / ||x||, (N, T)."""
    tiny = torch.finfo(before_NTD.dtype).tiny
    length_NT: Tensor = before_NTD.norm(dim=-1)
    change_NT: Tensor = (after_NTD - before_NTD).norm(dim=-1)
    return change_NT / length_NT.clamp_min(tiny)


def _forward(module: Any, x: Tensor) -> Tensor:
    return F.linear(x.to(torch.bfloat16), module.weight, module.bias)
