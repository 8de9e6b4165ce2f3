"""The losses that the page states are those that members are trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from unmix.config import SAEConfig
from unmix.config.dictionary import TOPK, Architecture
from unmix.dictionary.table import ARCHITECTURES, objective
from unmix.report.data import read
from unmix.report.formulas import FEATURES, formulas

Make = Callable[..., Path]


def plain(text: str) -> str:
    """HTML as a line of text."""
    return re.sub(r"<[^>]+>", "", text).replace("&gt;", ">")


def one(folder: Path) -> tuple[str, str, str]:
    """(f, loss, notes) of a run of one variant."""
    [formula], shared = formulas(read(folder))
    loss = " + ".join(f"{c} {plain(term)}".strip() for c, term in formula.terms)
    return plain(formula.features), loss, plain(" ".join([*formula.notes, *shared]))


def test_no_architecture_lacks_a_formula() -> None:
    assert FEATURES.keys() == ARCHITECTURES.keys() == set(get_args(Architecture))


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("auxk", [0.0, 0.1])
def test_there_are_as_many_terms_as_are_trained_on(make: Make, architecture: str, auxk: float) -> None:
    keys = {"architecture": architecture, "auxk": auxk} | ({"multi_k": 0.125} if architecture in TOPK else {})
    sae = SAEConfig(**keys)  # type: ignore[arg-type]
    dead = [(c, object()) for c in (sae.auxk_coefficient, sae.preactivation_coefficient) if c]
    trained = objective(sae, k=20.0, norm_power=0, sparsity=1.0, dead=tuple(dead))  # type: ignore[arg-type]
    [formula], _ = formulas(read(make(l0=(20.0,), steps=40, sae=keys)))
    assert len(formula.terms) == len(trained)
    assert [c for c, _ in formula.terms].count("λ") == bool(ARCHITECTURES[architecture].penalty)


@pytest.mark.parametrize(
    ("sae", "f", "loss"),
    [
        ({}, "f = max(z, 0)", "‖x̂ − x‖² + λ Σi fi ‖Wdec,i‖"),
        ({"decoder": "unit_norm"}, "f = max(z, 0)", "‖x̂ − x‖² + λ Σi fi"),
        ({"architecture": "tanh_relu"}, "f = tanh(max(z, 0))", "‖x̂ − x‖² + λ Σi fi"),
        ({"architecture": "jumprelu"}, "fi = zi where zi > θi, else 0", "‖x̂ − x‖² + λ Σi [zi > θi]"),
    ],
)
def test_formulas(make: Make, sae: dict[str, Any], f: str, loss: str) -> None:
    assert one(make(l1=(1.0,), steps=40, sae={"auxk": 0, **sae}))[:2] == (f, loss)


def test_matryoshka_has_the_mean_over_its_prefixes(make: Make) -> None:
    _, loss, notes = one(
        make(l0=(20.0,), steps=40, sae={"architecture": "matryoshka", "prefixes": [100, 1000], "auxk": 1 / 32})
    )
    assert loss == "1⁄P Σp ‖x̂p − x‖² + 1/32 ‖x̂dead − (x − x̂)‖²"
    assert "100, 1,000 and 4,096 of them" in notes
    assert "λ" not in notes


def test_what_is_done_with_the_coefficient_is_said(make: Make) -> None:
    assert "λ rises from 0 over the first 5 % of the steps." in one(make(l1=(1.0,), steps=40))[2]


def test_there_is_none_where_nothing_rises(make: Make) -> None:
    assert "rises" not in one(make(l1=(1.0,), steps=40, training={"l1_warmup_fraction": 0.0}))[2]


def test_a_divided_error_a_power_of_the_norm_and_scaled_tokens_are_said(make: Make) -> None:
    folder = make(
        l1=(1.0,), steps=40, sae={"scaling": "token", "noise": 1.0}, training={"norm_power": 2, "l1_norm_power": 1.5}
    )
    _, loss, notes = one(folder)
    assert loss.startswith("‖x̂ − x‖² / ‖x‖² + λ")
    assert "λ is multiplied by n̄1.5" in notes
    assert "Each token is brought to the norm √D" in notes
    assert "noise of standard deviation 1 " in notes


def test_a_controller_is_named_once_for_all_that_have_a_coefficient(make: Make) -> None:
    found, shared = formulas(read(make(l0=(20.0,), architectures=("relu", "topk", "gated"), steps=40)))
    assert [formula.variants for formula in found] == [["relu"], ["topk"], ["gated"]]
    assert "A controller moves λ until as many features are active as were asked for." in shared
    assert not any("controller" in note for formula in found for note in formula.notes)


def test_variants_that_are_trained_alike_share_a_formula(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=("relu", "topk"), steps=40)
    recipe = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(recipe.replace("architecture: topk", "architecture: relu"))
    [formula], _ = formulas(read(folder))
    assert formula.variants == ["relu", "topk"]


def test_a_description_that_says_nothing_has_no_formula(make: Make) -> None:
    folder = make(steps=40)
    (folder / "run.yaml").write_text("recipe: {name: bare}\n")
    assert formulas(read(folder)) == ([], [])
