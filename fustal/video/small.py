"""Two small backbones without weights: for examples and tests, and for videos in which nothing but people moves."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 64
"""Rows and columns of a frame for both."""

BANDS = 8
"""Horizontal bands of a frame whose features are separate: up is told from down, left not from right."""


class Random3d(nn.Module):
    """Random 3-D convolutions of a fixed seed: means and deviations of their outputs in each band."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        first = torch.randn(24, 3, 3, 5, 5, generator=random)
        second = torch.randn(48, 24, 3, 3, 3, generator=random)
        # Without a mean over time, a filter sees only what changes
        self.first = nn.Buffer(_unit(first - first.mean(dim=2, keepdim=True)))
        self.second = nn.Buffer(_unit(second))

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, h, w) -> (B, D)."""
        x = functional.conv3d(clips, self.first, stride=(1, 2, 2), padding=(1, 2, 2)).relu()
        x = functional.conv3d(x, self.second, stride=2, padding=1).relu()
        x = x.unflatten(3, (BANDS, -1))  # (B, 48, T/2, bands, rows, columns)
        parts = [x.mean(dim=(2, 4, 5)), x.std(dim=(2, 4, 5))]
        x = torch.cat(parts, dim=1).flatten(1)
        return functional.layer_norm(x, x.shape[1:])


class Motion(nn.Module):
    """Statistics of the changes between frames, in bands and in both halves of a window.

    For each band and half: how much changes, how much that change changes itself, and in which direction things move,
    down (positive) or up, and right or left, by the signs of the gradients in time and in space.
    """

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, h, w) -> (B, D)."""
        gray = clips.mean(dim=1)
        change = gray.diff(dim=1)
        jerk = functional.pad(change.diff(dim=1), (0, 0, 0, 0, 1, 0))
        between = (gray[:, 1:] + gray[:, :-1]) / 2
        down, right = torch.gradient(between, dim=(2, 3))
        parts = [
            (_pooled(change.abs()) + 0.002).log() + 5,
            (_pooled(jerk.abs()) + 0.002).log() + 5,
            -_pooled(change * down) / (_pooled((change * down).abs()) + 1e-5),
            -_pooled(change * right) / (_pooled((change * right).abs()) + 1e-5),
        ]
        return torch.cat(parts, dim=1)


def _pooled(values: Tensor) -> Tensor:
    """Means (B, T, h, w) -> (B, 2 * BANDS), for both halves of the time and each band."""
    return functional.adaptive_avg_pool3d(values[:, None], (2, BANDS, 1)).flatten(1)


def _unit(filters: Tensor) -> Tensor:
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None, None]


def _small(frame: Tensor) -> Tensor:
    """A frame, uint8 (3, H, W), as float32 (3, SIDE, SIDE) from -0.5 to 0.5."""
    return functional.adaptive_avg_pool2d(frame.float() / 255, SIDE) - 0.5


SMALL: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module]]] = {
    "random3d": (_small, Random3d),
    "motion": (_small, Motion),
}
"""Name -> transform, and a function that makes the network; see `fustal.video.backbones.Backbone`."""
