"""Reading activations at a recipe's hooks, beside the matrix products of the model alone; and from a store.

A reading is a chunk of the stream, as training asks for it: forward passes up to the last hook, each token's vector
written where the shuffle wants it. Its floor are the products of the linear layers that a pass runs through, with the
model's own weights and in the same precision; attention's own products, norms and nonlinearities are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unmix.activations.stream import Stream
from unmix.bench import store as stores
from unmix.bench.clock import Say, Timers, alternate, share
from unmix.bench.floor import copy_rate, rates
from unmix.bench.machine import about, peak_memory
from unmix.bench.table import aligned, machine_line, ms
from unmix.config import RunConfig
from unmix.corpus.tokens import Tokens
from unmix.errors import UserError
from unmix.lm.model import LanguageModel, load_language_model
from unmix.lm.products import multiply_in_bf16
from unmix.training.inputs import MEASURED, open_model


class Reader:
    """A language model that keeps count of the time in its forward passes, and of their tokens."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.timers, self.tokens_a_pass = model, Timers(), 0

    def activations(self, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """As `LanguageModel.activations`."""
        self.tokens_a_pass = max(self.tokens_a_pass, ids_NT.numel())
        with self.timers.running("forward"):
            return self.model.activations(ids_NT, hooks)

    def hook_widths(self, hooks: Sequence[str]) -> dict[str, int]:
        """As `LanguageModel.hook_widths`."""
        return self.model.hook_widths(hooks)


def run(
    recipe: RunConfig, *, tokens: int, store_tokens: int, repeats: int, scratch: Path | None, force: bool, say: Say
) -> dict[str, Any]:
    """Times of reading about `tokens` activations. Raises `UserError` as opening the recipe's inputs does."""
    act = recipe.activations
    T, hooks = act.sequence_length, act.hooks
    for flag, value in (("--tokens", tokens), ("--store-tokens", store_tokens)):
        if value < 1:
            raise UserError(f"{flag} {value} is nothing to read; give a number above 0")
    chunk = max(1, tokens // T)
    exact = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"matmul": "fp32"}),
            "corpus": recipe.corpus.model_copy(update={"max_tokens": _least(recipe, (repeats + 1) * chunk * T)}),
        }
    )
    model, corpus = open_model(exact, say, (repeats + 1) * chunk * T)
    models: dict[str, LanguageModel] = {"fp32" if recipe.model.dtype == "float32" else recipe.model.dtype: model}
    if recipe.model.matmul != "fp32" and recipe.model.dtype == "float32":
        some_NT = torch.from_numpy(corpus.ids_NT[:MEASURED].astype(np.int64))
        models["bf16"] = multiply_in_bf16(load_language_model(recipe.model), some_NT, hooks)

    readers = {name: Reader(lm) for name, lm in models.items()}
    calls: dict[str, Callable[[], object]] = {
        name: _readings(reader, corpus, recipe, chunk) for name, reader in readers.items()
    }
    for call in calls.values():  # also: how long is a pass?
        call()
    peak = peak_memory()
    per_pass = max(reader.tokens_a_pass for reader in readers.values())
    ids_NT = torch.from_numpy(corpus.ids_NT[: per_pass // T].astype(np.int64))
    products = {name: Products(lm, ids_NT, hooks) for name, lm in models.items()}
    floors = {f"products {name}": made.passes(chunk * T) for name, made in products.items() if made.flops}
    for reader in readers.values():
        reader.timers.take()
    seconds = alternate(calls | floors, repeats, say, untimed=0)

    precisions = {}
    for name, reader in readers.items():
        bound = seconds.get(f"products {name}")
        forward = reader.timers.take()["forward"]
        precisions[name] = {
            "seconds": seconds[name],
            "median_s": median(seconds[name]),
            "tokens_per_s": chunk * T / median(seconds[name]),
            "forward_s": forward / (repeats + 1),
            "change": models[name].bf16_change,
            "floor": None,
            "floor_share": None if bound is None else share(bound, seconds[name]),
        }
        if bound is not None:
            flops = products[name].flops / ids_NT.numel() * chunk * T
            precisions[name]["floor"] = rates(flops, {"": bound})[""] | {"tokens_per_s": chunk * T / median(bound)}
    say("writing a store and reading it")
    with TemporaryDirectory(prefix="unmix-bench-", dir=scratch) as folder:
        store = stores.run(exact, model, corpus, Path(folder) / "store", store_tokens, repeats, force)
    return {
        "bench": "harvest",
        **about(),
        "settings": {
            "model": recipe.model.name,
            "corpus": recipe.corpus.source,
            "hooks": hooks,
            "sequence_length": T,
            "tokens": chunk * T,
            "repeats": repeats,
        },
        "tokens_a_pass": per_pass,
        "linear_layers_a_pass": len(products[next(iter(products))].called),
        "flops_a_token": products[next(iter(products))].flops / ids_NT.numel(),
        "precisions": precisions,
        "store": store,
        "copy_gb_per_s": copy_rate(repeats),
        "peak_memory_bytes": peak,
    }


def _least(recipe: RunConfig, tokens: int) -> int:
    """Tokens of the corpus that need to be read, and no more than the recipe allows."""
    needed = max(tokens, MEASURED * recipe.activations.sequence_length)
    return min(needed, recipe.corpus.max_tokens or needed)


def _readings(reader: Reader, corpus: Tokens, recipe: RunConfig, chunk: int) -> Callable[[], None]:
    """Each call reads the next chunk of the stream."""
    act = recipe.activations
    stream = Stream(
        reader,
        corpus.ids_NT,
        act.hooks,
        batch_tokens=recipe.training.batch_tokens,
        chunk_sequences=chunk,
        seed=act.seed,
    )
    numbers: Iterator[int] = iter(range(10**9))

    def call() -> None:
        stream.chunk(next(numbers))

    return call


class Products:
    """The products of the linear layers that one pass runs through, with the same weights, into kept memory."""

    def __init__(self, lm: LanguageModel, ids_NT: Tensor, hooks: Sequence[str]) -> None:
        self.tokens = ids_NT.numel()
        with _linear_calls(lm) as called:
            lm.activations(ids_NT, hooks)
        self.called: list[tuple[Tensor, int]] = called
        """W_IO and the vectors that it is multiplied with, of every call in its order."""
        self.flops = sum(2 * rows * weight_IO.numel() for weight_IO, rows in called)

    def passes(self, tokens: int) -> Callable[[], None]:
        """Makes the products of so many tokens."""
        inputs = {(n, len(w)): torch.randn(n, len(w), dtype=w.dtype) for w, n in self.called}
        outputs = {(n, w.shape[1]): w.new_empty(n, w.shape[1]) for w, n in self.called}
        whole, part = divmod(tokens, self.tokens)

        def one(share: float) -> None:
            for weight_IO, rows in self.called:
                n = max(1, round(rows * share))
                x_NI, y_NO = inputs[rows, len(weight_IO)], outputs[rows, weight_IO.shape[1]]
                torch.mm(x_NI[:n], weight_IO, out=y_NO[:n])

        def call() -> None:
            with torch.inference_mode():
                for _ in range(whole):
                    one(1.0)
                if part:
                    one(part / self.tokens)

        return call


@contextmanager
def _linear_calls(lm: LanguageModel) -> Iterator[list[tuple[Tensor, int]]]:
    """Notes W_IO and the number of vectors of every call of a linear layer."""
    from transformers.pytorch_utils import Conv1D

    called: list[tuple[Tensor, int]] = []

    def note(module: Any, args: tuple[Tensor, ...]) -> None:
        inputs = args[0].shape[-1]
        weight = module.weight
        # transformers' Conv1D keeps W as [I, O]; a model that multiplies in bf16 has every W as [O, I]
        keeps_io = isinstance(module, Conv1D) and "forward" not in vars(module)
        called.append((weight if keeps_io else weight.T, args[0].numel() // inputs))

    with ExitStack() as stack:
        for module in lm.model.modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                stack.callback(module.register_forward_pre_hook(note).remove)
        yield called


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    s, precisions, store = found["settings"], found["precisions"], found["store"]

    def line(text: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [text, *(cell(of) for of in precisions.values())]

    def change(of: dict[str, Any]) -> str:
        return f"{max(of['change'].values()):.2%}" if of["change"] else "none"

    rows = [
        ["the model multiplies in", *precisions],
        line("tokens/s", lambda p: f"{p['tokens_per_s']:,.0f}"),
        line("a reading", lambda p: ms(p["median_s"])),
        line("  of it, forward passes (mean)", lambda p: ms(p["forward_s"])),
        line("change of the activations, ||x' - x|| / ||x||", change),
    ]
    if all(p["floor"] for p in precisions.values()):
        rows += [
            line("floor: the linear layers' products alone", lambda p: ms(p["floor"]["median_s"])),
            line("  their rate, GFLOP/s", lambda p: f"{p['floor']['gflop_per_s']:,.0f}"),
            line("  tokens/s at that rate", lambda p: f"{p['floor']['tokens_per_s']:,.0f}"),
            line("share of the floor reached", lambda p: f"{p['floor_share']:.0%}"),
        ]
    return "\n".join(
        (
            f"activations of {s['model']} at {', '.join(s['hooks'])}: {s['tokens']:,} tokens a reading, "
            f"{found['tokens_a_pass']:,} a pass, sequences of {s['sequence_length']:,}; "
            f"{found['linear_layers_a_pass']} linear layers, {found['flops_a_token'] / 1e6:,.1f} MFLOP a token",
            "",
            aligned(rows),
            f"model.matmul: auto takes {max(precisions, key=lambda name: precisions[name]['tokens_per_s'])}",
            "",
            stores.table(store, found["copy_gb_per_s"]),
            f"peak memory: {found['peak_memory_bytes'] / 1e9:,.2f} GB, with {len(precisions)} copies of the model",
            f"medians of {s['repeats']}, taking turns; {machine_line(found)}",
        )
    )
