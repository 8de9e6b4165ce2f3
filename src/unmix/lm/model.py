"""A causal language model that is only read from: activations at hooks, and logits.

Weights come from safetensors or GGUF only, and no code that came with a model is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.hooknames import KINDS, canonical
from unmix.lm import fetch, gguf
from unmix.lm.hooks import find_blocks, find_place, text_config
from unmix.lm.places import attach

EMBEDDED = Path(__file__).parent / "embedded"
ADDED_UP, ADDED_UP_ROUNDED = 1e-3, 0.1
"""By how much a block's parts may miss what it adds: in float32, and in a narrower dtype. Wrong places miss by 0.6 and
more."""


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
        vocabulary, or a module that does not give one vector a token.
        """
        self._check(ids_NT)
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
                with torch.inference_mode(), _quiet():
                    self.model(ids_NT.to(self.model.device), use_cache=False)
            except _Done:
                return captured
        silent = next(hook for hook in wanted if hook not in captured)
        raise UserError(f"hook {silent}: that module does not run in a forward pass on text; choose another")

    def hook_widths(self, hooks: Sequence[str]) -> dict[str, int]:
        """hook -> D, from a pass over a few tokens. Raises as `activations` does."""
        few = torch.zeros(1, min(11, self.context or 11), dtype=torch.int64)  # 11: as many heads are rare
        return {hook: x_NTD.shape[-1] for hook, x_NTD in self.activations(few, hooks).items()}

    def check_contributions(self, ids_NT: Tensor, hooks: Sequence[str]) -> None:
        """Raises `UserError` where an `attn_out.L` or `mlp_out.L` among the hooks is not what its block adds:
        where resid_pre + attn_out + mlp_out - resid_post is more than `ADDED_UP` of what the block adds."""
        for hook in hooks:
            kind, _, layer = canonical(hook).partition(".")
            if kind not in ("attn_out", "mlp_out"):
                continue
            remedy = f"name a module of block {layer} by its path, or take resid_post.{layer}"
            names = [f"{kind}.{layer}" for kind in KINDS]
            try:
                found = self.activations(ids_NT, names)
            except UserError as error:
                raise UserError(
                    f"hook {hook} cannot be checked against what block {layer} adds ({error}); {remedy}"
                ) from None
            before, after, *branches = (found[name].double() for name in names)
            off = ((before + sum(branches) - after).norm() / (after - before).norm()).item()
            if not off <= (ADDED_UP if self.model.dtype == torch.float32 else ADDED_UP_ROUNDED):
                raise UserError(
                    f"hook {hook}: in {type(self.model).__name__}, resid_pre + attn_out + mlp_out is not resid_post "
                    f"(off by {off:.2g} of what block {layer} adds), so it is not what the block adds; {remedy}"
                )

    def logits(self, ids_NT: Tensor) -> Tensor:
        """logits_NTV, float32. Raises `UserError` for a sequence too long or an id outside the vocabulary."""
        self._check(ids_NT)
        with torch.no_grad(), _quiet():  # not inference_mode: what comes out may enter someone's graph
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

    Raises `UserError`: no such folder or file, one that holds no model, a name that cannot be fetched, weights that
    are absent, pickled, or do not fit the architecture.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = _local(config.name)
    place, how = _pretrained(config.name, path)
    try:
        with _quiet(), gguf.without_bar() if "gguf_file" in how else nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype=getattr(torch, config.dtype), trust_remote_code=False, output_loading_info=True, **how
            )
            how.pop("use_safetensors", None)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **how)
    except Exception as error:  # hub, network, files and architectures each raise their own kinds
        remedy = "check the name and the network, or give a folder" if path is None else f"check {path}"
        raise UserError(f"cannot load model.name = {config.name}; {remedy}: {_line(error)}") from None
    model, report = loaded
    if report["missing_keys"]:  # transformers would fill them at random and only log it
        some = sorted(report["missing_keys"])
        raise UserError(f"model.name = {config.name} lacks {len(some)} weights of its architecture, such as {some[0]}")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made from nothing but the architecture's name
        raise UserError(f"model.name = {config.name} has no tokenizer; put its tokenizer.json beside the weights")
    model.eval().requires_grad_(False)
    _fast_gelu(model)
    note = ""
    if path is not None and path.is_file():
        note = f"{path.name} holds {gguf.quantisation(path)}: dequantised to {config.dtype}"
    return LanguageModel(model, tokenizer, config.name, _fingerprint(model, path), note=note)


def count_layers(config: ModelConfig) -> int:
    """Blocks of the model that `config.name` names, from its configuration alone. Raises as `load_language_model`."""
    from transformers import AutoConfig

    path = _local(config.name)
    place, how = _pretrained(config.name, path)
    how.pop("use_safetensors", None)
    try:
        with _quiet():
            found = AutoConfig.from_pretrained(place, trust_remote_code=False, **how)
    except Exception as error:  # as above
        raise UserError(f"cannot read the configuration of model.name = {config.name}: {_line(error)}") from None
    return int(found.get_text_config().num_hidden_layers)


def _pretrained(name: str, path: Path | None) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with."""
    if path is None or path.is_dir():
        return name if path is None else str(path), {"use_safetensors": True}
    gguf.require_readers(path)
    return str(path.parent), {"gguf_file": path.name}


def _fast_gelu(model: Any) -> None:
    """GPT-2's approximate GELU as one pass: the same function, written there as eight."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        if isinstance(module, NewGELUActivation):
            vars(module)["forward"] = partial(nn.functional.gelu, approximate="tanh")


def _local(name: str) -> Path | None:
    """The folder or GGUF file that the name means, checked; none if it is a name on the hub."""
    path = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if name in fetch.MODELS and not path.exists():
        return fetch.fetched(name)
    if not path.exists():
        if name == "embedded":
            raise UserError("this copy of unmix has no embedded model; set model.name to a folder or a hub name")
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf":
            raise UserError(f"model.name = {name}: no such {'file' if path.suffix == '.gguf' else 'folder'}")
        return None
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise UserError(f"model.name = {name} is a file, and not GGUF; give a model folder, or a .gguf file")
        return path
    if not (path / "config.json").is_file():
        if alone := sorted(path.glob("*.gguf")):
            raise UserError(f"model.name = {name} is a folder of GGUF files; name one of them: {alone[0]}")
        raise UserError(f"model.name = {name} is no model folder: no config.json")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
        what = f"only pickled weights ({pickled[0]}), which are not read" if pickled else "no weights"
        raise UserError(f"model.name = {name} has {what}; give it *.safetensors, as save_pretrained writes them")
    return path


def _fingerprint(model: Any, path: Path | None) -> str:
    digest = hashlib.sha256()
    if path is not None:
        for file_path in [path] if path.is_file() else [path / "config.json", *sorted(path.glob("*.safetensors"))]:
            with file_path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    else:
        digest.update(model.config.to_json_string().encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without `transformers`' own bars and notes; its settings are put back."""
    from transformers.utils import logging

    settings: Any = logging  # untyped
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
