"""Files are read as they lie, whatever their folders are called."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("duckdb")

from explore.stores import ALWAYS, HOOK, MEMBER, make_world, write_store

from unmix.dictionary.model import new_dictionary
from unmix.explore import derive
from unmix.explore.duck import count_by, read_parquet, write_parquet


def put(folder, ids):
    folder.mkdir(parents=True)
    write_parquet(folder / "shard.parquet", {"id": np.array(ids, np.uint32), "norm": np.array(ids, np.float32) / 2})
    return folder / "shard.parquet"


PATTERNS = [("run[1]", "run1"), ("run[!1]", "run2"), ("[[x]]", "[x]")]
PATTERNS += [] if sys.platform == "win32" else [("a*", "ab"), ("a?", "ab"), ("**", "b")]


@pytest.mark.parametrize(("name", "other"), PATTERNS)
def test_a_folder_whose_name_is_a_pattern_is_read_and_not_what_fits_it(tmp_path, name, other):
    path = put(tmp_path / name / "tokens", [1, 2, 2])
    put(tmp_path / other / "tokens", [7, 8, 9])
    assert read_parquet([path], ["id"])["id"].tolist() == [1, 2, 2]
    found = count_by([path], "id")
    assert dict(zip(found["id"].tolist(), found["n"].tolist(), strict=True)) == {1: 1, 2: 2}


@pytest.mark.parametrize("name", ["id=5", "norm=layer", "lr=3e-4", "a'b"])
def test_a_folder_gives_no_values(tmp_path, name):
    """As Hive has it, `id=5` holds rows whose id is 5."""
    found = read_parquet([put(tmp_path / name / "tokens", [1, 2])], ["id", "norm"], "id > 1")
    assert (found["id"].tolist(), found["norm"].tolist()) == ([2], [1.0])
    assert (found["id"].dtype, found["norm"].dtype) == (np.uint32, np.float32)


def test_what_is_no_number_stays_none(tmp_path):
    """A model in float16 may overflow; DuckDB has NULL for NaN, which was read as 0: an error of nothing."""
    given = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
    write_parquet(tmp_path / "a.parquet", {"err": given, "wide": given.astype(np.float64), "id": np.arange(5)})
    found = read_parquet([tmp_path / "a.parquet"], ["err", "wide", "id"])
    np.testing.assert_array_equal(found["err"], given)
    np.testing.assert_array_equal(found["wide"], given)
    assert (found["err"].dtype, found["id"].tolist()) == (np.float32, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_token_that_is_no_number_shows_in_what_is_said_of_its_features(tmp_path, bad):
    world = make_world(0)
    token = int(np.flatnonzero(~world.masked_R)[40])
    world.f_RF[token, ALWAYS] = bad
    store, sae = write_store(world, tmp_path, 40), new_dictionary(8, world.f_RF.shape[1], 1.0, 0)
    store.manifest["measured"] = {HOOK: {"longer_than": 1e9}}
    sight = derive.see(store, HOOK, {MEMBER: sae})
    with np.errstate(invalid="ignore"):
        records = [r for r, _ in derive.records(store, derive.know(store, MEMBER, sae, sight, None), sight, bytes)]
    json.dumps(records, allow_nan=False)
    assert [record["i"] for record in records if record["max"] is None] == [ALWAYS]
    assert records[ALWAYS]["firings"] == np.count_nonzero(~world.masked_R)
