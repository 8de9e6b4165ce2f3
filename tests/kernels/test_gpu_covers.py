"""What the GPU kernels know, row by row: nothing that they do not know may reach them. Needs no triton."""

import pytest
import torch
from contract.cases import ARCHITECTURES, config_of, task_of

from unmix.dictionary.nonlinearities import AbsTopK, JumpRelu, Relu, TopK
from unmix.dictionary.terms import L0, L1, AuxK, Gate, MoreActive, PreActivation, SquaredError, Tanh
from unmix.kernels.gpu_covers import covers, dense_covers
from unmix.kernels.task import Noise, Task

ERROR, DEAD_N = (1.0, SquaredError()), torch.tensor([1])
SPARSE = {
    "relu", "tanh_relu", "topk", "abstopk", "batchtopk", "matryoshka",
    "jumprelu", "jumprelu_tanh", "jumprelu_quadratic",
}  # fmt: skip


@pytest.mark.parametrize("row", ARCHITECTURES)
def test_rows_of_the_table(row):
    options = {"prefixes": [2, 4], "multi_k": 0.5, "preactivation": 0.3, "auxk": 0.3}
    for keys in ({}, *({key: value} for key, value in options.items()), options):
        asked = task_of(config_of(row, 8, **keys), 2, 0.1, auxk=AuxK(1, DEAD_N), dead_N=DEAD_N)
        assert covers(asked) == (row in SPARSE), keys
        plain = (row in ("relu", "tanh_relu") or row.startswith("jumprelu")) and not any(
            keys.get(key) for key in ("prefixes", "preactivation")
        )
        assert dense_covers(asked) == (plain and not asked.term(AuxK)), keys


OTHERS = {
    "a penalty on an abstopk": Task(AbsTopK(2), (ERROR, (1.0, L1()))),
    "a count of a relu": Task(Relu(), (ERROR, (1.0, L0()))),
    "a tanh of a relu": Task(Relu(), (ERROR, (1.0, Tanh()))),
    "a gate": Task(Relu(), (ERROR, (1.0, Gate()))),
    "a term twice": Task(Relu(), (ERROR, (1.0, L1()), (1.0, L1()))),
    "no error": Task(Relu(), ((1.0, L1()),)),
    "a count of another width": Task(JumpRelu(0.1), (ERROR, (1.0, L0(0.2)))),
    "more of another kind": Task(TopK(2), (ERROR, (1.0, MoreActive(Relu(), SquaredError())))),
    "dead features with noise": Task(TopK(2), (ERROR, (1.0, AuxK(1, DEAD_N))), Noise(1.0, 1)),
    "pulled up with noise": Task(JumpRelu(), (ERROR, (1.0, PreActivation(DEAD_N))), Noise(1.0, 1)),
}


@pytest.mark.parametrize("asked", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_left_to_the_portable_step(asked):
    assert not covers(asked)
