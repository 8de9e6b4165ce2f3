import pytest

from unmix.errors import UserError
from unmix.runlog import (
    Request,
    append_metrics,
    keep_metrics,
    newest_checkpoints,
    read_metrics,
    requested,
    split_name,
    write_whole,
)


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


@pytest.mark.parametrize(
    ("row", "request_", "label"),
    [
        ({"l1": 0.5}, Request("l1", 0.5), "λ 0.5"),
        ({"l1": 0}, Request("l1", 0.0), "λ 0"),
        ({"l1": None, "target_l0": 20.0}, Request("l0", 20.0), "L0 20"),
        ({"l1": 1e-5, "target_l0": None}, Request("l1", 1e-5), "λ 1e-05"),
    ],
)
def test_what_a_member_was_asked_for(row, request_, label):
    assert requested(row) == request_
    assert requested(row).label == label


def test_what_is_not_said_is_a_dash():
    assert requested({"l1": None}).label == requested({}).label == "λ –"


def test_requests_rise_those_for_an_l0_first():
    wanted = [Request("l0", 20.0), Request("l0", 100.0), Request("l1", 0.5), Request("l1", 2.0)]
    assert sorted([wanted[2], wanted[1], wanted[3], wanted[0]]) == wanted


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("l0-20", ("", "l0-20")),
        ("l1-1e-05", ("", "l1-1e-05")),
        ("topk-l0-20", ("topk", "l0-20")),
        ("resid_post.3-plain-l1-0.5-extended", ("resid_post.3-plain", "l1-0.5-extended")),
        ("model.l1-1-l0-20, debiased", ("model.l1-1", "l0-20, debiased")),
        ("gemma-scope", ("", "gemma-scope")),
    ],
)
def test_a_name_is_split_before_what_was_asked_for(name, parts):
    assert split_name(name) == parts


def test_members_stand_in_the_order_of_what_they_were_asked_for(tmp_path):
    wanted = ["other", "a-l0-5", "a-l0-20", "a-l0-20-extended", "a-l0-100", "b-l1-1e-05", "b-l1-0.5", "b-l1-10"]
    for name in wanted:
        (tmp_path / "members" / name / "step-000000010").mkdir(parents=True)
        (tmp_path / "members" / name / "step-000000010" / "cfg.json").write_text("{}")
    assert list(newest_checkpoints(tmp_path)) == wanted
