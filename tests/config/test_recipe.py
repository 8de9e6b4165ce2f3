from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.dictionaries(st.sampled_from(["name", "model", "training", "sae"]), st.none() | st.integers() | st.text()))
def test_any_wrong_type_is_a_user_error_or_a_recipe(data):
    try:
        config.load(None, data)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
