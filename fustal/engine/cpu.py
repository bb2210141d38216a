"""Convolution over time with kernels of three snippets, computed with fewer multiplications than its definition needs.

Both networks spend most of their time in them. On a CPU, those to few channels are one matrix product, and wide ones
are computed in tiles by Winograd's minimal filtering F(6, 3): six outputs of a kernel of three cost 8 products instead
of 18, forward and backward. The sums are the same but for rounding: its error is up to three times the direct
computation's in narrow layers, and below it in the widest.
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 6
"""Outputs of a tile, which reads TILE + 2 inputs."""

LEAST_WIDTH = 64
"""Channels, of input and output, from which on Winograd's way is faster than the direct one."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution that keeps the length; beyond the sequence everything is 0.

    Args:
        x: (B, T, D).
        weight: (E, D, K), K odd, as `nn.Conv1d` has it.
        bias: (E,).

    Returns:
        (B, T, E).

    >>> convolve(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[1.0, 10.0, 100.0]]])).flatten().tolist()
    [210.0, 321.0, 32.0]
    """
    channels, dim, places = weight.shape
    y = None
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        if places == 3 and min(channels, dim) >= LEAST_WIDTH:
            y = _Winograd.apply(x, weight)
        elif channels <= dim:
            y = _Narrow.apply(x, weight)
    if y is None:
        return F.conv1d(x.mT, weight, bias, padding=places // 2).mT
    return y if bias is None else y + bias


class _Narrow(torch.autograd.Function):
    """What each place of the kernel makes of the whole sequence, shifted and added: one matrix product for all places.

    PyTorch's own gradient of it would fill a sequence of zeros for each shift.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        channels, _, places = weight.shape
        products = (x @ weight.permute(1, 2, 0).flatten(1)).unflatten(2, (places, channels))  # (B, T, K, E)
        padded = F.pad(products, (0, 0, 0, 0, places // 2, places // 2))
        return sum(padded[:, k : k + x.shape[1], k] for k in range(places))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels, dim, places = weight.shape
        padded = F.pad(gradient, (0, 0, places // 2, places // 2))
        seen = torch.cat([padded[:, k : k + x.shape[1]] for k in reversed(range(places))], dim=2)  # (B, T, K E)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = seen @ weight.permute(2, 0, 1).reshape(-1, dim)
        if ctx.needs_input_grad[1]:
            products = seen.flatten(0, 1).T @ x.flatten(0, 1)
            of_weight = products.view(places, channels, dim).permute(1, 2, 0)
        return of_x, of_weight


class _Winograd(torch.autograd.Function):
    """y = A [(G w) * (B x)] in each tile, where the product sums over channels: one matrix product a point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        tiles, kernels = _tiles(x), _kernels(weight)
        ctx.save_for_backward(tiles if ctx.needs_input_grad[1] else None, weight)
        return _outputs(tiles, kernels, x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tiles, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:  # the convolution with the kernels turned round
            of_x = _outputs(_tiles(gradient), _kernels(weight.flip(2).transpose(0, 1)), gradient.shape)
        if ctx.needs_input_grad[1]:
            length = gradient.shape[1]
            padded = F.pad(gradient, (0, 0, 0, -length % TILE)).reshape(-1, TILE, gradient.shape[2])
            products = torch.bmm((_A.T @ padded).permute(1, 2, 0), tiles)  # (TILE + 2, E, D)
            of_weight = (products.flatten(1).T @ _G).view_as(weight)
        return of_x, of_weight


def _tiles(x: Tensor) -> Tensor:
    """Inputs (B, T, D) as points of tiles, (TILE + 2, B * tiles, D)."""
    batch, length, dim = x.shape
    count, inner = -(-length // TILE), max(0, (length - TILE - 1) // TILE)  # tiles, and those that see no edge
    first = F.pad(x[:, : TILE + 1], (0, 0, 1, max(0, TILE + 1 - length)))
    last = F.pad(x[:, (inner + 1) * TILE - 1 :], (0, 0, 0, max(0, count * TILE + 1 - length)))
    result = x.new_empty(batch, count, TILE + 2, dim)
    torch.matmul(_B, first, out=result[:, 0])
    if inner:
        for sequence, out in zip(x, result, strict=True):  # one by one, so that no copy of all windows is made
            windows = sequence[TILE - 1 : (inner + 1) * TILE + 1].unfold(0, TILE + 2, TILE)
            torch.matmul(_B, windows.mT, out=out[1 : inner + 1])
    if count > inner + 1:
        torch.matmul(_B, last.unfold(1, TILE + 2, TILE).mT, out=result[:, inner + 1 :])
    return result.view(-1, TILE + 2, dim).transpose(0, 1)


def _kernels(weight: Tensor) -> Tensor:
    """Kernels (E, D, 3) as points, (TILE + 2, D, E)."""
    return (_G @ weight.reshape(-1, 3).T).view(TILE + 2, *weight.shape[:2]).mT


def _outputs(tiles: Tensor, kernels: Tensor, shape: torch.Size) -> Tensor:
    """The convolution (B, T, E) of inputs of some shape (B, T, D)."""
    products = torch.bmm(tiles, kernels).transpose(0, 1)  # (B * tiles, TILE + 2, E)
    return (_A @ products).view(shape[0], -1, products.shape[2])[:, : shape[1]]


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Toom and Cook's matrices A (TILE, TILE + 2), B (TILE + 2, TILE + 2) and G (TILE + 2, 3) at some points."""
    points = torch.tensor([0, 1, -1, 2, -2, 0.5, -0.5], dtype=torch.float64)
    infinity = torch.eye(TILE + 2, dtype=torch.float64)[-1]

    def powers(count: int) -> Tensor:
        return torch.cat([points[:, None] ** torch.arange(count), infinity[None, -count:]])

    apart = (points[:, None] - points + torch.eye(len(points))).prod(dim=1)
    scale = torch.cat([apart, torch.ones(1, dtype=torch.float64)])[:, None]
    a, b, g = powers(TILE).T, torch.linalg.inv(powers(TILE + 2)).T * scale, powers(3) / scale
    return a.float().contiguous(), b.float().contiguous(), g.float().contiguous()


_A, _B, _G = _transforms()
