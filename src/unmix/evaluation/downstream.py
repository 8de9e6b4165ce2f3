"""What the reconstruction does to the model's predictions: cross-entropy and KL, in nats per predicted token.

    ΔCE               CE with x̂ in the place of x, minus CE untouched
    standard error    of ΔCE, clustered by document: tokens of one document are not independent
    KL                mean of KL(untouched || spliced)
    loss recovered    (CE_ablated - CE_spliced) / (CE_ablated - CE_untouched); ablated by zero, and by the mean

With S_g the sum of the n_g differences of document g, G documents, n = Σ n_g and ΔCE = Σ S_g / n, the standard error is
√(G / (G - 1) Σ (S_g - ΔCE n_g)²) / n. It is NaN for a single document.

A spliced pass begins at the hook: the blocks before it are skipped, their output is known from the untouched pass. The
first tokens are passed both ways; where that differs, nothing is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.devices import at_rest
from unmix.errors import UserError
from unmix.evaluation.memory import pieces
from unmix.evaluation.splice import Replacement, replaced
from unmix.kernels.task import wide
from unmix.lm.hooks import find_blocks, find_place
from unmix.lm.model import LanguageModel
from unmix.lm.places import Running, attach

CHECKED = 64  # tokens passed both ways, to see whether blocks can be skipped
EVERYWHERE = 16  # sequences on which dictionaries are also put in the place of masked tokens


class Effect:
    """Sums of one replacement over predictions."""

    def __init__(self) -> None:
        self.tokens = 0
        self._ce: Tensor | float = 0.0
        self._kl: Tensor | float = 0.0
        self._parts: list[tuple[list[int], Tensor, list[int]]] = []
        """Of each batch: its documents, the sums of their differences in cross-entropy, how many those are."""

    def add(self, ce_NT: Tensor, base_ce_NT: Tensor, kl_NT: Tensor, document_NT: Tensor) -> None:
        """Count predictions (of any shape), each with the document that it was made in; the sums stay on the device."""
        self.tokens += ce_NT.numel()
        self._ce = self._ce + ce_NT.sum()
        self._kl = self._kl + kl_NT.sum()
        documents_g, which, count_g = torch.unique(document_NT, return_inverse=True, return_counts=True)
        sum_g = ce_NT.new_zeros(len(documents_g))
        sum_g.index_add_(0, which.flatten().to(sum_g.device), (ce_NT - base_ce_NT).flatten())
        self._parts.append((documents_g.tolist(), sum_g, count_g.tolist()))

    def of_document(self) -> dict[int, tuple[float, int]]:
        """document -> (sum of its differences in cross-entropy, how many)."""
        found: dict[int, tuple[float, int]] = {}
        deltas = iter(torch.cat([sum_g for _, sum_g, _ in self._parts]).tolist() if self._parts else [])
        for documents, _, counts in self._parts:
            for document, count in zip(documents, counts, strict=True):
                before, counted = found.get(document, (0.0, 0))
                found[document] = before + next(deltas), counted + count
        return found

    def metrics(self) -> dict[str, float | int]:
        """Means, and the standard error of ΔCE."""
        n, of_document = self.tokens or math.nan, self.of_document()
        documents = len(of_document)
        mean = sum(delta for delta, _ in of_document.values()) / n
        squares = sum((delta - mean * count) ** 2 for delta, count in of_document.values())
        return {
            "ce": float(self._ce) / n,
            "delta_ce": mean,
            "delta_ce_standard_error": math.sqrt(squares * documents / (documents - 1)) / n
            if documents > 1
            else math.nan,
            "kl": float(self._kl) / n,
        }


class Seen:
    """x at a hook, in the pass that is running: what a transcoder reads, while its ŷ goes to another place."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self._x_NTD: Tensor | None = None

    @property
    def x_NTD(self) -> Tensor:
        """Raises `UserError` if the pass has not come to the hook yet."""
        if self._x_NTD is None:
            raise UserError(
                f"hook {self.hook} comes after the one whose y is replaced; give the hook that x is read at"
            )
        return self._x_NTD

    @contextmanager
    def watching(self, model: LanguageModel) -> Iterator[None]:
        """While inside, x is kept of every pass."""
        self._x_NTD = None
        running = Running(model.model)
        handle = attach(find_place(model.model, self.hook), self.hook, running, self._keep)
        try:
            yield
        finally:
            handle.remove()
            running.remove()

    def _keep(self, x_NTD: Tensor) -> None:
        self._x_NTD = x_NTD


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
        seen: Seen | None = None,
    ) -> None:
        self.model, self.hook, self.replacements, self.skip, self.leaves = model, hook, replacements, skip, leaves
        self.seen = seen
        """Where the mask looks, and replacements read, if not at what they replace."""
        self.everywhere = everywhere
        """Replacements that are also put in the place of masked tokens, on the first EVERYWHERE sequences."""
        self.skipped: int | None = None
        """Blocks that a spliced pass leaves out; found out with the first tokens."""
        self.base_ce: Tensor | float = 0.0
        self.tokens = self.sequences = 0
        self.documents: set[int] = set()
        self.effects = {name: Effect() for name in replacements}
        self.unmasked = {name: Effect() for name in everywhere}
        self.beside = {name: Effect() for name in everywhere}
        """The masked effects on those same sequences."""
        self.replacement_seconds = 0.0
        """Spent in the replacements; the rest of `add` is the model's."""

    def add(self, ids_NT: Tensor, document_NT: Tensor, kept_NT: Tensor | None = None) -> None:
        """Count a batch of sequences; predictions made from the first `skip` positions are left out.

        `document_NT` says which document each token is of. Tokens that the mask leaves out keep x (in `effects`; not
        in `unmasked`). With `kept_NT`, only predictions made from kept tokens are counted, and all others keep x.
        """
        with torch.no_grad():
            ids_NT = ids_NT.to(self.model.model.device)
            if self.skipped is None:
                self.skipped = self._skippable(ids_NT[:1, :CHECKED])
            skipped = self.skipped
            output, logits = _with_capture(self.model, ids_NT, skipped)
            target, made_in = ids_NT[:, self.skip + 1 :], document_NT[:, self.skip : -1]
            base = logits[:, self.skip : -1]
            base_ce_NT = self._to_log_probabilities(base, target)
            kept_NT = torch.ones(ids_NT.shape, dtype=torch.bool) if kept_NT is None else kept_NT
            counted = kept_NT[:, self.skip : -1]
            base_ce, made_in = base_ce_NT[counted.to(base_ce_NT.device)], made_in[counted.to(made_in.device)]
            self.base_ce = self.base_ce + base_ce.sum()
            self.tokens += base_ce.numel()
            self.documents.update(made_in.tolist())
            among_first = self.sequences < EVERYWHERE
            self.sequences += len(ids_NT)

            def effect(put: Replacement) -> tuple[Tensor, Tensor, Tensor, Tensor]:
                with ExitStack() as stack:
                    stack.enter_context(_skip_blocks(self.model, skipped, output))
                    if self.seen is not None:
                        stack.enter_context(self.seen.watching(self.model))
                    stack.enter_context(replaced(self.model.model, {self.hook: put}))
                    spliced = self.model.logits(ids_NT)[:, self.skip : -1]
                ce_NT, kl_NT = self._compared(spliced, base, target)
                at = counted.to(ce_NT.device)
                return ce_NT[at], base_ce, kl_NT[at], made_in

            for name, replacement in self.replacements.items():
                masked = effect(self._kept(ids_NT, kept_NT, replacement))
                self.effects[name].add(*masked)
                if among_first and name in self.everywhere:
                    self.beside[name].add(*masked)
                    self.unmasked[name].add(*effect(_plain(kept_NT, replacement)))

    def _to_log_probabilities(self, logits_NTV: Tensor, target_NT: Tensor) -> Tensor:
        """ce_NT of the logits, which become log-probabilities in place: they are needed with every replacement."""
        ce_NT = wide(torch.empty(target_NT.shape, device=target_NT.device))
        for n, (logits_TV, target_T) in enumerate(zip(logits_NTV, target_NT, strict=True)):
            for at in pieces(*logits_TV.shape):
                logits_TV[at] = torch.log_softmax(logits_TV[at], dim=-1)
                ce_NT[n, at] = -wide(logits_TV[at].gather(1, target_T[at, None]).squeeze(1))
        return ce_NT

    def _compared(self, logits_NTV: Tensor, base_NTV: Tensor, target_NT: Tensor) -> tuple[Tensor, Tensor]:
        """(ce_NT of the logits, kl_NT from the log-probabilities `base` to them), a few positions at a time."""
        ce_NT = wide(torch.empty(target_NT.shape, device=target_NT.device))
        kl_NT = torch.empty_like(ce_NT)
        for n, (logits_TV, base_TV) in enumerate(zip(logits_NTV, base_NTV, strict=True)):
            for at in pieces(*logits_TV.shape):
                spliced = torch.log_softmax(logits_TV[at], dim=-1)
                ce_NT[n, at] = -wide(spliced.gather(1, target_NT[n, at, None]).squeeze(1))
                kl_NT[n, at] = wide(F.kl_div(spliced, base_TV[at], reduction="none", log_target=True).sum(1))
        return ce_NT, kl_NT

    def _skippable(self, ids_NT: Tensor) -> int:
        """How many blocks a spliced pass can leave out: all before the hook, where it then gives the same logits.

        It does not where a block hands more to the next than its output (Gemma 4 shares keys and values).
        """
        hooks = [self.hook] if self.seen is None else [self.hook, self.seen.hook]
        count = min(_blocks_before(self.model, hook) for hook in hooks)
        if not count:
            return 0
        output, logits = _with_capture(self.model, ids_NT, count)
        try:
            with _skip_blocks(self.model, count, output):
                again = self.model.logits(ids_NT)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            return 0
        return count if torch.allclose(again, logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item()) else 0

    def _kept(self, ids_NT: Tensor, kept_NT: Tensor, replacement: Replacement) -> Replacement:
        """The replacement, timed, of what is kept, by the mask too."""

        def replace(x: Tensor) -> Tensor:
            before = at_rest(x.device)
            answer = replacement(x)
            self.replacement_seconds += at_rest(x.device) - before
            kept = kept_NT.to(x.device)
            if self.leaves is not None:
                kept = kept & self.leaves.keeps(ids_NT, x if self.seen is None else self.seen.x_NTD)
            return torch.where(kept[..., None], answer, x)

        return replace

    def metrics(self) -> dict[str, Any]:
        """Per replacement, with the untouched CE."""
        return {
            "ce_untouched": float(self.base_ce) / self.tokens,
            "tokens": self.tokens,
            "documents": len(self.documents),
            "replacements": {name: effect.metrics() for name, effect in self.effects.items()},
            "everywhere": {name: effect.metrics() for name, effect in self.unmasked.items()},
            "beside": {name: effect.metrics() for name, effect in self.beside.items()},
        }


def _blocks_before(model: LanguageModel, hook: str) -> int:
    """Blocks that end before the hook is reached: 0 for one that is in no block."""
    place = find_place(model.model, hook)
    for number, block in enumerate(find_blocks(model.model)):
        if place.module is block:
            return number + (place.side == "output")
        if any(place.module is module for module in block.modules()):
            return number
    return 0


def _plain(kept_NT: Tensor, replacement: Replacement) -> Replacement:
    """The replacement of every kept token, also of those that the mask leaves out."""
    return lambda x: torch.where(kept_NT.to(x.device)[..., None], replacement(x), x)


def ablations(mean_D: Tensor) -> dict[str, Replacement]:
    """The two baselines that recovered loss is measured against."""
    mean = mean_D.float()
    return {"zero": torch.zeros_like, "mean": lambda x: mean.to(x.device).expand_as(x)}


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
