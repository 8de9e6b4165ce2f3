import hypothesis.strategies as st
import numba
import numpy as np
import pytest
import torch
from hypothesis import given

from unmix.kernels.bfloat16 import narrowed, rows_as_float32


@given(rows=st.integers(1, 9), width=st.integers(1, 70), taken=st.integers(0, 20), seed=st.integers(0, 99))
def test_it_gathers_and_widens(rows, width, taken, seed):
    generator = torch.Generator().manual_seed(seed)
    x_RD = torch.randn(rows, width, generator=generator).bfloat16()
    order_B = torch.randint(rows, (taken,), generator=generator)
    assert torch.equal(rows_as_float32(x_RD, order_B), x_RD[order_B].float())


def test_every_bfloat16_keeps_its_value():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    x_RD = bits.view(torch.bfloat16).view(256, 256)
    widened = rows_as_float32(x_RD, torch.arange(256))
    assert torch.equal(widened.view(torch.int32), bits.view(256, 256).to(torch.int32) << 16)
    torch.testing.assert_close(widened, x_RD.float(), rtol=0, atol=0, equal_nan=True)


@numba.njit
def narrowed_all(numbers_N, bits_N):
    for n in range(len(numbers_N)):
        bits_N[n] = narrowed(numbers_N[n])


def test_narrowing_rounds_as_torch_does():
    upper_N1 = torch.arange(2**16, dtype=torch.int64)[:, None] << 16
    lower_1M = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])  # what rounds down, ties, what rounds up
    numbers_N = (upper_N1 + lower_1M).flatten().to(torch.uint32).view(torch.float32)
    bits_N = np.empty(len(numbers_N), np.uint16)
    narrowed_all(numbers_N.numpy(), bits_N)
    mine, theirs = torch.from_numpy(bits_N).view(torch.bfloat16), numbers_N.bfloat16()
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mine.signbit() | mine.isnan(), theirs.signbit() | theirs.isnan())  # -0 is not 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_that_do_not_lie_close_are_read(dtype):
    x_RD = torch.randn(10, 16).to(dtype)[::2, 3:13]
    order_B = torch.tensor([4, 0, 4, 1])
    widened = rows_as_float32(x_RD, order_B)
    assert widened.dtype == torch.float32
    assert torch.equal(widened, x_RD[order_B].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_an_error(dtype, row):
    with pytest.raises(IndexError):
        rows_as_float32(torch.zeros(5, 3, dtype=dtype), torch.tensor([0, row]))
