"""What a hook's place gives as one vector a token, and how a vector is put back there.

    x = (what the module gives - what it added of its own accord) · factor [+ what goes into its block]

Reading and splicing go through the same function, `attach`, so that what is put back is what was taken out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from unmix.errors import UserError

See = Callable[[Tensor], "Tensor | None"]
"""Is given x (N, T, D) in the model's dtype; answers what stands in its place, or nothing to leave it."""


class Place(NamedTuple):
    """Where a hook reads."""

    module: nn.Module
    side: Literal["input", "output"]
    factor: float = 1.0
    """What the block multiplies the module's output by before it adds it (Granite)."""
    adds: str = ""
    """The argument of the module's forward that the module itself adds to its output (BLOOM, MPT)."""
    onto: nn.Module | None = None
    """The block whose input is added to all that: the residual stream in its middle."""


def attach(place: Place, hook: str, shape: Callable[[], tuple[int, int] | None], see: See) -> Any:
    """Have `see` called with the place's x in every forward pass; answers the handle that removes it.

    `shape` answers (N, T) of the pass that is running. Raises `UserError`, within the pass, if the place does not give
    one vector for each of N × T tokens.
    """
    if place.side == "input":

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = None if args else _first_name(module, kwargs, hook)
            new = _seen(args[0] if name is None else kwargs[name], None, place, hook, shape(), see)
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: new})

        return place.module.register_forward_pre_hook(before, with_kwargs=True)

    base: list[Any] = []  # of the pass that is running

    def enters(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        base[:] = [args[0] if args else kwargs["hidden_states"]]

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        added = _argument(module, place.adds, args, kwargs) if place.adds else None
        return _seen(output, added, place, hook, shape(), see, base[0] if base else None)

    handle = place.module.register_forward_hook(after, with_kwargs=True)
    if place.onto is None:
        return handle
    return _Handles((handle, place.onto.register_forward_pre_hook(enters, with_kwargs=True)))


class _Handles(NamedTuple):
    """Of hooks that are removed together."""

    each: tuple[Any, ...]

    def remove(self) -> None:
        """Remove all of them."""
        for handle in self.each:
            handle.remove()


def _seen(
    given: Any,
    added: Tensor | None,
    place: Place,
    hook: str,
    shape: tuple[int, int] | None,
    see: See,
    base: Any = None,
) -> Any:
    """What stands in the place of `given` afterwards; none if `see` leaves it."""
    there = _tensor(given, hook, shape)
    N, T = _rows(there, shape)
    x_NTD = there.reshape(N, T, -1)
    if added is not None:
        x_NTD = x_NTD - added.reshape(N, T, -1)
    if place.factor != 1:
        x_NTD = x_NTD * place.factor
    base_NTD = None if base is None else _tensor(base, hook, shape).reshape(N, T, -1)
    new_NTD = see(x_NTD if base_NTD is None else x_NTD + base_NTD)
    if new_NTD is None:
        return None
    new_NTD = new_NTD.to(there.dtype)
    if base_NTD is not None:
        new_NTD = new_NTD - base_NTD
    if place.factor != 1:
        new_NTD = new_NTD / place.factor
    if added is not None:
        new_NTD = new_NTD + added.reshape(N, T, -1)
    # memory of its own: a later block may add to it in place, which an expanded mean does not bear
    return _put(given, new_NTD.reshape(there.shape).clone(memory_format=torch.contiguous_format))


def _tensor(given: Any, hook: str, shape: tuple[int, int] | None) -> Tensor:
    """The tensor in what a module gives: itself, or the first of several."""
    if isinstance(given, Mapping):
        found = next(iter(given.values()), None)
    else:
        found = given[0] if isinstance(given, (tuple, list)) and given else given
    if isinstance(found, Tensor) and found.is_floating_point():
        N, T = _rows(found, shape)
        flat = found.ndim == 2 and found.shape[0] == N * T  # OPT's MLP, in some versions
        if flat or (found.ndim >= 3 and found.shape[:2] == (N, T)):
            return found
    what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    tokens = f"{shape[0]} × {shape[1]} tokens" if shape else "the tokens"
    raise UserError(f"hook {hook} gives {what}, not one vector for each of {tokens}; choose another module")


def _first_name(module: nn.Module, kwargs: Mapping[str, Any], hook: str) -> str:
    """Which argument, of a call that gives all by name, is the module's input: `hidden_states`, or its forward's first.

    Raises `UserError` for a call without it.
    """
    parameters = list(inspect.signature(type(module).forward).parameters)[1:]  # without self
    found = next((name for name in ("hidden_states", *parameters[:1]) if name in kwargs), None)
    if found is None:
        there = ", ".join(kwargs) or "nothing"
        raise UserError(f"hook {hook}: {type(module).__name__} is called with {there} alone; choose another module")
    return found


def _rows(there: Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
    """(N, T): those of the running pass; of a model without tokens what stands before D, a batch (B, D) being B × 1."""
    return shape or (there.shape[0], there.shape[1] if there.ndim >= 3 else 1)


def _put(given: Any, new: Tensor) -> Any:
    """`given` with the tensor in it replaced."""
    if isinstance(given, Mapping):
        first = next(iter(given))
        return type(given)(**{**given, first: new})
    if isinstance(given, tuple) and hasattr(given, "_replace"):
        return type(given)(new, *given[1:])
    return type(given)([new, *given[1:]]) if isinstance(given, (tuple, list)) else new


def _argument(module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """An argument of the forward call, by name."""
    if name in kwargs:
        found: Tensor = kwargs[name]
        return found
    place = list(inspect.signature(type(module).forward).parameters).index(name) - 1  # without self
    positional: Tensor = args[place]
    return positional


def takes(module: nn.Module, argument: str) -> bool:
    """Whether the module's forward has an argument of this name."""
    return argument in inspect.signature(type(module).forward).parameters


class Running:
    """(N, T) of the forward pass that a model is in; none outside of one, and of a model that reads no tokens."""

    def __init__(self, model: nn.Module) -> None:
        self.shape: tuple[int, int] | None = None
        self._handle = model.register_forward_pre_hook(self._begins, with_kwargs=True)

    def _begins(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("inputs_embeds") if ids is None else ids
        tokens = isinstance(given, Tensor) and given.ndim >= 2 and (ids is None or not given.is_floating_point())
        self.shape = (int(given.shape[0]), int(given.shape[1])) if tokens else None  # type: ignore[union-attr]

    def __call__(self) -> tuple[int, int] | None:
        return self.shape

    def remove(self) -> None:
        """Stop watching."""
        self._handle.remove()
