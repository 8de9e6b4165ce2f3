"""Dictionaries whose files say prepend_bos: false are judged on rows that hold none, and no position is left out."""

import json

import numpy as np
import pytest
import torch
from interop.looks import LOOKS, Weights
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main
from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens, sample
from unmix.dictionary.files import metadata, save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import find_subject
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model

HOOK, T = "resid_post.1", 16
FEW = ["--tokens", "640", "--ce-tokens", "320", "--mask", "none"]


def saved(folder, *, prepend_bos, seed=0):
    """As SAELens writes it, of which `prepend_bos` is in the metadata."""
    more = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
    save_sae(new_dictionary(WIDTH, 24, 1.0, seed), folder, model="gpt2", hook=HOOK, context=T, more=more)
    return folder


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return ["--model", str(tiny_model_folder()), "--corpus", str(write_texts(tmp_path / "texts"))]


def evaluated(folder):
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    return result


def test_a_topk_of_openai_is_judged_on_rows_of_its_kind_by_hand(words, tmp_path, capsys):
    """Case F7: by its format it saw no BOS. Rows, codes, explained variance and cross-entropy are taken here."""
    src = LOOKS["openai topk"](Weights(WIDTH, 40)).put(tmp_path / "src")
    assert main(["convert", str(src), str(tmp_path / "sae"), "--hook", HOOK]) == 0
    assert metadata(tmp_path / "sae")["prepend_bos"] is False
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "sae"), *words, *FEW]) == 0
    said = capsys.readouterr().err
    assert "was trained on sequences without a BOS (prepend_bos: false): these have none" in said
    result = evaluated(tmp_path / "sae")
    assert result["mask"] == "no BOS: sequences begin with text, and position 0 counts like any other"
    assert result["prepend_bos"] is False
    [row] = result["saes"].values()
    assert row["by_norm"]["mask"] == "none: sequences have no BOS, and every position is counted"

    lm = load_language_model(ModelConfig(name=words[1]))
    config = CorpusConfig(source=words[3])
    ids_NT = load_tokens(config, lm.tokenizer, T + 1, "held_out").ids_NT[:, 1:]  # without their BOS, the same stream
    tokens = load_tokens(config, lm.tokenizer, T, "held_out", bos=False)
    assert np.array_equal(tokens.ids_NT, ids_NT)
    T_read = result["sequence_length"]
    assert T_read == T * 4 == 64  # the format's own context
    read = load_tokens(config, lm.tokenizer, T_read, "held_out", bos=False)
    assert result["corpus_fingerprint"] == read.fingerprint
    rows_NT = torch.from_numpy(read.ids_NT[sample(len(read.ids_NT))].astype("int64"))
    x_BD = lm.activations(rows_NT[: 640 // T_read], [HOOK])[HOOK].flatten(0, 1)
    sae, row = load_sae(tmp_path / "sae"), result["saes"]["sae"]
    with torch.no_grad():
        f_BF = sae.encode(x_BD)
        error = (sae(x_BD).double() - x_BD.double()).square().sum()
    assert row["tokens"] == len(x_BD)
    assert row["l0"] == pytest.approx((f_BF != 0).sum().item() / len(x_BD), abs=1e-9)
    variance = (x_BD.double() - x_BD.double().mean(0)).square().sum()
    assert row["explained_variance"] == pytest.approx(1 - (error / variance).item(), abs=1e-6)
    few_NT = rows_NT[: 320 // T_read]
    ce = torch.nn.functional.cross_entropy(lm.logits(few_NT)[:, :-1].flatten(0, 1), few_NT[:, 1:].flatten())
    assert result["ce_tokens"] == few_NT[:, 1:].numel()
    assert result["ce_untouched"] == pytest.approx(ce.item(), abs=1e-5)


def test_what_says_nothing_or_true_is_judged_with_one(words, tmp_path):
    for said in (True, None):
        folder = saved(tmp_path / str(said), prepend_bos=said)
        assert find_subject(folder, model="m", corpus="c", hook=None).prepend_bos
        assert main(["evaluate", str(folder), *words, *FEW]) == 0
        assert evaluated(folder)["mask"].startswith("position 0 (BOS) left out")
        assert evaluated(folder)["saes"][str(said)]["tokens"] == 640 // T * (T - 1)


def test_the_proof_and_a_refit_are_on_the_same_kind_of_rows(words, tmp_path, capsys):
    folder = saved(tmp_path / "sae", prepend_bos=False)
    assert not find_subject(folder, model="m", corpus="c", hook=None).prepend_bos
    assert main(["verify", str(folder), *words, "--tokens", "320"]) in (0, 1)
    assert "over 320 tokens" in capsys.readouterr().out
    assert main(["evaluate", str(folder), *words, *FEW, "--debias"]) == 0
    assert set(evaluated(folder)["saes"]) == {"sae", "sae, debiased"}
    again = find_subject(folder / "debiased" / "sae", model="m", corpus="c", hook=None)
    assert not again.prepend_bos


def test_several_that_differ_in_it_are_refused_and_those_that_do_not_are_judged(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [saved(tmp_path / name, prepend_bos=said) for name, said in (("a", False), ("b", True), ("c", False))]
    with pytest.raises(UserError, match=r"without a BOS \(prepend_bos: false\): a; .* evaluate them apart"):
        find_subjects(folders[:2], lambda text: None, model="m", corpus="c", hook=None)
    assert main(["evaluate", "a", "b", *words, *FEW]) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if "evaluate them apart" in line]) == 1
    assert main(["evaluate", "a", "c", *words, *FEW]) == 0
    [result] = json.loads((tmp_path / "comparison/evaluation.json").read_text())["hooks"]
    assert (result["prepend_bos"], list(result["saes"])) == (False, ["a", "c"])
