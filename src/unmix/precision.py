"""What a recipe leaves to `auto` is decided by timing it on this machine, at the run's own shapes; once a run.

    model.matmul          forward passes of the model, in float32 and with products in bf16
    training.dense        dense steps        }
    training.selection    sparse steps       }  of the member that costs most, see `kernels.trial`
    training.border       where they meet    }  on a GPU the last two, see `kernels.gpu_trial`; of the portable step
                                                the first one, see `kernels.portable_trial`

What was decided stands in run.yaml with its figures, and a resumed run keeps it. What was measured is kept in the cache
for each machine and shape, so that the same run decides the same twice; where it cannot, `say` is given a line.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numba
import torch

from unmix.cache import remembered
from unmix.config import CorpusConfig, RunConfig, SAEConfig, flat
from unmix.devices import resolve
from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.table import nonlinearity
from unmix.kernels import portable_trial
from unmix.kernels.dispatch import BORDER, dense_numbers
from unmix.kernels.trial import BUSY, SETTLED, Shape, Times, measure
from unmix.lm.model import LanguageModel
from unmix.lm.products import rates
from unmix.machine import cpu_name

Say = Callable[[str], None]
OPEN = ("selection", "dense", "border")
"""Keys of `training` that may be `auto`."""


def keep(recipe: RunConfig, earlier: dict[str, Any]) -> RunConfig:
    """The recipe with what it leaves open as a run began with it (`earlier`: its recipe), whatever the machine.

    A run from before there was a choice was in fp32. With a store, `model.matmul` stays open: the store was made with
    what it was made with.
    """
    began = flat(earlier)
    before = {"training.border": 0.07 if began.get("training.dense") == "bf16" else BORDER}
    training = {
        key: began.get(f"training.{key}", before.get(f"training.{key}", "fp32"))
        for key in OPEN
        if getattr(recipe.training, key) == "auto"
    }
    model = {}
    if recipe.model.matmul == "auto" and recipe.activations.store is None:
        model["matmul"] = began.get("model.matmul", "fp32")
    before_corpus = CorpusConfig.model_validate(earlier.get("corpus") or {})
    read = [(part.source, part.revision) for _, part in before_corpus.parts]
    corpus = recipe.corpus.pinned([name for name, _ in read], [revision for _, revision in read])
    if corpus.max_tokens is None:
        corpus = corpus.model_copy(update={"max_tokens": before_corpus.max_tokens})
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=model),
            "corpus": corpus,
            "training": recipe.training.model_copy(update=training),
        }
    )


def matmul(
    recipe: RunConfig, lm: LanguageModel, ids_NT: torch.Tensor, say: Say | None = None
) -> tuple[str, dict[str, float]]:
    """(what the model multiplies in, tokens a second in each as far as that was measured).

    A model that is not in float32 multiplies in its own dtype, which is called fp32 here; one that is not on the
    processor multiplies in fp32 unless bf16 is asked for.
    """
    asked, hooks = recipe.model.matmul, recipe.activations.hooks
    if asked != "auto":
        return asked, {}
    if recipe.model.dtype != "float32" or lm.model.device.type != "cpu":
        return "fp32", {}
    what = {"model": lm.fingerprint, "hooks": hooks, "tokens": list(ids_NT.shape), **_machine()}
    found = remembered(what, lambda: rates(lm, ids_NT, hooks), say)
    return max(found, key=lambda name: found[name]), found


def decide(recipe: RunConfig, widths: dict[str, int], say: Say | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """(the recipe with `training` decided, the figures: seconds of a step), from hook -> D; {} if nothing is open.

    Among the figures is `auto`: the keys that were open, for `reopened`.
    """
    if not (left := [key for key in OPEN if getattr(recipe.training, key) == "auto"]):
        return recipe, {}
    recipe, figures = _decide(recipe, widths, say)
    return recipe, figures and figures | {"auto": left}


def reopened(recipe: RunConfig, figures: dict[str, Any]) -> RunConfig:
    """The recipe before `decide` had these figures: for another device, on which they say nothing."""
    update = {key: "auto" for key in OPEN if key in figures.get("auto", ())}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=update)})


def _decide(recipe: RunConfig, widths: dict[str, int], say: Say | None) -> tuple[RunConfig, dict[str, Any]]:
    training = recipe.training
    device = resolve(recipe.device)
    if device.type == "cuda" and training.kernels != "portable" and find_spec("triton") is not None:
        return _decide_on_gpu(recipe, widths, device, say)
    saes = [recipe.of_variant(variant)[0] for variant in recipe.variants or [""]]
    width, features = max(widths.values()), max(sae.features for sae in saes)
    if training.kernels == "portable" or device.type != "cpu":
        return _decide_portable(recipe, width, features, device, say)
    shape = Shape(width, features, training.batch_tokens, _dense_formats(saes), all(sae.noise > 0 for sae in saes))
    what = {"step": shape._asdict(), **_machine()}
    times = Times(**remembered(what, lambda: measure(shape)._asdict(), say))
    found = {
        "dense": min(times.dense, key=lambda name: times.dense[name]),
        "selection": min(times.sparse, key=lambda name: times.sparse[name]),
        "border": round(times.border, 4),
    }
    update = {key: found[key] for key in OPEN if getattr(training, key) == "auto"}
    figures = {"width": width, "features": features, "tokens": training.batch_tokens, **times._asdict()}
    return recipe.model_copy(update={"training": training.model_copy(update=update)}), figures


def _decide_portable(
    recipe: RunConfig, width: int, features: int, device: torch.device, say: Say | None
) -> tuple[RunConfig, dict[str, Any]]:
    """The same for the portable step, which has one choice: the format of all its products (not of tanh_relu's)."""
    training = recipe.training
    kinds = [nonlinearity(recipe.of_variant(variant)[0]) for variant in recipe.variants or [""]]
    if training.dense != "auto" or all(isinstance(phi, TanhRelu) for phi in kinds):
        return recipe, {}
    shape = {"width": width, "features": features, "tokens": training.batch_tokens}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    what = {"portable step": shape, "device": name, **_machine()}
    found = remembered(what, lambda: portable_trial.measure(**shape, device=device), say)
    seconds = {name: found[name] for name in ("fp32", "bf16") if name in found}
    update = {"dense": min(seconds, key=lambda name: seconds[name])}
    figures = {**shape, "device": name, "rows": int(found["rows"]), "portable": seconds}
    return recipe.model_copy(update={"training": training.model_copy(update=update)}), figures


def _decide_on_gpu(
    recipe: RunConfig, widths: dict[str, int], device: torch.device, say: Say | None
) -> tuple[RunConfig, dict[str, Any]]:
    """The same for the kernels of a GPU, whose dense steps are in float32, at the largest shape.

    They are timed for a relu or a tanh_relu if there is one, else for a jumprelu, whose steps do a little more, else
    for a topk, which is always sparse. Gated dictionaries have no kernels.
    """
    from unmix.kernels import gpu_trial

    training = recipe.training
    saes = [recipe.of_variant(variant)[0] for variant in recipe.variants or [""]]
    kinds = [nonlinearity(sae) for sae in saes]
    width, features = max(widths.values()), max(sae.features for sae in saes)
    of = next((name for name, kind in _TIMED.items() if any(isinstance(phi, kind) for phi in kinds)), None)
    portable: dict[str, Any] = {}
    if any(isinstance(phi, Gated) for phi in kinds):
        recipe, portable = _decide_portable(recipe, width, features, device, say)
        training = recipe.training
    if of is None or "auto" not in (training.border, training.selection):
        return recipe, portable
    shape: dict[str, Any] = {"width": width, "features": features, "tokens": training.batch_tokens, "of": of}
    gpu = torch.cuda.get_device_name(device)
    what = {"step on a GPU": shape, "gpu": gpu, "triton": version("triton"), **_machine()}
    measured = remembered(what, lambda: gpu_trial.measure(**shape, device=device)._asdict(), say)
    times = gpu_trial.Times(**measured)
    found = {"selection": times.selection} | ({} if of == "topk" else {"border": round(times.border, 4)})
    update = {key: value for key, value in found.items() if getattr(training, key) == "auto"}
    figures = {**portable, **shape, "gpu": gpu, "milliseconds": times._asdict()}
    figures |= {"settled": gpu_trial.SETTLED, "busy": gpu_trial.BUSY}
    return recipe.model_copy(update={"training": training.model_copy(update=update)}), figures


_TIMED: dict[str, Any] = {"relu": Relu | TanhRelu, "jumprelu": JumpRelu, "topk": TopK | AbsTopK | BatchTopK}


def _dense_formats(saes: Iterable[SAEConfig]) -> tuple[str, ...]:
    """The formats of a dense step that any of these dictionaries has."""
    return tuple(dict.fromkeys(("fp32", *(dense_numbers("bf16", nonlinearity(s), s.noise > 0) for s in saes))))


def said(recipe: RunConfig, figures: dict[str, Any]) -> str:
    """What `decide` found, in one line."""
    t = recipe.training

    def each(times: dict[str, float]) -> str:
        return ", ".join(f"{name} {1e3 * seconds:,.3g}" for name, seconds in times.items())

    found = []
    if "gpu" in figures:
        ms = figures["milliseconds"]
        text = (
            f"measured on {figures['gpu']}, ms per step of {figures['tokens']:,} tokens: sparse at "
            f"{figures['settled']:.1%} active {ms['fp32']:,.3g} selecting in fp32, {ms['tf32']:,.3g} in tf32"
        )
        if ms["dense"] is None:
            found.append(f"{text}. So selection is in {t.selection}")
        else:
            found.append(
                f"{text}; at {figures['busy']:.1%}, {ms['busy']:,.3g}; dense {ms['dense']:,.3g}. So selection is in "
                f"{t.selection}, steps sparse below {t.border:.1%} active"
            )
    if "portable" in figures:
        found.append(
            f"measured here, ms per {figures['rows']:,} tokens of a portable step: {each(figures['portable'])}. So its "
            f"products are in {t.dense}"
        )
    if "sparse" in figures:
        found.append(
            f"measured here, ms per step of {figures['tokens']:,} tokens: dense {each(figures['dense'])}; sparse at "
            f"{SETTLED:.0%} active, selecting in {each(figures['sparse'])}; at {BUSY:.0%}, "
            f"{1e3 * figures['sparse_busy']:,.3g}. So dense steps are in {t.dense}, selection in {t.selection}, "
            f"steps sparse below {t.border:.1%} active"
        )
    return "; ".join(found)


def said_of_model(chosen: str, found: dict[str, float]) -> str:
    """What `matmul` found, in one line."""
    each = ", ".join(f"{rate:,.0f} in {name}" for name, rate in found.items())
    return f"measured here, tokens per second through the model: {each}; so its products are in {chosen}"


def _machine() -> dict[str, Any]:
    """What makes another machine of it."""
    return {
        "cpu": cpu_name(),
        "system": platform.platform(),
        "threads": [torch.get_num_threads(), numba.get_num_threads()],
        "torch": str(torch.__version__),
    }
