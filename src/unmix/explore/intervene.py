"""Change features of one token or of all, and see what the model does: its predictions, and what it writes.

    f' = 0                 ablate
    f' = s u               clamp         s: the strength, u: its unit, such as the feature's maximum over a corpus
    f' = f + s u           add
    x' = x + (f' - f) W_dec              where T scales each token: x + (f' - f) W_dec times the scale
    y' = y + (f' - f) W_dec              of a transcoder: at its other hook, with f of the x of the same pass

What the dictionary does not give back, x - x̂ or y - ŷ, stays as it is. Tokens that it was not trained on
(`sae.longest`) keep x, or y.

The plain and the changed text are one batch of two. Both are continued with the same random numbers: the next token is
argmax_v (logit_v / temperature + g_v), with g_v from a standard Gumbel distribution, drawn anew at every step and the
same for both. That samples from the softmax (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030), and where two
predictions are equal, so are the tokens.

    sae = unmix.load_sae(folder)
    ids_T = prompt_ids(lm, "import os").ids_T
    found = intervene(lm, "resid_post.3", sae, ids_T, [Change(7, "clamp", 2.0, unit=5.1)], generate=40)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.downstream import Seen
from unmix.evaluation.memory import pieces
from unmix.evaluation.splice import Replacement, moved_by, splice, with_features
from unmix.explore.prompt import separator_id
from unmix.lm.load import quiet
from unmix.lm.model import LanguageModel

Kind = Literal["ablate", "clamp", "add"]
PLAIN, CHANGED = 0, 1  # rows of the batch


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class Change(NamedTuple):
    """What is done to one feature."""

    feature: int
    kind: Kind
    strength: float = 0.0
    """s; an ablation has none."""
    unit: float = 1.0
    """u, in the units of f."""


class Continuation(NamedTuple):
    """What is predicted of the text, and what is written after it: plain, or changed."""

    logp_T: Tensor
    """log p of the token behind each position, float64; NaN behind the last one, where the text has none."""
    next: list[tuple[int, float]]
    """The likeliest tokens behind the text, with their probabilities, falling."""
    generated: list[int]
    """A token that ends the document is the last one."""


class Outcome(NamedTuple):
    """Of one intervention."""

    plain: Continuation
    changed: Continuation
    kl_T: Tensor
    """KL(plain || changed) of the prediction made at each position, in nats, float64."""
    cut: bool
    """Whether fewer tokens were written than were asked for because the model takes no more."""

    @property
    def delta_logp_T(self) -> Tensor:
        """log p changed - log p plain, of the token behind each position."""
        return self.changed.logp_T - self.plain.logp_T


def change_features(sae: Dictionary, changes: Sequence[Change]) -> Replacement:
    """x' of x (..., D), in float32: for `unmix.splice`. Several changes of a feature are made one after the other.

    Raises `UserError` for a feature that the dictionary does not have, and for a kind that is not a `Kind`.
    """
    return with_features(sae, *_features(changes))


def _features(changes: Sequence[Change]) -> tuple[list[int], Callable[[Tensor], Tensor]]:
    """(features K, f_K -> f'_K). Raises `UserError` for a kind that is not a `Kind`."""
    for change in changes:
        if change.kind not in get_args(Kind):
            raise UserError(f"a feature cannot be changed by {change.kind!r}; give {', '.join(get_args(Kind))}")
    features_K = sorted({change.feature for change in changes})

    def new(f_K: Tensor) -> Tensor:
        new_K = f_K.clone()
        for change in changes:
            at, amount = features_K.index(change.feature), change.strength * change.unit
            if change.kind == "add":
                new_K[..., at] += amount
            else:
                new_K[..., at] = 0.0 if change.kind == "ablate" else amount
        return new_K

    return features_K, new


def intervene(
    lm: LanguageModel,
    hook: str,
    sae: Dictionary,
    ids_T: Tensor,
    changes: Sequence[Change],
    *,
    hook_out: str | None = None,
    where: int | None = None,
    generate: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    top: int = 10,
    cancelled: Callable[[], bool] = lambda: False,
    heard: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """What the changes do to a text of T tokens, its BOS included (`prompt_ids`), and to what is written after it.

    `hook_out`: where the y of a transcoder is. `where`: the one position that is changed; none: every one, those that
    are generated too. At temperature 0 the likeliest token is taken. `heard` is given what is predicted as soon as that
    is known, then the same with what is written so far, step by step. Raises `UserError` for what `change_features`
    does, for a position outside the text, for more tokens than the model takes, and for a `hook_out` that comes before
    the hook; `Cancelled` once `cancelled` says so: it is asked before every step.
    """
    T = len(ids_T)
    lm.check_sequence_length(T)
    if where is not None and not 0 <= where < T:
        raise UserError(f"position {where} is not in the text, whose {T} tokens are 0 to {T - 1}")
    if temperature < 0:
        raise UserError(f"temperature {temperature:g} is below 0; 0 takes the likeliest token")
    moved = moved_by(sae, *_features(changes))
    run = _Run(lm, hook_out or hook, moved, where, None if hook_out is None else Seen(hook))
    steps = generate if lm.context is None else min(generate, lm.context - T)
    with torch.no_grad(), quiet(), run.changing():
        if cancelled():
            raise Cancelled
        logits_2TV = run.forward(ids_T.expand(2, T), caching=steps > 1)
        logp_2T, kl_T = _compared(logits_2TV, ids_T)
        next_2 = [_likeliest(logits_V, top) for logits_V in logits_2TV[:, -1]]
        last_2V = logits_2TV[:, -1].float()
        del logits_2TV

        def outcome(written: list[list[int]], cut: bool = False) -> Outcome:
            plain, changed = (Continuation(logp_2T[row], next_2[row], list(written[row])) for row in (PLAIN, CHANGED))
            return Outcome(plain, changed, kl_T, cut)

        end_id, written = separator_id(lm.tokenizer), [list[int](), list[int]()]
        if heard:
            heard(outcome(written))
        for written in _write(run, ids_T, last_2V, steps, temperature, seed, end_id, cancelled):
            if heard:
                heard(outcome(written))
    return outcome(written, steps < generate and max(map(len, written)) == max(0, steps))


class _Run:
    """Passes of the batch of two, of which the second row is changed; positions are counted over all passes."""

    def __init__(self, lm: LanguageModel, hook: str, moved: Replacement, where: int | None, seen: Seen | None) -> None:
        self.lm, self.hook, self.moved, self.where = lm, hook, moved, where
        self.seen = seen
        """Where x is read, if that is not where it is changed."""
        self.start = 0
        """The position of the first token of the pass."""
        self.cache: Any = None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While inside, what is at the hook is changed."""
        with ExitStack() as stack:
            if self.seen is not None:
                stack.enter_context(self.seen.watching(self.lm))
            stack.enter_context(splice(self.lm.model, self.hook, self._replace))
            yield

    def _replace(self, y_2TE: Tensor) -> Tensor:
        at = slice(None) if self.where is None else slice(self.where - self.start, self.where - self.start + 1)
        if self.where is not None and not 0 <= at.start < y_2TE.shape[1]:
            return y_2TE
        x_2TD = y_2TE if self.seen is None else self.seen.x_NTD
        new_2TE = y_2TE.clone()
        new_2TE[CHANGED, at] = (y_2TE[CHANGED, at] + self.moved(x_2TD[CHANGED, at])).to(y_2TE.dtype)
        return new_2TE

    def forward(self, ids_2T: Tensor, caching: bool) -> Tensor:
        """logits_2TV of tokens that come after those in the cache."""
        known = {} if self.cache is None else {"past_key_values": self.cache}
        output = self.lm.model(ids_2T.to(self.lm.model.device), use_cache=caching, **known)
        self.cache = getattr(output, "past_key_values", None) if caching else None
        logits_2TV: Tensor = output.logits
        return logits_2TV

    def step(self, ids_2T: Tensor) -> Tensor:
        """logits_2V behind the last of these tokens, of which all but the last one were passed before."""
        if self.cache is None:  # a model that keeps no keys and values (Mamba, GPT-1): everything is passed again
            return self.forward(ids_2T, caching=False)[:, -1].float()
        self.start = ids_2T.shape[1] - 1
        return self.forward(ids_2T[:, -1:], caching=True)[:, -1].float()


def _write(
    run: _Run,
    ids_T: Tensor,
    logits_2V: Tensor,
    steps: int,
    temperature: float,
    seed: int,
    end_id: int,
    cancelled: Callable[[], bool],
) -> Iterator[list[list[int]]]:
    """The tokens of both rows after each step, at most `steps` each; a row that has ended its document says no more."""
    generator = torch.Generator().manual_seed(seed)
    ids_2T = ids_T.expand(2, -1)
    written: list[list[int]] = [[], []]
    going = {PLAIN, CHANGED} if steps > 0 else set()
    while going:
        if cancelled():
            raise Cancelled
        if ids_2T.shape[1] > len(ids_T):
            logits_2V = run.step(ids_2T)
        next_2 = _choose(logits_2V, temperature, generator)
        ids_2T = torch.cat([ids_2T, next_2[:, None]], dim=1)
        for row in sorted(going):
            written[row].append(int(next_2[row]))
            if written[row][-1] == end_id or len(written[row]) == steps:
                going.discard(row)
        yield written


def _choose(logits_2V: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """next_2, on the CPU: both from the same noise, or the likeliest at temperature 0; of equal ones the first."""
    logits_2V = logits_2V.cpu()
    if temperature == 0:
        return logits_2V.argmax(dim=1)
    # -ln of an exponential variable is a Gumbel one
    gumbel_V = -torch.empty(logits_2V.shape[1]).exponential_(generator=generator).log()
    return (logits_2V / temperature + gumbel_V).argmax(dim=1)


def _compared(logits_2TV: Tensor, ids_T: Tensor) -> tuple[Tensor, Tensor]:
    """(log p of the next token in both rows, KL from the first row to the second), a few positions at a time."""
    T, V = logits_2TV.shape[1:]
    logp_2T = torch.full((2, T), torch.nan, dtype=torch.float64)
    kl_T = torch.empty(T, dtype=torch.float64)
    for at in pieces(T, 2 * V):
        logp_2tV = torch.log_softmax(logits_2TV[:, at].float(), dim=-1)
        plain_tV, changed_tV = logp_2tV
        kl_t = F.kl_div(changed_tV, plain_tV, reduction="none", log_target=True).sum(1)
        kl_T[at] = kl_t.double().clamp_min(0).cpu()  # rounding may leave it a little below 0
        next_t = ids_T[at.start + 1 : at.stop + 1].to(logp_2tV.device)
        found_2t = logp_2tV[:, : len(next_t)].gather(2, next_t.expand(2, -1)[..., None]).squeeze(2)
        logp_2T[:, at.start : at.start + len(next_t)] = found_2t.double().cpu()
    return logp_2T, kl_T


def _likeliest(logits_V: Tensor, top: int) -> list[tuple[int, float]]:
    p, ids = torch.softmax(logits_V.float(), dim=-1).topk(min(top, len(logits_V)))
    return list(zip(ids.tolist(), p.tolist(), strict=True))
