from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmix import config
from unmix.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_read_and_comes_back_from_its_resolved_form(path, tmp_path):
    recipe = config.load(path)
    assert recipe.name == path.stem
    assert config.RunConfig.model_validate(config.dump(recipe)) == recipe


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"training.stpes": 3}, "unknown key training.stpes; did you mean steps?"),
        ({"trainin": {}}, "unknown key trainin; did you mean training?"),
        ({"zzz": 1}, "unknown key zzz; known here: name, device, model"),
        ({"training.l1": [-1.0]}, "l1 = -1 is not a penalty"),
        ({"training.l1": [5.0, 5.0]}, "stands twice"),
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
