"""sparsify (EleutherAI): a folder for each hook, with `cfg.json` and `sae.safetensors`.

    f = the k largest of max(z, 0),   z = (x - b_dec) W_enc + b_enc;   ŷ = f W_dec + b_dec  [+ x W_skipᵀ]

encoder.weight is [F, D] and turned, W_dec [F, D] and not; W_skip [D, D] is there with skip_connection. A transcoder
(transcode) does not subtract b_dec. `num_latents` 0 means D · expansion_factor. The folder is called after a module: x
is its output, or, of a transcoder, its input. `layers.3.mlp` is the MLP itself, before a norm that may stand behind it.
"""

from __future__ import annotations

import re
from pathlib import Path

from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.errors import UserError
from unmix.interop.keys import count, read_keys
from unmix.interop.normal import centred_biases, normal_form, require_plain
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source, hook_of_module
from unmix.interop.tensors import take, transposed
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors

CONFIG, WEIGHTS, SKIP = "cfg.json", "sae.safetensors", "W_skip"
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_MODULE = re.compile(r"(?:[A-Za-z_]\w*\.)+\d+(?:\.\w+)*")  # the path of one in a list of blocks


def is_here(source: Source) -> bool:
    """Whether it is a folder of sparsify."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source) -> Reading:
    """Raises `UserError` for groupmax and signed features."""
    path, keys = source.folder / WEIGHTS, source.keys(CONFIG)
    keys.one_of("activation", ("topk",), "groupmax keeps the largest of each of k groups, which is no top k")
    keys.one_of("signed", (False, None), "of features that may be negative this version does not know the choice")
    transcode = keys.one_of("transcode", (False, True))
    skip = keys.one_of("skip_connection", (False, True))
    k, d_in = keys.whole("k"), keys.whole("d_in")
    latents, expansion = keys.whole("num_latents", 0), keys.whole("expansion_factor")
    keys.finish({"normalize_decoder", "multi_topk"})  # how it was trained
    if k is None or d_in is None:
        raise UserError(f"{keys.path} has no {'k' if k is None else 'd_in'}, which sparsify writes")
    found = source.tensors(WEIGHTS)
    names = NAMES | ({SKIP: SKIP} if skip else {})
    of = "a sparse coder of sparsify" + ("" if skip else " without skip_connection")
    w = {names[name]: tensor for name, tensor in take(path, found, names, of=of).items()}
    w |= {name: transposed(w[name]) for name in ("W_enc", SKIP) if name in w}
    F = latents or (d_in * expansion if expansion else w["b_enc"].numel())
    called = {ours: theirs for theirs, ours in NAMES.items()}
    sae, folded = normal_form(path, w, TopK(k, weigh_by_norm=False), centred=not transcode, called=called)
    if (sae.width, sae.features) != (d_in, F):
        raise UserError(f"{keys.path} says d_in, num_latents = {(d_in, F)}, the weights are {sae.width, sae.features}")
    if k > F:
        raise UserError(f"{keys.path} says {keys.said('k')} of {F} features; it is damaged")
    model, corpus, context = _of_the_run(source)
    name = source.folder.absolute().name
    module = re.sub(r"^layer_(\d+)$", r"layers.\1", name)
    hook = hook_of_module(module) or (name if _MODULE.fullmatch(name) else None)
    return Reading(
        sae,
        Origin(
            format="sparsify",
            architecture="topk",
            model=model,
            hook=(f"{module}.input" if hook else None) if transcode else hook,
            hook_out=hook if transcode else None,
            transcoder=transcode or skip,
            context=context,
            corpus=corpus,
            asked={"l0": float(k)},
            l0=float(k),
            folded=folded,
        ),
    )


def write(sae: Dictionary, made: Origin, folder: Path) -> None:
    """`cfg.json` and `sae.safetensors`, for its `load_from_disk`. Raises `UserError` but for a topk with E = D."""
    require_plain(sae, ("topk",), "sparsify", skip=True)
    E = sae.W_dec.shape[1]
    if sae.width != E:
        raise UserError(f"sparsify has one width, and this is {sae.width:,} -> {E:,}; leave it in our layout")
    phi, w = sae.nonlinearity, sae.weights
    if not made.transcoder:
        w |= centred_biases(sae)
    w |= {name: w[name].T for name in ("W_enc", SKIP) if name in w}
    names = NAMES | ({SKIP: SKIP} if SKIP in w else {})
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {theirs: w[ours] for theirs, ours in names.items()})
    write_json(
        folder / CONFIG,
        {
            "activation": "topk",
            "num_latents": sae.features,
            "k": phi.k if isinstance(phi, TopK) else None,
            "normalize_decoder": False,
            "multi_topk": False,
            "skip_connection": SKIP in w,
            "transcode": made.transcoder,
            "d_in": sae.width,
        },
    )


def _of_the_run(source: Source) -> tuple[str | None, str | None, int | None]:
    """(model, data set, tokens a sequence) from config.json one level up, where there is one that can be read."""
    path = source.folder.absolute().parent / "config.json"
    if not path.is_file():
        return None, None, None
    keys = read_keys(path)
    return keys.text("model"), keys.text("dataset"), count(keys.values.get("ctx_len"))
