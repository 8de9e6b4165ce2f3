"""What cannot be asked of an architecture is refused in one line, with the value and a remedy."""

import pytest
from contract.cases import ARCHITECTURES, config_of, every_architecture

import unmix.training.run
from unmix.cli import main
from unmix.dictionary import table
from unmix.dictionary.nonlinearities import AbsTopK, TopK

FEATURES = 64
TAKES_K = tuple(name for name in ARCHITECTURES if table.ARCHITECTURES[name].penalty is None)
WHOLE = tuple(name for name in TAKES_K if isinstance(table.nonlinearity(config_of(name, FEATURES), 2), TopK | AbsTopK))
takes_k = pytest.mark.parametrize("architecture", TAKES_K)


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    """The line that a sweep is refused with, before a model is loaded or anything written."""
    monkeypatch.chdir(tmp_path)

    def trained(*_, **__):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(unmix.training.run, "sweep", trained)

    def run(*words):
        assert main(["sweep", "--features", str(FEATURES), *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("unmix: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []
        return err

    return run


def test_the_table_has_both_kinds():
    assert WHOLE
    assert set(ARCHITECTURES) - set(TAKES_K)


@every_architecture
def test_more_active_features_than_there_are(refusal, architecture):
    line = refusal("--architecture", architecture, "--l0", "65")
    assert "65" in line
    assert "64 features" in line
    assert "give" in line


@pytest.mark.parametrize("architecture", WHOLE)
def test_a_fraction_where_features_are_whole(refusal, architecture):
    line = refusal("--architecture", architecture, "--l0", "2.5")
    assert "2.5" in line
    assert "whole" in line
    assert "give" in line


@every_architecture
def test_l0_and_l1_at_once(refusal, architecture):
    line = refusal("--architecture", architecture, "--l0", "5", "--l1", "0.5", "2")
    assert "l0 = [5]" in line
    assert "l1 = [0.5, 2]" in line
    assert "leave out one" in line


@takes_k
def test_l1_where_k_says_how_many(refusal, architecture):
    line = refusal("--architecture", architecture, "--l1", "0.5")
    assert architecture in line
    assert "--l0" in line


@takes_k
def test_l1_where_k_says_how_many_in_a_variant(refusal, architecture):
    line = refusal("--architecture", "relu", architecture, "--l1", "0.5")
    assert f"variant {architecture}" in line
    assert "--l0" in line


def test_a_target_that_is_not_given(refusal):
    line = refusal("--architecture", "jumprelu_quadratic", "--l1", "0.5")
    assert "jumprelu_quadratic aims at an L0" in line
    assert "--l0" in line


def test_four_times_k_where_there_is_no_k(refusal):
    line = refusal("--architecture", "relu", "--l0", "5", "--sae.multi_k", "0.5")
    assert "multi_k = 0.5 with relu" in line
    assert "topk" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sae.random_prefixes", "2", "--sae.prefixes", "8", "16"], "leave out one"),
        (["--sae.random_prefixes", "64"], "give at most 63"),
    ],
)
def test_prefixes_that_cannot_be_drawn(refusal, words, said):
    line = refusal("--l0", "5", *words)
    assert "random_prefixes = " in line
    assert said in line


@pytest.mark.parametrize("prefixes", ["8 8", "20 10", "0 8", "-1 8", "64", "8 100"])
@every_architecture
def test_prefixes_that_do_not_rise_below_the_features(refusal, architecture, prefixes):
    line = refusal("--architecture", architecture, "--l0", "5", "--sae.prefixes", *prefixes.split())
    assert f"[{', '.join(prefixes.split())}]" in line
    assert "64 features" in line
    assert "give other prefixes" in line


@every_architecture
@pytest.mark.parametrize("l0", ["0", "-3", "nan", "inf"])
def test_an_l0_that_is_no_number_of_features(refusal, architecture, l0):
    line = refusal("--architecture", architecture, "--l0", l0)
    assert f"l0 = {l0}" in line
    assert "above 0" in line


@pytest.mark.parametrize(
    ("typed", "meant"), [("batch_topk", "batchtopk"), ("jump_relu", "jumprelu"), ("Gated", "gated"), ("reul", "relu")]
)
@pytest.mark.parametrize("more", [[], ["tanh_relu"]], ids=["alone", "beside another"])
def test_an_unknown_architecture(refusal, typed, meant, more):
    line = refusal("--architecture", typed, *more, "--l0", "5")
    assert typed in line
    assert f"did you mean {meant}?" in line


def test_an_architecture_like_none(refusal):
    line = refusal("--architecture", "xyzzy", "--l0", "5")
    assert "xyzzy" in line
    assert all(name in line for name in ARCHITECTURES)


@every_architecture
def test_an_architecture_twice(refusal, architecture):
    line = refusal("--architecture", architecture, architecture, "--l0", "5")
    assert architecture in line
    assert "twice" in line


def test_an_l0_twice(refusal):
    assert "twice" in refusal("--l0", "5", "5.0")


@pytest.mark.parametrize("key", ["bandwidth", "initial_threshold"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_threshold_that_is_none(refusal, key, value):
    assert f"sae.{key} = " in refusal("--architecture", "jumprelu", "--l0", "5", f"--sae.{key}", value)


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_coefficient_of_auxk_that_is_none(refusal, value):
    assert "sae.auxk = " in refusal("--architecture", "topk", "--l0", "5", "--sae.auxk", value)


@pytest.mark.parametrize("value", ["0", "-1", "2.5"])
def test_a_number_of_dead_features_that_is_none(refusal, value):
    assert "sae.auxk_features = " in refusal("--architecture", "topk", "--l0", "5", "--sae.auxk_features", value)


def test_a_matryoshka_of_too_few_features_for_its_own_prefixes(refusal):
    line = refusal("--features", "20", "--architecture", "matryoshka", "--l0", "5")
    assert "20 features" in line
    assert "give other prefixes, or more features" in line
