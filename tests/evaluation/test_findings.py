"""What is said of the numbers, and which are not given because they would mean nothing."""

import json
import math

import pytest

from unmix.evaluation.evaluate import _recovered
from unmix.evaluation.findings import findings
from unmix.evaluation.table import table


def cost(delta, error):
    return {"ce": 3 + delta, "delta_ce": delta, "delta_ce_standard_error": error, "kl": 0.01}


def evaluation(zero=(1.0, 0.01), mean=(0.5, 0.01), dictionary=(0.02, 0.001), **more):
    made = {"zero": cost(*zero), "mean": cost(*mean)}
    row = {
        "tokens": 5000, "dead": 0.0, "above_10_percent": 0.0, "reconstruction_bias": 1.0, "explained_variance": 0.9,
        "pca_explained_variance_at_l0": 0.5, "l0": 20.0, "cosine": 0.9, "norm_ratio": 0.9,
        "max_decoder_cosine_above_0.9": 0.0, **cost(*dictionary), **more,
        **{f"loss_recovered_{name}": _recovered(made[name], cost(*dictionary)) for name in made},
    }  # fmt: skip
    return {
        "hook": "resid_post.0", "split": "held_out", "mask": "", "outliers": {"tokens": 0}, "ce_untouched": 3.0,
        "fidelity_tokens": 5000, "ce_tokens": 900, "ce_documents": 7, "saes": {"a": row},
        "baselines": {"zero": made["zero"], "predict the mean": made["mean"]},
    }  # fmt: skip


def said(found):
    return " ".join(findings(found)["a"])


def test_loss_recovered_is_the_share_of_what_ablation_costs():
    assert _recovered(cost(1.0, 0.01), cost(0.02, 0.001)) == pytest.approx(0.98)
    assert "Loss recovered" not in said(evaluation())


@pytest.mark.parametrize("zero", [(0.001, 0.0006), (-0.001, 0.0001), (-0.5, 0.01), (0.0, 0.0)])
def test_where_ablation_costs_nothing_beyond_its_error_loss_recovered_is_not_given(zero):
    found = evaluation(zero=zero)
    row = found["saes"]["a"]
    assert row["loss_recovered_zero"] is None  # the ratio was -19 to 21
    assert row["loss_recovered_mean"] == pytest.approx(0.96)
    assert "Loss recovered is not given: zero in the place of the activation costs" in said(found)
    assert f"{zero[0]:.4f} ± {zero[1]:.4f} nats, which is not above two standard errors" in said(found)
    assert "null" in json.dumps(row)


def test_shrinkage_is_of_reconstructions_that_explain_something():
    """A reconstruction at another scale altogether was called 3587 % too short."""
    assert "10% too short for what they explain" in said(evaluation(reconstruction_bias=0.9))
    elsewhere = said(evaluation(reconstruction_bias=-34.9, explained_variance=-3.0))
    assert "too short" not in elsewhere
    assert "It explains less than the mean does" in elsewhere


def test_in_a_single_document_no_error_is_known_and_none_is_shown():
    found = evaluation(zero=(1.0, math.nan), mean=(0.5, math.nan), dictionary=(0.2, math.nan))
    assert found["saes"]["a"]["loss_recovered_zero"] is None
    assert "All predictions were made in one document" in said(found)
    shown = table({"model": "m", "corpus": "c", "hooks": [{**found, "findings": findings(found)}]})
    assert "0.2000 ± ?" in shown
    assert "nan" not in shown


def test_a_dictionary_that_explains_less_than_the_mean_is_asked_about():
    found = evaluation(explained_variance=-1.1)
    assert "is this the hook and the scale that it was trained at?" in said(found)
    assert "principal directions" not in said(found)  # one remark on it is enough
    assert "trained at?" not in said(evaluation(explained_variance=0.01))
