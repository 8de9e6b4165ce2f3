"""A language model's matrix products in bf16, its residual stream in float32.

The weights of its linear layers are kept in bf16, and the forward pass runs under torch's autocast: what goes into a
linear layer or into attention is rounded to bf16, what comes out is added to a residual stream in float32, norms are
in float32. This moves the activations by a part of a percent (measured, and kept beside the model). Whether it saves
time depends on the machine: from half as fast to several times as fast. So it is timed (`rates`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.errors import UserError
from unmix.lm.model import LanguageModel


def multiply_in_bf16(lm: LanguageModel, ids_NT: Tensor, hooks: Sequence[str]) -> LanguageModel:
    """The model with its linear layers in bf16, for good; `bf16_change` is measured on these tokens.

    Raises `UserError` for a model that does not run so, and leaves it as it was.
    """
    before = lm.activations(ids_NT, hooks)
    undo = _narrow(lm)
    try:
        after = lm.activations(ids_NT, hooks)
    except RuntimeError as error:
        undo()
        said = str(error).strip().partition("\n")[0]
        raise UserError(f"{lm.name} does not run with products in bf16 ({said}); give --model.matmul fp32") from error
    # the median token: over all, a few attention sinks of a hundred times its length would be all that is seen
    change = {hook: _relative(after[hook], x_NTD).median().item() for hook, x_NTD in before.items()}
    return replace(lm, bf16_change=change)


def rates(lm: LanguageModel, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, float]:
    """Tokens a second of passes to the last of the hooks, in float32 and with products in bf16.

    The best of two passes over these tokens each, after one that is not timed. The model is as it was afterwards. One
    that does not run in bf16, as its own code does not bear two dtypes, has its rate in float32 alone.
    """
    found = {"fp32": _rate(lm, ids_NT, hooks)}
    undo = _narrow(lm)
    try:
        with suppress(RuntimeError):
            found["bf16"] = _rate(lm, ids_NT, hooks)
    finally:
        undo()
    return {name: round(rate, 1) for name, rate in found.items()}


def _rate(lm: LanguageModel, ids_NT: Tensor, hooks: Sequence[str]) -> float:
    lm.activations(ids_NT[:1], hooks)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        lm.activations(ids_NT, hooks)
        times.append(time.perf_counter() - began)
    return ids_NT.numel() / min(times)


def _narrow(lm: LanguageModel) -> Callable[[], None]:
    """Put the linear layers into bf16; answers what puts them back.

    Only modules that are exactly `nn.Linear` or `Conv1D`: a subclass may have a forward pass of its own. The output
    head is left as it is: its weights may be those of the embedding. So are the routers of a mixture of experts, with
    all that is in them: rounded, they send tokens to other experts.
    """
    from transformers.pytorch_utils import Conv1D

    head, undo = lm.model.get_output_embeddings(), []

    def attribute(module: Any, **new: Any) -> None:
        for name, value in new.items():
            own = vars(module)
            undo.append(partial(own.__setitem__, name, own[name]) if name in own else partial(own.pop, name))
            own[name] = value

    def weights(module: Any, weight: Tensor, bias: Tensor | None) -> None:
        undo.append(partial(_set_weights, module, module.weight, module.bias))
        _set_weights(module, weight, bias)

    routers = [module for path, module in lm.model.named_modules() if _is_router(path, module)]
    exact = {head, *(part for router in routers for part in router.modules())}
    for router in routers:
        attribute(router, forward=_unrounded(router.forward, lm.model.device.type))
    for module in lm.model.modules():
        if module not in exact and type(module) in (nn.Linear, Conv1D):
            weight_OI = module.weight if type(module) is nn.Linear else module.weight.T
            bias = module.bias if module.bias is None else _frozen(module.bias)
            weights(module, _frozen(weight_OI), bias)
            attribute(module, forward=MethodType(_forward, module))
    autocast = torch.autocast(lm.model.device.type, dtype=torch.bfloat16)
    attribute(lm.model, forward=autocast(lm.model.forward))

    def back() -> None:
        for step in reversed(undo):
            step()

    return back


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.to(torch.bfloat16).contiguous(), requires_grad=False)


def _set_weights(module: Any, weight: Any, bias: Any) -> None:
    module.weight = weight
    module.bias = bias


def _is_router(path: str, module: nn.Module) -> bool:
    """Whether the module says which experts a token goes to: by its class; by its name, if it is a module with parts
    (JetMoE, Hunyuan), or a linear layer with few outputs."""
    name = path.rpartition(".")[2]
    if "Router" in type(module).__name__:
        return True
    return name in ("router", "gate") and (bool(list(module.children())) or _few(getattr(module, "weight", None)))


def _few(weight: Any) -> bool:
    """Fewer outputs than inputs by far: a gate over experts, and not that of a gated MLP."""
    return isinstance(weight, Tensor) and weight.ndim == 2 and 4 * weight.shape[0] <= weight.shape[1]


def _unrounded(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The same outside autocast, in float32, on a device of this type."""

    def exact(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return forward(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})

    return exact


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _relative(after_NTD: Tensor, before_NTD: Tensor) -> Tensor:
    """||x' - x|| / ||x||, (N, T)."""
    tiny = torch.finfo(before_NTD.dtype).tiny
    length_NT: Tensor = before_NTD.norm(dim=-1)
    change_NT: Tensor = (after_NTD - before_NTD).norm(dim=-1)
    return change_NT / length_NT.clamp_min(tiny)


def _forward(module: Any, x: Tensor) -> Tensor:
    return F.linear(x.to(torch.bfloat16), module.weight, module.bias)
