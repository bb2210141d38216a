"""The student: a feature pyramid of SGP blocks with a Trident head (METHOD.md section 4; TriDet)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.params import Params
from fustal.student.blocks import ChannelNorm, ConvNorm, MaskedConv, SGPBlock


class StudentOutput(NamedTuple):
    """What the heads say, one entry per level; level l has T / 2^l points."""

    class_logits: list[Tensor]  # (B, C, T_l)
    start_logits: list[Tensor]  # (B, C, T_l)
    end_logits: list[Tensor]  # (B, C, T_l)
    offsets: list[Tensor]  # (B, 2 (bins + 1), T_l): the left bins, then the right ones
    masks: list[Tensor]  # (B, 1, T_l)


class Head(nn.Module):
    """Two embedding layers and a convolution, shared by all levels.

    Args:
        dim: channels of the pyramid.
        out_dim: channels that the head predicts.
        prior: start the bias so that the sigmoid of the output is this probability.
    """

    def __init__(self, dim: int, out_dim: int, prior: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ConvNorm(dim, dim), ConvNorm(dim, dim)])
        self.out = MaskedConv(dim, out_dim)
        nn.init.constant_(self.out.bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Predicts (B, out_dim, T) from one level (B, dim, T)."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(x, mask)


class Student(nn.Module):
    """The regression-based student.

    Args:
        in_dim: numbers of a snippet.
        num_classes: C.
        dim: channels of backbone and heads, a multiple of 16.
        mlp: channels inside an SGP block's MLP.
        levels: levels of the pyramid, each half as long as the one before.
        stem: SGP blocks before the pyramid.
        window: w of the SGP blocks.
        factor: k of the SGP blocks.
        bins: bins of the Trident head.
        drop_path: probability of dropping a residual path in the pyramid.
        init_std: standard deviation of the depthwise weights at the start.
        masked_mean: whether the SGP blocks' mean over time leaves padding out (corrected) or not (published).

    Source: METHOD.md section 4; Shi et al., TriDet, CVPR 2023.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int,
        mlp: int,
        levels: int,
        stem: int,
        window: int,
        factor: float,
        bins: int,
        drop_path: float,
        init_std: float,
        masked_mean: bool,
    ) -> None:
        super().__init__()
        sgp = {"window": window, "factor": factor, "init_std": init_std, "masked_mean": masked_mean}
        self.embedding = nn.ModuleList([ConvNorm(in_dim, dim), ConvNorm(dim, dim)])
        self.stem = nn.ModuleList(SGPBlock(dim, mlp, **sgp) for _ in range(stem))
        self.branch = nn.ModuleList(
            SGPBlock(dim, mlp, halve=True, drop_path=drop_path, **sgp) for _ in range(levels - 1)
        )
        self.norms = nn.ModuleList(ChannelNorm(dim) for _ in range(levels))
        self.class_head, self.start_head, self.end_head = (Head(dim, num_classes, prior=0.01) for _ in range(3))
        self.offset_head = Head(dim, 2 * (bins + 1))
        self.scales = nn.Parameter(torch.ones(levels))
        self.register_buffer("positives", torch.tensor(100.0))  # moving average of the number of positive points

    @classmethod
    def from_params(cls, params: Params, in_dim: int, num_classes: int) -> "Student":
        """The student that `params` describe, for features of `in_dim` numbers and `num_classes` classes."""
        return cls(
            in_dim,
            num_classes,
            dim=params.student_dim,
            mlp=params.student_mlp,
            levels=params.student_levels,
            stem=params.student_stem,
            window=params.sgp_window,
            factor=params.sgp_factor,
            bins=params.student_bins,
            drop_path=params.student_drop_path,
            init_std=params.sgp_init_std,
            masked_mean=params.corrected,
        )

    @property
    def least_multiple(self) -> int:
        """Sequences must have a multiple of this many snippets, so that every level is half as long as the last."""
        return 2 ** (len(self.norms) - 1)

    def pyramid(self, x: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels.

        Args:
            x: features (B, in_dim, T), T a multiple of `least_multiple`.
            mask: valid snippets (B, 1, T), bool.

        Returns:
            Features (B, dim, T_l) and masks (B, 1, T_l) of each level.
        """
        if x.shape[-1] % self.least_multiple:
            raise ValueError(f"{x.shape[-1]} snippets are no multiple of {self.least_multiple}: pad them")
        for layer in self.embedding:
            x = layer(x, mask)
        for block in self.stem:
            x, mask = block(x, mask)
        features, masks = [x], [mask]
        for block in self.branch:
            x, mask = block(x, mask)
            features.append(x)
            masks.append(mask)
        return [norm(x) for norm, x in zip(self.norms, features, strict=True)], masks

    def forward(self, x: Tensor, mask: Tensor) -> StudentOutput:
        """Predicts for every point of every level.

        Args:
            x: features (B, in_dim, T), T a multiple of `least_multiple`.
            mask: valid snippets (B, 1, T), bool.
        """
        levels = list(zip(*self.pyramid(x, mask), strict=True))
        return StudentOutput(
            [self.class_head(x, mask) for x, mask in levels],
            [self.start_head(x.detach(), mask) for x, mask in levels],
            [self.end_head(x.detach(), mask) for x, mask in levels],
            [F.relu(self.offset_head(*level) * scale) for level, scale in zip(levels, self.scales, strict=True)],
            [mask for _, mask in levels],
        )
