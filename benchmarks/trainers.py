"""One training step of each library, by its own trainer's code, from the same weights.

Letters: B tokens, D width, F features. Each function takes a `Start` and answers a `Trainer`.

unmix, SAELens `standard` and dictionary_learning's April update minimise the same:

    mean_B ||x̂ - x||²  +  l1 · mean_B Σ_i f_i ||W_dec_i||

SAELens writes mse = mean_B Σ_D (x̂ - x)² and l1 · mean_B ||f_i ||W_dec_i|| ||_1: the coefficient carries over as it is.
dictionary_learning subtracts the decoder's bias from x before it encodes; from a bias of 0 the first step is the same.
sparsify's TopK has an objective of its own: squared error over variance, k features per token.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Where every library starts from."""

    W_enc_FD: Tensor
    """A feature's weights side by side."""
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    l1: float
    lr: float
    tokens: int
    """B."""


class Four(NamedTuple):
    """The weights of a library in one notation (views)."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


class Trainer(NamedTuple):
    """A library's training step."""

    step: Callable[[Tensor], object]
    weights: Callable[[], Four]
    found: Callable[[], float] | None = None
    """Active features per token that its steps found themselves."""


def unmix(start: Start, precision: str) -> Trainer:
    """`Member.update`."""
    from unmix.activations.mask import Mask
    from unmix.activations.stream import Batch
    from unmix.config import SAEConfig, TrainingConfig
    from unmix.dictionary.model import Dictionary
    from unmix.training.measure import measure
    from unmix.training.member import Entry, Member

    config = SAEConfig(features=len(start.b_enc_F), scaling="none")
    dense = "fp32" if precision == "fp32" else "bf16"
    training = TrainingConfig(l1=[start.l1], batch_tokens=start.tokens, selection=precision, dense=dense, mask="none")
    four = {"W_enc": start.W_enc_FD.T, "b_enc": start.b_enc_F, "W_dec": start.W_dec_FD, "b_dec": start.b_dec_D}
    sae = Dictionary({name: weight.clone() for name, weight in four.items()})
    ids_B = torch.zeros(start.tokens, dtype=torch.int64)

    def batch(x_BD: Tensor) -> Batch:
        return Batch({"x": x_BD}, ids_B, ids_B)

    facts = measure(batch(torch.randn(start.tokens, sae.width)), "x", config, training, start.l1, ())
    entry = Entry("l1", "x", "", start.l1)
    member = Member(entry, sae, config=config, training=training, facts=facts, mask=Mask(training.mask, (), 1.0))
    steps = iter(range(10**9))

    def step(x_BD: Tensor) -> None:
        said = member.update(batch(x_BD), next(steps), start.lr, start.l1)
        if member.skipped:
            raise RuntimeError(said)

    return Trainer(
        step,
        lambda: Four(*(member.weights[name] for name in four)),
        lambda: member.window.active / member.window.tokens,
    )


def saelens(start: Start, *, autocast: bool = False, compiled: bool = False) -> Trainer:
    """`SAETrainer.step` on a `standard` SAE; `compiled` as its runner does for compile_sae=True."""
    from sae_lens import LoggingConfig, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    F, D = start.W_dec_FD.shape
    sae = StandardTrainingSAE(
        StandardTrainingSAEConfig(d_in=D, d_sae=F, l1_coefficient=start.l1, apply_b_dec_to_input=False)
    )
    with torch.no_grad():
        sae.W_enc.copy_(start.W_enc_FD.T)
        sae.b_enc.copy_(start.b_enc_F)
        sae.W_dec.copy_(start.W_dec_FD)
        sae.b_dec.copy_(start.b_dec_D)
    if compiled:
        sae.training_forward_pass = torch.compile(sae.training_forward_pass, mode=None, backend="inductor")
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=start.tokens,
        lr=start.lr,
        lr_end=start.lr,
        autocast=autocast,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x_BD: Tensor) -> None:
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    return Trainer(step, lambda: Four(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))


def dictionary_learning(start: Start) -> Trainer:
    """`StandardTrainerAprilUpdate.update`."""
    import nnsight
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate

    nnsight.DEFAULT_PATCHER.__exit__(None, None, None)  # torch as it was: patched, it can compile nothing

    F, D = start.W_dec_FD.shape
    trainer = StandardTrainerAprilUpdate(
        steps=10**9,
        activation_dim=D,
        dict_size=F,
        layer=0,
        lm_name="none",
        lr=start.lr,
        l1_penalty=start.l1,
        warmup_steps=0,
        sparsity_warmup_steps=None,
        device="cpu",
    )
    ae = trainer.ae
    with torch.no_grad():
        ae.encoder.weight.copy_(start.W_enc_FD)
        ae.encoder.bias.copy_(start.b_enc_F)
        ae.decoder.weight.copy_(start.W_dec_FD.T)
        ae.bias.copy_(start.b_dec_D)
    steps = iter(range(1, 10**9))
    return Trainer(
        lambda x_BD: trainer.update(next(steps), x_BD),
        lambda: Four(ae.encoder.weight.T, ae.encoder.bias, ae.decoder.weight.T, ae.bias),
    )


def sparsify(start: Start, *, k: int, optimizer: str) -> Trainer:
    """The lines of `Trainer.fit` that follow the language model's forward pass, on its own coder and optimizer."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has no Triton
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.sign_sgd import SignSGD

    F, D = start.W_dec_FD.shape
    coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=k), dtype=torch.float32)
    with torch.no_grad():
        coder.encoder.weight.copy_(start.W_enc_FD)
        coder.encoder.bias.copy_(start.b_enc_F)
        coder.W_dec.copy_(start.W_dec_FD)
        coder.b_dec.copy_(start.b_dec_D)
    if optimizer == "adam":
        update = torch.optim.Adam(coder.parameters(), lr=start.lr)
    else:
        update = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=start.lr), momentum=0.95)
        update.train()
    fired_F = torch.zeros(F, dtype=torch.bool)

    def step(x_BD: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = coder(x=x_BD, y=x_BD, dead_mask=None, total_variance=variance)
        fired_F[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        update.step()
        update.zero_grad()

    return Trainer(step, lambda: Four(coder.encoder.weight.T, coder.encoder.bias, coder.W_dec, coder.b_dec))


TRAINERS: dict[str, Callable[[Start], Trainer]] = {
    "unmix fp32": lambda start: unmix(start, "fp32"),
    "unmix bf16": lambda start: unmix(start, "bf16"),
    "unmix int8": lambda start: unmix(start, "int8"),
    "SAELens fp32": lambda start: saelens(start),
    "SAELens autocast": lambda start: saelens(start, autocast=True),
    "SAELens fp32 compiled": lambda start: saelens(start, compiled=True),
    "SAELens autocast compiled": lambda start: saelens(start, autocast=True, compiled=True),
    "dictionary_learning": dictionary_learning,
    "sparsify adam": lambda start: sparsify(start, k=64, optimizer="adam"),
    "sparsify signum": lambda start: sparsify(start, k=64, optimizer="signum"),
}
