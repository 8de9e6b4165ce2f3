"""One training step of a member, beside the encoder's product alone.

The activations are Gaussian with E||x||² = D, the dictionary is a fresh one, and one number added to every encoder
bias brings the mean number of active features to L0. The learning rate is 1e-9, so that it stays there.

A sparse step cannot do less than look at every feature: its bound is one product [B, D] x [D, F] in the precision in
which it selects. A dense step makes five of them, in fp32 beside a selection in fp32, in bf16 beside the others. What a
run with `auto` would take stands below, from the trial that it makes (`kernels.trial`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.bench.clock import Say, Timers, alternate, replaced, share
from unmix.bench.floor import DTYPES, copy_rate, encoder_product, rates, whole_product
from unmix.bench.machine import about, peak_memory, require_memory
from unmix.bench.table import aligned, machine_line, ms
from unmix.config import EVERY_TOKEN, SAEConfig, TrainingConfig
from unmix.errors import UserError
from unmix.kernels import active, cpu, dense, dense_bf16, find, rows, select, trial
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member

HOOK, L1, LR = "bench", 5.0, 1e-9
PRODUCTS = {"sparse": 1, "dense": 5}  # [B, D] x [D, F] in a step
PLACES: tuple[tuple[Any, str, str], ...] = (
    (active, "candidates", "find"),
    (cpu, "_by_token", "by_token"),
    (cpu, "_transpose", "transpose"),
    (cpu, "_by_feature", "by_feature"),
    *((kind, "_activate", "activate") for kind in (dense, dense_bf16)),
    *((kind, "_back", "back") for kind in (dense, dense_bf16)),
    *((kind, "add_pull", "finish") for kind in (dense, dense_bf16)),
    (rows, "finish", "finish"),
    (rows, "adam", "adam"),
    (Member, "_count", "counts"),
)
"""Functions that a step calls, and the phase that each is timed as."""
INSIDE_FIND = (
    (select, "_whole", "rounding"),
    (select, "_positive", "compaction"),
    (select, "_nearly", "compaction"),
    (select, "_above", "compaction"),
    (find, "_collect", "compaction"),
    (find, "_join", "compaction"),
)
SAYS = {
    "find": "find: encoder product, compaction",
    "rounding": "  rounding to whole numbers",
    "product": "  product, and what surrounds it",
    "compaction": "  compaction, values of the selected",
    "by_token": "by token: x̂, g, dz",
    "transpose": "transpose",
    "by_feature": "by feature: gradients",
    "activate": "phi and its counts",
    "back": "back through phi",
    "finish": "norms of the gradients",
    "adam": "Adam",
    "counts": "counts for the metrics",
    "rest": "the rest",
}


def run(
    *, width: int, features: int, tokens: int, l0: float, repeats: int, selection: list[str] | None, say: Say
) -> dict[str, Any]:
    """Times of a step at D = width, F = features, B = tokens. Raises `UserError` for what cannot be measured."""
    require_a_step(width, features, tokens, l0)
    chosen = list(dict.fromkeys(selection or trial.selections()))
    weights = 2 * width * features
    require_memory(len(chosen) * 19 * weights + 8 * weights + 4 * tokens * (features + 3 * width), "such a step")

    say("warming up; the first time on a machine compiles the kernels, which takes a while")
    batch = _batch(width, tokens)
    trained = {name: _member(batch, features, l0, name) for name in chosen}
    for one in trained.values():
        _update(one, batch)  # a member's first step is dense; from its density the next one is chosen
        _update(one, batch)
    trained = {_numbers(one): one for one in trained.values()}  # a dense step selects nothing: bf16 and int8 are one
    kinds = {name: "sparse" if one.step.sparse else "dense" for name, one in trained.items()}
    peak = peak_memory()
    for one in trained.values():
        one.metrics(1)  # opens a new window

    say("finding the fastest way to compute the encoder's product")
    floors = {name: _floor(trained[next(iter(trained))], batch, name) for name in dict.fromkeys([*trained, *chosen])}
    calls: dict[str, Callable[[], object]] = {name: _stepper(one, batch) for name, one in trained.items()}
    seconds = alternate(calls | {f"product {name}": made.call for name, made in floors.items()}, repeats, say)
    measured_l0 = {name: one.metrics(1)["l0"] for name, one in trained.items()}
    say("timing the phases of a step")
    phases = {name: _phases(one, batch, repeats) for name, one in trained.items()}

    variants = {}
    for name in trained:
        bound = seconds[f"product {name}"]
        variants[name] = {
            "kind": kinds[name],
            "l0": measured_l0[name],
            "seconds": seconds[name],
            "median_s": median(seconds[name]),
            "tokens_per_s": tokens / median(seconds[name]),
            "bound_products": PRODUCTS[kinds[name]],
            "bound_share": PRODUCTS[kinds[name]] * share(bound, seconds[name]),
            "phases": phases[name],
        }
    say("timing what a run measures for auto")
    shape = trial.Shape(width, features, tokens)
    tried = trial.measure(shape)
    floor = rates(2 * tokens * width * features, {name: seconds[f"product {name}"] for name in floors})
    for name, made in floors.items():
        floor[name]["how"] = made.how
    settings = {"width": width, "features": features, "tokens": tokens, "l0": l0, "repeats": repeats}
    return {
        "bench": "step",
        **about(),
        "settings": settings | {"selection": chosen},
        "variants": variants,
        "floor": floor,
        "auto": {**tried._asdict(), "border": tried.border},
        "copy_gb_per_s": copy_rate(repeats),
        "peak_memory_bytes": peak,
    }


def require_a_step(width: int, features: int, tokens: int, l0: float) -> None:
    """Raises `UserError` for numbers that leave none."""
    for flag, value in (("--width", width), ("--features", features), ("--tokens", tokens)):
        if value < 1:
            raise UserError(f"{flag} {value} leaves no step to time; give a number above 0")
    if not 0 < l0 <= features:
        raise UserError(f"--l0 {l0:g} active features of {features:,}; give more than 0 and at most --features")


def compile_kernels() -> None:
    """Take tiny steps of both kinds, so that no later one waits for a compiler."""
    batch = _batch(8, 64)
    for name in trial.selections():
        one = _member(batch, 128, 2.0, name)
        for _ in range(3):
            _update(one, batch)


def _batch(width: int, tokens: int) -> Batch:
    x_BD = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))
    return Batch({HOOK: x_BD}, torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64))


def _member(batch: Batch, features: int, l0: float, selection: str) -> Member:
    """A member as a recipe's defaults make it, its encoder's bias such that L0 features are active."""
    x_BD = batch.activations[HOOK]
    sae = SAEConfig(features=features)
    numbers = {"selection": selection, "dense": "fp32" if selection == "fp32" else "bf16"}
    training = TrainingConfig.model_validate({"l1": [L1], "batch_tokens": len(x_BD), **numbers})
    facts, mask = measure(batch, HOOK, sae, training, L1, []), Mask(EVERY_TOKEN, [], 0.0)
    made = new_member(
        Entry("bench", HOOK, "", L1), x_BD.shape[1], config=sae, training=training, facts=facts, mask=mask
    )
    some_TD = made.view.x(x_BD[: max(1, 2**22 // features)])
    z_N = (some_TD @ made.weights["W_enc"]).flatten()
    made.weights["b_enc"].fill_(-z_N.kthvalue(max(1, round(z_N.numel() * (1 - l0 / features)))).values.item())
    return made


def _numbers(one: Member) -> str:
    """What the encoder's product is made in, by the step that its next one will be."""
    return one.step.select if one.step.sparse else one.step.dense


def _update(one: Member, batch: Batch) -> None:
    if wrong := one.update(batch, one.updates, LR, L1):
        raise RuntimeError(wrong)  # no batch of ours is left out


def _stepper(one: Member, batch: Batch) -> Callable[[], None]:
    return lambda: _update(one, batch)


def _floor(one: Member, batch: Batch, name: str) -> Any:
    x_BD, W_FD = batch.activations[HOOK], one.weights["W_enc"].T
    if name == "int8":
        return whole_product(*(t.mul(127 / t.abs().max()).round().to(torch.int8) for t in (x_BD, W_FD)))
    dtype = DTYPES[name]
    return encoder_product(x_BD.to(dtype), W_FD.to(dtype), one.weights["b_enc"].to(dtype))


def _phases(one: Member, batch: Batch, repeats: int) -> dict[str, Any]:
    """Seconds of each phase, in steps of their own that have timers in them."""
    timers, rounds = Timers(), []
    with ExitStack() as stack:
        for owner, name, phase in (*PLACES, *INSIDE_FIND):
            stack.enter_context(replaced(owner, name, timers.around(getattr(owner, name), phase)))
        for _ in range(repeats):
            _update(one, batch)
            timers.take()
            with timers.running("whole"):
                _update(one, batch)
            rounds.append(timers.take())
    within: list[dict[str, float]]
    within = [{name: taken.pop(name) for name in ("rounding", "compaction") if name in taken} for taken in rounds]
    for taken, inside in zip(rounds, within, strict=True):
        taken["rest"] = 2 * taken["whole"] - sum(taken.values())
        if inside:
            inside["product"] = taken["find"] - sum(inside.values())
    return {"seconds": _medians(rounds), "inside_find": _medians(within), "rounds": rounds}


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {phase: median(taken[phase] for taken in rounds) for phase in rounds[0]}


def _auto(tried: dict[str, Any], tokens: int) -> str:
    """What a run would decide, and from what."""
    best = {what: min(tried[what], key=tried[what].__getitem__) for what in ("dense", "sparse")}
    each = {what: ", ".join(f"{name} {ms(t)}" for name, t in tried[what].items()) for what in best}
    return (
        f"auto, from {tried['rows']:,} of {tokens:,} tokens: dense {best['dense']} ({each['dense']}), "
        f"selection {best['sparse']} ({each['sparse']} at {trial.SETTLED:.0%} active), "
        f"sparse below {tried['border']:.1%} active"
    )


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    s, variants, floor = found["settings"], found["variants"], found["floor"]
    l0 = ", ".join(f"{v['l0']:,.4g}" for v in variants.values())
    kinds = ", ".join(f"{name} {v['kind']}" for name, v in variants.items())

    def line(text: str, cell: Callable[[str], str]) -> list[str]:
        return [text, *(cell(name) for name in variants)]

    rows = [
        line("the encoder's product is made in", str),
        line("step", lambda n: ms(variants[n]["median_s"])),
        line("tokens/s", lambda n: f"{variants[n]['tokens_per_s']:,.0f}"),
        line("its bound, in encoder products", lambda n: f"{variants[n]['bound_products']}"),
        line("share of the bound reached", lambda n: f"{variants[n]['bound_share']:.0%}"),
        [],
        line("phases, in steps with timers", lambda n: ms(variants[n]["phases"]["seconds"]["whole"])),
    ]
    for phase, text in SAYS.items():
        times = {n: {**v["phases"]["seconds"], **v["phases"]["inside_find"]} for n, v in variants.items()}
        if any(phase in taken for taken in times.values()):
            if phase == "rest" and any(v["kind"] == "dense" for v in variants.values()):
                text = "the products, and the rest"
            rows.append(line(f"  {text}", lambda n: ms(times[n][phase]) if phase in times[n] else ""))  # noqa: B023
    products = [["encoder's product alone", "time", "GFLOP/s"]]
    products += [[name, ms(f["median_s"]), f"{f['gflop_per_s']:,.0f}"] for name, f in floor.items()]
    return "\n".join(
        (
            f"one training step: D={s['width']:,}, F={s['features']:,}, B={s['tokens']:,}; "
            f"L0 asked for {s['l0']:g}, found {l0}; {kinds}",
            "",
            aligned(rows),
            "",
            aligned(products),
            "",
            _auto(found["auto"], s["tokens"]),
            f"copying: {found['copy_gb_per_s']:,.1f} GB/s; peak memory: {found['peak_memory_bytes'] / 1e9:,.2f} GB",
            f"medians of {s['repeats']}, taking turns; {machine_line(found)}",
        )
    )
