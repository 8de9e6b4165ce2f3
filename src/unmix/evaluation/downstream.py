"""What the reconstruction does to the model's predictions: cross-entropy and KL, in nats per predicted token.

    ΔCE               CE with x̂ in the place of x, minus CE untouched
    standard error    of ΔCE over sequences: tokens of one sequence are not independent
    KL                mean of KL(untouched || spliced)
    loss recovered    (CE_ablated - CE_spliced) / (CE_ablated - CE_untouched); ablated by zero, and by the mean

A spliced pass begins at the hook: the blocks before it are skipped, their output is known from the untouched pass. The
first sequence is passed both ways; where that differs, nothing is skipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.evaluation.splice import Replacement, splice
from unmix.hooknames import KINDS, canonical
from unmix.lm.hooks import find_blocks
from unmix.lm.model import LanguageModel

EVERYWHERE = 16  # sequences on which dictionaries are also put in the place of masked tokens


class Effect:
    """Sums of one replacement over sequences."""

    def __init__(self) -> None:
        self.sequences = self.tokens = 0
        self.ce = self.kl = self.delta = self.delta_square = 0.0

    def add(self, ce_NT: Tensor, base_ce_NT: Tensor, kl_NT: Tensor) -> None:
        """Count sequences of equally many predictions."""
        delta_N = (ce_NT - base_ce_NT).mean(1)
        self.sequences += len(ce_NT)
        self.tokens += ce_NT.numel()
        self.ce += ce_NT.sum().item()
        self.kl += kl_NT.sum().item()
        self.delta += delta_N.sum().item()
        self.delta_square += delta_N.square().sum().item()

    def metrics(self) -> dict[str, float | int]:
        """Means, and the standard error of ΔCE."""
        n = self.sequences
        mean = self.delta / n
        variance = max(0.0, self.delta_square - n * mean * mean) / (n - 1) if n > 1 else math.nan
        return {
            "ce": self.ce / self.tokens,
            "delta_ce": mean,
            "delta_ce_standard_error": math.sqrt(variance / n),
            "kl": self.kl / self.tokens,
        }


class Downstream:
    """Untouched, ablated and spliced runs of a model over the same sequences, for several replacements at a hook."""

    def __init__(
        self,
        model: LanguageModel,
        hook: str,
        replacements: dict[str, Replacement],
        skip: int,
        leaves: Mask | None = None,
        everywhere: Collection[str] = (),
    ) -> None:
        self.model, self.hook, self.replacements, self.skip, self.leaves = model, hook, replacements, skip, leaves
        self.everywhere = everywhere
        """Replacements that are also put in the place of masked tokens, on the first EVERYWHERE sequences."""
        self.skipped: int | None = None
        """Blocks that a spliced pass leaves out; found out with the first sequence."""
        self.base_ce = 0.0
        self.tokens = self.sequences = 0
        self.effects = {name: Effect() for name in replacements}
        self.unmasked = {name: Effect() for name in everywhere}
        self.beside = {name: Effect() for name in everywhere}
        """The masked effects on those same sequences."""
        self.replacement_seconds = 0.0
        """Spent in the replacements; the rest of `add` is the model's."""

    def add(self, ids_NT: Tensor) -> None:
        """Count a batch of sequences; predictions made from the first `skip` positions are left out.

        Tokens that the mask leaves out keep x (in `effects`; not in `unmasked`).
        """
        with torch.no_grad():
            if self.skipped is None:
                self.skipped = self._skippable(ids_NT[:1])
            skipped = self.skipped
            output, logits = _with_capture(self.model, ids_NT, skipped)
            base = self._log_probabilities(logits)
            target = ids_NT[:, self.skip + 1 :, None]
            base_ce_NT = -base.gather(2, target).squeeze(2).double()
            self.base_ce += base_ce_NT.sum().item()
            self.tokens += base_ce_NT.numel()
            among_first = self.sequences < EVERYWHERE
            self.sequences += len(ids_NT)

            def effect(put: Replacement) -> tuple[Tensor, Tensor, Tensor]:
                with _skip_blocks(self.model, skipped, output), splice(self.model.model, self.hook, put):
                    spliced = self._log_probabilities(self.model.logits(ids_NT))
                ce_NT = -spliced.gather(2, target).squeeze(2).double()
                return ce_NT, base_ce_NT, F.kl_div(spliced, base, reduction="none", log_target=True).sum(2).double()

            for name, replacement in self.replacements.items():
                masked = effect(self._kept(ids_NT, replacement))
                self.effects[name].add(*masked)
                if among_first and name in self.everywhere:
                    self.beside[name].add(*masked)
                    self.unmasked[name].add(*effect(_plain(replacement)))

    def _skippable(self, ids_NT: Tensor) -> int:
        """How many blocks a spliced pass can leave out: all before the hook, where it then gives the same logits.

        It does not where a block hands more to the next than its output (Gemma 4 shares keys and values).
        """
        kind, _, layer = canonical(self.hook).partition(".")
        count = int(layer) + (kind == "resid_post") if kind in KINDS else 0
        if not count:
            return 0
        output, logits = _with_capture(self.model, ids_NT, count)
        try:
            with _skip_blocks(self.model, count, output):
                again = self.model.logits(ids_NT)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            return 0
        return count if torch.allclose(again, logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item()) else 0

    def _kept(self, ids_NT: Tensor, replacement: Replacement) -> Replacement:
        """The replacement, timed, of what the mask keeps."""

        def replace(x: Tensor) -> Tensor:
            before = time.perf_counter()
            answer = replacement(x)
            self.replacement_seconds += time.perf_counter() - before
            return answer if self.leaves is None else torch.where(self.leaves.keeps(ids_NT, x)[..., None], answer, x)

        return replace

    def _log_probabilities(self, logits_NTV: Tensor) -> Tensor:
        return torch.log_softmax(logits_NTV[:, self.skip : -1].float(), dim=-1)

    def metrics(self) -> dict[str, Any]:
        """Per replacement, with the untouched CE."""
        return {
            "ce_untouched": self.base_ce / self.tokens,
            "tokens": self.tokens,
            "replacements": {name: effect.metrics() for name, effect in self.effects.items()},
            "everywhere": {name: effect.metrics() for name, effect in self.unmasked.items()},
            "beside": {name: effect.metrics() for name, effect in self.beside.items()},
        }


def _plain(replacement: Replacement) -> Replacement:
    """The replacement of every token, also of those that a dictionary was trained without."""
    return lambda x: replacement(x)


def ablations(mean_D: Tensor) -> dict[str, Replacement]:
    """The two baselines that recovered loss is measured against."""
    mean = mean_D.float()
    return {"zero": torch.zeros_like, "mean": lambda x: mean.expand_as(x)}


def _with_capture(model: LanguageModel, ids_NT: Tensor, skipped: int) -> tuple[Any, Tensor]:
    """The logits, and the output of the last block that can be skipped (a tensor, or a tuple that begins with it)."""
    kept: list[Any] = []
    with ExitStack() as stack:
        if skipped:
            block = find_blocks(model.model)[skipped - 1]
            stack.callback(block.register_forward_hook(lambda _, __, output: kept.append(output)).remove)
        logits = model.logits(ids_NT)
    return (kept[0] if kept else None), logits


@contextmanager
def _skip_blocks(model: LanguageModel, count: int, output: Any) -> Iterator[None]:
    """While inside, the first `count` blocks do nothing, and the last of them answers `output`."""
    blocks = find_blocks(model.model)[:count]

    def pass_on(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        return type(output)([x]) if isinstance(output, (tuple, list)) else x

    for block in blocks:
        block.forward = pass_on
    if blocks:
        blocks[-1].forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the attribute of the instance; the method of the class shows again
