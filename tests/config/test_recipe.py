import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from unmix import config
from unmix.cli.arguments import recipe_with
from unmix.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_read_and_comes_back_from_its_resolved_form(path, tmp_path):
    recipe = config.load(path)
    assert recipe.name == path.stem
    assert config.RunConfig.model_validate(config.dump(recipe)) == recipe


def members_of(recipe):
    """(architecture, L0s that are asked for, coefficients) of each variant, or of the recipe itself."""
    each = [recipe.of_variant(name) for name in recipe.variants or [""]]
    return [(sae.architecture, training.l0, training.l1) for sae, training in each]


@pytest.mark.parametrize(
    ("named", "short", "members"),
    [
        ("gpt2-l1-sweep", {}, [("relu", [], [0, 5, 50, 500])]),
        ("embedded-l1-sweep", {}, [("relu", [], [0, 0.5, 1.5, 5, 20])]),
        ("gpt2-normalized", {}, [("relu", [], [0.03, 0.06, 0.12]), ("tanh_relu", [], [0.0005, 0.0015, 0.005])]),
        ("demo", {}, [("batchtopk", [10, 20, 40, 80], [])]),
        (None, {}, [("batchtopk", [10, 20, 40, 80], [])]),
        (None, {"name": "mine"}, [("batchtopk", [10, 20, 40, 80], [])]),
        (None, {"model": "gpt2", "hook": ["resid_pre.8"]}, [("batchtopk", [20, 40, 80, 160], [])]),
    ],
)
def test_what_is_published_is_trained_as_published_and_the_rest_by_the_l0_that_is_asked_for(named, short, members):
    """The default architecture may not change what the recipes of a write-up train."""
    assert members_of(recipe_with(named, short, {}, [])) == members


def own(**variants):
    """Variants by what they say of their training; None: nothing."""
    return {name: {} if training is None else {"training": training} for name, training in variants.items()}


@pytest.mark.parametrize(
    ("given", "cap"),
    [
        ({}, 100),
        ({"training.l0": [50, 200]}, 100),
        ({"training.l0": [400, 200]}, 200),
        ({"training.l0": [100]}, 100),
        ({"training.l1": [5]}, 100),
        ({"training.l0": [400, 200], "choice.max_active": 100}, 100),
        ({"variants": own(a={"l0": [200]}, b={"l0": [300]})}, 200),
        ({"training.l0": [20], "variants": own(a={"l0": [200]}, b={"l0": [300]})}, 200),
        ({"training.l0": [300], "variants": own(a={"l0": [200]}, b=None)}, 200),
        ({"variants": own(a={"l0": [200]}, b=None)}, 100),  # b has those of the defaults, from 20 on
        ({"training.l0": [50], "variants": own(a={"l0": [200]}, b=None)}, 100),
    ],
)
def test_the_cap_is_the_usual_one_unless_every_l0_that_is_trained_is_above_it(given, cap):
    recipe = config.load(None, {"sae.features": 512} | given)
    assert recipe.choice.max_active == cap
    assert config.RunConfig.model_validate(config.dump(recipe)) == recipe


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"training.stpes": 3}, "unknown key training.stpes; did you mean steps?"),
        ({"trainin": {}}, "unknown key trainin; did you mean training?"),
        ({"zzz": 1}, "unknown key zzz; known here: name, device, model"),
        ({"training.l1": [-1.0]}, "l1 = -1 is not a penalty"),
        ({"training.l1": [5.0, 5.0]}, "l1 names a coefficient twice"),
        ({"training.l1": [float("nan")]}, "l1"),
        ({"training.steps": 0}, "training.steps = 0"),
        ({"sae.features": "many"}, "sae.features = 'many'"),
        ({"sae.architecture": "gelu"}, "sae.architecture = 'gelu'"),
        ({"name": "../elsewhere"}, "name = '../elsewhere'"),
        ({"choice.extend_to": 1}, "choice.extend_to = 1 is less than training.steps"),
        ({"training.lr.deep": 1}, "training.lr"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_remedy(overrides, says):
    with pytest.raises(UserError) as caught:
        config.load(None, {"training.lr": 1e-4} | overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "just words", "\x00", "a: &a [*a]"])
def test_a_file_that_is_no_recipe(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)


def test_overrides_win_over_the_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("training: {steps: 10, lr: 0.1}")
    assert config.load(path, {"training.steps": 20}).training.steps == 20
    assert config.load(path, {"training.steps": 20}).training.lr == 0.1


def test_what_stands_in_several_places_is_changed_in_the_one_that_is_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("variants: {a: &a {sae: {features: 512}}, b: {<<: *a, training: {lr: 0.01}}}")
    found = config.load(path, {"variants.b.sae.features": 1024})
    assert [found.of_variant(name)[0].features for name in ("a", "b")] == [512, 1024]


@given(st.dictionaries(st.sampled_from(["name", "model", "training", "sae"]), st.none() | st.integers() | st.text()))
def test_any_wrong_type_is_a_user_error_or_a_recipe(data):
    try:
        config.load(None, data)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def floats_of(model, prefix=""):
    """Every key of a recipe that may hold a float, dotted; of a list, with the first of its values."""
    for key, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from floats_of(kind, f"{prefix}{key}.")
        elif kind is float or float in _kinds(kind):
            yield f"{prefix}{key}", kind


def _kinds(kind: Any) -> set[Any]:
    return {kind} | {inner for part in get_args(kind) for inner in _kinds(part)}


LIMITS = ("training.clip_norm", "training.mask.norm_above")
"""Keys that null takes the limit off: infinity does too."""


@pytest.mark.parametrize(("key", "kind"), [*floats_of(config.RunConfig)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_is_infinite_or_none(key, kind, value):
    given = [value] if "list" in str(kind) else (value, value) if "tuple" in str(kind) else value
    if value == math.inf and key == "choice.max_active":  # no cap: the rule and the plots know it
        assert config.load(None, {key: value}).choice.max_active == math.inf
        return
    if value == math.inf and key in LIMITS:
        section = config.load(None, {key: value}).training
        assert section.clip_norm is None or section.mask.norm_above is None
        return
    with pytest.raises(UserError, match=key.rpartition(".")[2]):
        config.load(None, {key: given})


def test_the_keys_with_floats_are_found():
    found = {key for key, _ in floats_of(config.RunConfig)}
    assert {*LIMITS, "training.l1_norm_power", "training.l0", "training.border", "choice.max_active"} <= found


@pytest.mark.parametrize("section", ["training", "activations"])
@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999])
def test_a_seed_that_no_generator_takes(section, seed):
    with pytest.raises(UserError, match=f"{section}.seed = "):
        config.load(None, {f"{section}.seed": seed})


def test_the_largest_seed_is_taken():
    assert config.load(None, {"training.seed": 2**63 - 1}).training.seed == 2**63 - 1


def test_home_is_found_where_no_shell_has_looked(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    own = {"activations.rows": "~/x.npy", "activations.targets": "~/y.npy", "activations.token_ids": "~/ids.npy"}
    act = config.load(None, own).activations
    assert (act.rows, act.targets, act.token_ids) == ("/home/me/x.npy", "/home/me/y.npy", Path("/home/me/ids.npy"))
    assert config.load(None, {"activations.store": "~/store"}).activations.store == Path("/home/me/store")
    assert config.load(None, {"activations.rows": "given"}).activations.rows == "given"
