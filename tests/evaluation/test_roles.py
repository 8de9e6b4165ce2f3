"""Held-out numbers of chats count the tokens that training counts: by hand, and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import make

from unmix.cli import main
from unmix.config import MaskConfig
from unmix.corpus.tokens import Tokens, load_tokens, sample
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.errors import UserError
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.splice import splice
from unmix.lm.model import LanguageModel, load_language_model

HOOK, T, SEQUENCES = "resid_post.0", 16, 20
NONE = MaskConfig(norm_above=None, special=False)


@pytest.fixture
def setting(overrides: dict[str, Any]) -> tuple[LanguageModel, Tokens, Dictionary]:
    lm = load_language_model(make(overrides).model)
    tokens = load_tokens(make(overrides).corpus, lm.tokenizer, T, "train")
    kept_NT = np.random.default_rng(0).random(tokens.ids_NT.shape) < 0.4
    kept_NT[:, 0] = False
    sae = new_dictionary(lm.width, 24, 0.5, 0)
    return lm, replace(tokens, kept_NT=kept_NT, counted="messages of assistant, template tokens left out"), sae


def numbers(lm: LanguageModel, tokens: Tokens, sae: Dictionary, batch: int = 7) -> dict[str, Any]:
    return evaluate(
        lm, tokens, HOOK, {"a": sae}, fidelity_tokens=SEQUENCES * T, ce_tokens=SEQUENCES * T, mask=NONE,
        batch_sequences=batch,
    )  # fmt: skip


def test_only_tokens_that_count_are_counted(setting):
    lm, tokens, sae = setting
    found = numbers(lm, tokens, sae)
    rows = sample(len(tokens.ids_NT))[:SEQUENCES]
    ids_NT = torch.from_numpy(tokens.ids_NT[rows].astype(np.int64))
    kept_NT = torch.from_numpy(tokens.kept_NT[rows])
    x_NTD = lm.activations(ids_NT, [HOOK])[HOOK]
    x_BD = x_NTD[kept_NT].double()
    with torch.no_grad():
        error = (sae(x_NTD[kept_NT]).double() - x_BD).square().sum()
        l0 = (sae.encode(x_NTD[kept_NT]) > 0).sum(1).double().mean()
    row = found["saes"]["a"]
    assert found["fidelity_tokens"] == row["by_norm"]["tokens"] == len(x_BD)
    assert row["explained_variance"] == pytest.approx(1 - (error / (x_BD - x_BD.mean(0)).square().sum()).item())
    assert row["l0"] == pytest.approx(l0.item())
    assert row["by_norm"]["mask"] == (
        "none; as in training, only these tokens are counted: messages of assistant, template tokens left out"
    )
    assert (
        "only these tokens count: messages of assistant, template tokens left out; the others keep x" in found["mask"]
    )

    def losses() -> torch.Tensor:
        with torch.no_grad():
            logits = lm.logits(ids_NT)[:, 1:-1].double()
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids_NT[:, 2:], reduction="none")

    made_NT, untouched_NT = kept_NT[:, 1:-1], losses()
    with splice(lm.model, HOOK, lambda x: torch.where(kept_NT[..., None], sae(x), x)):
        spliced_NT = losses()
    assert found["ce_tokens"] == int(made_NT.sum())
    assert found["ce_untouched"] == pytest.approx(untouched_NT[made_NT].mean().item(), rel=1e-5)
    assert row["delta_ce"] == pytest.approx((spliced_NT - untouched_NT)[made_NT].mean().item(), rel=1e-3)


def test_no_number_depends_on_the_batch_size(setting):
    one, other = (numbers(*setting, batch=size)["saes"]["a"] for size in (1, 16))
    for key in ("explained_variance", "l0", "delta_ce", "kl", "delta_ce_standard_error"):
        assert one[key] == pytest.approx(other[key], rel=1e-6, abs=1e-9), key


def test_a_corpus_in_which_nothing_counts_is_refused(setting):
    lm, tokens, sae = setting
    with pytest.raises(UserError, match="none of 320 tokens counts"):
        numbers(lm, replace(tokens, kept_NT=np.zeros_like(tokens.kept_NT)), sae)


def test_the_evaluation_of_a_sweep_counts_as_the_sweep(overrides, tmp_path: Path, monkeypatch, capsys):
    """From the command line: the held-out split has more tokens than are counted, and its numbers say which."""
    monkeypatch.chdir(tmp_path)
    words = [word for word in (tmp_path / "texts" / "001.txt").read_text().split() if word.isalpha()]
    chats = [
        [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": " ".join(words[n : n + 40])}]
        for n in range(80)
    ]
    Path("chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    Path("chat.jinja").write_text("{% for m in messages %}# {{ m.role }}\n{{ m.content }}\n{% endfor %}")
    more = {"corpus.source": "chats.jsonl", "corpus.field": "messages", "corpus.template": "chat.jinja",
            "corpus.held_out_fraction": 0.4, "training.steps": 10, "training.l1": 1.0}  # fmt: skip
    given = overrides | more
    options = [word for key, value in given.items() for word in (f"--{key}", *map(str, _listed(value)))]
    counted = {}
    for name, roles in (("all", []), ("assistant", ["--corpus.roles", "assistant"])):
        assert main(["sweep", *options, *roles, "--name", name]) == 0
        [counted[name]] = json.loads((tmp_path / "runs" / name / "evaluation.json").read_text())["hooks"]
    said = " ".join("".join(capsys.readouterr()).split())
    assert "of chats, training counts messages of assistant, template tokens left out" in said
    assert "only these tokens count: messages of assistant" in counted["assistant"]["mask"]
    assert "only these" not in counted["all"]["mask"]
    assert 0.3 < counted["assistant"]["fidelity_tokens"] / counted["all"]["fidelity_tokens"] < 0.95


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
