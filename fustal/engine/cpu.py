"""Convolutions over time, and a dropout, that are fast on a CPU; both networks spend most of their time in them.

On other devices, and in other arithmetic than float32, they are PyTorch's own. On a CPU a convolution to few channels
is one matrix product, and a wide one is computed in tiles by Winograd's minimal filtering F(6, 3): six outputs of a
kernel of three cost 8 products instead of 18, forward and backward. The sums are the same except for rounding: its
error is up to three times that of the direct computation in narrow layers, and below it in the widest.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 6
"""Outputs of a tile, which reads TILE + 2 inputs."""

MINIMUM_WIDTH = 64
"""Channels, of input and output, from which on Winograd's filtering is faster than the direct computation."""


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` over time for sequences (B, T, D), with channels last; it keeps the length.

    Args:
        in_dim: channels of the input, D.
        out_dim: channels of the output, E.
        kernel: an odd number of snippets.
        bias: whether a bias is added.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int, bias: bool = True) -> None:
        super().__init__(in_dim, out_dim, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, T, D) to (B, T, E); beyond the sequence everything is 0."""
        return convolve(x, self.weight, self.bias)


class Depthwise(nn.Conv1d):
    """Convolution of each channel with its own kernel; weights start at N(0, std), biases at 0."""

    def __init__(self, dim: int, kernel: int, std: float) -> None:
        super().__init__(dim, dim, kernel, groups=dim)
        self.bias: nn.Parameter
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, T, D)."""
        kernel = self.kernel_size[0]
        if kernel == 1:  # a product
            return torch.addcmul(self.bias, x, self.weight[:, 0, 0])
        # PyTorch's 2d convolution is faster than its 1d one where the channels come last.
        image = x.mT[:, :, None]
        weight = self.weight[:, :, None]
        return F.conv2d(image, weight, self.bias, padding=(0, kernel // 2), groups=self.groups)[:, :, 0].mT


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
    out_dim, in_dim, kernel = weight.shape
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if on_cpu and kernel == 3 and min(out_dim, in_dim) >= MINIMUM_WIDTH:
        y = _Winograd.apply(x, weight)
    elif on_cpu and out_dim <= in_dim:
        y = _Narrow.apply(x, weight)
    else:
        return F.conv1d(x.mT, weight, bias, padding=kernel // 2).mT
    return y if bias is None else y + bias


def dropout(x: Tensor, share: float) -> Tensor:
    """Dropout; on a CPU with a mask from 16 random bits per value, ten times as fast as PyTorch's.

    Args:
        x: any shape.
        share: probability of dropping a value; on a CPU rounded to a multiple of 2**-16.

    Returns:
        x with some values 0, and the others divided by the probability of keeping one.
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(
        -(2**63), None
    )  # each holds four random numbers of 16 bits
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    dropped = min(round(share * 2**16), 2**16 - 1)
    kept = bits >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class _Narrow(torch.autograd.Function):
    """The products of the sequence with each place of the kernel, shifted and added: one matrix product for all places.

    The gradient is written by hand: PyTorch's own would fill a sequence with zeros for each shift.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out_dim, _, kernel = weight.shape
        products = x @ weight.permute(1, 2, 0).flatten(1)  # (B, T, K E)
        products = products.unflatten(2, (kernel, out_dim))
        padded = F.pad(products, (0, 0, 0, 0, kernel // 2, kernel // 2))
        y = padded[:, : x.shape[1], 0]
        for k in range(1, kernel):
            y = y + padded[:, k : k + x.shape[1], k]
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        out_dim, in_dim, kernel = weight.shape
        padded = F.pad(gradient, (0, 0, kernel // 2, kernel // 2))
        shifted = torch.cat([padded[:, k : k + x.shape[1]] for k in reversed(range(kernel))], dim=2)  # (B, T, K E)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = shifted @ weight.permute(2, 0, 1).reshape(-1, in_dim)
        if ctx.needs_input_grad[1]:
            products = shifted.flatten(0, 1).T @ x.flatten(0, 1)
            of_weight = products.view(kernel, out_dim, in_dim).permute(1, 2, 0)
        return of_x, of_weight


class _Winograd(torch.autograd.Function):
    """y = A [(G w) * (B x)] in each tile, where the product sums over channels: one matrix product a point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        tiles = _tiles(x)
        kept = tiles if ctx.needs_input_grad[1] else None  # they take as much memory as x
        ctx.save_for_backward(kept, weight)
        return _outputs(tiles, _kernels(weight), x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tiles, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:  # a convolution of the gradient with the reversed kernels
            kernels = _kernels(weight.flip(2).transpose(0, 1))
            of_x = _outputs(_tiles(gradient), kernels, gradient.shape)
        if ctx.needs_input_grad[1]:
            missing = -gradient.shape[1] % TILE
            padded = F.pad(gradient, (0, 0, 0, missing)).reshape(-1, TILE, gradient.shape[2])
            products = torch.bmm((_A.T @ padded).permute(1, 2, 0), tiles)  # (TILE + 2, E, D)
            of_weight = (products.flatten(1).T @ _G).view_as(weight)
        return of_x, of_weight


def _tiles(x: Tensor) -> Tensor:
    """Inputs (B, T, D) as points of tiles, (TILE + 2, B * tiles, D)."""
    batch, length, dim = x.shape
    count = -(-length // TILE)
    inner = max(0, (length - TILE - 1) // TILE)  # tiles that reach neither edge; they need no padding
    first = F.pad(x[:, : TILE + 1], (0, 0, 1, max(0, TILE + 1 - length)))
    last = F.pad(x[:, (inner + 1) * TILE - 1 :], (0, 0, 0, max(0, count * TILE + 1 - length)))
    result = x.new_empty(batch, count, TILE + 2, dim)
    torch.matmul(_B, first, out=result[:, 0])
    if inner:
        for sequence, out in zip(x, result, strict=True):  # for each video, to avoid a copy of all windows
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
    """The matrices A (TILE, TILE + 2), B (TILE + 2, TILE + 2) and G (TILE + 2, 3) of Toom and Cook, at eight points."""
    points = torch.tensor([0, 1, -1, 2, -2, 0.5, -0.5], dtype=torch.float64)
    infinity = torch.eye(TILE + 2, dtype=torch.float64)[-1]

    def powers(count: int) -> Tensor:
        return torch.cat([points[:, None] ** torch.arange(count), infinity[None, -count:]])

    distances = (points[:, None] - points + torch.eye(len(points))).prod(dim=1)
    scale = torch.cat([distances, torch.ones(1, dtype=torch.float64)])[:, None]
    a = powers(TILE).T
    b = torch.linalg.inv(powers(TILE + 2)).T * scale
    g = powers(3) / scale
    return a.float().contiguous(), b.float().contiguous(), g.float().contiguous()


_A, _B, _G = _transforms()
