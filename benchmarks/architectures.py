"""One training step of every architecture: unmix beside SAELens' same, and beside unmix' relu, in turns.

    python architectures.py                    D 768, F 10,000, 4,096 tokens, L0 64
    python architectures.py --only topk relu

The activations are Gaussian with E||x||² = D. topk kinds keep 64 features a token of fresh dictionaries; for the others
one number is put into every encoder bias (relu, gated) or threshold (jumprelu) that brings the mean to 64. The learning
rate is 1e-9, so that it stays. AuxK has nothing to do: no feature is dead yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import Comparison, add_common, alternate, compare, report, spread, use_threads
from torch import Tensor

LR = 1e-9
TARGETS = {"relu": 6.0, "topk": 6.0, "batchtopk": 6.0, "matryoshka": 6.0, "jumprelu": 6.0, "gated": 6.0}
"""At least so many times SAELens' rate in float32."""
BESIDE_RELU = {"topk": 1.25, "batchtopk": 1.25, "jumprelu": 1.25, "matryoshka": 1.6}
"""At most so many times the time of our relu step."""


def ours(name: str, x_BD: Tensor, features: int, l0: float, selection: str) -> Callable[[], object]:
    """`Member.update`."""
    from unmix.activations.mask import Mask
    from unmix.activations.stream import Batch
    from unmix.config import SAEConfig, TrainingConfig
    from unmix.training.measure import Facts
    from unmix.training.member import Entry, new_member

    config = SAEConfig(features=features, architecture=name, scaling="none", centre="none", decoder_init_norm=1.0)
    asked: dict[str, Any] = {"l0": [l0]} if config.takes_k else {"l1": [1.0]}
    training = TrainingConfig(
        **asked, batch_tokens=len(x_BD), selection=selection, dense="fp32", mask="none", clip_norm=None
    )
    entry = Entry(name, "x", "", None if config.takes_k else 1.0, l0 if config.takes_k else None)
    facts = Facts(1.0, 1.0, x_BD.shape[1] ** 0.5, 1.0, len(x_BD), 0)
    member = new_member(
        entry, x_BD.shape[1], config=config, training=training, facts=facts, mask=Mask(training.mask, (), 1.0)
    )
    edge = threshold(x_BD, member.weights["W_enc"], l0)
    if name == "jumprelu":
        member.weights["threshold"].fill_(edge)
    elif not config.takes_k:
        member.weights["b_enc"].fill_(-edge)
    if name == "gated":
        member.weights["b_mag"].fill_(edge)
    member.step.sparse = True
    ids_B = torch.zeros(len(x_BD), dtype=torch.int64)
    batch, steps = Batch({"x": x_BD}, ids_B, ids_B), iter(range(10**9))

    def step() -> None:
        if said := member.update(batch, next(steps), LR, 1.0):
            raise RuntimeError(said)

    step()
    found = member.window.active / member.window.tokens
    assert abs(found / l0 - 1) < 0.1, f"{name} has {found} active features"
    return step


def threshold(x_BD: Tensor, W_enc_DF: Tensor, l0: float) -> float:
    """What so many z of a token are above."""
    z_N = (x_BD[:256] @ W_enc_DF).flatten()
    return z_N.kthvalue(round(z_N.numel() * (1 - l0 / W_enc_DF.shape[1]))).values.item()


def saelens(name: str, x_BD: Tensor, features: int, l0: float, autocast: bool) -> Callable[[], object]:
    """`SAETrainer.step` of the same architecture, as its defaults are."""
    import sae_lens
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kinds = {
        "relu": ("Standard", {}),
        "topk": ("TopK", {"k": int(l0)}),
        "batchtopk": ("BatchTopK", {"k": l0}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": l0, "matryoshka_widths": [features * n // 32 for n in (1, 3, 7, 15)] + [features]},
        ),
        "jumprelu": ("JumpReLU", {}),
        "gated": ("Gated", {}),
    }
    kind, keys = kinds[name]
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=x_BD.shape[1], d_sae=features, apply_b_dec_to_input=False, decoder_init_norm=1.0, **keys
    )
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
    with torch.no_grad():
        edge = threshold(x_BD, sae.W_enc, l0)
        if name == "jumprelu":
            sae.threshold.fill_(edge)
        elif name == "gated":
            sae.b_gate.fill_(-edge)
        elif name == "relu":
            sae.b_enc.fill_(-edge)
    settings = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=len(x_BD),
        lr=LR,
        lr_end=LR,
        autocast=autocast,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))

    def step() -> None:
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--l0", type=float, default=64)
    parser.add_argument("--only", nargs="+", default=list(TARGETS))
    add_common(parser)
    args = parser.parse_args()
    use_threads(args.threads)
    x_BD = torch.randn(args.tokens, args.width, generator=torch.Generator().manual_seed(0))
    contenders: dict[str, Callable[[], object]] = {}
    for name in args.only:
        for selection in ("fp32", "bf16", "int8"):
            contenders[f"{name} {selection}"] = ours(name, x_BD, args.features, args.l0, selection)
        contenders[f"SAELens {name} fp32"] = saelens(name, x_BD, args.features, args.l0, autocast=False)
        contenders[f"SAELens {name} autocast"] = saelens(name, x_BD, args.features, args.l0, autocast=True)
    seconds = alternate(contenders, args.rounds)
    rows = [
        {"step": name, "ms": round(1e3 * median(taken)), "range": spread([1e3 * t for t in taken]),
         "tokens/s": round(args.tokens / median(taken))}
        for name, taken in seconds.items()
    ]  # fmt: skip
    comparisons: list[Comparison | None] = []
    for name in args.only:
        fastest = min((f"{name} {s}" for s in ("fp32", "bf16", "int8")), key=lambda key: median(seconds[key]))
        what = f"{name}, L0 {args.l0:g}"
        for mine in (f"{name} fp32", fastest):
            comparisons.append(compare(what, mine, f"SAELens {name} fp32", seconds, TARGETS[name], args.tokens))
        comparisons.append(compare(what, fastest, f"SAELens {name} autocast", seconds, 1.0, args.tokens))
        if name in BESIDE_RELU and "relu" in args.only:
            for selection in ("fp32", "bf16", "int8"):
                mine, relu = f"{name} {selection}", f"relu {selection}"
                ratio = median(a / b for a, b in zip(seconds[mine], seconds[relu], strict=True))
                rates = [args.tokens / median(seconds[key]) for key in (mine, relu)]
                comparisons.append(
                    Comparison(f"{what}, time", mine, relu, *rates, "tokens/s", ratio, BESIDE_RELU[name], "at most")
                )
    report("architectures.py", args, comparisons, rows, [], args.json, args.name or "architectures")


if __name__ == "__main__":
    main()
