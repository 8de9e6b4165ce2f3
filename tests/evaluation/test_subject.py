"""What a folder says that it is to be evaluated on; SAEs that unmix did not train, as SAELens writes them."""

import json

import pytest
import safetensors.torch
import torch
from tiny_models import CONTEXT, WIDTH, tiny_model_folder
from tiny_run import make, write_texts

import unmix
from unmix.cli import main
from unmix.config import MaskConfig
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.evaluation.subject import PROCESSED, UNKNOWN_SPLIT, find_subject
from unmix.interop.load import load_sae
from unmix.training import run


def saelens(folder, width=WIDTH, top=None, **metadata):
    """A folder as SAELens 6 writes it; with `top`, as version 3 did."""
    folder.mkdir()
    sae = new_dictionary(width, 24, 0.5, 0)
    tensors = {name: getattr(sae, name).detach().contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    safetensors.torch.save_file(tensors, folder / "sae_weights.safetensors")
    config = {"d_in": width, "d_sae": 24, "dtype": "float32", "apply_b_dec_to_input": False}
    more = {"architecture": "standard", "metadata": metadata} if top is None else top
    (folder / "cfg.json").write_text(json.dumps(config | more))
    return folder


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return str(write_texts(tmp_path / "texts"))


GPT2 = {"hook_name": "blocks.1.hook_resid_post", "context_size": 16, "model_name": "gpt2-small", "prepend_bos": True}
FEW = ["--tokens", "300", "--ce-tokens", "100"]


def evaluate(folder, texts, *words):
    return main(["evaluate", str(folder), "--model", str(tiny_model_folder()), "--corpus", texts, *FEW, *words])


def test_an_sae_of_saelens_is_evaluated_with_a_model_and_a_corpus(tmp_path, texts, capsys):
    folder = saelens(tmp_path / "sae", **GPT2)
    assert evaluate(folder, texts) == 0
    out, err = capsys.readouterr()
    assert f"the split is {UNKNOWN_SPLIT}" in err
    assert "of memory at the peak" in err
    assert f"documents (split {UNKNOWN_SPLIT})" in out
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    assert (result["hook"], result["split"]) == ("resid_post.1", UNKNOWN_SPLIT)
    assert result["saes"]["sae"]["tokens"] == result["fidelity_tokens"] == 300 // 16 * 15


def test_a_refitted_dictionary_does_not_claim_a_split_that_is_unknown(tmp_path, texts):
    folder = saelens(tmp_path / "sae", **GPT2)
    assert evaluate(folder, texts, "--debias") == 0
    found = find_subject(folder / "debiased" / "sae", model="m", corpus="c", hook=None)
    assert (found.split, list(found.saes)) == (UNKNOWN_SPLIT, ["resid_post.1"])


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], "give --model NAME and --corpus SOURCE"),
        (["--model", "x"], "give --corpus SOURCE"),
        (["--corpus", "x"], "give --model NAME"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, capsys, words, missing):
    folder = saelens(tmp_path / "sae", **GPT2)
    assert main(["evaluate", str(folder), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(missing)
    assert "gpt2-small" in line


def test_a_hook_that_cfg_json_lacks_is_asked_for(tmp_path, texts, capsys):
    folder = saelens(tmp_path / "sae", context_size=16)
    assert evaluate(folder, texts) == 2
    assert capsys.readouterr().err.strip().endswith("give --hook HOOK")
    assert evaluate(folder, texts, "--hook", "blocks.0.hook_resid_pre") == 0
    assert json.loads((folder / "evaluation.json").read_text())["hooks"][0]["hook"] == "resid_pre.0"


def test_another_hook_than_that_of_the_training_is_said(tmp_path, texts, capsys):
    folder = saelens(tmp_path / "sae", **GPT2)
    assert evaluate(folder, texts, "--hook", "resid_pre.0") == 0
    assert "says that it was trained at resid_post.1; it is evaluated at resid_pre.0" in capsys.readouterr().err


def test_another_width_than_the_hooks_is_one_line(tmp_path, texts, capsys):
    folder = saelens(tmp_path / "sae", width=8, **GPT2)
    assert evaluate(folder, texts) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"sae is for activations of width 8, and resid_post.1 of {tiny_model_folder()} has {WIDTH}" in last


def test_what_an_old_cfg_json_says_on_top_is_read(tmp_path):
    top = {"hook_point": "blocks.1.hook_resid_pre", "context_size": 32, "exclude_special_tokens": True}
    found = find_subject(saelens(tmp_path / "sae", top=top), model="m", corpus="c", hook=None)
    assert list(found.saes) == ["resid_pre.1"]
    assert found.sequence_length == 32
    assert found.trained == MaskConfig(special=True, norm_above=None)
    assert (found.model.name, found.corpus.source) == ("m", "c")


def test_the_mask_of_our_own_folder_counts_without_its_recipe(tmp_path):
    mask = {"rule": "special tokens", "special_ids": [0], "norm_above_median": 10.0}
    save_sae(
        new_dictionary(WIDTH, 24, 0.5, 0), tmp_path / "sae", model="gpt2", hook="resid_post.1", context=16,
        more={"mask": mask},
    )  # fmt: skip
    found = find_subject(tmp_path / "sae", model="m", corpus="c", hook=None)
    assert found.trained == MaskConfig(special=True, norm_above=10.0)
    assert found.made["sae"].without_special  # which the proof goes by
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    for damaged in ("words", {"norm_above_median": "ten"}, {"norm_above_median": -1}):
        config["metadata"]["mask"] = damaged
        (tmp_path / "sae/cfg.json").write_text(json.dumps(config))
        assert find_subject(tmp_path / "sae", model="m", corpus="c", hook=None).trained == MaskConfig()


def test_one_head_of_a_hook_is_refused_by_name(tmp_path):
    facts = GPT2 | {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": 2}
    folder = saelens(tmp_path / "sae", **facts)
    with pytest.raises(UserError, match=r"reads head 2 of blocks\.1\.attn\.hook_z alone, and no hook of unmix is a"):
        find_subject(folder, model="m", corpus="c", hook=None)
    assert list(find_subject(folder, model="m", corpus="c", hook="my.head").saes) == ["my.head"]


def test_sequences_are_of_256_tokens_where_no_length_is_named_and_never_longer_than_the_model_takes(
    tmp_path, texts, capsys
):
    folder = saelens(tmp_path / "sae", hook_name="blocks.1.hook_resid_post")
    found = find_subject(folder, model="m", corpus="c", hook=None)
    assert found.sequence_length == 256
    assert evaluate(folder, texts) == 0
    assert f"sequences of {CONTEXT} tokens, which is all that the model takes" in capsys.readouterr().err


def test_a_hook_for_a_run_is_refused(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[1.0], training__steps=3), tmp_path / "run")
    with pytest.raises(UserError, match="is a run, whose members have their hooks"):
        find_subject(tmp_path / "run", model=None, corpus=None, hook="resid_pre.0")
    one = tmp_path / "run" / "members" / "l1-1" / "step-000000003"
    assert find_subject(one, model=None, corpus=None, hook=None).split == "held_out"
    damaged = json.loads((one / "cfg.json").read_text())
    del damaged["metadata"]["unmix_recipe"]["corpus"]
    (one / "cfg.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"metadata\.unmix_recipe is damaged"):
        find_subject(one, model=None, corpus=None, hook=None)


def test_another_programs_file_is_not_overwritten(tmp_path, texts, capsys):
    folder = saelens(tmp_path / "sae", **GPT2)
    (folder / "evaluation.json").write_text('{"mine": 1}')
    assert evaluate(folder, texts) == 2
    assert "evaluation.json was not written by unmix; move it away" in capsys.readouterr().err
    assert (folder / "evaluation.json").read_text() == '{"mine": 1}'


def test_a_file_or_nothing_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        assert main(["evaluate", str(tmp_path / name)]) == 2
        assert "is neither a run (run.yaml) nor an SAE (cfg.json)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["evaluate"], ["verify"], ["explore", "--build"]])
@pytest.mark.parametrize("below", ["layer_3", "resid/layer_3/width_16k"])
def test_a_folder_of_dictionaries_says_which_to_give(words, below, tmp_path, capsys):
    """As they come from the hub: the dictionary lies some folders further down."""
    (tmp_path / "of" / "docs").mkdir(parents=True)
    (tmp_path / "of" / below).parent.mkdir(parents=True, exist_ok=True)
    inside = saelens(tmp_path / "of" / below, **GPT2)
    command, *more = words
    assert main([command, str(tmp_path / "of"), *more]) == 2
    assert f"give a folder inside it that is one, such as {inside}" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"such as {inside}"):
        load_sae(tmp_path / "of")


def test_the_model_that_was_not_trained_on_is_said(overrides, tmp_path, capsys):
    run.sweep(make(overrides, training__l1=[1.0], training__steps=3), tmp_path / "run")
    path = tmp_path / "run" / "run.yaml"
    text = path.read_text()
    assert main(["evaluate", str(tmp_path / "run"), *FEW]) == 0
    assert "is not the model" not in capsys.readouterr().err
    fingerprint = find_subject(tmp_path / "run", model=None, corpus=None, hook=None).model_fingerprint
    path.write_text(text.replace(fingerprint, "f" * 16))
    assert main(["evaluate", str(tmp_path / "run"), *FEW]) == 0
    assert "is not the model that" in capsys.readouterr().err


def test_a_dictionary_in_another_place_than_its_own_is_asked_about(tmp_path, texts):
    folder = saelens(tmp_path / "sae", **GPT2)
    path = folder / "sae_weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "b_dec": torch.full((WIDTH,), 5.0)}, path)
    assert evaluate(folder, texts) == 0
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    assert result["saes"]["sae"]["explained_variance"] < 0
    assert any("is this the hook and the scale" in sentence for sentence in result["findings"]["sae"])


def judged(folder, texts, capsys):
    assert evaluate(folder, texts) == 0
    out, err = capsys.readouterr()
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    return out, err, result


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"center_writing_weights": True, "fold_ln": True}, ["center_writing_weights", "fold_ln"]),
        ({"center_writing_weights": True, "fold_ln": False}, ["center_writing_weights"]),
        ({"fold_ln": True, "dtype": "bfloat16"}, ["fold_ln"]),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_an_sae_of_processed_activations_is_judged_with_a_warning(tmp_path, texts, capsys, options, said, old):
    facts = {**GPT2, "model_from_pretrained_kwargs": options}
    folder = saelens(tmp_path / "sae", top=facts) if old else saelens(tmp_path / "sae", **facts)
    out, err, result = judged(folder, texts, capsys)
    [warning] = [line for line in err.splitlines() if "TransformerLens" in line]
    assert "warning: " in warning
    assert "it is evaluated on raw ones" in warning
    assert [key for key in PROCESSED if key in warning] == said == result["processed"]
    share = result["mean_removed_fraction"]
    assert any(f"({', '.join(said)})" in line and f"{share:.2%} of" in line for line in result["findings"]["sae"])
    assert f"{share:.2%} of" in out


@pytest.mark.parametrize("options", [None, {}, {"center_writing_weights": False}, {"dtype": "float16"}, "broken"])
def test_where_nothing_was_processed_nothing_is_said(tmp_path, texts, capsys, options):
    folder = saelens(tmp_path / "sae", **GPT2, model_from_pretrained_kwargs=options)
    out, err, result = judged(folder, texts, capsys)
    assert "TransformerLens" not in out + err
    assert "processed" not in result
    assert 0 <= result["mean_removed_fraction"] <= 1


def test_nobody_knows_what_rows_were_of(tmp_path, texts, capsys):
    """Rows were read somewhere, of some text: the documents of a corpus that is given may be among it."""
    x_RD = torch.randn(2000, WIDTH)
    few = {"training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2}}
    folder = unmix.sweep(
        activations=x_RD, hook="resid_post.1", l0=4, features=24, steps=4, name="rows", runs=tmp_path, quiet=True,
        evaluate=False, **few,
    ).folder  # fmt: skip
    assert find_subject(folder, model="m", corpus="c", hook=None).split == UNKNOWN_SPLIT
    assert evaluate(folder, texts) == 0
    out, err = capsys.readouterr()
    assert "held-out documents" not in out
    assert f"sequences of {CONTEXT} tokens, which is all that the model takes, where training had 256" in err
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    assert result["split"] == UNKNOWN_SPLIT
    assert result["sequence_length"] == CONTEXT


def test_another_model_with_a_shorter_context_is_read_as_far_as_it_goes(overrides, tmp_path, capsys):
    run.sweep(make(overrides, training__l1=[1.0], training__steps=3), tmp_path / "run")
    short = str(tiny_model_folder("gpt2", max_position_embeddings=8, n_positions=8))
    one = tmp_path / "run" / "members" / "l1-1" / "step-000000003"
    for folder in (tmp_path / "run", one):
        assert main(["evaluate", str(folder), "--model", short, *FEW]) == 0
        assert "sequences of 8 tokens, which is all that the model takes" in capsys.readouterr().err


@pytest.fixture
def contents(tmp_path):
    """The texts as records whose field is called otherwise than usual."""
    rows = [{"id": n, "content": f"document {n} " + "for the world " * 40} for n in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "a.jsonl")


@pytest.mark.parametrize("words", [["evaluate", *FEW], ["verify", "--tokens", "300"], ["explore", "--build"]])
def test_the_field_of_a_corpus_is_given_where_the_error_says(words, tmp_path, texts, contents, capsys):
    folder = saelens(tmp_path / "sae", **GPT2)
    command, *more = words
    given = [command, str(folder), *more, "--model", str(tiny_model_folder()), "--corpus", contents]
    assert main(given) == 2
    assert "set corpus.field to one of: content" in capsys.readouterr().err
    assert main([*given, "--corpus.field", "content"]) == 0, capsys.readouterr().err
    if command == "evaluate":
        found = json.loads((folder / "evaluation.json").read_text())
        assert found["corpus_keys"] == {"field": "content"}
    assert main([*given, "--corpus.feild", "content"]) == 2
    assert "unknown key corpus.feild; did you mean field?" in capsys.readouterr().err
    assert main([*given, "--training.lr", "1"]) == 2
    assert "this command takes those of corpus alone" in capsys.readouterr().err
    assert main([*given, "--corpus.source", "x"]) == 2
    assert "give the source as --corpus SOURCE" in capsys.readouterr().err


def test_the_field_for_a_cache_of_delphi(tmp_path, texts, contents, capsys):
    folder = saelens(tmp_path / "sae", **GPT2 | {"context_size": 32})
    words = ["--model", str(tiny_model_folder()), "--corpus.field", "content"]
    delphi = ["--to", "delphi", "--corpus", contents, "--tokens", "320"]
    assert main(["convert", str(folder), str(tmp_path / "latents"), *words, *delphi]) == 0, capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "other"), *words]) == 2
    assert "--corpus.field is only for --to delphi" in capsys.readouterr().err


def test_documents_that_were_trained_on_are_not_held_out_by_a_key(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[1.0], training__steps=3), tmp_path / "run")

    def subject(fraction):
        keys = {"held_out_fraction": fraction}
        return find_subject(tmp_path / "run", model=None, corpus=None, hook=None, corpus_keys=keys)

    assert subject(0.05).corpus.held_out_fraction == 0.05
    with pytest.raises(UserError, match=r"held_out_fraction 0\.5: the training of .* held out 0\.1 .*; give at most"):
        subject(0.5)
