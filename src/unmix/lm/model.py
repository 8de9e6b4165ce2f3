"""A causal language model that is only read from: activations at hooks, and logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.hooknames import KINDS, canonical
from unmix.lm.folder import EMBEDDED as EMBEDDED
from unmix.lm.hooks import MIDDLE, find_blocks, find_place, text_config
from unmix.lm.load import count_layers as count_layers
from unmix.lm.load import load, quiet
from unmix.lm.places import attach

ADDED_UP, ADDED_UP_ROUNDED = 1e-3, 0.1
"""By how much a block's parts may miss what it adds: in float32, and in a narrower dtype. Wrong places miss by 0.6 and
more."""
_FAILS = (IndexError, RuntimeError, ValueError)
"""What a pass raises that does not fit: a position outside its table, shapes that do not agree."""
_ADDED: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
"""The hooks of each model that `check_contributions` found to be what its blocks add."""
FEW = 16
LEAK, LEAK_ROUNDED = 1e-3, 0.05
"""Tokens of a row whose second half is changed, and by how much that may move the first half's activations,
||x - x'|| / ||x||: causal models gave 0, BERT's family 0.003 and more untrained."""


class _Done(Exception):
    """Everything wanted is captured; the rest of the forward pass need not run."""


@dataclass(frozen=True)
class LanguageModel:
    """Frozen weights and their tokenizer."""

    model: Any
    """A `transformers` causal LM, in eval mode, no gradient."""
    tokenizer: Any
    """Its fast tokenizer."""
    name: str
    fingerprint: str
    """16 hex digits of SHA-256 over config.json and the weights."""
    bf16_change: dict[str, float] = field(default_factory=dict)
    """hook -> median over tokens of ||x' - x|| / ||x|| by products in bf16 (`lm.products`); empty if they are not."""
    rates: dict[str, float] = field(default_factory=dict)
    """Tokens a second that were measured, in float32 and with products in bf16; empty if they were not."""
    loss: dict[str, float] = field(default_factory=dict)
    """What it pays on the text that is read, see `lm.loss`; empty if that was not measured."""
    note: str = ""
    """What its user should know of how it was read."""

    @property
    def width(self) -> int:
        """D of the residual stream."""
        return int(text_config(self.model).hidden_size)

    @property
    def layers(self) -> int:
        """Blocks; hooks count them from 0."""
        return len(find_blocks(self.model))

    @property
    def context(self) -> int | None:
        """The longest sequence, BOS included; none if the architecture sets no limit."""
        limit = getattr(text_config(self.model), "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def vocabulary(self) -> int:
        """Entries of the logits."""
        return int(text_config(self.model).vocab_size)

    def check_sequence_length(self, T: int) -> None:
        """Raises `UserError` if sequences of T tokens do not fit the model's context."""
        if self.context is not None and self.context < T:
            raise UserError(
                f"sequences of {T} tokens exceed the context of {self.name}, {self.context}; "
                "lower activations.sequence_length"
            )

    def activations(self, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """hook -> x_NTD, float32, from one forward pass that stops once the last of the hooks has fired.

        ids_NT is int64. Raises `UserError` for an unknown hook, a sequence too long, an id outside the
        vocabulary, or a module that does not give one vector a token; also as `require_added` does.
        """
        self._check(ids_NT)
        self.require_added(ids_NT, hooks)
        return self._activations(ids_NT, hooks)

    def _activations(self, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        wanted = {hook: find_place(self.model, hook) for hook in hooks}
        captured: dict[str, Tensor] = {}
        if not wanted:
            return captured

        def capture(hook: str, x_NTD: Tensor) -> None:
            if hook in captured:  # a module that runs twice counts the first time
                return
            with torch.inference_mode(False):  # a copy that later blocks cannot change and autograd may use
                captured[hook] = x_NTD.to(torch.float32, copy=True)
            if len(captured) == len(wanted):
                raise _Done

        with ExitStack() as stack:
            for hook, place in wanted.items():
                shape = (ids_NT.shape[0], ids_NT.shape[1])
                handle = attach(place, hook, lambda: shape, partial(capture, hook))  # noqa: B023
                stack.callback(handle.remove)
            try:
                with torch.inference_mode(), quiet():
                    self.model(ids_NT.to(self.model.device), use_cache=False)
            except _Done:
                return captured
        silent = next(hook for hook in wanted if hook not in captured)
        raise UserError(f"hook {silent}: that module does not run in a forward pass on text; choose another")

    def check_reading(self, T: int, hooks: Sequence[str]) -> None:
        """Raises `UserError` if the hooks cannot be read on T tokens, or if what is read of a token depends on later
        ones; also whatever `activations` raises."""
        # padding may take no position
        special = {*self.tokenizer.all_special_ids, getattr(text_config(self.model), "pad_token_id", None)}
        one, other = [i for i in range(self.vocabulary) if i not in special][:2]
        ids_1T = torch.full((1, T), one)
        try:
            self.activations(ids_1T, hooks)
        except _FAILS as error:
            said = str(error).strip().partition("\n")[0]
            if (fits := self._longest(ids_1T, hooks)) == 0:
                raise UserError(f"{self.name} cannot be read, not even on one token: {said}") from error
            declared = "" if self.context is None else f", though its configuration declares {self.context}"
            raise UserError(
                f"sequences of {T} tokens exceed what {self.name} can read, {fits}{declared} ({said}); "
                f"lower activations.sequence_length to {fits}"
            ) from error
        half = min(T, FEW) // 2
        ids_2T = ids_1T[:, : 2 * half].repeat(2, 1)
        ids_2T[1, half:] = other
        for hook, x_2TD in self.activations(ids_2T, hooks).items():
            before, after = x_2TD[:, :half].cpu().double()  # mps has no float64
            if (before - after).norm() > (LEAK if self.model.dtype == torch.float32 else LEAK_ROUNDED) * before.norm():
                raise UserError(
                    f"{self.name} is not causal ({type(self.model).__name__}): at {hook}, later tokens change what is "
                    "read of earlier ones; choose a causal language model, or set is_decoder in its config.json if it "
                    "was trained as one"
                )

    def _longest(self, ids_NT: Tensor, hooks: Sequence[str]) -> int:
        """How many tokens of rows that are too long can be read; 0 if not one."""
        fits, fails = 0, ids_NT.shape[1]
        while fails - fits > 1:
            middle = (fits + fails) // 2
            try:
                self.activations(ids_NT[:, :middle], hooks)
                fits = middle
            except _FAILS:
                fails = middle
        return fits

    def hook_widths(self, hooks: Sequence[str]) -> dict[str, int]:
        """hook -> D, from a pass over a few tokens. Raises as `activations` does."""
        return {hook: x_NTD.shape[-1] for hook, x_NTD in self.activations(self.few_ids(), hooks).items()}

    def few_ids(self) -> Tensor:
        """(1, T) token ids to try something on."""
        return torch.arange(min(11, self.context or 11))[None] % self.vocabulary  # 11: as many heads are rare

    def check_contributions(self, ids_NT: Tensor, hooks: Sequence[str]) -> None:
        """Raises `UserError` where an `attn_out.L` or `mlp_out.L` among the hooks is not what its block adds, or a
        `blocks.L.hook_resid_mid` not in its middle: where resid_pre + attn_out + mlp_out - resid_post is more than
        `ADDED_UP` of what the block adds."""
        for hook in hooks:
            if not means_added(hook):
                continue
            middle = MIDDLE.fullmatch(hook)
            layer = middle[1] if middle else canonical(hook).partition(".")[2]
            what = "the residual stream in its middle" if middle else "what the block adds"
            remedy = f"name a module of block {layer} by its path, or take resid_post.{layer}"
            names = [f"{kind}.{layer}" for kind in KINDS]
            try:
                found = self._activations(ids_NT, names)
            except UserError as error:
                raise UserError(
                    f"hook {hook} cannot be checked against what block {layer} adds ({error}); {remedy}"
                ) from None
            before, after, *branches = (found[name].cpu().double() for name in names)
            off = ((before + sum(branches) - after).norm() / (after - before).norm()).item()
            if not off <= (ADDED_UP if self.model.dtype == torch.float32 else ADDED_UP_ROUNDED):
                raise UserError(
                    f"hook {hook}: in {type(self.model).__name__}, resid_pre + attn_out + mlp_out is not resid_post "
                    f"(off by {off:.2g} of what block {layer} adds), so it is not {what}; {remedy}"
                )
            _ADDED.setdefault(self.model, set()).add(hook)

    def require_added(self, ids_NT: Tensor, hooks: Sequence[str]) -> None:
        """`check_contributions` of hooks that were not checked in this model before, on the first of the rows.

        It waits where the model has hooks, as within a `splice`: they may change what a block seems to add.
        """
        new = [hook for hook in hooks if means_added(hook) and hook not in _ADDED.get(self.model, ())]
        if new and ids_NT.numel() and not any(map(_hooked, self.model.modules())):
            for hook in new:
                find_place(self.model, hook)  # one that is not there is refused as such
            self.check_contributions(ids_NT[:1], new)

    def logits(self, ids_NT: Tensor) -> Tensor:
        """logits_NTV, float32. Raises `UserError` for a sequence too long or an id outside the vocabulary."""
        self._check(ids_NT)
        with torch.no_grad(), quiet():  # not inference_mode: what comes out may enter someone's graph
            logits_NTV: Tensor = self.model(ids_NT.to(self.model.device), use_cache=False).logits
        return logits_NTV.float()

    def _check(self, ids_NT: Tensor) -> None:
        self.check_sequence_length(ids_NT.shape[1])
        largest = int(ids_NT.max()) if ids_NT.numel() else 0
        if largest >= self.vocabulary:
            raise UserError(
                f"token id {largest} is outside the vocabulary of {self.name}, {self.vocabulary}; "
                "use the tokenizer that came with the model"
            )


def load_language_model(config: ModelConfig) -> LanguageModel:
    """The model that `config.name` names: `embedded`, one that was fetched, a folder, a GGUF file, a name on the hub.

    Raises `UserError`: no such folder or file, one that holds no model or another kind of it, a name that cannot be
    fetched, an adapter, weights that are absent, pickled, there twice, or do not fit the architecture.
    """
    read = load(config)
    return LanguageModel(read.model, read.tokenizer, config.name, read.fingerprint, note=read.note)


def means_added(hook: str) -> bool:
    """Whether it names what a block adds, or the residual stream behind the first half of that."""
    return canonical(hook).startswith(("attn_out.", "mlp_out.")) or MIDDLE.fullmatch(hook) is not None


def _hooked(module: nn.Module) -> bool:
    """Whether something may see or change what goes into the module or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
