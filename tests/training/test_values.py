"""The numbers in metrics.jsonl, against a loop written here from the equations, one reference step at a time."""

import math

import pytest
import torch
from kernel_cases import like, mapped, task
from tiny_run import make

from unmix.dictionary.model import new_dictionary
from unmix.kernels import reference
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Adam, Noise
from unmix.runlog import read_manifest, read_metrics
from unmix.training import run
from unmix.training.inputs import open_inputs

EXACT = {"training__selection": "fp32", "training__dense": "fp32", "training__border": 0.2, "model__matmul": "fp32"}
CASES = {
    "defaults": {},
    "clipped": {"training__clip_norm": 0.05},
    "not clipped": {"training__clip_norm": None},
    "other betas": {"training__betas": [0.5, 0.9]},
    "warm-ups and a decay": {
        "training__lr_warmup_steps": 20, "training__l1_warmup_fraction": 0.5, "training__decay_fraction": 0.3,
    },
    "unit norm": {"sae__decoder": "unit_norm"},
    "raw": {"sae__scaling": "none", "sae__centre": "none"},
    "biases that start at the mean": {"sae__centre": "start"},
    "each token's error over its norm": {"training__norm_power": 1},
    "noise": {"sae__noise": 0.5},
    "noise and tanh": {"sae__noise": 0.3, "sae__nonlinearity": "tanh_relu"},
}  # fmt: skip


def by_hand(recipe, facts):
    """Rows of metrics of the only member, a window of `log_every` steps each."""
    t, sae, scale, coefficient = recipe.training, recipe.sae, facts["scale"], facts["coefficient"]
    [hook], source = recipe.activations.hooks, open_inputs(recipe).source
    start = new_dictionary(source.widths[hook], sae.features, sae.initial_row_norm, t.seed)
    weights = mapped(torch.clone, start.weights)

    def kept(x_RD):
        return x_RD[x_RD.norm(dim=1) <= 10 * facts["median_norm"]]

    mean_D = (scale * kept(source.head().activations[hook]).double().mean(0)).float()
    centre_D = mean_D if sae.centre == "mean" else torch.zeros_like(mean_D)
    if sae.centre == "start":
        weights["b_dec"].copy_(mean_D)
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    rows, window, decay = [], [], round(t.decay_fraction * t.steps)
    for s, batch in enumerate(source.batches(0, t.steps)):
        raw_BD = scale * kept(batch.activations[hook])
        x_BD = raw_BD - centre_D
        left = min(1, (t.steps - s) / (decay + 1)) if decay else 1
        lr = t.lr * min(1, (s + 1) / t.lr_warmup_steps) * left
        l1_steps = round(t.l1_warmup_fraction * t.steps)
        l1 = coefficient * (min(1, (s + 1) / l1_steps) if l1_steps else 1)
        noise = Noise(sae.noise, noise_key(t.seed, s)) if sae.noise else None
        asked = task(
            l1, sae.architecture, sae.weigh_by_norm, t.norm_power, noise, unit_norm=sae.has_unit_rows, centre_E=centre_D
        )
        sums = reference.step(x_BD, x_BD, weights, gradients, asked)
        reference.finish(weights, gradients, asked.unit_norm)
        window.append((x_BD, sums, l1, raw_BD.norm(dim=1).double() ** -t.norm_power))
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
        shrink = 1 if t.clip_norm is None or norm <= t.clip_norm else t.clip_norm / norm
        scaled = sae.architecture == "relu" and sae.scaling != "none"
        of_biases = math.sqrt(x_BD.shape[1]) / 3 if scaled else 1.0
        how = Adam(lr, s + 1, t.betas, shrink, asked.unit_norm, bias_rate=of_biases)
        reference.adam(weights, gradients, first, second, how)
        if (s + 1) % t.log_every == 0 or s + 1 == t.steps:
            rows.append({"step": s + 1, "lr": lr, **means(window, sae.features)})
            window = []
    return rows


def means(window, features):
    x_ND = torch.cat([x_BD for x_BD, *_ in window]).double()
    n, error = len(x_ND), sum(sums.squared_error for _, sums, *_ in window)
    active = sum(sums.active_F.sum().item() for _, sums, *_ in window)
    return {
        "loss": sum((sums.square_B @ weight_B).item() + l1 * sums.penalty for _, sums, l1, weight_B in window) / n,
        "l2_reconstruction_loss": error / n,
        "l1_penalty": sum(sums.penalty for _, sums, *_ in window) / n,
        "l0": active / n,
        "nonzero_proportion": active / n / features,
        "explained_variance": 1 - error / (x_ND - x_ND.mean(0)).square().sum().item(),
        "over_tokens": n,
    }


@pytest.mark.parametrize("case", CASES)
def test_every_logged_number_is_what_the_equations_give(case, overrides, tmp_path):
    recipe = make(overrides, training__steps=40, training__l1=[2.0], **EXACT, **CASES[case])
    run.sweep(recipe, tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    [facts] = read_manifest(tmp_path / "run" / "run.yaml")["members"].values()
    wanted = by_hand(recipe, facts)
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for row, want in zip(rows, wanted, strict=True):
        for key, value in want.items():
            # with noise these are of another pass, without it
            logged = row[f"noisy_{key}"] if f"noisy_{key}" in row else row[key]
            if recipe.sae.noise and key in ("nonzero_proportion", "explained_variance"):
                continue
            assert logged == pytest.approx(value, rel=2e-4, abs=1e-6), (row["step"], key)
