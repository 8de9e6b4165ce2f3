"""choice.json: what the rule gives for a run folder, by hook and by variant, and what came true of it."""

import pytest
from curves import curve, decays, power
from tiny_run import make

from unmix import config
from unmix.errors import UserError
from unmix.front import Run
from unmix.runlog import append_metrics, read_choices, write_json, write_manifest
from unmix.training import chosen
from unmix.training.manifest import FORMAT

# choice.json


@pytest.fixture
def folder(overrides, tmp_path):
    """A run of 1,000 steps whose recipe plans an extension to 2,500, with a decay from step 2,000 on."""

    def made(extend_to=2500, decay=0.2):
        extension = {"choice__extend_to": extend_to, "choice__extend_decay_fraction": decay}
        recipe = make(overrides, training__steps=1000, training__decay_fraction=0.0, **extension)
        write_manifest(tmp_path / "run.yaml", {"format": FORMAT, "recipe": config.dump(recipe)})
        append_metrics(tmp_path / "metrics.jsonl", curve("l1-1", 1, power(100, 0.5)))
        return tmp_path

    return made


def extend(folder, l0, to=2500, decays_from=2000):
    rows = curve("l1-1", 1, l0, range(1050, to + 50, 50), phase="extend", lr=decays(decays_from, to + 1))
    append_metrics(folder / "metrics.jsonl", rows)


def test_l0_is_predicted_for_where_the_planned_decay_begins(folder):
    found = chosen.make_choices(folder(), 300)[0]
    assert found["predict_step"] == 2000
    assert "where the decay of the learning rate to step 2,500 begins" in found["rule"]


@pytest.mark.parametrize(("asked", "predicted"), [(2300, 2000), (1700, 1700), (2600, 2600)])
def test_only_a_step_in_the_planned_decay_is_moved(folder, asked, predicted):
    assert chosen.make_choices(folder(), 300, asked)[0]["predict_step"] == predicted


def test_what_came_true_is_measured_at_the_step_that_was_predicted(folder):
    path = folder()
    chosen.make_choices(path, 300)
    extend(path, lambda s: 80 if s <= 1500 else 70 if s <= 2000 else 95)
    assert chosen.note_what_came_true(path)[0]["came_true"] == {"step": 2000, "l0": 70}
    chosen.make_choices(path, 300, 1500)
    assert chosen.note_what_came_true(path)[0]["came_true"] == {"step": 1500, "l0": 80}


@pytest.mark.parametrize(("asked", "to", "decays_from"), [(2600, 2500, 2500), (1800, 2500, 1500), (1800, 1700, 1700)])
def test_nothing_is_claimed_of_a_step_that_was_not_reached_or_after_the_decay_began(folder, asked, to, decays_from):
    path = folder(extend_to=None, decay=0.0)
    chosen.make_choices(path, 300, asked)
    extend(path, power(100, 0.5), to, decays_from)
    assert chosen.note_what_came_true(path)[0]["came_true"] is None


def test_what_came_true_of_an_earlier_question_does_not_stay(folder):
    path = folder(extend_to=None, decay=0.0)
    found = chosen.make_choices(path, 300, 2000)[0]
    write_json(path / "choice.json", found | {"came_true": {"step": 1500, "l0": 3.0}})
    assert chosen.note_what_came_true(path)[0]["came_true"] is None


# one choice for each hook, or for each variant of each


@pytest.fixture
def variants(overrides, tmp_path):
    """A run of two hooks and two variants; the choices of it and their members."""

    def made(per_variant):
        more = {"activations.hooks": ["resid_post.0", "resid_post.1"], "variants": {"plain": {}, "wide": {}}}
        recipe = make(overrides | more, training__steps=1000, choice__per_variant=per_variant)
        write_manifest(tmp_path / "run.yaml", {"format": FORMAT, "recipe": config.dump(recipe)})
        heights = {("resid_post.0", "plain"): 90, ("resid_post.0", "wide"): 20,
                   ("resid_post.1", "plain"): 30, ("resid_post.1", "wide"): 70}  # fmt: skip
        for (hook, variant), height in heights.items():
            for l1 in (1, 2):
                name = f"{hook}-{variant}-l1-{l1}"
                more = {"hook": hook, "variant": variant}
                append_metrics(tmp_path / "metrics.jsonl", curve(name, l1, lambda s, h=height, a=l1: h / a, **more))
        return tmp_path

    return made


def test_there_is_one_choice_over_all_variants_of_a_hook(variants):
    found = chosen.make_choices(variants(False), 50)
    assert [choice["member"] for choice in found] == ["resid_post.0-plain-l1-2", "resid_post.1-wide-l1-2"]
    assert not any("variant" in choice for choice in found)


def test_with_per_variant_there_is_one_for_each_variant_of_each_hook(variants):
    path = variants(True)
    found = chosen.make_choices(path, 50)
    assert [(choice["variant"], choice["member"]) for choice in found] == [
        ("plain", "resid_post.0-plain-l1-2"), ("wide", "resid_post.0-wide-l1-1"),
        ("plain", "resid_post.1-plain-l1-1"), ("wide", "resid_post.1-wide-l1-2"),
    ]  # fmt: skip
    assert {c["member"] for c in found[0]["candidates"]} == {"resid_post.0-plain-l1-1", "resid_post.0-plain-l1-2"}
    assert chosen.note_what_came_true(path) == read_choices(path)
    assert [choice["variant"] for choice in read_choices(path)] == ["plain", "wide", "plain", "wide"]
    assert Run(path).choices == {choice["member"].removesuffix(f"-l1-{end}"): choice["member"]
                                 for choice, end in zip(found, (2, 1, 1, 2), strict=True)}  # fmt: skip
    with pytest.raises(UserError, match=r"a choice for each of resid_post\.0-plain, resid_post\.0-wide, "):
        _ = Run(path).choice


def test_without_variants_per_variant_changes_nothing(folder, overrides):
    path = folder()
    before = chosen.make_choices(path, 300)
    recipe = make(overrides, training__steps=1000, training__decay_fraction=0.0, choice__extend_to=2500,
                  choice__extend_decay_fraction=0.2, choice__per_variant=True)  # fmt: skip
    write_manifest(path / "run.yaml", {"format": FORMAT, "recipe": config.dump(recipe)})
    assert chosen.make_choices(path, 300) == before
