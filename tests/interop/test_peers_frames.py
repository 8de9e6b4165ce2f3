"""The columns of a run as data frames of pandas and polars, without a word of help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unmix
from unmix.front import columns

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
MIXED = [{"step": 1, "l1": 1, "dead": None, "member": "a"}, {"step": 2, "l1": 0.5, "dead": 0.25, "halted_at": 7}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> unmix.Run:
    x_RD = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    return unmix.sweep(
        activations=x_RD, l0=[2, 3.5], features=16, steps=20, name="rows", runs=tmp_path_factory.mktemp("runs"),
        quiet=True, training={"batch_tokens": 64, "log_every": 5}, **{"activations.chunk_sequences": 2},
    )  # fmt: skip


def test_pandas_takes_them_as_they_are(run: unmix.Run):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(run.metrics())
    assert list(frame.groupby("member")["step"].max()) == [20, 20]
    assert frame["explained_variance"].dtype == float
    assert set(frame["target_l0"]) == {2.0, 3.5}
    assert len(pandas.DataFrame(run.evaluation())) == 2
    mixed = pandas.DataFrame(columns(MIXED))
    assert (mixed["l1"].dtype, mixed["dead"].dtype, mixed["halted_at"].dtype) == (float, float, float)


def test_polars_takes_them_as_they_are(run: unmix.Run, tmp_path: Path):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(run.metrics())
    assert frame["step"].dtype == polars.Int64
    assert frame["target_l0"].dtype == polars.Float64
    assert set(frame["target_l0"]) == {2.0, 3.5}
    assert frame.filter(polars.col("step") == 20).height == 2
    assert polars.DataFrame(run.evaluation()).height == 2
    mixed = polars.DataFrame(columns(MIXED))
    types = (polars.Int64, polars.Float64, polars.Float64, polars.String, polars.Int64)
    assert tuple(mixed.dtypes) == types
    assert mixed["dead"].to_list() == [None, 0.25]
