"""What a store is begun with, and what is said where it is opened with something else."""

from pathlib import Path

import pytest

from unmix.errors import UserError
from unmix.explore.manifest import begin, clear, require_same

MEMBER = {"hook": "resid_post.1", "features": 48, "checkpoint": "members/l1-0.5/step-000000100", "fingerprint": "ab"}
INPUTS = {"model": "m", "asked_tokens": 320, "asked_members": None, "members": {"l1-0.5": MEMBER, "l1-1": MEMBER}}


def other(name, **changes):
    return INPUTS | {"members": INPUTS["members"] | {name: MEMBER | changes}}


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (INPUTS | {"asked_tokens": 64}, "store was built with --tokens 320, which is now 64;"),
        (INPUTS | {"model": "n", "members": {}}, "store was built with model = m, which is now n;"),
        (other("l1-0.5-extended"), "store was built without l1-0.5-extended;"),
        (INPUTS | {"members": {"l1-1": MEMBER}}, "store was built with l1-0.5, not among the members now;"),
        (
            other("l1-0.5", checkpoint="members/l1-0.5/step-000000200", fingerprint="cd"),
            "other checkpoints of l1-0.5 (members/l1-0.5/step-000000100, is now members/l1-0.5/step-000000200);",
        ),
        (other("l1-0.5", fingerprint="cd"), "other checkpoints of l1-0.5 (other fingerprint);"),
    ],
)
def test_what_changed_is_named(now, says):
    with pytest.raises(UserError) as error:
        require_same(Path("store"), {"inputs": INPUTS}, now)
    assert says in str(error.value)
    assert str(error.value).endswith("give --anew to build it again, or --out for another folder")


def test_the_same_inputs_pass():
    require_same(Path("store"), {"inputs": INPUTS}, dict(INPUTS))


@pytest.mark.parametrize("listed", ["../mine.txt", "site/../../mine.txt", "ABSOLUTE"])
def test_what_is_listed_outside_is_not_removed(tmp_path, listed):
    """A store may come from somebody else."""
    folder, mine = tmp_path / "store", tmp_path / "mine.txt"
    (folder / "site").mkdir(parents=True)
    mine.write_text("kept")
    (folder / "a.parquet").write_text("")
    found = begin(folder, {}, {})
    found["shards"] = [{"files": dict.fromkeys(("a.parquet", listed.replace("ABSOLUTE", str(mine))), "")}]
    with pytest.raises(UserError, match=r"mine\.txt, which no build wrote; move the folder away"):
        clear(folder, found)
    assert mine.read_text() == "kept"
    assert (folder / "a.parquet").exists()
    found["shards"] = [{"files": {"a.parquet": ""}}]
    clear(folder, found)
    assert [path.name for path in folder.iterdir() if path.is_file()] == []
