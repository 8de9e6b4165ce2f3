"""To notice where a host would wait for its device; on the processor the same operations are called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
}
"""What reads a number, or makes a shape, that the device alone knows."""


class NoWaiting(TorchDispatchMode):
    """Raises where the host would need a number from the device."""

    def __enter__(self) -> NoWaiting:
        self.tolist, Tensor.tolist = Tensor.tolist, _refused
        super().__enter__()
        return self

    def __exit__(self, *words: Any) -> None:
        Tensor.tolist = self.tolist
        super().__exit__(*words)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITING, f"the host waits for the device in {func}"
        if func is aten.index.Tensor:
            assert all(at is None or at.dtype != torch.bool for at in args[1]), "the host waits for a mask"
        return func(*args, **kwargs or {})


def _refused(tensor: Tensor) -> None:
    raise AssertionError("the host waits for the device in tolist")
