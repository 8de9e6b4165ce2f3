"""The split depends on the key and the fraction, and on nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.corpus.split import HELD_OUT_FRACTION, is_held_out


def test_these_sides_never_change() -> None:
    """A change here puts documents that models were trained on into the held-out split."""
    paths = ["abc.py", "json/decoder.py", "ast.py", "os.py", "random.py", "typing.py", "asyncio/tasks.py"]
    assert [path for path in paths if is_held_out(path, 0.3)] == ["json/decoder.py", "ast.py"]


def test_the_fraction_is_kept() -> None:
    share = sum(is_held_out(str(n)) for n in range(20_000)) / 20_000
    assert abs(share - HELD_OUT_FRACTION) < 0.01


@settings(deadline=None)
@given(st.text(), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_larger_fraction_only_adds(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_held_out(key, large) or not is_held_out(key, small)


def test_half_a_surrogate_pair_is_a_key_too() -> None:
    assert is_held_out("\ud800", 0.999) in (True, False)
