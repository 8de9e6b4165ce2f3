"""Steps that do not wait for the device come to what they would have come to, had each been read at once."""

import math

import pytest
import torch
from late_cases import SCHEDULE, STEPS, B, D, at_once, batch, in_time, member_of, plain, spoiled
from run_pairs import same
from torch import Tensor
from waiting import NoWaiting

from unmix.activations.stream import Batch, Pair
from unmix.dictionary.table import ARCHITECTURES
from unmix.errors import UserError
from unmix.training import checkpoint, late
from unmix.training.late import EVERY, Late
from unmix.training.member import SKIPS_IN_A_ROW, Member, new_member


def both(batches: dict[int, Batch], *words, exactly: bool = True, **keys) -> tuple[Member, Member, list[str]]:
    """(trained at once, trained late, what was said), found to be the same."""
    first, second = member_of(*words, **keys), member_of(*words, **keys)
    assert second.late
    said = at_once(first, batches)
    assert in_time(second, batches) == said
    (mine, my_state), (theirs, their_state) = checkpoint._state(first), checkpoint._state(second)
    if exactly:
        assert same(mine, theirs)
        assert my_state == their_state
    else:  # a logarithm of torch's is not to the bit that of the host
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6) for name in mine)
    for key in ("updates", "tokens", "skipped", "in_a_row", "halted_at"):
        assert getattr(first, key) == getattr(second, key)
    mine, theirs = ({k: v for k, v in m.metrics(100).items() if v is not None} for m in (first, second))
    assert theirs == pytest.approx(mine, nan_ok=True, rel=1e-12 if exactly else 1e-4)
    return first, second, said


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [(name, {}) for name in ARCHITECTURES if name != "jumprelu_quadratic"]
    + [
        ("relu", {"noise": 0.3}),
        ("relu", {"scaling": "token"}),
        ("tanh_relu", {"decoder": "unit_norm"}),
        ("jumprelu", {"aligned": True}),
        ("topk", {"auxk": 0.1, "revive_after_tokens": 200, "multi_k": 0.2}),
        ("relu", {"preactivation": 0.1, "revive_after_tokens": 200}),
        ("relu", {"resample_every": 5, "revive_after_tokens": 100}),
        ("relu", {"clip_norm": None}),
    ],
)
def test_a_member_comes_to_the_same_bits(architecture, keys):
    both(plain(), architecture, **keys)


@pytest.mark.parametrize("architecture", ["relu", "gated", "jumprelu", "jumprelu_tanh", "jumprelu_quadratic"])
def test_a_controller_comes_to_the_same_coefficient(architecture):
    first, second, _ = both(plain(), architecture, l0=4.0, exactly=False)
    assert isinstance(second.controller.mean, Tensor)
    assert float(second.coefficient) == pytest.approx(float(first.coefficient), rel=1e-6)
    assert float(second.controller.aim) == pytest.approx(first.controller.aim, rel=1e-6)


@pytest.mark.parametrize("bad", [(0,), (7,), (8,), (3, 4, 12), tuple(range(2, 2 + SKIPS_IN_A_ROW))])
@pytest.mark.parametrize("value", [math.nan, 1e30])
@pytest.mark.parametrize("policy", ["skip", "halt"])
def test_a_batch_that_is_not_finite_leaves_the_same_behind(bad, value, policy):
    batches = plain() | {step: spoiled(step + 1, value) for step in bad}
    first, _, said = both(batches, "batchtopk", on_nonfinite=policy, mask="none")
    halts = policy == "halt" or len(bad) == SKIPS_IN_A_ROW
    assert first.halted_at == (None if not halts else bad[0] if policy == "halt" else bad[-1])
    assert len(said) == (1 if policy == "halt" else len(bad))
    assert f"in batch {bad[0]} of h" in said[0]


def test_stop_names_the_batch_and_keeps_the_weights_from_before():
    batches = plain() | {12: spoiled(13, math.nan)}
    hurt, before = member_of(on_nonfinite="stop", mask="none"), member_of(on_nonfinite="stop", mask="none")
    with pytest.raises(UserError, match=r"m: an activation is not finite in batch 12 of h"):
        in_time(hurt, batches)
    in_time(before, {step: batches[step] for step in range(12)})
    assert hurt.updates == 12
    for kept in ("weights", "first", "second"):
        assert same(getattr(hurt, kept), getattr(before, kept))


@pytest.mark.parametrize("bad", [(3,), (7,), (3, 4, 12)])
@pytest.mark.parametrize("architecture", ["relu", "gated", "jumprelu", "jumprelu_quadratic"])
def test_a_controller_is_brought_back_from_before_such_a_batch(architecture, bad):
    batches = plain() | {step: spoiled(step + 1, math.nan) for step in bad}
    words = {"l0": 4.0, "on_nonfinite": "skip", "mask": "none"}
    first, second, said = both(batches, architecture, exactly=False, **words)
    assert len(said) == first.skipped == len(bad)
    mine, theirs = first.controller, second.controller
    assert mine.batches == theirs.batches == STEPS - len(bad)
    for name in ("coefficient", "aim"):
        assert float(getattr(theirs, name)) == pytest.approx(float(getattr(mine, name)), rel=1e-6), name


@pytest.mark.parametrize("policy", ["say", "act"])
def test_a_spike_is_seen_in_the_same_batch(policy):
    batches = plain() | {9: spoiled(10, 30.0), 20: spoiled(21, 50.0)}
    first, _, said = both(batches, "topk", on_spike=policy, on_nonfinite="skip", mask="none", norm_power=0)
    assert [("batch 9 of h" in said[0]), ("batch 20 of h" in said[1]), len(said)] == [True, True, 2]
    assert first.skipped == (2 if policy == "act" else 0)


def test_where_a_batch_is_left_out_no_feature_starts_anew():
    """Whether the bad batch is the one after which they would, or one that was launched together with it."""
    keys = {"resample_every": 5, "revive_after_tokens": 100, "on_nonfinite": "skip", "mask": "none"}
    for bad in (9, 11):
        both(plain() | {bad: spoiled(bad, math.nan)}, "relu", **keys)


def test_a_batch_whose_every_token_is_masked_is_no_step():
    nothing = batch(4)._replace(token_ids_B=torch.zeros(B, dtype=torch.int64))
    first, _, _ = both(plain() | {3: nothing, 8: nothing}, "relu")
    assert first.updates == STEPS - 2


@pytest.mark.parametrize("l0", [None, 4.0])
@pytest.mark.parametrize("architecture", ["relu", "batchtopk", "jumprelu"])
def test_stopped_anywhere_it_resumes_to_the_same_bits(architecture, l0, tmp_path):
    whole, cut = (member_of(architecture, l0) for _ in range(2))
    in_time(whole, plain())
    facts = {"model": "m", "context": 8, "metadata": {}}
    for first, last in ((0, 3), (3, 14), (14, STEPS)):
        if first:
            cut = member_of(architecture, l0)
            checkpoint.load(cut, checkpoint.step_folder(tmp_path, first))
        in_time(cut, {step: batch(step + 1) for step in range(first, last)})
        checkpoint.save(cut, tmp_path, last, facts)
    (mine, my_state), (theirs, their_state) = checkpoint._state(whole), checkpoint._state(cut)
    assert same(mine, theirs)
    assert my_state == their_state
    assert cut.metrics(100) == whole.metrics(100)


WITHOUT_WAITING = pytest.mark.parametrize(
    ("architecture", "l0", "keys"),
    [
        ("relu", None, {}),
        ("relu", 4.0, {}),
        ("relu", None, {"scaling": "token", "noise": 0.3}),
        ("tanh_relu", None, {}),
        ("gated", 4.0, {}),
        ("jumprelu", None, {"aligned": True}),
        ("jumprelu", 4.0, {}),
        ("jumprelu_quadratic", 4.0, {}),
        ("topk", 4.0, {"auxk": 0.0, "multi_k": 0.1}),
        ("batchtopk", 4.0, {"auxk": 0.0}),
        ("matryoshka", 4.0, {"auxk": 0.0}),
        ("relu", None, {"on_spike": "act"}),
    ],
)


@WITHOUT_WAITING
def test_between_the_first_step_and_the_reading_nothing_waits(architecture, l0, keys, monkeypatch):
    member, launch, launched = member_of(architecture, l0, **keys), Late._launch, []

    def watched(*words):
        with NoWaiting():
            launched.append(launch(*words))
        return launched[-1]

    monkeypatch.setattr(Late, "_launch", watched)
    in_time(member, {step: batch(step + 1) for step in range(2 * EVERY)})
    assert [len(taken) for taken in launched] == [EVERY, EVERY]
    assert member.updates == 2 * EVERY


@pytest.mark.parametrize("target_width", [None, D + 3])
@WITHOUT_WAITING
def test_on_another_device_everything_lies_there(architecture, l0, keys, target_width):
    """Tensors without numbers: an operation on two devices raises, and so does reading one."""
    if target_width and ("aligned" in keys or keys.get("scaling") == "token"):
        pytest.skip("is refused with targets")
    here, meta = member_of(architecture, l0, **keys), torch.device("meta")
    facts = here.facts._replace(target_scale=2.0 if target_width else None)
    member = new_member(
        here.entry, D, config=here.config, training=here.training, facts=facts, mask=here.mask, device=meta,
        target_width=target_width,
    )  # fmt: skip

    def rows() -> Pair:
        x_BD = torch.randn(B, D, device=meta)
        return Pair(x_BD, torch.randn(B, target_width, device=meta) if target_width else x_BD)

    taken = Late(member, SCHEDULE)._launch([(step, rows()) for step in range(EVERY)])
    assert len(taken) == member.updates == EVERY
    assert {t.device for t in (taken[-1].stop, member.window.loss, member.silent_F)} == {meta}


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [
        ("topk", {"auxk": 0.1}),
        ("abstopk", {"auxk": 0.1}),
        ("batchtopk", {"auxk": 0.1}),
        ("gated", {"auxk": 0.1, "noise": 0.3}),
        ("relu", {"preactivation": 0.1}),
    ],
)
def test_which_features_are_dead_is_asked_once_a_step_and_only_while_any_may_be(architecture, keys, monkeypatch):
    """`docs/devices.md` says so. On a device without numbers whatever else would wait raises."""
    here, meta, asked = member_of(architecture, **keys, revive_after_tokens=3 * B), torch.device("meta"), []
    member = new_member(
        here.entry, D, config=here.config, training=here.training, facts=here.facts, mask=here.mask, device=meta
    )

    def answered(tensor: Tensor) -> Tensor:
        assert tensor.device == meta
        asked.append(member.updates)
        return torch.arange(5, device=meta)[:, None]

    def launched(first: int) -> list[int]:
        """In which of so many steps it was asked."""
        asked.clear()
        x_BD = torch.randn(B, D, device=meta)
        Late(member, SCHEDULE)._launch([(first + step, Pair(x_BD, x_BD)) for step in range(EVERY)])
        return list(asked)

    monkeypatch.setattr(torch, "nonzero", answered)
    assert launched(0) == [*range(3, EVERY)]
    member.silence = B, member.tokens  # as it is read between launches: none is silent for longer than one batch
    assert launched(EVERY) == [*range(EVERY + 2, 2 * EVERY)]
    member.silence = 3 * B, member.tokens  # one is dead
    assert launched(2 * EVERY) == [*range(2 * EVERY, 3 * EVERY)]


@pytest.mark.parametrize(
    "waits",
    [lambda t: t.item(), lambda t: t.tolist(), bool, float, lambda t: t.nonzero(), lambda t: t[t > 0]],
)
def test_waiting_is_noticed(waits):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        waits(torch.ones(1))


def test_what_waits_is_read_twice_in_so_many_steps(monkeypatch):
    """Once for what the mask keeps, once for what the steps came to."""
    reads, on_host, kept = [], late.on_host, late.kept_rows_of
    monkeypatch.setattr(late, "on_host", lambda numbers: reads.append("numbers") or on_host(numbers))
    monkeypatch.setattr(late, "kept_rows_of", lambda *words: reads.append("mask") or kept(*words))
    in_time(member_of(), {step: batch(step + 1) for step in range(3 * EVERY)})
    assert reads == ["mask", "numbers"] * 3


def test_kernels_of_the_processor_are_read_at_once():
    member = member_of(kernels="auto")
    assert not member.late
    taking = Late(member, SCHEDULE)
    for step in range(3):
        taking.take(step, batch(step + 1))
        assert member.updates == step + 1
    assert isinstance(member.recent[0], float)
