"""Files are read as they lie, whatever their folders are called."""

import sys

import numpy as np
import pytest

pytest.importorskip("duckdb")

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
