"""What `sae.cfg` says of the training of a dictionary, and which measurements of its run stand in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from interop.looks import LOOKS, Weights

import unmix
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.interop.load import read

ROW = {"member": "l0-8", "phase": "sweep", "l0": 9.0, "explained_variance": 0.5}


def checkpoint(run: Path, member: str, step: int, **more: Any) -> Path:
    folder = run / "members" / member / f"step-{step:09d}"
    more = {
        "target_l0": 8.0,
        "training_tokens": step * 64,
        "step": step,
        "dataset_path": "texts/",
        "phase": "sweep",
    } | more
    save_sae(new_dictionary(4, 12, 1.0, 0), folder, model="gpt2", hook="resid_post.0", context=8, more=more)
    (run / "run.yaml").write_text("recipe: {}\n")
    return folder


def lines(run: Path, *rows: dict[str, Any]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(ROW | row) + "\n" for row in rows))


def evaluation(run: Path, member: str, at: str, **row: Any) -> None:
    hook = {"hook": "resid_post.0", "split": "held_out", "saes": {member: {"l0": 8.25, "features": 12} | row}}
    found = {"corpus": "texts/", "checkpoints": {member: at}, "hooks": [hook]}
    (run / "evaluation.json").write_text(json.dumps(found))


def test_the_training_of_a_checkpoint_of_ours(tmp_path: Path):
    recipe = {"corpus": {"source": "more/"}, "model": {"name": "gpt2"}}
    cfg = unmix.load_sae(checkpoint(tmp_path, "l0-8", 20)).cfg
    assert (cfg.corpus, cfg.training_tokens, cfg.step, cfg.asked) == ("texts/", 1280, 20, {"l0": 8.0})
    assert (cfg.metrics, cfg.metrics_of) == ({}, None)
    assert unmix.load_sae(checkpoint(tmp_path, "l0-8", 30, unmix_recipe=recipe)).cfg.corpus == "more/"
    other = checkpoint(tmp_path, "l1-3", 20, target_l0=None, l1=3.0)
    assert unmix.load_sae(other).cfg.asked == {"l1": 3.0}


def test_the_held_out_row_of_this_very_checkpoint(tmp_path: Path):
    folder = checkpoint(tmp_path, "l0-8", 20)
    lines(tmp_path, {"step": 20})
    evaluation(tmp_path, "l0-8", "members/l0-8/step-000000020", damaged=True, by_norm=[1], note="?")
    cfg = unmix.load_sae(folder).cfg
    assert (cfg.metrics, cfg.metrics_of) == ({"l0": 8.25, "features": 12}, "held_out (evaluation.json)")
    older = unmix.load_sae(checkpoint(tmp_path, "l0-8", 10)).cfg
    assert older.metrics == {}, "the row is of another checkpoint, and the line of metrics of a later step"
    evaluation(folder, "x", ".", l0=7.0)  # `unmix evaluate` of the folder itself
    assert unmix.load_sae(folder).cfg.metrics["l0"] == 7.0


def test_the_last_line_of_the_stream_up_to_its_step(tmp_path: Path):
    rows = [{"step": step, "l0": step / 2} for step in (5, 10, 15, 20)]
    rows += [{"step": 20, "member": "l0-4", "l0": 4.0}, {"step": 15, "phase": "extend", "l0": 33.0}]
    lines(tmp_path, *rows)
    for step, of in ((10, 10), (12, 10), (20, 20)):
        cfg = unmix.load_sae(checkpoint(tmp_path, "l0-8", step)).cfg
        assert (cfg.metrics["l0"], cfg.metrics_of) == (of / 2, f"training, step {of} (metrics.jsonl)")
    cfg = unmix.load_sae(checkpoint(tmp_path, "l0-8-extended", 18)).cfg
    assert (cfg.metrics["l0"], cfg.metrics_of) == (33.0, "training, step 15 (metrics.jsonl)")
    assert unmix.load_sae(checkpoint(tmp_path, "l0-8-extended", 12)).cfg.metrics["l0"] == 5.0  # before it went on


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '{"checkpoints": 3}', '{"checkpoints": {"a": "."}, "hooks": 1}']
)
def test_damaged_measurements_say_nothing(content: str, tmp_path: Path):
    folder = checkpoint(tmp_path, "l0-8", 20)
    for name in ("evaluation.json", "members/l0-8/step-000000020/evaluation.json"):
        (tmp_path / name).write_text(content)
    (tmp_path / "metrics.jsonl").write_text(f'"l0-8"\n{content} "l0-8"\n')
    assert unmix.load_sae(folder).cfg.metrics == {}


def test_what_is_shown_is_short(tmp_path: Path):
    folder = checkpoint(tmp_path, "l0-8", 20)
    evaluation(tmp_path, "l0-8", "members/l0-8/step-000000020", **{f"number_{n}": n for n in range(30)})
    sae = unmix.load_sae(folder)
    assert "metrics=<32 numbers>" in repr(sae.cfg)
    assert "notes" not in repr(sae.cfg)
    assert "step=20" in repr(sae.cfg)
    assert "number_3" not in repr(sae.cfg) + repr(sae)
    hash(sae.cfg)


@pytest.mark.parametrize(
    ("name", "said", "wanted"),
    [
        (
            "saelens standard",
            {"metadata": {"dataset_path": "org/pile", "training_tokens": 300}, "l1_coefficient": 5},
            ("org/pile", 300, {"l1": 5.0}),
        ),
        ("saelens topk", {"l1_coefficient": 1.0}, (None, None, {"l0": 3.0})),
        ("saelens standard", {"training_tokens": "many", "l1_coefficient": [1]}, (None, None, {})),
    ],
)
def test_what_folders_of_saelens_say(name: str, said: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path):
    look = LOOKS[name](Weights(6, 20))
    cfg = look.files["cfg.json"]
    inner = cfg.get("metadata", {})
    inner.pop("dataset_path", None)
    cfg |= said | ({"metadata": inner | said["metadata"]} if "metadata" in said else {})
    origin = read(look.put(tmp_path)).origin
    assert (origin.corpus, origin.training_tokens, origin.asked) == wanted
    assert (origin.step, origin.metrics, origin.metrics_of) == (None, {}, None)


@pytest.mark.parametrize(
    ("name", "file", "said", "wanted"),
    [
        (
            "saelens 1",
            "cfg.json",
            {"dataset_path": "org/web", "total_training_tokens": 9},
            ("org/web", 9, {"l1": 8e-05}),
        ),
        ("bussmann topk", "config.json", {"dataset_path": "org/web", "num_tokens": 9}, ("org/web", 9, {"l0": 3.0})),
        ("bussmann vanilla", "config.json", {"l1_coeff": 0.5}, (None, None, {"l1": 0.5})),
        ("sparsify", "config.json", {"dataset": "org/web"}, ("org/web", None, {"l0": 3.0})),
        ("dictionary_learning AutoEncoderTopK", "trainer_0/config.json", {}, (None, None, {"l0": 3.0})),
    ],
)
def test_what_folders_of_others_say(
    name: str, file: str, said: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path
):
    look = LOOKS[name](Weights(6, 20))
    look.files[file] |= said
    origin = read(look.put(tmp_path), pickles=True).origin
    assert (origin.corpus, origin.training_tokens, origin.asked) == wanted
