import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fustal.engine.cpu import MINIMUM_WIDTH, convolve

WIDE = MINIMUM_WIDTH


def case(length, in_dim, out_dim, batch=2):
    torch.manual_seed(length)
    x, weight = torch.randn(batch, length, in_dim), torch.randn(out_dim, in_dim, 3) / (3 * in_dim) ** 0.5
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(batch, length, out_dim)


def definition(x, weight):
    return F.conv1d(x.mT, weight, padding=1).mT


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 12, 13, 14, 100])
@pytest.mark.parametrize(("in_dim", "out_dim"), [(WIDE, WIDE + 5), (WIDE, 3), (2, WIDE)])
def test_values_and_gradients_are_those_of_the_definition(length, in_dim, out_dim):
    x, weight, towards = case(length, in_dim, out_dim)
    ours, exact = convolve(x, weight), definition(x.double(), weight.double())
    assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(ours, (x, weight), towards)
    assert_close(ours, torch.autograd.grad(exact, (x, weight), towards.double()), rtol=1e-4, atol=1e-3)


def test_rounding_is_no_worse_than_a_few_times_that_of_the_direct_way():
    x, weight, _ = case(600, 256, 256)
    with torch.no_grad():
        exact = definition(x.double(), weight.double())
        error = (convolve(x, weight) - exact).square().mean().sqrt()
        direct = (definition(x, weight) - exact).square().mean().sqrt()
    assert error < 10 * direct
    assert error < 1e-5 * exact.std()


def test_bias_and_kernel_of_one():
    x, weight, _ = case(7, WIDE, WIDE)
    bias = torch.randn(WIDE)
    assert_close(convolve(x, weight, bias), convolve(x, weight) + bias)
    assert_close(convolve(x, weight[..., :1]), x @ weight[..., 0].T, rtol=1e-4, atol=1e-4)


def test_gradients_only_where_they_are_asked_for():
    x, weight, towards = case(9, WIDE, WIDE)
    convolve(x.detach(), weight).backward(towards)
    assert weight.grad.any()
    convolve(x, weight.detach()).backward(towards)
    assert x.grad.any()


def test_other_arithmetic_takes_the_direct_way():
    x, weight, _ = case(9, WIDE, WIDE)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, weight).dtype == torch.bfloat16
    assert_close(convolve(x.double(), weight.double()), definition(x.double(), weight.double()))
