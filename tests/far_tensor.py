"""Tensors that behave as those on a GPU do beside tensors of the CPU, without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Far(Tensor):
    """It meets no tensor of the CPU, and numpy does not read it, until `cpu` or `to` has brought it here."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        with torch._C.DisableTorchFunctionSubclass():
            if function is Tensor.cpu or (function is Tensor.to and _names_a_device(args[1:], kwargs)):
                return function(*args, **kwargs).as_subclass(Tensor)
            near = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and not isinstance(one, Far)]
            if any(one.ndim for one in near):
                raise RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!")
        return super().__torch_function__(function, types, args, kwargs)


class Narrow(Far):
    """The same of a GPU that has no float64, as `mps`."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (*args, *(kwargs or {}).values())
        if function is Tensor.double or any(one is torch.float64 for one in given):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return super().__torch_function__(function, types, args, kwargs)


def far(tensor: Tensor) -> Far:
    """The same numbers, as if they lay on a GPU."""
    return tensor.as_subclass(Far)


def _names_a_device(args: Any, kwargs: Any) -> bool:
    return "device" in kwargs or any(isinstance(one, str | torch.device) for one in args)
