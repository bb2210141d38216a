"""The layers of the student: everything works on (B, D, T) sequences with a (B, 1, T) mask of valid snippets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each snippet, (B, D, T) -> (B, D, T)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each snippet."""
        return F.layer_norm(x.mT, self.weight.shape, self.weight, self.bias).mT


class MaskedConv(nn.Conv1d):
    """Convolution of odd kernel that keeps the length and sets padded positions to zero."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__(in_dim, out_dim, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Convolves x (B, in_dim, T) to (B, out_dim, T)."""
        return super().forward(x) * mask


class ConvNorm(nn.Module):
    """Masked convolution without bias, channel normalisation, ReLU: a layer of the embedding and of the heads."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = MaskedConv(in_dim, dim, bias=False)
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Embeds x (B, in_dim, T) to (B, dim, T)."""
        return F.relu(self.norm(self.conv(x, mask)))


class DropPath(nn.Module):
    """Drops a residual path for whole videos while training, and scales its channels by learned factors from 1e-4."""

    def __init__(self, dim: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((dim,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """Scales x (B, D, T) and drops some of its B rows."""
        x = x * self.scale[:, None]
        return F.dropout(x.new_ones(len(x), 1, 1), self.probability, self.training) * x


class Depthwise(nn.Conv1d):
    """Convolution of each channel with its own kernel; weights start at N(0, std), biases at 0."""

    def __init__(self, dim: int, kernel: int, std: float) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, D, T); a kernel of one snippet is a product, which is many times faster on a CPU."""
        if self.kernel_size == (1,):
            return torch.addcmul(self.bias[:, None], x, self.weight[:, 0])
        return super().forward(x)


class SGPBlock(nn.Module):
    """Scalable-granularity perception: an instant-level and a window-level branch, then an MLP (METHOD.md section 4).

    Args:
        dim: channels.
        mlp: channels inside the MLP.
        window: kernel w of the instant-level gate; the wide kernel is round((w + 1) factor), made odd upwards.
        factor: k.
        halve: whether the block halves time first.
        drop_path: probability of dropping a residual path; 0 leaves the paths as they are, without learned scale.
        init_std: standard deviation of the depthwise weights at the start. At 0 every product of the block is 0 with
            gradient 0, so the depthwise convolutions never learn.
        masked_mean: whether the mean over time leaves padding out.
    """

    def __init__(
        self,
        dim: int,
        mlp: int,
        *,
        window: int,
        factor: float,
        halve: bool = False,
        drop_path: float = 0.0,
        init_std: float = 0.0,
        masked_mean: bool = True,
    ) -> None:
        super().__init__()
        self.halve, self.masked_mean = halve, masked_mean
        self.norm = ChannelNorm(dim)
        self.gate = Depthwise(dim, window, init_std)
        self.local = Depthwise(dim, window, init_std)
        self.wide = Depthwise(dim, wide_kernel(window, factor), init_std)
        self.instant = Depthwise(dim, 1, init_std)
        self.context = Depthwise(dim, 1, init_std)
        self.mlp = nn.Sequential(nn.GroupNorm(16, dim), nn.Conv1d(dim, mlp, 1), nn.GELU(), nn.Conv1d(mlp, dim, 1))
        self.drop_mix, self.drop_mlp = (DropPath(dim, drop_path) if drop_path else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes x (B, D, T) over time; returns it with its mask, of half the length where the block halves."""
        if self.halve:
            x, mask = F.max_pool1d(x, 3, stride=2, padding=1), mask[..., ::2]
        z = self.norm(x)
        context = F.relu(self.context(self.mean(z, mask)))
        mixed = self.instant(z) * context + (self.local(z) + self.wide(z)) * self.gate(z) + z
        x = x * mask + self.drop_mix(mixed)
        return x + self.drop_mlp(self.mlp(x)), mask

    def mean(self, z: Tensor, mask: Tensor) -> Tensor:
        """Mean of z (B, D, T) over time, (B, D, 1)."""
        if not self.masked_mean:
            return z.mean(-1, keepdim=True)
        return (z * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


def wide_kernel(window: int, factor: float) -> int:
    """Length of the window-level kernel.

    >>> wide_kernel(1, 5), wide_kernel(3, 1.5)
    (11, 7)
    """
    return round((window + 1) * factor) // 2 * 2 + 1
