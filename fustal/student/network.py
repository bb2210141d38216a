"""The student: a feature pyramid of SGP blocks with a Trident head (docs/method.md section 4; TriDet)."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.params import Params
from fustal.student.blocks import ConvNorm, MaskedConv, SGPBlock

HALO = 3
"""Snippets to each side that a head's three convolutions look at."""


class Row(NamedTuple):
    """The levels of a pyramid one after the other, a gap of one empty place behind each: what the heads work on.

    A convolution of three places over the row never sees two levels at once, and one call does for all of them.
    """

    features: Tensor  # (B, R, D), 0 in the gaps
    mask: Tensor  # (B, R, 1) valid snippets
    inside: Tensor  # (B, R, 1) what may differ from 0: no gaps; corrected: no padding either


class StudentOutput(NamedTuple):
    """What the student says of P points, those of all levels one after the other."""

    class_logits: Tensor  # (B, P, C), 0 at padding
    mask: Tensor  # (B, P, 1)
    lengths: list[int]  # points of each level
    row: Row  # what `Student.borders` needs


class Borders(NamedTuple):
    """What the Trident head says, with whatever at points that nobody asked for."""

    start_logits: Tensor  # (B, P, C)
    end_logits: Tensor  # (B, P, C)
    offsets: Tensor  # (B, P, 2 (bins + 1)): the left bins, then the right ones


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

    def forward(self, row: Row, wanted: Tensor) -> Tensor:
        """Predicts (B, R, out_dim) at the `wanted` places (B, R) of a row; 0 elsewhere.

        Only these and their surroundings are computed, as one sequence: places that are no neighbours in the row come
        together in it only where the halo of a wanted place ends.
        """
        near = spread(wanted, HALO, HALO)
        near[:, -1] = True  # the last gap, between this video and the next
        chosen = near.flatten().nonzero()[:, 0]
        x, mask, inside = (part.flatten(0, 1)[chosen][None] for part in row)
        for layer in self.layers:
            x = layer(x, mask, inside)
        x = self.out(x, mask * wanted.flatten()[chosen][:, None])[0]
        return x.new_zeros(wanted.numel(), x.shape[1]).index_copy(0, chosen, x).view(*wanted.shape, -1)


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
        corrected: padding takes no part in anything; published: it is zeroed after convolutions only.

    Source: docs/method.md section 4; Shi et al., TriDet, CVPR 2023.
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
        corrected: bool,
    ) -> None:
        super().__init__()
        self.bins, self.corrected = bins, corrected
        self.arithmetic: AbstractContextManager = nullcontext()  # see `fustal.engine.device.precision`
        sgp = {"window": window, "factor": factor, "init_std": init_std, "corrected": corrected}
        self.embedding = nn.ModuleList([ConvNorm(in_dim, dim), ConvNorm(dim, dim)])
        self.stem = nn.ModuleList(SGPBlock(dim, mlp, **sgp) for _ in range(stem))
        self.branch = nn.ModuleList(
            SGPBlock(dim, mlp, halve=True, drop_path=drop_path, **sgp) for _ in range(levels - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(levels))
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
            corrected=params.corrected,
        )

    @property
    def least_multiple(self) -> int:
        """Sequences must have a multiple of this many snippets, so that every level is half as long as the last."""
        return 2 ** (len(self.norms) - 1)

    def pyramid(self, x: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels.

        Args:
            x: features (B, T, in_dim), T a multiple of `least_multiple`.
            mask: valid snippets (B, T, 1), bool.

        Returns:
            Features (B, T_l, dim) and masks (B, T_l, 1) of each level.
        """
        if x.shape[1] % self.least_multiple:
            raise ValueError(f"{x.shape[1]} snippets are no multiple of {self.least_multiple}: pad them")
        for layer in self.embedding:
            x = layer(x, mask, self._inside(mask))
        for block in self.stem:
            x, mask = block(x, mask)
        features, masks = [x], [mask]
        for block in self.branch:
            x, mask = block(x, mask)
            features.append(x)
            masks.append(mask)
        return [norm(x) for norm, x in zip(self.norms, features, strict=True)], masks

    def forward(self, x: Tensor, mask: Tensor) -> StudentOutput:
        """Classifies every point of every level; `borders` says the rest of those that matter.

        Args:
            x: features (B, T, in_dim), T a multiple of `least_multiple`.
            mask: valid snippets (B, T, 1), bool.
        """
        with self.arithmetic:
            features, masks = self.pyramid(x, mask)
            inside = _in_a_row([self._inside(mask) for mask in masks])
            row = Row(_in_a_row(features) * inside, _in_a_row(masks), inside)
            lengths = [mask.shape[1] for mask in masks]
            logits = self.class_head(row, row.mask[..., 0])[:, _places(lengths, x.device)]
        return StudentOutput(logits.float(), torch.cat(masks, dim=1), lengths, row)

    def borders(self, output: StudentOutput, video: Tensor, point: Tensor) -> Borders:
        """Offsets at some points, and start and end logits as far before and behind them as their decoding looks.

        The boundary heads do not train the pyramid; the offset head does.

        Args:
            output: of `forward`.
            video: (N,) rows of the batch.
            point: (N,) points, counted through the levels.
        """
        places, row = _places(output.lengths, point.device), output.row
        wanted = torch.zeros_like(row.mask[..., 0])
        wanted[video, places[point]] = True
        detached = row._replace(features=row.features.detach())
        scale = self.scales.repeat_interleave(torch.tensor(output.lengths, device=point.device))
        with self.arithmetic:
            start = self.start_head(detached, spread(wanted, self.bins, 0))[:, places]
            end = self.end_head(detached, spread(wanted, 0, self.bins))[:, places]
            offsets = self.offset_head(row, wanted)[:, places]
        return Borders(start.float(), end.float(), F.relu(offsets.float() * scale[:, None]))

    def _inside(self, mask: Tensor) -> Tensor:
        return mask if self.corrected else torch.ones_like(mask)


def spread(wanted: Tensor, before: int, after: int) -> Tensor:
    """What lies at most so many places before, or after, something wanted (B, R), bool.

    >>> spread(torch.tensor([[False, False, False, True, False]]), 2, 1).int().tolist()
    [[0, 1, 1, 1, 1]]
    """
    return F.max_pool1d(F.pad(wanted.float(), (after, before)), before + after + 1, stride=1).bool()


def _in_a_row(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, T_l, D) one after the other, (B, R, D), each followed by one empty place."""
    return torch.cat([F.pad(level, (0, 0, 0, 1)) for level in levels], dim=1)


def _places(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Places in the row of all points, (P,).

    >>> _places([3, 2], torch.device("cpu")).tolist()
    [0, 1, 2, 4, 5]
    """
    level = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))
    return torch.arange(len(level), device=device) + level
