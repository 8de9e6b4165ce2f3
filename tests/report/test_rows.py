"""The page of a run on rows of one's own: it speaks of no model, no BOS and no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unmix
from unmix.report.data import read
from unmix.report.facts import summary
from unmix.report.trained_on import trained_on

X_RD = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)
IDS_R = np.arange(2000) % 20


def trained(tmp_path: Path, **more: object) -> tuple[dict[str, str], str]:
    """(rows of the last table, the summary) of a short run."""
    keys = {"activations": X_RD, "l0": [2], "features": 16, "steps": 4, "training.batch_tokens": 64, "name": "own"}
    run = unmix.sweep(**keys | {"runs": tmp_path, "quiet": True, "evaluate": False} | more)
    found = read(run.folder)
    return dict(trained_on(found)), " ".join(summary(found))


def test_no_model_is_spoken_of(tmp_path):
    """Activations were said to be from the running model, which computes in float32, of the model "unknown"."""
    table, said = trained(tmp_path)
    assert table["Activations"] == "handed over in Python; no model was run"
    assert "Model" not in table
    assert said.startswith("One dictionary was trained on activations, asked for 2 active features per token.")


def test_a_file_is_named_and_so_is_a_model_that_is_known(tmp_path):
    np.save(tmp_path / "x.npy", X_RD)
    table, said = trained(tmp_path, activations=tmp_path / "x.npy", model="gpt2", hook="resid_pre.8")
    assert table["Activations"] == f"read from {tmp_path / 'x.npy'}; no model was run"
    assert table["Model"] == "gpt2"
    assert said.startswith("One dictionary was trained on resid_pre.8 of gpt2, ")


@pytest.mark.parametrize(
    ("more", "masked"),
    [
        ({"training.mask": "none"}, "none: every row is trained on"),
        ({}, "tokens with norms above 10 times the median are not trained on"),
        (
            {"activations": (X_RD, IDS_R), "activations.special_ids": [3], "training.mask": "none"},
            "100 rows of activations.special_ids are not trained on",
        ),
    ],
    ids=["none", "auto", "ids"],
)
def test_no_bos_is_spoken_of(tmp_path, more, masked):
    """A BOS was said to be trained on, and rows of special ids were not said to be left out."""
    assert trained(tmp_path, **more)[0]["Tokens masked"] == masked


def test_a_scale_per_token_is_no_factor(tmp_path):
    assert "inputs times" in trained(tmp_path)[0]["Hook activations"]
    own = trained(tmp_path, name="token", **{"sae.scaling": "token"})[0]["Hook activations"]
    assert "each input scaled to the root of the width" in own
    assert "times" not in own
