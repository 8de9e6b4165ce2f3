import pytest

from unmix.errors import UserError
from unmix.runlog import append_metrics, keep_metrics, read_metrics, write_whole


def row(step, member="a"):
    return {"step": step, "member": member, "phase": "sweep"}


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [row(1), row(2)])
    path.write_text(path.read_text() + '{"step": 3')
    assert read_metrics(path) == [row(1), row(2)]


def test_rows_behind_a_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [row(s) for s in range(5)])
    keep_metrics(path, lambda row: row["step"] <= 2)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    (tmp_path / "a.txt.new").mkdir()  # the temporary name is taken: writing must fail
    with pytest.raises(UserError, match=r"cannot write .*a\.txt \(Is a directory\); move away"):
        write_whole(path, "new")
    assert path.read_text() == "old"
