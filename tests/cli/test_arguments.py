"""What the words of a command make of a recipe."""

import pytest

from unmix.cli import _parser
from unmix.cli.arguments import recipe_with, split_dotted
from unmix.errors import UserError


def test_dotted_keys_are_taken_out_wherever_they_stand():
    words, dotted = split_dotted(
        ["sweep", "--a.b", "1", "my.yaml", "--training.l1", "0", "5", "--name", "x", "--c.d=e"]
    )
    assert words == ["sweep", "my.yaml", "--name", "x"]
    assert dotted == {"a.b": ["1"], "training.l1": ["0", "5"], "c.d": ["e"]}


@pytest.mark.parametrize(
    ("variants", "short", "dotted", "architectures", "said"),
    [
        ("{a: {sae: {architecture: relu}}, b: {sae: {architecture: topk}}}", {}, {}, ["relu"], "sae.architecture"),
        ("{a: {sae: {features: 64}}, b: {sae: {features: 32}}}", {"features": 128}, {}, [], "sae.features"),
        ("{a: {training: {lr: 0.1}}, b: {training: {lr: 0.2}}}", {}, {"training.lr": 0.3}, [], "training.lr"),
        (
            "{a: {training: {mask: none}}, b: {training: {mask: {special: true}}}}",
            {}, {"training.mask.special": True}, [], "training.mask.special",
        ),
        (
            "{a: {training: {mask: none}}, b: {training: {mask: auto}}}",
            {}, {"training.mask": "none"}, [], "training.mask",
        ),
    ],
)  # fmt: skip
def test_a_key_that_every_variant_sets_itself_cannot_be_asked_for(
    tmp_path, variants, short, dotted, architectures, said
):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: two\ntraining: {{l0: [8]}}\nvariants: {variants}\n")
    with pytest.raises(
        UserError, match=rf"--{said} changes nothing: every variant of the recipe sets its own; give var"
    ):
        recipe_with(str(path), short, dotted, architectures)


@pytest.mark.parametrize(
    ("variants", "dotted"),
    [
        ("{a: {sae: {features: 64}}, b: {}}", {"sae.features": 128}),
        (
            "{a: {training: {mask: {special: true}}}, b: {training: {mask: {special: false}}}}",
            {"training.mask": "none"},
        ),
        ("{a: {training: {mask: {special: true}}}, b: {training: {mask: none}}}", {"training.mask.norm_above": 5}),
    ],
)
def test_a_key_that_some_variant_leaves_open_can(tmp_path, variants, dotted):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: two\ntraining: {{l0: [8]}}\nvariants: {variants}\n")
    assert recipe_with(str(path), {}, dotted, []) != recipe_with(str(path), {}, {}, [])


@pytest.mark.parametrize(
    ("variants", "asked"),
    [
        ("{a: {training: {l1: [1]}}, b: {training: {l1: [2]}}}", {"l0": [20]}),
        ("{a: {training: {l1: [1]}}, b: {training: {l1: [2]}}}", {"l1": [5]}),
        ("{a: {training: {l0: [9]}}, b: {training: {l0: [8]}}}", {"l1": [5]}),
    ],
)
def test_what_every_variant_sets_itself_cannot_be_asked_for(tmp_path, variants, asked):
    """In the place of a variant's coefficients an L0 would be dropped without a word."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: two\nsae: {{architecture: relu}}\nvariants: {variants}\n")
    [key] = asked
    with pytest.raises(UserError, match=rf"--{key} changes nothing: every variant of the recipe sets its own l[01]; "):
        recipe_with(str(path), asked, {}, [])


@pytest.mark.parametrize(
    ("short", "dotted", "architectures"),
    [
        ({"steps": 100}, {"training.steps": 200}, []),
        ({"l0": [20.0]}, {"training.l0": [50]}, []),
        ({"corpus": ["a"]}, {"corpus.source": "b"}, []),
        ({"features": 64}, {"sae.features": 128}, []),
        ({}, {"sae.architecture": "relu"}, ["topk"]),
        ({}, {"sae.architecture": "relu"}, ["relu", "topk"]),
    ],
)
def test_a_key_that_is_given_twice_is_one_value(short, dotted, architectures):
    """One of them would be ignored."""
    with pytest.raises(UserError, match="are both given; leave out one"):
        recipe_with(None, short, dotted, architectures)


def test_the_same_value_twice_is_no_mistake():
    recipe = recipe_with(None, {"steps": 100, "l0": [20.0]}, {"training.steps": 100, "training.l0": [20]}, ["topk"])
    assert (recipe.training.steps, recipe.training.l0) == (100, [20])


@pytest.mark.parametrize("option", ["--hook", "--architecture", "--l0", "--l1", "--training.l0", "--activations.hooks"])
def test_of_a_list_that_stands_twice_the_last_one_counts_and_that_is_said(option, capsys):
    words, dotted = split_dotted(["sweep", option, "20", "40", "--steps", "3", option, "50"])
    args = _parser().parse_args(words)
    kept = dotted[option[2:]] if "." in option else getattr(args, option[2:])
    assert [str(value).removesuffix(".0") for value in kept] == ["50"]
    [said] = capsys.readouterr().err.splitlines()
    assert said == f"note: {option} is there twice, and the last counts: 50; for both, give one {option} 20 40 50"


def test_nothing_is_said_of_one_that_is_there_once_or_the_same(capsys):
    words, _ = split_dotted(["sweep", "--l0", "20", "40", "--l0", "20", "40", "--hook", "a", "b", "--training.l1", "3"])
    _parser().parse_args(words)
    assert capsys.readouterr().err == ""


def test_an_l0_goes_to_the_variants_that_set_nothing(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: two\nsae: {architecture: relu}\nvariants: {a: {training: {l1: [1]}}, b: {}}\n")
    recipe = recipe_with(str(path), {"l0": [20]}, {}, [])
    assert [recipe.of_variant(name)[1].l0 for name in ("a", "b")] == [[], [20]]
