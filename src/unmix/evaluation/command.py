"""`unmix evaluate`: find the SAEs, the model and the held-out documents that a folder speaks of, and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmix.activations.outliers import from_facts
from unmix.config import EVERY_TOKEN, CorpusConfig, MaskConfig, ModelConfig, load_resolved
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError
from unmix.evaluation.debias import debias as refit
from unmix.evaluation.evaluate import SKIP, evaluate
from unmix.evaluation.findings import findings
from unmix.lm.model import LanguageModel, load_language_model
from unmix.runlog import read_manifest
from unmix.sae.files import CONFIG, load_sae, metadata, origin, save_sae
from unmix.sae.model import SAE

DEBIAS_TOKENS = 100_000


def evaluate_folder(
    folder: Path,
    *,
    fidelity_tokens: int,
    ce_tokens: int,
    model: str | None,
    corpus: str | None,
    debias: bool,
    mask: Callable[[MaskConfig], MaskConfig],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate every member of a run, or the one SAE of a folder. Raises `UserError` if it is neither.

    `mask` is given the mask of the training (`auto` where it was on every token) and answers that of the evaluation.
    """
    if (folder / "run.yaml").exists():
        recipe = load_resolved(read_manifest(folder / "run.yaml")["recipe"], folder / "run.yaml")
        model_config, corpus_config, T = recipe.model, recipe.corpus, recipe.activations.sequence_length
        by_hook = _members(folder)
        trained = tightest([recipe.of_variant(variant)[1].mask for variant in recipe.variants or [""]])
    elif (folder / CONFIG).exists():
        hook, made = origin(folder)
        model_config, corpus_config = ModelConfig(**made["model"]), CorpusConfig(**made["corpus"])
        T = made["activations"]["sequence_length"]
        by_hook = {hook: {folder.name: load_sae(folder)}}
        trained = tightest([_mask_of(folder)])
    else:
        raise UserError(f"{folder} is neither a run (run.yaml) nor an SAE (cfg.json)")
    if model is not None:
        model_config = model_config.model_copy(update={"name": model})
    if corpus is not None:
        corpus_config = corpus_config.model_copy(update={"source": corpus})
    made = {
        "model": model_config.model_dump(mode="json"),
        "corpus": corpus_config.model_dump(mode="json"),
        "activations": {"sequence_length": T},
    }
    say(f"loading the model {model_config.name}")
    lm = load_language_model(model_config)
    if lm.note:
        say(lm.note)
    say(f"tokenizing the held-out documents of {corpus_config.source}")
    tokens = load_tokens(corpus_config, lm.tokenizer, T, "held_out", say=say)
    results = []
    for hook, saes in by_hook.items():
        if debias:
            say(f"refitting the magnitudes of {len(saes)} dictionaries on {DEBIAS_TOKENS:,} tokens of the train split")
            saes = {
                **saes,
                **_debiased(
                    saes, lm, load_tokens(corpus_config, lm.tokenizer, T, "train", say=say), hook, folder, made
                ),
            }
        say(f"{len(saes)} dictionaries at {hook}")
        result = evaluate(
            lm,
            tokens,
            hook,
            saes,
            fidelity_tokens=fidelity_tokens,
            ce_tokens=ce_tokens,
            mask=mask(trained),
            progress=_seldom(say),
        )
        results.append({**result, "findings": findings(result)})
    return {"corpus": corpus_config.source, "model": model_config.name, "hooks": results}


def tightest(masks: Sequence[MaskConfig]) -> MaskConfig:
    """What any of them leaves out; `auto` if none leaves out anything."""
    above = [mask.norm_above for mask in masks if mask.norm_above is not None]
    found = MaskConfig(special=any(mask.special for mask in masks), norm_above=min(above, default=None))
    return MaskConfig() if found == EVERY_TOKEN else found


def _mask_of(folder: Path) -> MaskConfig:
    """The mask that an SAE folder says it was trained with."""
    facts = metadata(folder).get("mask") or {}
    return MaskConfig(special=bool(facts.get("special_ids")), norm_above=facts.get("norm_above_median"))


def _members(folder: Path) -> dict[str, dict[str, SAE]]:
    """hook -> name -> the newest SAE of each member, the extended one beside the one of the sweep."""
    found: dict[str, dict[str, SAE]] = {}
    for member in sorted((folder / "members").glob("*")):
        steps = sorted(path.parent for path in member.glob(f"step-?????????/{CONFIG}"))
        if steps:
            hook, _ = origin(steps[-1])
            found.setdefault(hook, {})[member.name] = load_sae(steps[-1])
    if not found:
        raise UserError(f"{folder} has no checkpoint yet; train it with `unmix sweep`")
    return found


def _debiased(
    saes: dict[str, SAE], lm: LanguageModel, train: Tokens, hook: str, folder: Path, made: dict[str, Any]
) -> dict[str, SAE]:
    """Each SAE refitted on the tokens that it was trained on, and saved in `folder/debiased/NAME`."""
    T = train.ids_NT.shape[1]
    ids_NT = torch.from_numpy(train.ids_NT[: max(1, DEBIAS_TOKENS // T)].astype(np.int64))
    batches = [lm.activations(part, [hook])[hook][:, SKIP:].flatten(0, 1) for part in torch.split(ids_NT, 16)]
    found = {}
    for name, sae in saes.items():
        kept = [x_BD[~sae.leaves(x_BD)] for x_BD in batches]
        found[f"{name}, debiased"] = refitted = refit(sae, kept)
        more: dict[str, Any] = {"unmix_recipe": made, "debiased_on_tokens": sum(len(x_KD) for x_KD in kept)}
        if sae.longest is not None:
            more["mask"] = {
                "rule": f"tokens longer than {sae.longest:g} were not trained on: leave x as it is there",
                "longer_than": sae.longest,
            }
        save_sae(refitted, folder / "debiased" / name, model=lm.name, hook=hook, context=T, more=more)
    return found


def table(found: dict[str, Any]) -> str:
    """The most asked-for numbers, a row a dictionary, and the findings below."""
    lines = []
    for result in found["hooks"]:
        lines += [
            f"{result['hook']} of {found['model']}, held-out documents of {found['corpus']}",
            f"fidelity over {result['fidelity_tokens']:,} tokens, cross-entropy over {result['ce_tokens']:,}; "
            f"{result['mask']}; untouched CE {result['ce_untouched']:.3f} nats",
            *_apart(result),
            "",
            f"{'':<26}{'L0':>8}{'expl. var.':>11}{'cosine':>8}{'norm':>7}{'dCE (nats)':>18}{'KL':>8}{'dead':>7}",
        ]
        for name, row in result["baselines"].items():
            variance = f"{row['explained_variance']:.3f}" if "explained_variance" in row else ""
            lines.append(f"{name:<26}{'':>8}{variance:>11}{'':>8}{'':>7}{_delta(row):>18}{row['kl']:>8.3f}")
        for name, row in result["saes"].items():
            lines.append(
                f"{name:<26}{row['l0']:>8.1f}{row['explained_variance']:>11.3f}{row['cosine']:>8.3f}"
                f"{row['norm_ratio']:>7.3f}{_delta(row):>18}{row['kl']:>8.3f}{row['dead']:>7.1%}"
            )
        lines.append("")
        for name, said in result["findings"].items():
            lines += [f"{name}: {sentence}" for sentence in said]
        lines.append("")
    return "\n".join(lines)


def _apart(result: dict[str, Any]) -> list[str]:
    """What is said of the outliers; nothing where there are none."""
    if not result["outliers"]["tokens"]:
        return []
    return [f"outliers: {from_facts(result['outliers'])}"]


def _delta(row: dict[str, Any]) -> str:
    return f"{row['delta_ce']:.4f} ± {row['delta_ce_standard_error']:.4f}"


def _seldom(say: Callable[[str], None], every: int = 20) -> Callable[[str], None]:
    calls = 0

    def progress(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            say(text)

    return progress
