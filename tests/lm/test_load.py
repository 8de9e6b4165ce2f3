"""A folder or a name is read as the model that was saved there, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, VOCABULARY, WIDTH, tiny_model_folder
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import unmix.lm.folder
from unmix.cli import main
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm.model import count_layers, load_language_model


def copy_of(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder("gpt2"), tmp_path / "copy"))


def refuses(name: Path | str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_language_model(ModelConfig(name=str(name)))
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    mine = load_language_model(ModelConfig(name=str(tiny_model_folder()))).fingerprint
    assert len(mine) == 16
    assert load_language_model(ModelConfig(name=str(copy))).fingerprint == mine
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-4}))
    assert load_language_model(ModelConfig(name=str(copy))).fingerprint != mine


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    refuses(tmp_path / "none", "no such folder")
    refuses(tmp_path, r"is not a model folder: it has no config.json")
    copy = copy_of(tmp_path)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    refuses(copy, "has no tokenizer; put its tokenizer.json beside the weights")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refuses(copy, r"cannot load .*: model.safetensors is cut or damaged .*; copy or download it again")
    weights.rename(copy / "pytorch_model.bin")
    refuses(copy, r"only pickled weights \(pytorch_model.bin\), which are not read")
    (copy / "pytorch_model.bin").unlink()
    refuses(copy, "no weights; give it")


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"n_layer": LAYERS + 1, "num_hidden_layers": LAYERS + 1}))
    refuses(copy, r"lacks 12 weights of its architecture, such as transformer.h.3")


def test_a_hub_name_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuses("nobody/nothing-of-this-name", "cannot load model.name = nobody/nothing-of-this-name; check the name")


def test_without_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmix.lm.folder, "EMBEDDED", tmp_path / "embedded")
    refuses("embedded", "no embedded model")
    monkeypatch.setattr(unmix.lm.folder, "EMBEDDED", tiny_model_folder("gpt2"))
    assert load_language_model(ModelConfig()).name == "embedded"


def test_loading_is_silent_and_leaves_the_settings(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_language_model(ModelConfig(name=str(tiny_model_folder())))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights in model.safetensors."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def note(folder: Path) -> str:
    return load_language_model(ModelConfig(name=str(folder))).note


def sharded(tmp_path: Path) -> Path:
    copy = copy_of(tmp_path)
    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(copy, max_shard_size="20KB")
    (copy / "model.safetensors").unlink(missing_ok=True)
    assert len(list(copy.glob("model-*-of-*.safetensors"))) > 1
    return copy


# ---------------------------------------------------------------------------------------------------------- adapters


def test_an_adapter_alone_is_called_that_and_how_to_merge_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2", "peft_type": "LORA"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    refuses(tmp_path, r"is an adapter of gpt2, not a model; merge it with peft, .*merge_and_unload\(\).save_pretrained")
    (tmp_path / "adapter_config.json").unlink()
    refuses(tmp_path, r"is an adapter, not a model")


@pytest.mark.parametrize(
    "file",
    ["adapter_model.safetensors", "adapter_config.json", "adapter_model.bin", "adapters.safetensors", "my-lora.pt"],
)
def test_an_adapter_beside_a_model_is_not_passed_over(tmp_path: Path, file: str) -> None:
    copy = copy_of(tmp_path)
    (copy / file).write_bytes(b"{}")
    refuses(copy, rf"has an adapter beside its weights \({file}\), which would not be read; for the base model move it")


def test_a_name_on_the_hub_that_is_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.peft_utils.find_adapter_config_file", lambda name: "adapter_config.json")
    refuses("someone/lora", r"model.name = someone/lora is an adapter, or holds one; merge it")


def test_weights_of_an_adapter_among_those_of_the_model(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    reweigh(copy, lambda w: w.update({"transformer.h.0.attn.c_attn.lora_A.weight": torch.zeros(2, WIDTH)}))
    refuses(copy, r"holds 1 weights of an adapter, such as transformer.h.0.attn.c_attn.lora_A.weight")


# ----------------------------------------------------------------------------------------------------- which weights


def test_two_sets_of_weights_are_not_chosen_between(tmp_path: Path) -> None:
    copy = sharded(tmp_path)
    shutil.copy(tiny_model_folder() / "model.safetensors", copy)
    refuses(copy, r"two sets of weights, model.safetensors and model.safetensors.index.json; move one of them")
    (copy / "model.safetensors.index.json").unlink()
    refuses(copy, r"two sets of weights, model.safetensors and model-00001-of-\d+.safetensors; move one of them")


def test_shards_are_read_whole(tmp_path: Path) -> None:
    copy = sharded(tmp_path)
    ids = torch.arange(9)[None]
    assert torch.equal(
        load_language_model(ModelConfig(name=str(copy))).logits(ids),
        load_language_model(ModelConfig(name=str(tiny_model_folder()))).logits(ids),
    )


def test_a_shard_that_is_absent_or_cut_and_an_absent_index_are_named(tmp_path: Path) -> None:
    copy = sharded(tmp_path)
    last = sorted(copy.glob("model-*.safetensors"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-8])
    refuses(copy, rf"{last.name} is cut or damaged")
    last.unlink()
    refuses(copy, rf"lacks 1 of \d+ shards of its weights, such as {last.name}; copy it too")
    last.write_bytes(whole)
    (copy / "model.safetensors.index.json").unlink()
    refuses(copy, r"has shards of weights such as model-00001-of-\d+.safetensors, but no model.safetensors.index.json")


def test_weights_under_another_name_are_named(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    refuses(copy, r"has weights in model.fp16.safetensors, but they are read from model.safetensors; rename it")


def test_files_of_weights_that_are_not_read_are_said(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    assert note(copy) == ""
    for name in ("consolidated.safetensors", "pytorch_model.bin"):
        shutil.copy(copy / "model.safetensors", copy / name)
    assert note(copy) == "not read: consolidated.safetensors, pytorch_model.bin"


def test_a_configuration_that_is_not_json(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    (copy / "config.json").write_text("{'model_type': gpt2}")
    refuses(copy, r"config.json is not JSON \(.*\); copy it again")


# ------------------------------------------------------------------------------------------------------ what they say


def test_a_resized_embedding_is_named_with_both_shapes(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    edit(copy, vocab_size=VOCABULARY + 5)
    refuses(
        copy,
        r"transformer.wte.weight is (288 × 16|of another shape) in the weights and 293 × 16 by config.json; correct",
    )


def test_weights_that_a_block_has_no_place_for_are_refused(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    reweigh(copy, lambda w: w.update({"transformer.h.1.mlp.c_gate.weight": torch.zeros(3, WIDTH)}))
    refuses(copy, r"holds 1 weights that GPT2LMHeadModel has no place for, such as transformer.h.1.mlp.c_gate.weight")


def test_a_configuration_with_fewer_blocks_than_the_weights_is_refused(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    edit(copy, n_layer=LAYERS - 1, num_hidden_layers=LAYERS - 1)
    refuses(copy, r"holds \d+ weights that GPT2LMHeadModel has no place for, such as transformer.h.2")


def test_weights_outside_the_language_model_are_said_and_old_masks_are_not(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    reweigh(copy, lambda w: w.update({"transformer.h.0.attn.masked_bias": torch.zeros(1)}))
    assert note(copy) == ""
    reweigh(copy, lambda w: w.update({"vision_tower.patch.weight": torch.zeros(1), "score.weight": torch.zeros(1)}))
    assert note(copy) == "2 weights outside the language model are not read, such as score.weight"


def test_weights_without_the_prefix_of_the_head_are_the_same_model(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    weights = load_file(copy / "model.safetensors")
    bare = {key.removeprefix("transformer."): x for key, x in weights.items() if key != "lm_head.weight"}
    save_file(bare, copy / "model.safetensors", {"format": "pt"})
    assert note(copy) == ""


@pytest.mark.parametrize("kind", ["t5", "bart", "llava", "qwen2_5_vl", "vit"])
def test_another_kind_of_model_is_called_that(tmp_path: Path, kind: str) -> None:
    copy = copy_of(tmp_path)
    (copy / "config.json").write_text(json.dumps({"model_type": kind}))
    refuses(copy, rf"this kind of model \({kind}\) is not supported: unmix reads causal language models, such as gpt2")
    with pytest.raises(UserError, match=rf"this kind of model \({kind}\) is not supported"):
        count_layers(ModelConfig(name=str(copy)))


def test_a_kind_that_transformers_does_not_know(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    edit(copy, model_type="hyena9")
    refuses(copy, r"cannot load .* model type `hyena9` but Transformers does not recognize this architecture")


def test_code_that_comes_with_a_model_is_not_run_and_said(tmp_path: Path) -> None:
    copy = copy_of(tmp_path)
    (copy / "mine.py").write_text("raise SystemExit('run')")
    edit(copy, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert note(copy).endswith("code of its own (mine.Model), which is not run: it is read as the gpt2 of transformers")
    edit(copy, model_type="mine")
    refuses(copy, r"needs custom code, which unmix does not run; choose a model whose architecture is part of")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_quantised_model_without_its_library_is_called_that(tmp_path: Path, method: str) -> None:
    copy = copy_of(tmp_path)
    more = {"load_in_4bit": True} if method == "bitsandbytes" else {"bits": 4, "group_size": 8}
    edit(copy, quantization_config={"quant_method": method, **more})
    refuses(copy, rf"which is quantised \({method}\); install what that needs, or give the unquantised model")


def test_a_model_that_is_gated(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: object, **__: object) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")

    monkeypatch.setattr("transformers.utils.peft_utils.find_adapter_config_file", lambda name: None)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", gated)
    refuses(
        "meta/gated", r"model.name = meta/gated is gated: accept its terms on the hub, run `hf auth login`, try again"
    )


def test_the_command_line_ends_in_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_of(tmp_path)
    (copy / "adapter_model.safetensors").write_bytes(b"")
    words = ["--model", str(copy), "--hook", "resid_post.0", "--runs", str(tmp_path / "runs")]
    assert main(["sweep", "--name", "adapted", *words]) == 2
    assert "has an adapter beside its weights" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs" / "adapted").exists()
