"""The layers of the student: everything works on (B, T, D) sequences with a (B, T, 1) mask of valid snippets.

In the corrected recipe a layer gives the same for a video whatever the padding behind it. The released code zeroes it
after convolutions only, so that it takes part in means, norms and pooling, and leaks back (docs/method.md section 7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.engine.cpu import convolve


class MaskedConv(nn.Conv1d):
    """Convolution of odd kernel that keeps the length and sets padded positions to zero."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__(in_dim, out_dim, kernel, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Convolves x (B, T, in_dim) to (B, T, out_dim)."""
        return convolve(x, self.weight, self.bias) * mask


class ConvNorm(nn.Module):
    """Masked convolution without bias, layer normalisation of each snippet, ReLU: a layer of embedding and heads."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = MaskedConv(in_dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
        """Embeds x (B, T, in_dim) to (B, T, dim); what is not `inside` (B, T, 1) is 0 for the next layer."""
        return F.relu(self.norm(self.conv(x, mask))) * inside


class DropPath(nn.Module):
    """Drops a residual path for whole videos while training, and scales its channels by learned factors from 1e-4."""

    def __init__(self, dim: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((dim,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """Scales x (B, T, D) and drops some of its B rows."""
        keep = F.dropout(x.new_ones(len(x), 1, 1), self.probability, self.training)
        return x * (keep * self.scale)


class Depthwise(nn.Conv1d):
    """Convolution of each channel with its own kernel; weights start at N(0, std), biases at 0."""

    def __init__(self, dim: int, kernel: int, std: float) -> None:
        super().__init__(dim, dim, kernel, groups=dim)
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, T, D). A kernel of one snippet is a product; else channels last, for which 2d is faster."""
        kernel = self.kernel_size[0]
        if kernel == 1:
            return torch.addcmul(self.bias, x, self.weight[:, 0, 0])
        image, weight = x.mT[:, :, None], self.weight[:, :, None]
        return F.conv2d(image, weight, self.bias, padding=(0, kernel // 2), groups=self.groups)[:, :, 0].mT


class MaskedGroupNorm(nn.GroupNorm):
    """Normalisation over time and the channels of a group, of valid snippets."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalises x (B, T, D), which is 0 where the mask (B, T, 1) is False; there it becomes the bias."""
        groups, mask = x.unflatten(2, (self.num_groups, -1)), mask[..., None]
        count = mask.sum(dim=1, keepdim=True) * groups.shape[3]
        centred = (groups - groups.sum(dim=(1, 3), keepdim=True) / count) * mask
        scale = (centred.square().sum(dim=(1, 3), keepdim=True) / count + self.eps).rsqrt()
        return torch.addcmul(self.bias, (centred * scale).flatten(2), self.weight)


class SGPBlock(nn.Module):
    """Scalable-granularity perception: an instant-level and a window-level branch, then an MLP (docs/method.md section 4).

    Args:
        dim: channels.
        mlp: channels inside the MLP.
        window: kernel w of the instant-level gate; the wide kernel is round((w + 1) factor), made odd upwards.
        factor: k.
        halve: whether the block halves time first.
        drop_path: probability of dropping a residual path; 0 leaves the paths as they are, without learned scale.
        init_std: standard deviation of the depthwise weights at the start. At 0 every product of the block is 0 with
            gradient 0, so the depthwise convolutions never learn.
        corrected: padding takes no part in anything.
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
        corrected: bool = True,
    ) -> None:
        super().__init__()
        self.halve, self.corrected = halve, corrected
        self.norm = nn.LayerNorm(dim)
        self.gate = Depthwise(dim, window, init_std)
        self.local = Depthwise(dim, window, init_std)
        self.wide = Depthwise(dim, wide_kernel(window, factor), init_std)
        self.instant = Depthwise(dim, 1, init_std)
        self.context = Depthwise(dim, 1, init_std)
        self.group_norm = MaskedGroupNorm(16, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))
        self.drop_mix, self.drop_mlp = (DropPath(dim, drop_path) if drop_path else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes x (B, T, D) over time; returns it with its mask, of half the length where the block halves."""
        inside = mask if self.corrected else torch.ones_like(mask)
        if self.halve:
            x, mask, inside = halve(x, inside), mask[:, ::2], inside[:, ::2]
        z = self.norm(x) * inside
        context = F.relu(self.context(z.sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)))
        mixed = self.instant(z) * context + (self.local(z) + self.wide(z)) * self.gate(z) + z
        x = x * mask + self.drop_mix(mixed) * inside
        return x + self.drop_mlp(self.mlp(self.group_norm(x, inside))), mask


def halve(x: Tensor, inside: Tensor) -> Tensor:
    """The maximum of each second snippet and its two neighbours, as far as they are `inside` (B, T, 1).

    Args:
        x: (B, T, D), T even.
        inside: what takes part.

    Returns:
        (B, T / 2, D), 0 where the second snippet is not inside.

    >>> x = torch.tensor([[[-1.0], [-5.0], [-3.0], [-2.0], [9.0], [9.0]]])
    >>> halve(x, torch.tensor([[[True], [True], [True], [True], [False], [False]]])).flatten().tolist()
    [-1.0, -2.0, 0.0]
    """
    x = x.masked_fill(~inside, -torch.inf)
    even, odd = x[:, ::2], x[:, 1::2]
    before = F.pad(odd[:, :-1], (0, 0, 1, 0), value=-torch.inf)
    return torch.maximum(torch.maximum(even, odd), before).masked_fill(~inside[:, ::2], 0)


def wide_kernel(window: int, factor: float) -> int:
    """Length of the window-level kernel.

    >>> wide_kernel(1, 5), wide_kernel(3, 1.5)
    (11, 7)
    """
    return round((window + 1) * factor) // 2 * 2 + 1
