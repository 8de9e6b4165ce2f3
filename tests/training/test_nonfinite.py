"""Numbers gone wrong: found in the step, named with the batch, kept out of the weights; the other members go on."""

import dataclasses
import math

import pytest
import safetensors.torch
import torch
from tiny_run import make

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import EVERY_TOKEN, SAEConfig, TrainingConfig
from unmix.errors import UserError
from unmix.interop.load import load_sae
from unmix.runlog import read_metrics
from unmix.training import chosen, extension, run
from unmix.training.inputs import open_inputs
from unmix.training.loop import Stopped
from unmix.training.measure import Facts
from unmix.training.member import SKIPS_IN_A_ROW, Entry, new_member
from unmix.training.run import Watch
from unmix.verify import verify

POISON = "resid_post.0"


class Poisoned:
    """A source whose batches have a value at one hook that is no number."""

    def __init__(self, source, steps, value=math.nan):
        self.source, self.steps, self.value = source, steps, value
        self.widths, self.batch_tokens, self.head = source.widths, source.batch_tokens, source.head
        self.chunk_tokens, self.size, self.target_widths = source.chunk_tokens, source.size, source.target_widths

    def batches(self, first, last):
        for step, batch in enumerate(self.source.batches(first, last), start=first):
            if step in self.steps:
                x_BD = batch.activations[POISON].clone()
                x_BD[3, 5] = self.value
                batch = batch._replace(activations=batch.activations | {POISON: x_BD})
            yield batch


@pytest.fixture
def poison(monkeypatch):
    def at(*steps, value=math.nan):
        def opened(recipe, say=lambda text: None, given=None):
            inputs = open_inputs(recipe, say)
            return dataclasses.replace(inputs, source=Poisoned(inputs.source, steps, value))

        monkeypatch.setattr(run, "open_inputs", opened)

    return at


@pytest.fixture
def two_hooks(overrides):
    return make(
        overrides, activations__hooks=[POISON, "mlp_out.0"], training__l1=[3.0],
        training__checkpoint_every=10, training__keep_every=10,
    )  # fmt: skip


def state(folder, member, step):
    return safetensors.torch.load_file(folder / f"members/{member}/step-{step:09d}/training_state.safetensors")


def same(a, b, but=()):
    return all(torch.equal(a[name], b[name]) for name in a if name not in but)


def metrics(folder, member):
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["member"] == member]
    return [str({k: v for k, v in row.items() if k not in ("tokens_per_s", "seconds")}) for row in rows]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_member_is_halted_at_its_last_good_weights_and_the_other_goes_on(two_hooks, tmp_path, poison, value):
    bad, good, said = f"{POISON}-l1-3", "mlp_out.0-l1-3", []
    run.sweep(two_hooks, tmp_path / "whole")
    poison(20, value=value)
    run.sweep(two_hooks, tmp_path / "hurt", Watch(say=said.append))
    [warning] = [line for line in said if line.startswith("warning")]
    assert f"{bad}: an activation is not finite in batch 20 of {POISON}" in warning
    # its metrics window goes on from the last row, hence not the counts of the window
    assert same(state(tmp_path / "hurt", bad, 60), state(tmp_path / "whole", bad, 20), but=["window.sum_x_D"])
    assert same(state(tmp_path / "hurt", good, 60), state(tmp_path / "whole", good, 60))
    assert metrics(tmp_path / "hurt", good) == metrics(tmp_path / "whole", good)
    rows = [row for row in read_metrics(tmp_path / "hurt/metrics.jsonl") if row["member"] == bad]
    assert [row.get("halted_at") for row in rows] == [None, None, 20, 20, 20, 20, 20, 20, 20]  # logged at 7, 14, 21 …
    assert load_sae(tmp_path / f"hurt/members/{bad}/step-000000060").W_dec.isfinite().all()
    assert verify(tmp_path / "hurt").problems == []
    choices = chosen.make_choices(tmp_path / "hurt", max_active=10_000)
    assert {choice["member"] for choice in choices} == {None, good}
    [none] = [choice for choice in choices if choice["member"] is None]
    assert none["candidates"][0]["why"] == "halted by batch 20"
    assert none["reason"] == f"No member can be chosen: {bad}: halted by batch 20."
    with pytest.raises(UserError, match=f"{bad} was halted by batch 20 of the sweep; extend another --member"):
        extension.extend(tmp_path / "hurt", bad, 90)


def test_a_member_halted_near_the_end_is_not_chosen_for_the_good_numbers_it_had(two_hooks, tmp_path, poison):
    poison(58)  # the last line, of step 60, is over batches 56 and 57
    run.sweep(two_hooks, tmp_path / "run")
    last = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["member"] == f"{POISON}-l1-3"][-1]
    assert math.isfinite(last["loss"])
    choices = chosen.make_choices(tmp_path / "run", max_active=10_000)
    assert {choice["member"] for choice in choices} == {None, "mlp_out.0-l1-3"}
    candidates = [candidate for choice in choices for candidate in choice["candidates"]]
    assert {c["why"] for c in candidates if not c["admissible"]} == {"halted by batch 58"}


@pytest.mark.parametrize("policy", ["halt", "skip"])
def test_a_run_stopped_after_it_and_resumed_ends_with_the_same_bits(two_hooks, tmp_path, poison, policy):
    recipe = two_hooks.model_copy(
        update={"training": two_hooks.training.model_copy(update={"on_nonfinite": policy, "checkpoint_every": 1000})}
    )
    poison(20, 21, 24)
    run.sweep(recipe, tmp_path / "whole")
    for last in (21, 23, 40):
        with pytest.raises(Stopped):
            run.sweep(recipe, tmp_path / "cut", Watch(stop=_at(last, tmp_path / "cut")))
    run.sweep(recipe, tmp_path / "cut")
    for member in (f"{POISON}-l1-3", "mlp_out.0-l1-3"):
        assert same(state(tmp_path / "whole", member, 60), state(tmp_path / "cut", member, 60))
        assert metrics(tmp_path / "whole", member) == metrics(tmp_path / "cut", member)
    rows = [r for r in read_metrics(tmp_path / "cut/metrics.jsonl") if r["member"] == f"{POISON}-l1-3"]
    assert rows[-1]["skipped_batches"] == (3 if policy == "skip" else 1)


def _at(step, folder):
    """Asks to stop after `step` updates, counted from where the run goes on."""
    from unmix.training.checkpoint import steps_on_disk

    members = list(folder.glob("members/*"))
    left = step - max(steps_on_disk(members[0]), default=0) if members else step
    calls = iter(range(1, 1000))
    return lambda: next(calls) == left


def test_stop_ends_the_run_before_the_batch_and_another_policy_goes_on(two_hooks, tmp_path, poison):
    poison(25)
    stop = two_hooks.model_copy(update={"training": two_hooks.training.model_copy(update={"on_nonfinite": "stop"})})
    with pytest.raises(
        UserError,
        match=r"in batch 25 of resid_post\.0; the last checkpoint is from before\. Give --training\.on_nonfinite skip",
    ):
        run.sweep(stop, tmp_path / "run")
    assert verify(tmp_path / "run").problems == []
    run.sweep(two_hooks, tmp_path / "whole")
    run.sweep(two_hooks, tmp_path / "run")  # halt
    bad = f"{POISON}-l1-3"
    assert same(state(tmp_path / "run", bad, 60), state(tmp_path / "whole", bad, 60))


def test_a_loss_that_overflows_halts_its_own_member(overrides, tmp_path):
    recipe = make(overrides, training__l1=[3.0, 1e39], training__l1_warmup_fraction=0.0)
    said = []
    run.sweep(recipe, tmp_path / "run", Watch(say=said.append))
    run.sweep(make(overrides, training__l1=[3.0], training__l1_warmup_fraction=0.0), tmp_path / "alone")
    assert sum("the gradient is not finite in batch 0" in line for line in said) == 1
    assert same(state(tmp_path / "run", "l1-3", 60), state(tmp_path / "alone", "l1-3", 60))
    assert state(tmp_path / "run", "l1-1e+39", 60)["exp_avg.W_dec"].count_nonzero() == 0


def test_a_further_member_that_is_halted_while_it_catches_up_ends_no_run(overrides, tmp_path):
    both = {"training__l1": [3.0, 1e39], "training__l1_warmup_fraction": 0.0}
    run.sweep(make(overrides, **both | {"training__l1": [3.0]}), tmp_path / "grown")
    run.sweep(make(overrides, **both), tmp_path / "grown")
    run.sweep(make(overrides, **both), tmp_path / "whole")
    for member in ("l1-3", "l1-1e+39"):
        assert same(state(tmp_path / "grown", member, 60), state(tmp_path / "whole", member, 60))
        assert metrics(tmp_path / "grown", member) == metrics(tmp_path / "whole", member)


def test_a_halted_member_whose_checkpoint_is_lost_catches_up(two_hooks, tmp_path, poison):
    bad = f"{POISON}-l1-3"
    poison(55)
    run.sweep(two_hooks, tmp_path / "run")
    whole, rows = state(tmp_path / "run", bad, 60), metrics(tmp_path / "run", bad)
    (tmp_path / f"run/members/{bad}/step-000000060").rename(tmp_path / "away")
    run.sweep(two_hooks, tmp_path / "run")
    assert same(state(tmp_path / "run", bad, 60), whole)
    assert metrics(tmp_path / "run", bad) == rows


def test_a_run_whose_every_member_is_halted_ends_with_the_reason(overrides, tmp_path, poison):
    poison(12)
    recipe = make(overrides, training__l1=[1.0, 3.0], training__checkpoint_every=5)
    for _ in range(2):  # again from its checkpoint: the same
        with pytest.raises(UserError, match=r"no member is left to train: halted l1-1 by batch 12, l1-3 by batch 12"):
            run.sweep(recipe, tmp_path / "run")
    assert verify(tmp_path / "run").problems == []


def test_a_first_chunk_that_is_not_finite_is_refused(overrides, tmp_path, monkeypatch):
    def opened(recipe, say, given=None):
        inputs = open_inputs(recipe, say)
        inputs.source.head().activations[POISON][2, 2] = math.inf
        return inputs

    monkeypatch.setattr(run, "open_inputs", opened)
    with pytest.raises(UserError, match=r"activations of resid_post\.0 have E\|\|x\|\|\^2 = inf"):
        run.sweep(make(overrides), tmp_path / "run")


def member(policy, clip_norm=1.0):
    training = TrainingConfig(on_nonfinite=policy, clip_norm=clip_norm)
    facts, mask = Facts(1.0, 1.0, 1.0, 1.0, 8, 0), Mask(EVERY_TOKEN, [], 1.0)
    entry = Entry("m", "h", "", 1.0)
    return new_member(entry, 6, config=SAEConfig(features=12), training=training, facts=facts, mask=mask)


def batch(seed, value=None):
    x_BD = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    if value is not None:
        x_BD[0, 0] = value
    return Batch({"h": x_BD}, torch.arange(8), torch.arange(8))


@pytest.mark.parametrize("clip_norm", [1.0, None])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_batch_that_is_skipped_leaves_no_trace(value, clip_norm):
    skipped, without = member("skip", clip_norm), member("skip", clip_norm)
    said = [skipped.update(b, step, 1e-2, 0.1) for step, b in enumerate([batch(1), batch(2, value), batch(3)])]
    for step in (0, 2):
        without.update(batch(step + 1), step, 1e-2, 0.1)
    what = "the loss" if value == 1e30 else "an activation"
    assert said == ["", f"m: {what} is not finite in batch 1 of h; left out", ""]
    for kept in ("weights", "first", "second"):
        mine, theirs = getattr(skipped, kept), getattr(without, kept)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert skipped.updates == without.updates == 2
    assert skipped.tokens == without.tokens == 16
    assert torch.equal(skipped.silent_F, without.silent_F)
    assert skipped.window.loss == without.window.loss
    assert skipped.metrics(1)["skipped_batches"] == 1


def test_bad_batches_with_good_ones_between_do_not_halt():
    hurt = member("skip")
    for step in range(4 * SKIPS_IN_A_ROW):
        hurt.update(batch(step, math.nan if step % 2 else None), step, 1e-2, 0.1)
    assert hurt.halted_at is None
    assert hurt.skipped == 2 * SKIPS_IN_A_ROW


def test_too_many_in_a_row_halt():
    hurt = member("skip")
    said = [hurt.update(batch(step, math.nan if step else None), step, 1e-2, 0.1) for step in range(SKIPS_IN_A_ROW + 3)]
    assert [bool(line) for line in said] == [False] + [True] * SKIPS_IN_A_ROW + [False, False]
    assert "halted after 10 in a row" in said[SKIPS_IN_A_ROW]
    assert hurt.halted_at == SKIPS_IN_A_ROW


@pytest.mark.parametrize("log_every", [1, 30])
@pytest.mark.parametrize("policy", ["say", "act"])
def test_a_spike_is_named_and_left_out_if_asked(overrides, tmp_path, poison, policy, log_every):
    recipe = make(
        overrides,
        training__l1=[3.0],
        training__log_every=log_every,
        training__on_spike=policy,
        training__on_nonfinite="skip",
        training__mask="none",  # a batch of outliers would be left out otherwise
    )
    poison(20, value=500.0)
    said = []
    run.sweep(recipe, tmp_path / "spiked", Watch(say=said.append))
    [warning] = [line for line in said if "squared error" in line]
    assert f"batch 20 of {POISON}" in warning
    assert ("left out" in warning) == (policy == "act")
    rows = read_metrics(tmp_path / "spiked" / "metrics.jsonl")
    assert rows[-1].get("skipped_batches", 0) == (policy == "act")
    assert rows[-1]["tokens"] == 48 * (60 - (policy == "act"))
