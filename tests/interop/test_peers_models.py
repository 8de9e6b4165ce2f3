"""Places in a language model by other libraries' names: nnsight, nnterp, TransformerLens, on freshly made models."""

import warnings
from copy import deepcopy

import pytest
import torch
from tiny_models import LAYERS, WIDTH, tiny_model_folder

from unmix import splice, top_features
from unmix.config import ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.hooknames import KINDS, transformer_lens
from unmix.lm.model import load_language_model

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
FAMILIES = ("gpt2", "llama", "gemma2", "gemma3_text")
IDS = torch.arange(1, 17)[None]


@pytest.fixture(params=FAMILIES)
def lm(request):
    return load_language_model(ModelConfig(name=str(tiny_model_folder(request.param)), matmul="fp32"))


def close(got, wanted):
    got = got[0] if isinstance(got, tuple) else got
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def _bridge(lm):
    """TransformerLens' model of the same weights; of a copy, because it changes the one that it is given."""
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason="TransformerBridge is not installed")
    return bridge.TransformerBridge.boot_transformers(
        lm.name, device="cpu", tokenizer=lm.tokenizer, hf_model=deepcopy(lm.model)
    )


def test_transformer_lens_has_our_activations_under_the_exported_names(lm):
    """At every hook of every block: the residual stream, and what attention and MLP add to it."""
    theirs = _bridge(lm)
    hooks = [f"{kind}.{L}" for kind in KINDS for L in range(LAYERS)]
    ours = lm.activations(IDS, hooks)
    with torch.no_grad():
        _, cache = theirs.run_with_cache(IDS)
    for hook in hooks:
        close(cache[transformer_lens(hook)], ours[hook])


def test_transformer_lens_has_what_lies_within_a_block_under_its_own_names(lm):
    """Heads side by side, what the MLP's down projection reads, the middle of a block, branches before their norms."""
    theirs = _bridge(lm)
    parts = ("attn.hook_z", "attn.hook_out", "mlp.hook_post", "mlp.hook_out", "hook_resid_mid")
    hooks = [f"blocks.{L}.{part}" for L in range(LAYERS) for part in parts]
    ours = lm.activations(IDS, hooks)
    with torch.no_grad():
        _, cache = theirs.run_with_cache(IDS)
    for hook in hooks:
        close(cache[hook].flatten(2), ours[hook])


def test_transformer_lens_with_a_dictionary_in_it_predicts_the_same(lm):
    """In every family, by a hook function that returns x̂."""
    theirs = _bridge(lm)
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    for hook in ("resid_post.1", "mlp_out.1"):
        with splice(lm.model, hook, sae):
            wanted = lm.logits(IDS)
        with torch.no_grad():
            got = theirs.run_with_hooks(IDS, fwd_hooks=[(transformer_lens(hook), lambda x, hook: sae(x))])
        close(got, wanted)


@pytest.mark.parametrize("hook", [f"{kind}.1" for kind in KINDS])
def test_a_bridge_of_transformer_lens_is_spliced(lm, hook):
    """unmix.splice takes it as it is: at its own hook points, which are where ours are in the bare model."""
    theirs, sae = _bridge(lm), new_dictionary(WIDTH, 24, 1.0, 0)
    with splice(lm.model, hook, sae):
        wanted = lm.logits(IDS)
    with torch.no_grad():
        plain = theirs(IDS)
        with splice(theirs, hook, sae):
            got = theirs(IDS)
        close(got, wanted)
        assert torch.equal(theirs(IDS), plain)
    assert (wanted - plain).abs().max() > 1e-2 * plain.abs().max()


def test_the_features_of_a_text_in_a_bridge(lm):
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    for hook in ("resid_post.1", "mlp_out.1"):
        wanted = top_features(lm, sae, "import of the world", hook)
        same_features(top_features(_bridge(lm), sae, "import of the world", hook), wanted)


def same_features(got, wanted):
    assert [token for token, _ in got] == [token for token, _ in wanted]
    for (_, one), (_, other) in zip(got, wanted, strict=True):
        assert [feature for feature, _ in one] == [feature for feature, _ in other]
        assert [f for _, f in one] == pytest.approx([f for _, f in other], rel=1e-3)


def _nnsight(name, **more):
    nnsight = pytest.importorskip("nnsight", minversion="0.7")  # dictionary-learning brings 0.3.7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nnsight.LanguageModel(name, **{"dispatch": True} | more)


def _block(model, lm, L):
    """Block L, by the path of its family."""
    return model.transformer.h[L] if hasattr(lm.model, "transformer") else model.model.layers[L]


def test_nnsight_reads_and_replaces_the_same(lm):
    """In every family, whether a block returns a tensor or a tuple."""
    theirs = _nnsight(lm.name)
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    ours = lm.activations(IDS, ["resid_post.1"])["resid_post.1"]
    with splice(lm.model, "resid_post.1", sae):
        wanted = lm.logits(IDS)
    with torch.no_grad():
        with theirs.trace(IDS):
            x = _block(theirs, lm, 1).output.save()
        close(x, ours)
        whole = isinstance(x, tuple)
        with theirs.trace(IDS):
            given = _block(theirs, lm, 1).output
            _block(theirs, lm, 1).output = (sae(given[0]), *given[1:]) if whole else sae(given)
            logits = theirs.lm_head.output.save()
    if getattr(lm.model.config, "final_logit_softcapping", None) is None:  # Gemma 2 changes them behind lm_head
        close(logits, wanted)


def test_nnterp_reads_the_same(lm):
    """In every family, by nnterp's one name for all."""
    nnterp = pytest.importorskip("nnterp", reason="nnterp is not installed")
    theirs = nnterp.StandardizedTransformer(lm.name, dispatch=True, check_renaming=False)
    ours = lm.activations(IDS, ["resid_pre.1", "resid_post.1"])
    with torch.no_grad(), theirs.trace(IDS):
        before = theirs.layers_input[1].save()
        after = theirs.layers_output[1].save()
    close(before, ours["resid_pre.1"])
    close(after, ours["resid_post.1"])


@pytest.mark.parametrize("hook", [f"{kind}.1" for kind in KINDS])
def test_nnsight_traces_run_with_what_is_spliced_in(lm, hook):
    """unmix.splice around a trace: what the trace reads behind the hook is of the spliced model."""
    theirs, sae = _nnsight(lm.name), new_dictionary(WIDTH, 24, 1.0, 0)
    _traces_alike(theirs, lm, hook, sae)


@pytest.mark.parametrize("hook", [f"{kind}.1" for kind in KINDS])
def test_nnterp_traces_run_with_what_is_spliced_in(lm, hook):
    nnterp = pytest.importorskip("nnterp", reason="nnterp is not installed")
    theirs = nnterp.StandardizedTransformer(lm.name, dispatch=True, check_renaming=False)
    _traces_alike(theirs, lm, hook, new_dictionary(WIDTH, 24, 1.0, 0))


def _traces_alike(theirs, lm, hook, sae):
    plain = lm.logits(IDS)
    with splice(lm.model, hook, sae):
        wanted = lm.logits(IDS)
    with torch.no_grad():
        with splice(theirs, hook, sae):  # noqa: SIM117 (nnsight reads the block of a trace from its own with)
            with theirs.trace(IDS):
                inside = theirs.output.save()
        with theirs.trace(IDS):
            outside = theirs.output.save()
    close(inside.logits, wanted)
    close(outside.logits, plain)
    assert (wanted - plain).abs().max() > 1e-2 * plain.abs().max()


def test_an_nnsight_model_without_weights_is_refused(lm):
    """Before its first trace another module stands in it than the one that will run."""
    with pytest.raises(UserError, match=r"its weights are not loaded; load them first \(nnsight: dispatch=True\)"):
        splice(_nnsight(lm.name, dispatch=False), "resid_post.1", torch.zeros_like).__enter__()


def test_the_features_of_a_text_in_a_model_of_nnsight(lm):
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    wanted = top_features(lm, sae, "import of the world", "resid_post.1")
    same_features(top_features(_nnsight(lm.name), sae, "import of the world", "resid_post.1"), wanted)
