"""The layers of the student: everything works on (B, T, D) sequences with a (B, T, 1) mask of valid snippets.

In the corrected recipe the output for a video does not depend on the padding behind it (but training adds its input
noise to padding, too). The released code zeroes
padding after convolutions only, so that it takes part in means, norms and pooling (docs/method.md section 7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.engine.cpu import Conv1d, Depthwise
from fustal.params import Params


class MaskedConv(Conv1d):
    """Convolution that sets padded positions to zero."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # every masked layer takes a mask
        """Convolves x (B, T, D) to (B, T, E)."""
        return super().forward(x) * mask


class ConvNorm(nn.Module):
    """Masked convolution without bias, layer normalisation of each snippet, ReLU: a layer of embedding and heads."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = MaskedConv(in_dim, dim, 3, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
        """Embeds x (B, T, in_dim) to (B, T, dim); the result is 0 where `inside` (B, T, 1) is False."""
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


class MaskedGroupNorm(nn.GroupNorm):
    """Normalisation over time and the channels of a group; only valid snippets count."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # every masked layer takes a mask
        """Normalises x (B, T, D), which is 0 where the mask (B, T, 1) is False; there it becomes the bias."""
        groups = x.unflatten(2, (self.num_groups, -1))  # (B, T, G, D / G)
        mask = mask[..., None]
        count = mask.sum(dim=1, keepdim=True) * groups.shape[3]
        mean = groups.sum(dim=(1, 3), keepdim=True) / count
        centred = (groups - mean) * mask
        variance = centred.square().sum(dim=(1, 3), keepdim=True) / count
        scale = (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias, (centred * scale).flatten(2), self.weight)


class SGPBlock(nn.Module):
    """Scalable-granularity perception: an instant-level and a window-level branch, then an MLP.

    Source: docs/method.md section 4; Shi et al., TriDet, CVPR 2023, section 3.2.

    Args:
        params: `student_dim`, `student_mlp`, `sgp_window`, `sgp_factor`, `sgp_init_std`, `recipe`. At `sgp_init_std` 0
            every product of the block is 0 with gradient 0, so that its depthwise convolutions never learn.
        halve: the block halves time first, and drops residual paths (`student_drop_path`): a block of the pyramid.
    """

    def __init__(self, params: Params, *, halve: bool) -> None:
        super().__init__()
        dim = params.student_dim
        std = params.sgp_init_std
        self.halve = halve
        self.corrected = params.corrected
        self.norm = nn.LayerNorm(dim)
        self.gate = Depthwise(dim, params.sgp_window, std)
        self.local = Depthwise(dim, params.sgp_window, std)
        self.wide = Depthwise(dim, wide_kernel(params.sgp_window, params.sgp_factor), std)
        self.instant = Depthwise(dim, 1, std)
        self.context = Depthwise(dim, 1, std)
        self.group_norm = MaskedGroupNorm(16, dim)
        widen = nn.Linear(dim, params.student_mlp)
        narrow = nn.Linear(params.student_mlp, dim)
        nn.init.zeros_(widen.bias)
        nn.init.zeros_(narrow.bias)
        self.mlp = nn.Sequential(widen, nn.GELU(), narrow)
        self.drop_mix: nn.Module = nn.Identity()
        self.drop_mlp: nn.Module = nn.Identity()
        if halve and params.student_drop_path:
            self.drop_mix = DropPath(dim, params.student_drop_path)
            self.drop_mlp = DropPath(dim, params.student_drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes x (B, T, D) over time; returns it with its mask, of half the length where the block halves."""
        inside = mask if self.corrected else torch.ones_like(mask)  # the snippets that take part
        if self.halve:
            x = halve(x, inside)
            mask = mask[:, ::2]
            inside = inside[:, ::2]
        # The norm has a bias: padding is set to 0 again before the mean and the convolutions.
        z = self.norm(x) * inside
        mean = z.sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        instant_level = self.instant(z) * F.relu(self.context(mean))
        window_level = (self.local(z) + self.wide(z)) * self.gate(z)
        x = x * mask + self.drop_mix(instant_level + window_level + z) * inside
        return x + self.drop_mlp(self.mlp(self.group_norm(x, inside))), mask


def halve(x: Tensor, inside: Tensor) -> Tensor:
    """The maximum of every other snippet, from the first on, and its two neighbours, of those `inside` (B, T, 1).

    Args:
        x: (B, T, D), T even.
        inside: the snippets that take part.

    Returns:
        (B, T / 2, D), 0 where the middle one of the three is not inside.

    >>> x = torch.tensor([[[-1.0], [-5.0], [-3.0], [-2.0], [9.0], [9.0]]])
    >>> halve(x, torch.tensor([[[True], [True], [True], [True], [False], [False]]])).flatten().tolist()
    [-1.0, -2.0, 0.0]
    """
    x = x.masked_fill(~inside, -torch.inf)
    even = x[:, ::2]
    odd = x[:, 1::2]
    before = F.pad(odd[:, :-1], (0, 0, 1, 0), value=-torch.inf)
    largest = torch.maximum(torch.maximum(even, odd), before)
    return largest.masked_fill(~inside[:, ::2], 0)


def wide_kernel(window: int, factor: float) -> int:
    """Length of the window-level kernel: (window + 1) factor, rounded and made odd upwards.

    >>> wide_kernel(1, 5), wide_kernel(3, 1.5)
    (11, 7)
    """
    return round((window + 1) * factor) // 2 * 2 + 1
