"""What other tools are given: circuit-tracer's sets, SAEBench's object, Delphi's cache, SAELens' object."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from interop.looks import LOOKS, Weights, inputs
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import make

from unmix.cli import main
from unmix.config import ModelConfig
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.per_token import ByLength, LayerNorm
from unmix.errors import UserError
from unmix.interop import circuit_tracer, delphi
from unmix.interop.load import load_sae, read
from unmix.interop.saebench import for_saebench
from unmix.interop.to_sae_lens import register, to_sae_lens
from unmix.lm.model import load_language_model
from unmix.training import run

D, F = 8, 24
PHIS = [Relu(), TanhRelu(), JumpRelu(), TopK(3, weigh_by_norm=False), AbsTopK(3, weigh_by_norm=False), Gated()]


def made(phi=None, seed=0, T=None, E=D, skip=False, width=D, features=F) -> Dictionary:
    draw = torch.Generator().manual_seed(seed)
    own = (phi or Relu()).start(features)
    w = {
        "W_enc": torch.randn(width, features, generator=draw) / 3,
        "b_enc": torch.randn(features, generator=draw) / 10,
        "W_dec": torch.randn(features, E, generator=draw),
        "b_dec": torch.randn(E, generator=draw),
        **{name: torch.rand(tensor.shape, generator=draw) / 2 for name, tensor in own.items()},
    }
    w |= {"W_skip": torch.randn(width, E, generator=draw)} if skip else {}
    return Dictionary(w, phi, per_token=T)


def close(got, wanted) -> None:
    assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()


# circuit-tracer


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("phi", [Relu(), JumpRelu()])
def test_a_set_for_circuit_tracer_by_its_formula_and_our_reader(phi, skip, tmp_path):
    layers = [made(phi, seed, skip=skip) for seed in range(3)]
    circuit_tracer.write_set(layers, tmp_path / "set", model="gpt2", hook_in="ln2.hook_normalized")
    config = yaml.safe_load((tmp_path / "set/config.yaml").read_text())
    assert config == {
        "model_name": "gpt2", "model_kind": "transcoder_set", "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out", "scan": "set",
    }  # fmt: skip
    x = inputs(D)
    for L, sae in enumerate(layers):
        path = tmp_path / f"set/layer_{L}.safetensors"
        w = safetensors.torch.load_file(path)
        z = x @ w["W_enc"].T + w["b_enc"]
        f = z * (z > w["activation_function.threshold"]) if phi == JumpRelu() else z.relu()
        close(f @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0), sae(x))
        again, origin = read(path)
        assert torch.equal(again(x), sae(x))
        assert (origin.model, origin.hook) == ("gpt2", f"blocks.{L}.ln2.hook_normalized")


def transcoders(tmp_path, hook="blocks.{}.hook_mlp_in", order=(0, 1)):
    for L in order:
        more = {"model": "gpt2", "context": 64, "more": {}, "hook_out": f"mlp_out.{L}", "transcoder": True}
        save_sae(made(seed=L), tmp_path / f"t{L}", hook=hook.format(L), **more)
    return [str(tmp_path / f"t{L}") for L in order]


def test_a_set_is_converted_from_transcoders_of_any_library(tmp_path, capsys):
    srcs = transcoders(tmp_path)
    assert main(["convert", *srcs, str(tmp_path / "set"), "--to", "circuit_tracer"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    config = yaml.safe_load((tmp_path / "set/config.yaml").read_text())
    assert (config["feature_input_hook"], config["feature_output_hook"]) == ("hook_mlp_in", "hook_mlp_out")
    assert (config["model_name"], config["scan"]) == ("gpt2", "set")
    for L, src in enumerate(srcs):
        assert torch.equal(load_sae(tmp_path / f"set/layer_{L}.safetensors")(inputs(D)), load_sae(src)(inputs(D)))
    assert main(["convert", *srcs, str(tmp_path / "set"), "--to", "circuit_tracer"]) == 2
    assert "exists; give a folder" in capsys.readouterr().err
    assert main(["convert", *srcs, str(tmp_path / "other")]) == 2
    assert "2 dictionaries cannot go into one folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hook", "order", "more", "says"),
    [
        ("blocks.{}.hook_mlp_in", (1, 0), [], "is of layer 1, and stands for layer 0"),
        ("h.{}.mlp.input", (1, 0), ["--hook", "mlp.hook_in"], "is of layer 1, and stands for layer 0"),
        ("h.{}.mlp.input", (0, 1), [], "says h.0.mlp.input of where x is read"),
        ("h.{}.mlp.input", (0, 1), ["--hook", "blocks.0.mlp.hook_in"], "is no place in a block"),
        ("blocks.{}.hook_mlp_in", (0, 1), ["--hook", "mlp.hook_in"], "x is read at hook_mlp_in, and --hook says"),
    ],
)
def test_a_set_out_of_order_or_of_unknown_places_is_refused(hook, order, more, says, tmp_path, capsys):
    srcs = transcoders(tmp_path, hook, order)
    words = ["convert", *srcs, str(tmp_path / "set"), "--to", "circuit_tracer"]
    assert main([*words, *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t0", "t1"]
    if (hook, order) == ("h.{}.mlp.input", (0, 1)):
        assert main([*words, "--hook", "mlp.hook_in"]) == 0
        assert yaml.safe_load((tmp_path / "set/config.yaml").read_text())["feature_input_hook"] == "mlp.hook_in"


def test_the_order_is_read_from_module_paths_too(tmp_path, capsys):
    for L in range(2):
        at = {"hook": f"h.{L}.mlp.input", "hook_out": None, "transcoder": True}
        save_sae(made(seed=L), tmp_path / f"t{L}", model="gpt2", context=64, more={}, **at)
    words = [str(tmp_path / "set"), "--to", "circuit_tracer", "--hook", "mlp.hook_in"]
    assert main(["convert", str(tmp_path / "t1"), str(tmp_path / "t0"), *words]) == 2
    assert "t1 is of layer 1, and stands for layer 0" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "t0"), str(tmp_path / "t1"), *words]) == 0


def test_saes_are_no_set_of_transcoders(tmp_path, capsys):
    for L in range(2):
        save_sae(made(seed=L), tmp_path / f"s{L}", model="gpt2", hook=f"resid_post.{L}", context=64, more={})
    words = ["convert", str(tmp_path / "s0"), str(tmp_path / "s1"), str(tmp_path / "set"), "--to", "circuit_tracer"]
    for more in ([], ["--hook", "mlp.hook_in"]):
        assert main([*words, *more]) == 2
        assert "s0 is an SAE (resid_post.0), which gives its own x back" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("out", "model", "wanted"),
    [
        (None, "gpt2", "hook_mlp_out"),
        ("mlp_out.0", "google/gemma-2-2b", "hook_mlp_out"),
        ("blocks.0.mlp.hook_out", "google/gemma-2b", "hook_mlp_out"),  # the first Gemma has no norm behind it
        ("blocks.0.mlp.hook_out", "google/gemma-2-2b", "in google/gemma-2-2b the block changes that"),
        ("resid_post.0", "gpt2", "hook_resid_post"),
        ("model.layers.0.mlp.down_proj", "gpt2", "says that y is at model.layers.0.mlp.down_proj, and circuit-tracer"),
        ("mlp_out.1", "gpt2", "is of layer 1, and stands for layer 0"),
    ],
)
def test_where_y_is_comes_from_the_files_or_is_refused(out, model, wanted, tmp_path, capsys):
    at = {"hook": "blocks.0.hook_mlp_in", "hook_out": out}
    save_sae(made(), tmp_path / "t0", model=model, context=64, more={}, transcoder=True, **at)
    done = main(["convert", str(tmp_path / "t0"), str(tmp_path / "set"), "--to", "circuit_tracer"])
    if done:
        assert wanted in capsys.readouterr().err
    else:
        assert yaml.safe_load((tmp_path / "set/config.yaml").read_text())["feature_output_hook"] == wanted


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([], "there is no transcoder to write"),
        ([made(TopK(3))], "circuit-tracer knows no topk"),
        ([made(T=LayerNorm())], "no layer norm of each token"),
        ([made(), made(features=F + 1)], r"layer 1 is \(D, F, E\) = \(8, 25, 8\)"),
        ([made(E=D + 1)], r"layer 0 is \(D, F, E\) = \(8, 24, 9\)"),
        ([made(), made(skip=True)], "one has a W_skip and one has none"),
        ([made(features=D)], "as many features as x is wide"),
    ],
)
def test_what_circuit_tracer_does_not_know_is_refused(layers, says, tmp_path):
    with pytest.raises(UserError, match=says):
        circuit_tracer.write_set(layers, tmp_path / "set", model="gpt2")
    assert not (tmp_path / "set").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine").touch()
    with pytest.raises(UserError, match="exists; give a folder"):
        circuit_tracer.write_set([made()], tmp_path / "set", model="gpt2")


@pytest.mark.peers
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("phi", [Relu(), JumpRelu()])
def test_circuit_tracer_computes_the_same(phi, skip, tmp_path):
    theirs = pytest.importorskip(
        "circuit_tracer.transcoder.single_layer_transcoder", reason="circuit-tracer is not installed"
    )
    layers = [made(phi, seed, skip=skip) for seed in range(3)]
    circuit_tracer.write_set(layers, tmp_path / "set", model="gpt2")
    paths = {L: str(tmp_path / f"set/layer_{L}.safetensors") for L in range(3)}
    loaded = theirs.load_transcoder_set(paths, "set", "mlp.hook_in", "hook_mlp_out", device=torch.device("cpu"))
    x = inputs(D)
    with torch.no_grad():
        for L, sae in enumerate(layers):
            f = loaded[L].encode(x)
            assert torch.equal(f != 0, sae.encode(x) != 0)
            close(loaded[L].decode(f, x) if skip else loaded[L].decode(f), sae(x))


# SAEBench


@pytest.mark.parametrize("phi", PHIS)
def test_the_object_for_saebench_computes_the_same(phi):
    sae = made(phi)
    before = {name: weight.clone() for name, weight in sae.weights.items()}
    theirs = for_saebench(sae, model="gpt2", hook="resid_post.3")
    x = inputs(D)
    with torch.no_grad():
        close(theirs(x), sae(x))
        close(theirs.decode(theirs.encode(x)), sae(x))
        assert torch.equal(theirs.encode(x) != 0, sae.encode(x) != 0)
    if phi.name in ("relu", "jumprelu", "gated"):
        torch.testing.assert_close(theirs.W_dec.norm(dim=1), torch.ones(F))
    assert all(torch.equal(before[name], weight) for name, weight in sae.weights.items())


def test_the_object_for_saebench_goes_where_it_is_sent_and_says_what_it_is():
    theirs = for_saebench(made(), model="gpt2", hook="resid_post.3", context=64)
    assert theirs.cfg.to_dict() | {"hook_name": "blocks.3.hook_resid_post", "hook_layer": 3, "d_sae": F} == (
        theirs.cfg.to_dict()
    )
    assert (theirs.dtype, str(theirs.device), theirs.cfg.dtype) == (torch.float32, "cpu", "float32")
    assert theirs.to(dtype=torch.bfloat16) is theirs
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    assert (theirs.cfg.dtype, theirs(inputs(D).bfloat16()).dtype) == ("bfloat16", torch.bfloat16)
    assert theirs.W_enc is theirs.sae.W_enc
    json.dumps(theirs.cfg.to_dict())


@pytest.mark.parametrize("said", [True, False, None])
def test_the_object_for_saebench_says_whether_sequences_began_with_a_bos(said, tmp_path):
    more = {} if said is None else {"prepend_bos": said}
    save_sae(made(), tmp_path / "sae", model="gpt2", hook="resid_post.3", context=64, more=more)
    sae = load_sae(tmp_path / "sae")
    assert for_saebench(sae, model="gpt2", hook="resid_post.3").cfg.prepend_bos is (said is not False)


@pytest.mark.parametrize(
    ("sae", "hook", "says"),
    [
        (made(T=LayerNorm()), "resid_post.3", "undoes the layer_norm of each token"),
        (made(skip=True), "resid_post.3", "is a transcoder"),
        (made(E=D + 1), "resid_post.3", "is a transcoder"),
        (made(), "wte", "hook wte names no layer"),
    ],
)
def test_what_saebench_cannot_evaluate_is_refused(sae, hook, says):
    with pytest.raises(UserError, match=says):
        for_saebench(sae, model="gpt2", hook=hook)


@pytest.mark.peers
def test_the_object_has_all_that_saebench_asks_for():
    base = pytest.importorskip("sae_bench.custom_saes.base_sae", reason="sae-bench is not installed")
    config = pytest.importorskip("sae_bench.custom_saes.custom_sae_config")
    theirs = for_saebench(made(), model="gpt2", hook="resid_post.3")
    wanted = config.CustomSAEConfig("gpt2", d_in=D, d_sae=F, hook_layer=3, hook_name="blocks.3.hook_resid_post")
    assert wanted.to_dict().keys() <= theirs.cfg.to_dict().keys()
    assert all(hasattr(theirs.cfg, name) for name in dir(wanted) if not name.startswith("_"))
    assert base.BaseSAE.check_decoder_norms(theirs)


# Delphi


@pytest.fixture(scope="module")
def lm():
    return load_language_model(ModelConfig(name=str(tiny_model_folder())))


def cached(lm, tmp_path, sae, n=4, T=32, **more):
    ids_NT = torch.randint(1, 200, (n, T), generator=torch.Generator().manual_seed(0))
    return ids_NT, delphi.write_cache(lm, ids_NT, "resid_post.1", sae, tmp_path / "latents", **more)


def test_a_cache_for_delphi_is_a_direct_encode(lm, tmp_path):
    sae = made(width=WIDTH, E=WIDTH)
    ids_NT, folder = cached(lm, tmp_path, sae, module="transformer.h.1", splits=3)
    with torch.no_grad():
        f_NTF = sae.encode(lm.activations(ids_NT, ["resid_post.1"])["resid_post.1"])
    found, next_ = torch.zeros_like(f_NTF), 0
    files = sorted(folder.glob("*.safetensors"), key=lambda path: int(path.stem.split("_")[0]))
    for path in files:
        start, end = map(int, path.stem.split("_"))
        assert start == next_
        next_ = end + 1
        part = safetensors.torch.load_file(path)
        n, t, i = part["locations"].long().T
        assert (part["locations"].dtype, part["activations"].dtype) == (torch.uint16, torch.float16)
        assert torch.equal(part["tokens"], ids_NT)
        assert i.min() >= 0
        assert i.max() <= end - start
        found[n, t, i + start] = part["activations"].float()
    assert (next_, len(files)) == (F, 3)
    assert torch.equal(found, f_NTF.half().float())
    config = json.loads((folder / "config.json").read_text())
    assert (config["ctx_len"], config["n_tokens"], config["n_splits"]) == (32, 128, 3)
    assert config["model_name"] == lm.name


def test_files_of_a_cache_are_never_empty_and_numbers_never_too_large(lm, tmp_path):
    sae = made(width=WIDTH, E=WIDTH)
    with torch.no_grad():
        sae.b_enc[:-1] = -1e9  # all but the last feature are dead
        sae.b_enc[-1] = 1e6
    _, folder = cached(lm, tmp_path, sae, splits=6)
    [path] = folder.glob("*.safetensors")
    assert path.stem == f"0_{F - 1}"
    assert safetensors.torch.load_file(path)["activations"].dtype == torch.float32


def test_ranges_are_even_where_all_is_alive():
    assert delphi._ranges(np.ones(10, dtype=int), 3) == [(0, 2), (3, 5), (6, 9)]
    assert delphi._ranges(np.ones(2, dtype=int), 5) == [(0, 0), (1, 1)]


def test_tokens_that_were_not_trained_on_are_not_cached(lm, tmp_path):
    sae = made(width=WIDTH, E=WIDTH)
    x_NTD = lm.activations(torch.arange(1, 65)[None], ["resid_post.1"])["resid_post.1"]
    sae.longest = x_NTD.norm(dim=-1).median().item()
    ids_NT, folder = cached(lm, tmp_path, sae, splits=1)
    x_NTD = lm.activations(ids_NT, ["resid_post.1"])["resid_post.1"]
    n, t, _ = safetensors.torch.load_file(next(folder.glob("*.safetensors")))["locations"].long().T
    assert sae.leaves(x_NTD).any()
    assert not sae.leaves(x_NTD)[n, t].any()


def test_what_delphi_cannot_read_is_refused(lm, tmp_path):
    for sae, T, says in [
        (made(width=WIDTH, E=WIDTH), 30, "sequences of 30 tokens cannot be cut"),
        (made(AbsTopK(3), width=WIDTH, E=WIDTH), 32, "may be negative"),
        (made(width=WIDTH, E=WIDTH).changed({"b_enc": torch.full((F,), -1e9)}), 32, "no feature is active"),
    ]:
        with pytest.raises(UserError, match=says):
            cached(lm, tmp_path, sae, T=T)
    cached(lm, tmp_path, made(width=WIDTH, E=WIDTH))
    with pytest.raises(UserError, match="holds something"):
        cached(lm, tmp_path, made(width=WIDTH, E=WIDTH))


# SAELens


def test_without_sae_lens_it_is_one_line(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(UserError, match="sae-lens is not installed"):
        to_sae_lens(made())


KNOWN = [
    (phi, None, kind) for phi in PHIS for kind in ("sae", "transcoder", "skip") if (phi, kind) != (Gated(), "skip")
]
KNOWN = [one for one in KNOWN if one[0] != Gated() or one[2] == "sae"]
KNOWN += [(phi, LayerNorm(), "sae") for phi in PHIS]


@pytest.mark.peers
@pytest.mark.parametrize(("phi", "T", "kind"), KNOWN)
def test_the_object_of_sae_lens_computes_the_same(phi, T, kind):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae = made(phi, T=T, E=D if kind == "sae" else D + 2, skip=kind == "skip")
    theirs = to_sae_lens(sae, model="gpt2", hook="resid_post.3", transcoder=kind != "sae", context=64)
    assert isinstance(theirs, sae_lens.SAE)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    x = inputs(D)
    with torch.no_grad():
        f = theirs.encode(x)
        f = f.to_dense() if f.is_sparse else f
        assert torch.equal(f != 0, sae.encode(x) != 0)
        close(f, sae.encode(x))
        close(theirs(x), sae(x))


@pytest.mark.peers
@pytest.mark.parametrize("said", [True, False])
def test_the_object_of_sae_lens_says_whether_sequences_began_with_a_bos(said, tmp_path):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    save_sae(made(), tmp_path / "sae", model="gpt2", hook="resid_post.3", context=64, more={"prepend_bos": said})
    assert to_sae_lens(load_sae(tmp_path / "sae")).cfg.metadata.prepend_bos is said
    assert to_sae_lens(made()).cfg.metadata.prepend_bos is True


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:\\s*This SAE has non-empty model_from_pretrained_kwargs")
def test_the_object_of_sae_lens_says_what_the_files_do(tmp_path):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    more = {
        "prepend_bos": True, "exclude_special_tokens": True, "dataset_path": "texts", "seqpos_slice": [1, None],
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }  # fmt: skip
    at = {"hook": "resid_pre.3", "hook_out": "mlp_out.3", "transcoder": True}
    save_sae(made(), tmp_path / "sae", model="gpt2", context=64, more=more, **at)
    theirs = to_sae_lens(load_sae(tmp_path / "sae"))
    assert type(theirs).__name__ == "Transcoder"
    wanted = more | {"model_name": "gpt2", "context_size": 64, "hook_name_out": "blocks.3.hook_mlp_out"}
    assert {name: theirs.cfg.metadata[name] for name in wanted} == wanted
    other = to_sae_lens(load_sae(tmp_path / "sae"), model="gpt2-medium", hook="resid_pre.4", context=32)
    assert (other.cfg.metadata.model_name, other.cfg.metadata.hook_name) == ("gpt2-medium", "blocks.4.hook_resid_pre")
    assert other.cfg.metadata.context_size == 32


@pytest.mark.peers
def test_at_hook_z_sae_lens_takes_the_heads(tmp_path):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae, x = made(), inputs(D)
    theirs = to_sae_lens(sae, model="gpt2", hook="blocks.3.attn.hook_z")
    heads = x.reshape(len(x), 2, D // 2)
    with torch.no_grad():
        close(theirs.encode(heads), sae.encode(x))
        close(theirs(heads), sae(x).reshape(heads.shape))


@pytest.mark.peers
@pytest.mark.parametrize(("phi", "T"), [(Gated(), None), *((phi, LayerNorm()) for phi in PHIS), (TopK(3), ByLength())])
@pytest.mark.parametrize("skip", [False, True])
def test_what_sae_lens_has_no_class_for_is_named(phi, T, skip):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    with pytest.raises(UserError, match=f"no class for a {phi.name} transcoder"):
        to_sae_lens(made(phi, T=T, skip=skip), transcoder=True)


@pytest.mark.peers
@pytest.mark.parametrize("phi", [TanhRelu(), TopK(3, weigh_by_norm=False), AbsTopK(3, weigh_by_norm=False)])
def test_the_classes_that_sae_lens_learns_undo_nothing(phi, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    register()
    more = {"model": "gpt2", "hook": "resid_post.3", "context": 64, "more": {}, "transcoder": True}
    save_sae(made(phi, T=LayerNorm()), tmp_path / "sae", **more)
    with pytest.raises(UserError, match="normalize_activations = layer_norm of a unmix_"):
        sae_lens.SAE.load_from_disk(str(tmp_path / "sae"), device="cpu")


@pytest.mark.peers
def test_a_tanh_relu_that_sae_lens_saved_again_is_read(tmp_path):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae = made(TanhRelu())
    theirs = to_sae_lens(sae)
    theirs.save_model(str(tmp_path))
    close(load_sae(tmp_path)(inputs(D)), sae(inputs(D)))
    with pytest.raises(NotImplementedError, match="does not scale"):
        theirs.fold_W_dec_norm()


def test_looks_of_transcoders_can_be_written_as_a_set(tmp_path):
    sae = read(LOOKS["gemma scope 2, affine transcoder"](Weights(D, F)).put(tmp_path / "src")).dictionary
    circuit_tracer.write_set([sae], tmp_path / "set", model="google/gemma-3-12b-it")
    assert torch.equal(load_sae(tmp_path / "set/layer_0.safetensors")(inputs(D)), sae(inputs(D)))


@pytest.mark.peers
def test_delphi_reads_its_cache(lm, tmp_path):
    loader = pytest.importorskip("delphi.latents.loader", reason="eai-delphi is not installed")
    sae = made(width=WIDTH, E=WIDTH)
    ids_NT, folder = cached(lm, tmp_path, sae, splits=2)
    with torch.no_grad():
        f_NTF = sae.encode(lm.activations(ids_NT, ["resid_post.1"])["resid_post.1"])
    seen = torch.zeros_like(f_NTF)
    for path in folder.glob("*.safetensors"):
        buffer = loader.TensorBuffer(str(path), "resid_post.1")
        assert torch.equal(buffer.tokens, ids_NT)
        for latent in buffer:
            n, t, i = latent.activation_data.locations.T
            assert set(i.tolist()) == {latent.latent.latent_index}
            seen[n, t, i] = latent.activation_data.activations.float()
    assert torch.equal(seen, f_NTF.half().float())


def test_a_run_and_a_published_dictionary_are_cached_from_the_command_line(overrides, tmp_path, capsys):
    run.sweep(make(overrides, activations__sequence_length=32, training__l1=[1.0, 3.0]), tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "latents"), "--to", "delphi", "--tokens", "320"]) == 0
    said = capsys.readouterr().out.split()
    assert said == [str(tmp_path / f"latents/l1-{n}/resid_post.0") for n in (1, 3)]
    for folder in map(Path, said):
        config = json.loads((folder / "config.json").read_text())
        assert (config["ctx_len"], config["n_tokens"], config["dataset_split"]) == (32, 320, "held_out")
        assert list(folder.glob("*.safetensors"))
    save_sae(made(width=WIDTH, E=WIDTH), tmp_path / "sae", model="gpt2", hook="resid_post.1", context=32, more={})
    words = ["--to", "delphi", "--model", overrides["model.name"], "--corpus", overrides["corpus.source"]]
    assert main(["convert", str(tmp_path / "sae"), str(tmp_path / "one"), *words, "--tokens", "64"]) == 0
    [file, *_] = sorted((tmp_path / "one/resid_post.1").glob("*.safetensors"))
    assert safetensors.torch.load_file(file)["tokens"].shape == (2, 32)
    assert main(["convert", str(tmp_path / "sae"), str(tmp_path / "one"), *words]) == 2
    assert main(["convert", str(tmp_path / "sae"), str(tmp_path / "two"), *words, "--tokens", "0"]) == 2
    assert main(["convert", str(tmp_path / "sae"), str(tmp_path / "two"), "--tokens", "64"]) == 2
    assert "--tokens 64 is only for --to delphi; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()
