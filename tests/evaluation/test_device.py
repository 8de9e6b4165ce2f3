"""An evaluation's sums stay on the device of what they are of, until they are asked for."""

import pytest
import torch

from unmix.cli import main
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import JumpRelu, Relu, TopK
from unmix.evaluation.by_norm import ByNorm
from unmix.evaluation.downstream import Effect
from unmix.evaluation.fidelity import Activations, Fidelity

META = torch.device("meta")
"""Tensors without numbers: an operation on two devices raises, and so does reading one."""
D, F, B = 6, 24, 32


@pytest.mark.parametrize("phi", [Relu(), TopK(3), JumpRelu()])
def test_what_a_dictionary_does_is_counted_there(phi):
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "threshold": (F,)}
    own = {*shapes} if isinstance(phi, JumpRelu) else shapes.keys() - {"threshold"}
    sae = Dictionary({name: torch.empty(shapes[name], device=META) for name in own}, phi)
    x_BD = torch.empty(B, D, device=META)
    with torch.no_grad():
        f_BF = sae.encode(x_BD)
        x_hat_BD = sae.decode(f_BF, x_BD)
    sums, fidelity = Activations(D, META), Fidelity(sae)
    sums.add(x_BD)
    by_norm = ByNorm(fidelity.norm_F, sums.mean_D)
    for _ in range(2):
        fidelity.add(x_BD, f_BF, x_hat_BD)
        by_norm.add(x_BD, f_BF, x_hat_BD)
    assert fidelity.tokens == 2 * B
    assert {fidelity.active_F.device, fidelity.l0_counts.device, sums.square_DD.device} == {META}


def test_predictions_are_counted_there_by_documents_that_the_host_knows():
    effect, ce_NT = Effect(), torch.empty(2, 5, dtype=torch.float64, device=META)
    effect.add(ce_NT, ce_NT, ce_NT, torch.tensor([[7, 7, 7, 9, 9], [9, 9, 9, 9, 9]]))
    assert effect.tokens == 10


def test_what_was_kept_elsewhere_is_what_would_have_been_kept_here():
    """Columns that wait on a device are read in the order in which they came."""
    torch.manual_seed(0)
    here, there = (ByNorm(torch.ones(F), torch.zeros(D)) for _ in range(2))
    for _ in range(3):
        x_BD, f_BF = torch.randn(B, D), torch.rand(B, F)
        before = here.tokens
        here.add(x_BD, f_BF, 0.9 * x_BD)
        there._there.append(torch.from_numpy(here._columns[:, before : here.tokens].copy()))
    assert there.metrics() == here.metrics()


@pytest.mark.parametrize(
    ("name", "said"),
    [("cuda", "device = cuda: torch "), ("cuda:7", "device = cuda:7: "), ("gpu", "device = gpu is not a device")],
)
def test_a_device_that_is_not_there_is_one_line(name, said, overrides, tmp_path, capsys, monkeypatch):
    from tiny_run import make

    from unmix.training import run

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run.sweep(make(overrides, training__steps=2, training__l1=[1.0]), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--tokens", "200", "--ce-tokens", "64", "--device", name]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert said in err
    assert "give" in err
    assert not (tmp_path / "run" / "evaluation.json").exists()
