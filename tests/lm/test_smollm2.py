"""The main job on a real language model with massive activations; skipped where it was not fetched."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unmix import cli
from unmix.config import ModelConfig
from unmix.lm import fetch
from unmix.lm.model import load_language_model
from unmix.runlog import read_json, read_manifest, read_metrics

ROOT = Path(__file__).parents[2]
PLACE = fetch.place("smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PLACE.is_file(), reason="run `unmix fetch smollm2` for the tests on a real language model"),
]
gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def lm():
    return load_language_model(ModelConfig(name="smollm2"))


def dequantised(tensor):
    """From the raw blocks of 32 numbers, as ggml lays them out: Q4_1 scale, least value, nibbles; Q8_0 scale, bytes."""
    raw, shape = tensor.data, [int(n) for n in reversed(tensor.shape)]
    if tensor.tensor_type.name == "F32":
        return torch.from_numpy(np.array(raw, dtype=np.float32)).reshape(shape)
    if tensor.tensor_type.name == "Q8_0":
        block = np.ascontiguousarray(raw).view(np.uint8).reshape(-1, 34)
        scale = block[:, :2].copy().view(np.float16).astype(np.float32)
        return torch.from_numpy(scale * block[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
    assert tensor.tensor_type.name == "Q4_1"
    block = np.ascontiguousarray(raw).view(np.uint8).reshape(-1, 20)
    scale, least = (block[:, a : a + 2].copy().view(np.float16).astype(np.float32) for a in (0, 2))
    nibbles = np.concatenate([block[:, 4:] & 15, block[:, 4:] >> 4], axis=1).astype(np.float32)
    return torch.from_numpy(scale * nibbles + least).reshape(shape)


def test_its_weights_are_those_of_an_independent_reading(lm):
    """Bit for bit; Llama's q and k have their rows interleaved in GGUF."""
    state = lm.model.state_dict()
    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    heads = {"attn_q": 9, "attn_k": 3}
    tensors = gguf.GGUFReader(PLACE).tensors
    assert len(tensors) == 272
    for tensor in tensors:
        *block, name, _ = tensor.name.split(".")
        weight = dequantised(tensor)
        if name in heads:
            weight = weight.reshape(heads[name], -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        there = f"model.layers.{block[1]}.{names[name]}.weight" if block else f"{names[name]}.weight"
        assert torch.equal(state[there], weight), tensor.name
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])


def test_its_tokenizer_makes_hard_text_whole_again(lm):
    text = "déjà vu — naïve 日本語 🙂\t\ttabs\r\n  trailing   <|endoftext|>"
    assert lm.tokenizer.decode(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_main_job_leaves_its_sinks_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    fetch.place("smollm2").parent.mkdir(parents=True)
    fetch.place("smollm2").symlink_to(PLACE)
    corpus = tmp_path / "prose"
    corpus.mkdir()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("records/*/README.md")]:
        (corpus / f"{path.parent.name}-{path.stem}.txt").write_text(path.read_text(encoding="utf-8"))
    words = ["--model", "smollm2", "--hook", "resid_post.15", "--corpus", "prose", "--corpus.held_out_fraction", "0.3"]
    words += ["--features", "512", "--steps", "40", "--activations.chunk_sequences", "16", "--l1", "0.5", "1"]
    words += ["--activations.sequence_length", "128", "--training.batch_tokens", "256", "--training.log_every", "10"]
    assert cli.main(["sweep", *words, "--name", "few", "--no-evaluate"]) == 0
    said = capsys.readouterr().err
    assert "210 tensors Q4_1, 61 F32, 1 Q8_0: dequantised to float32" in said
    assert "every row begins with '<|endoftext|>'" in said
    assert "nats per token on" in said
    assert "they are left out of training (--training.mask none keeps them)" in said
    outliers = read_manifest(Path("runs/few/run.yaml"))["hooks"]["resid_post.15"]["outliers"]
    assert outliers["share_of_tokens"] < 0.03
    assert outliers["share_of_square"] > 0.95
    last = read_metrics(Path("runs/few/metrics.jsonl"))[-1]
    # of ordinary tokens, after 10,000 of them: about 0.2, as the pages are
    assert last["explained_variance"] > 0.1
    assert cli.main(["evaluate", "runs/few", "--tokens", "2000", "--ce-tokens", "500"]) == 0
    [found] = read_json(Path("runs/few/evaluation.json"))["hooks"]
    assert found["ce_untouched"] < 5
    for row in found["saes"].values():
        assert row["delta_ce"] < found["baselines"]["predict the mean"]["delta_ce"]

    assert cli.main(["sweep", *words, "--name", "none", "--training.mask", "none", "--train-only", "--steps", "1"]) == 0
    said = capsys.readouterr().err
    assert "warning: resid_post.15: every member will be trained on them, and they make up 9" in said
