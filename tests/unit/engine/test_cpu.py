"""Convolutions and dropout of the CPU, compared with PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fustal.engine.cpu import MINIMUM_WIDTH, convolve, dropout

WIDE = MINIMUM_WIDTH


def case(length, in_dim, out_dim, batch=2):
    """Input, weight, and a gradient of the output."""
    torch.manual_seed(length)
    x = torch.randn(batch, length, in_dim)
    weight = torch.randn(out_dim, in_dim, 3) / (3 * in_dim) ** 0.5
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(batch, length, out_dim)


def definition(x, weight):
    return F.conv1d(x.mT, weight, padding=1).mT


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 12, 13, 14, 100])
@pytest.mark.parametrize(("in_dim", "out_dim"), [(WIDE, WIDE + 5), (WIDE, 3), (2, WIDE)])
def test_values_and_gradients_are_those_of_the_definition(length, in_dim, out_dim):
    x, weight, gradient = case(length, in_dim, out_dim)
    ours = convolve(x, weight)
    exact = definition(x.double(), weight.double())
    assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(ours, (x, weight), gradient)
    exact_gradients = torch.autograd.grad(exact, (x, weight), gradient.double())
    assert_close(gradients, exact_gradients, rtol=1e-4, atol=1e-3)


def test_the_rounding_error_is_at_most_ten_times_that_of_the_direct_computation():
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


def test_gradients_are_computed_only_where_they_are_required():
    x, weight, gradient = case(9, WIDE, WIDE)
    convolve(x.detach(), weight).backward(gradient)
    assert weight.grad.any()
    convolve(x, weight.detach()).backward(gradient)
    assert x.grad.any()


def test_other_arithmetic_uses_the_direct_computation():
    x, weight, _ = case(9, WIDE, WIDE)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, weight).dtype == torch.bfloat16
    assert_close(convolve(x.double(), weight.double()), definition(x.double(), weight.double()))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 11), (40, 500)])
def test_dropout_keeps_the_mean_and_the_gradient_of_kept_values(shape, share):
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x, share)
    kept = y > 0
    assert y.shape == x.shape
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - share)), rtol=1e-4), "all kept values have the same factor"
    y.sum().backward()
    assert x.grad.equal(y.detach())
    if x.numel() > 1000:
        assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.015)
        assert kept.float().mean(0).std() < 0.12, "no snippet or feature is dropped more often than others"
        assert not dropout(x, 0.5).equal(dropout(x, 0.5))
