"""A model in a GGUF file is the model it was made from."""

import json
import sys

import numpy as np
import pytest
import torch
from tiny_models import EOT, VOCABULARY, tiny_model_folder, tiny_tokenizer
from transformers import AutoModelForCausalLM

from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm.gguf import quantisation
from unmix.lm.model import load_language_model

gguf = pytest.importorskip("gguf")
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    return tiny_model_folder("llama")


@pytest.fixture(scope="module")
def path(folder, tmp_path_factory):
    """The tiny Llama as llama.cpp's converter lays it out: names of its own, rows of q and k interleaved for RoPE."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = model.config, tiny_tokenizer()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCABULARY)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary += [f"<unused{i}>" for i in range(VOCABULARY - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL if token == EOT else gguf.TokenType.NORMAL for token in vocabulary])
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.startswith("model.layers."):
            _, _, layer, *rest = name.split(".")
            own = _NAMES[".".join(rest[:-1])]
            if own in heads:
                out, width = array.shape
                array = array.reshape(heads[own], 2, out // heads[own] // 2, width).swapaxes(1, 2).reshape(out, width)
            name = f"blk.{layer}.{own}.weight"
        else:
            name = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            }[name]
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_the_model_it_was_made_from(folder, path):
    ids_NT = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    there, here = (load_language_model(ModelConfig(name=str(p))) for p in (folder, path))
    assert torch.equal(
        here.activations(ids_NT, ["resid_post.1"])["resid_post.1"],
        there.activations(ids_NT, ["resid_post.1"])["resid_post.1"],
    )
    torch.testing.assert_close(here.logits(ids_NT), there.logits(ids_NT))
    assert here.tokenizer.encode("def of(self)") == there.tokenizer.encode("def of(self)")
    assert here.tokenizer.bos_token_id == 0
    assert (here.note, there.note) == (f"tiny.gguf holds {quantisation(path)}: dequantised to float32", "")
    assert here.fingerprint != there.fingerprint


def test_mistakes_are_one_line(tmp_path, path, monkeypatch):
    def refused(name, words):
        with pytest.raises(UserError, match=words) as error:
            load_language_model(ModelConfig(name=str(name)))
        assert "\n" not in str(error.value)

    refused(tmp_path / "absent.gguf", "absent.gguf: no such file")
    refused(path.parent, "is a folder of GGUF files; name one of them: .*tiny.gguf")
    (tmp_path / "prose.gguf").write_text("Call me Ishmael.")
    refused(tmp_path / "prose.gguf", "is a file but not GGUF")
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:2000])
    refused(tmp_path / "cut.gguf", "cannot load model.name")
    monkeypatch.setattr("unmix.lm.gguf.find_spec", lambda name: None)
    refused(path, r"reading tiny.gguf needs gguf and accelerate: pip install 'unmix\[gguf\]'")
    assert "gguf" in sys.modules


def test_what_is_no_whole_model_is_called_what_it_is(tmp_path):
    def refused(words, **fields):
        path = tmp_path / "other.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in fields.items():
            getattr(writer, key)(*value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UserError, match=words) as error:
            load_language_model(ModelConfig(name=str(path)))
        assert "\n" not in str(error.value)

    refused("is an adapter, not a model; merge it with `llama-export-lora", add_type=["adapter"])
    refused("is not a language model but of type mmproj", add_type=["mmproj"])
    refused("is one of 3 parts of a model; join them with `llama-gguf-split", add_uint16=["split.count", 3])


def test_the_file_is_parsed_once(path, monkeypatch):
    """`transformers` would parse it for the configuration, the names, the weights and the tokenizer, and unmix for how
    it is stored: a good part of the time it takes to load a model with 49,152 tokens."""
    import gguf

    parsed, real = [], gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda file, *more: parsed.append(file) or real(file, *more))
    counting, tables = gguf.GGUFReader, gguf.get_tensor_name_map
    load_language_model(ModelConfig(name=str(path)))
    assert parsed == [str(path)]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (counting, tables), "they are put back"
