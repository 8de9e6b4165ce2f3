"""What `auto` comes to, and that a run goes on with what it began with."""

import pytest

from unmix import config, precision
from unmix.errors import UserError


def recipe(**overrides):
    return config.load(None, {key.replace("__", "."): value for key, value in overrides.items()})


def decided(found):
    return found.model.matmul, found.training.selection, found.training.dense


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (set(), ("fp32", "fp32", "fp32")),
        ({"avx512bf16"}, ("bf16", "bf16", "bf16")),
        ({"avx512vnni"}, ("fp32", "int8", "fp32")),
        ({"amx-bf16", "amx-int8"}, ("bf16", "int8", "bf16")),
    ],
)
def test_auto_is_the_narrowest_that_the_processor_multiplies(instructions, expected, monkeypatch):
    monkeypatch.setattr(precision, "_instructions", lambda: instructions)
    assert decided(precision.resolve(recipe())) == expected
    given = recipe(training__selection="bf16", training__dense="fp32", model__matmul="fp32")
    assert decided(precision.resolve(given)) == ("fp32", "bf16", "fp32")
    assert decided(precision.resolve(recipe(model__dtype="bfloat16")))[0] == "fp32"


def test_a_run_goes_on_as_it_began_whatever_the_machine(monkeypatch):
    monkeypatch.setattr(precision, "_instructions", lambda: {"avx512bf16", "avx512vnni"})
    began = config.dump(precision.resolve(recipe()))
    monkeypatch.setattr(precision, "_instructions", set)
    assert decided(precision.resolve(recipe(), began)) == ("bf16", "int8", "bf16")
    before_there_were_any = {"model": {}, "training": {}}
    assert decided(precision.resolve(recipe(), before_there_were_any)) == ("fp32", "fp32", "fp32")


def test_a_store_decides_for_itself_how_it_was_made():
    assert precision.resolve(recipe(activations__store="somewhere")).model.matmul == "auto"


def test_a_model_in_bf16_has_no_products_to_narrow():
    with pytest.raises(UserError, match="matmul = bf16 is for a model in float32"):
        recipe(model__dtype="bfloat16", model__matmul="bf16")
