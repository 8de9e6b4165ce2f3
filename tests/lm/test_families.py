"""Every family that `docs/hooks.md` speaks of: what is read, what is spliced, what may be skipped."""

import json
import re
from pathlib import Path

import pytest
import torch
from tiny_models import LAYERS, MANY, tiny_model_folder

from unmix.activations.mask import Mask
from unmix.cli import main
from unmix.config import MaskConfig, ModelConfig
from unmix.errors import UserError
from unmix.evaluation.downstream import Downstream
from unmix.evaluation.splice import splice
from unmix.lm.model import load_language_model
from unmix.lm.products import multiply_in_bf16, rates

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
SAYS = dict(re.findall(r"^\| `(\S+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M))
LAST = LAYERS - 1
ROUTED = (
    "mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "olmoe",
    "jetmoe", "hunyuan_v1_moe", "afmoe", "gemma4_moe",  # with a linear layer within the router
)  # fmt: skip
RESIDUAL = [f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("resid_pre", "resid_post")]


def usable(lm, ids_NT, layer=LAST):
    """The hooks of a block that are not refused."""
    hooks = [f"resid_pre.{layer}", f"resid_post.{layer}"]
    for kind in ("attn_out", "mlp_out"):
        try:
            lm.check_contributions(ids_NT, [f"{kind}.{layer}"])
        except UserError:
            continue
        hooks.append(f"{kind}.{layer}")
    return hooks


def test_the_page_speaks_of_every_family_that_is_tested():
    assert SAYS.keys() == set(MANY)
    assert len(SAYS) >= 36


def test_the_residual_stream_is_the_model_s_own(family, lm, ids_NT):
    found = lm.activations(ids_NT, RESIDUAL)
    states = lm.model(ids_NT, output_hidden_states=True, use_cache=False).hidden_states
    late = family == "mamba2"  # its list begins behind the first block
    for layer in range(LAYERS - late):
        assert torch.allclose(found[f"resid_pre.{layer + late}"], states[layer].float(), atol=1e-6)
    for layer in range(LAST):
        assert torch.equal(found[f"resid_post.{layer}"], found[f"resid_pre.{layer + 1}"])


def test_what_a_branch_adds_is_added_up_or_refused_by_name(family, lm, ids_NT):
    for layer in range(LAYERS):
        refused = SAYS[family].startswith("refused") or (family == "lfm2" and layer == 0)
        for kind in ("attn_out", "mlp_out"):
            hook = f"{kind}.{layer}"
            if refused:
                with pytest.raises(UserError, match=rf"hook {hook}.*name a module of block {layer} by its path") as e:
                    lm.check_contributions(ids_NT, [hook])
                assert "\n" not in str(e.value)
            else:
                lm.check_contributions(ids_NT, [hook])


def test_what_is_spliced_is_what_was_read_and_putting_it_back_changes_nothing(lm, ids_NT):
    untouched = lm.logits(ids_NT)
    for hook in usable(lm, ids_NT):
        read = lm.activations(ids_NT, [hook])[hook]
        seen = []

        def keep(x):
            seen.append(x.clone())  # noqa: B023
            return x

        with splice(lm.model, hook, keep):
            again = lm.logits(ids_NT)
        assert torch.equal(seen[0].float(), read), hook
        assert torch.allclose(again, untouched, rtol=1e-4, atol=1e-5), hook
        with splice(lm.model, hook, lambda x: x.mean((0, 1)).expand_as(x)):
            moved = lm.logits(ids_NT)
        assert not torch.allclose(moved, untouched, rtol=1e-4, atol=1e-5), hook
        mean = read.mean((0, 1))
        with splice(lm.model, hook, lambda x: x.mean((0, 1)).expand_as(x)):
            assert torch.allclose(lm.activations(ids_NT, [hook])[hook][0, 0], mean, rtol=1e-3, atol=1e-5), hook
    assert torch.equal(lm.logits(ids_NT), untouched), "a hook was left behind"


def test_a_pass_that_skips_blocks_equals_one_that_does_not(lm, ids_NT):
    mean = 0.5 * torch.ones(1)
    for hook in usable(lm, ids_NT):
        kept = Mask(
            MaskConfig(special=False, norm_above=1.0), [], lm.activations(ids_NT, [hook])[hook].norm(dim=-1).median()
        )
        metrics = []
        for skip in (True, False):
            downstream = Downstream(lm, hook, {"one": lambda x: mean.expand_as(x), "same": torch.clone}, 1, kept)
            downstream.skipped = None if skip else 0
            downstream.add(ids_NT, torch.zeros_like(ids_NT))
            metrics.append(downstream.metrics()["replacements"])
        for name in ("one", "same"):
            assert metrics[0][name]["delta_ce"] == pytest.approx(metrics[1][name]["delta_ce"], abs=1e-4), hook
        assert metrics[0]["same"]["delta_ce"] == pytest.approx(0, abs=1e-5)
        assert metrics[0]["one"]["delta_ce"] != 0


def test_products_in_bf16_move_it_little(family, ids_NT):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    change = multiply_in_bf16(lm, ids_NT, [f"resid_post.{LAST}"]).bf16_change[f"resid_post.{LAST}"]
    assert 0 < change < 0.02


def test_a_model_whose_code_does_not_run_so_is_left_as_it_was(ids_NT):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("mixtral"))))
    before = lm.logits(ids_NT)

    def add_in_place(module, args, output):
        torch.zeros(1, dtype=torch.float32).index_add_(0, torch.zeros(1, dtype=torch.int64), output.flatten()[:1])

    lm.model.model.layers[0].self_attn.q_proj.register_forward_hook(add_in_place)
    assert rates(lm, ids_NT, ["resid_post.0"]).keys() == {"fp32"}
    with pytest.raises(UserError, match=r"does not run with products in bf16 \(.*\); give --model.matmul fp32$"):
        multiply_in_bf16(lm, ids_NT, ["resid_post.0"])
    assert torch.equal(lm.logits(ids_NT), before)


def test_routers_send_tokens_where_they_did(ids_NT):
    """In bf16 a token near the border between two experts goes to the other one."""
    for family in ROUTED:
        exact = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
        lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
        seen: dict[str, torch.dtype] = {}
        multiply_in_bf16(lm, ids_NT, ["resid_post.0"])
        routers = [path for path, _ in lm.model.named_modules() if path.endswith((".router", ".gate"))]
        assert routers, family
        for path in routers:
            now, before = lm.model.get_submodule(path), exact.model.get_submodule(path)
            for name, weight in before.named_parameters():
                assert torch.equal(now.get_parameter(name), weight), path
            x = torch.randn(5, lm.width, generator=torch.Generator().manual_seed(0))
            given = (x[None], torch.zeros(4)) if type(now).__name__ == "AfmoeTokenChoiceRouter" else (x,)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rounded = now(*given)
            plain = before(*given)
            first = rounded if isinstance(rounded, torch.Tensor) else rounded[0]
            assert torch.equal(first, plain if isinstance(plain, torch.Tensor) else plain[0]), path
            seen[path] = first.dtype


def test_heads_are_one_vector_and_are_put_back_as_heads(ids_NT):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("qwen3"))))
    hook = "model.layers.1.self_attn.q_norm"
    assert lm.activations(ids_NT, [hook])[hook].shape == (3, 12, 16)
    untouched = lm.logits(ids_NT)
    with splice(lm.model, hook, torch.clone):
        assert torch.equal(lm.logits(ids_NT), untouched)
    with splice(lm.model, hook, torch.zeros_like):
        assert not torch.allclose(lm.logits(ids_NT), untouched)


def trained_and_evaluated(model, hooks, overrides, folder, capsys):
    """Train at these hooks and evaluate the run through the command line; the evaluation."""
    overrides |= {"model.name": str(tiny_model_folder(model)), "activations.hooks": hooks}
    overrides |= {"training.l1": [1.0], "training.steps": 5, "model.matmul": "auto"}
    words = [word for key, value in overrides.items() if key != "name" for word in (f"--{key}", _word(value))]
    said = main(["sweep", "--name", "tiny", "--runs", str(folder), "--train-only", *words]), capsys.readouterr().err
    assert said[0] == 0, said[1]
    said = main(["evaluate", str(folder / "tiny"), "--tokens", "200", "--ce-tokens", "100"]), capsys.readouterr().err
    assert said[0] == 0, said[1]
    return json.loads((folder / "tiny" / "evaluation.json").read_text())["hooks"]


def test_every_hook_that_is_not_refused_is_trained_at_and_evaluated(family, lm, ids_NT, overrides, tmp_path, capsys):
    hooks = usable(lm, ids_NT)
    found = trained_and_evaluated(family, hooks, overrides, tmp_path, capsys)
    assert sorted(at["hook"] for at in found) == sorted(hooks)


@pytest.mark.parametrize(
    ("family", "hook", "ours"),
    [
        ("qwen3", "model.layers.1.self_attn.q_norm", "model.layers.1.self_attn.q_norm"),
        ("llama4_text", "blocks.1.hook_mlp_out", "mlp_out.1"),
    ],
)
def test_a_module_s_path_and_transformer_lens_names_too(family, hook, ours, overrides, tmp_path, capsys):
    [at] = trained_and_evaluated(family, [hook], overrides, tmp_path, capsys)
    assert at["hook"] == ours


def test_a_refused_hook_is_refused_before_training(overrides, tmp_path, capsys):
    overrides |= {"model.name": str(tiny_model_folder("openai-gpt")), "activations.hooks": "mlp_out.1"}
    words = [word for key, value in overrides.items() if key != "name" for word in (f"--{key}", _word(value))]
    assert main(["sweep", "--name", "tiny", "--runs", str(tmp_path), *words]) == 2
    assert "resid_pre + attn_out + mlp_out is not resid_post" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


def _word(value):
    return json.dumps(value) if isinstance(value, list) else str(value)
