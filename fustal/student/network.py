"""The student: a feature pyramid of SGP blocks with a Trident head (docs/method.md section 4; TriDet)."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.engine.device import pick_device, precision
from fustal.params import Params
from fustal.student.blocks import ConvNorm, MaskedConv, SGPBlock

HEAD_REACH = 3
"""Snippets to each side that the three convolutions of a head see."""


class PackedLevels(NamedTuple):
    """The levels of a pyramid one after the other, each followed by one empty place: the input of the heads.

    The empty place keeps a convolution of three snippets from mixing two levels, so that one call serves all levels.
    """

    features: Tensor  # (B, R, D), 0 at the empty places
    mask: Tensor  # (B, R, 1) valid snippets
    inside: Tensor  # (B, R, 1) places that may differ from 0; corrected: without padding


class StudentOutput(NamedTuple):
    """Outputs at all P points, those of all levels one after the other."""

    class_logits: Tensor  # (B, P, C), 0 at padding
    mask: Tensor  # (B, P, 1)
    lengths: list[int]  # points of each level
    levels: PackedLevels  # input of `Student.borders`


class Borders(NamedTuple):
    """Outputs of the Trident head; undefined at points that were not requested."""

    start_logits: Tensor  # (B, P, C)
    end_logits: Tensor  # (B, P, C)
    offsets: Tensor  # (B, P, 2 (bins + 1)): the left bins, then the right ones


class Head(nn.Module):
    """Two embedding layers and a convolution, shared by all levels.

    Args:
        dim: channels of the pyramid.
        out_dim: channels that the head predicts.
        prior: the bias starts so that the sigmoid of the output is this probability.
    """

    def __init__(self, dim: int, out_dim: int, prior: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ConvNorm(dim, dim), ConvNorm(dim, dim)])
        self.out = MaskedConv(dim, out_dim, 3)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, math.log(prior / (1 - prior)))

    def forward(self, levels: PackedLevels, wanted: Tensor) -> Tensor:
        """Predicts (B, R, out_dim) at the wanted places (B, R); 0 elsewhere.

        Only these and the places that their convolutions see are computed, as one short sequence. In it, places that
        are no neighbours in the pyramid meet only where no wanted place sees them.
        """
        near = spread(wanted, HEAD_REACH, HEAD_REACH)
        near[:, -1] = True  # the last empty place, between this video and the next
        chosen = near.flatten().nonzero()[:, 0]
        x = levels.features.flatten(0, 1)[chosen][None]
        mask = levels.mask.flatten(0, 1)[chosen][None]
        inside = levels.inside.flatten(0, 1)[chosen][None]
        for layer in self.layers:
            x = layer(x, mask, inside)
        x = self.out(x, mask * wanted.flatten()[chosen][:, None])[0]
        result = x.new_zeros(wanted.numel(), x.shape[1]).index_copy(0, chosen, x)
        return result.view(*wanted.shape, -1)


class Student(nn.Module):
    """The regression-based student.

    Source: docs/method.md section 4; Shi et al., TriDet, CVPR 2023.

    Args:
        params: sizes (`student_*`, `sgp_*`), device, arithmetic and recipe.
        in_dim: features per snippet.
        num_classes: C.
    """

    def __init__(self, params: Params, in_dim: int, num_classes: int) -> None:
        super().__init__()
        dim = params.student_dim
        levels = params.student_levels
        self.bins = params.student_bins
        self.corrected = params.corrected
        self.arithmetic: AbstractContextManager[object] = nullcontext()
        self.embedding = nn.ModuleList([ConvNorm(in_dim, dim), ConvNorm(dim, dim)])
        self.stem = nn.ModuleList(SGPBlock(params, halve=False) for _ in range(params.student_stem))
        self.branch = nn.ModuleList(SGPBlock(params, halve=True) for _ in range(levels - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(levels))
        self.class_head = Head(dim, num_classes, prior=0.01)
        self.start_head = Head(dim, num_classes, prior=0.01)
        self.end_head = Head(dim, num_classes, prior=0.01)
        self.offset_head = Head(dim, 2 * (self.bins + 1))
        self.scales = nn.Parameter(torch.ones(levels))
        self.positives: Tensor  # moving average of the number of positive points
        self.register_buffer("positives", torch.tensor(100.0))

    @classmethod
    def from_params(cls, params: Params, in_dim: int, num_classes: int) -> "Student":
        """A new student on the device and in the arithmetic of the parameters."""
        device = pick_device(params)
        model = cls(params, in_dim, num_classes)
        model.arithmetic = precision(params, device)
        return model.to(device)

    @property
    def length_multiple(self) -> int:
        """Sequences must have a multiple of this many snippets, so that every level is half as long as the last."""
        return 2 ** (len(self.norms) - 1)

    def pyramid(self, x: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels.

        Args:
            x: features (B, T, in_dim), T a multiple of `length_multiple`.
            mask: valid snippets (B, T, 1), bool.

        Returns:
            Features (B, T_l, dim) and masks (B, T_l, 1) of each level.

        Raises:
            ValueError: T is no such multiple.
        """
        if x.shape[1] % self.length_multiple:
            raise ValueError(f"{x.shape[1]} snippets are not a multiple of {self.length_multiple}: pad them")
        for layer in self.embedding:
            x = layer(x, mask, self._inside(mask))
        for block in self.stem:
            x, mask = block(x, mask)
        features = [x]
        masks = [mask]
        for block in self.branch:
            x, mask = block(x, mask)
            features.append(x)
            masks.append(mask)
        normed = [norm(level) for norm, level in zip(self.norms, features, strict=True)]
        return normed, masks

    def forward(self, x: Tensor, mask: Tensor) -> StudentOutput:
        """Classifies every point of every level; `borders` computes start, end and offsets where they are needed.

        Args:
            x: features (B, T, in_dim), T a multiple of `length_multiple`.
            mask: valid snippets (B, T, 1), bool.
        """
        with self.arithmetic:
            features, masks = self.pyramid(x, mask)
            # All levels go through a head as one sequence: one call instead of one for each level.
            inside = _pack([self._inside(mask) for mask in masks])
            levels = PackedLevels(_pack(features) * inside, _pack(masks), inside)
            lengths = [mask.shape[1] for mask in masks]
            logits = self.class_head(levels, levels.mask[..., 0])[:, _places(lengths, x.device)]
        return StudentOutput(logits.float(), torch.cat(masks, dim=1), lengths, levels)

    def borders(self, output: StudentOutput, video: Tensor, point: Tensor) -> Borders:
        """Offsets at some points, and start and end logits at the points that their decoding reads.

        The start and end heads do not train the pyramid; the offset head does.

        Args:
            output: of `forward`.
            video: (N,) rows of the batch.
            point: (N,) points, counted through the levels.
        """
        levels = output.levels
        places = _places(output.lengths, point.device)
        wanted = torch.zeros_like(levels.mask[..., 0])
        wanted[video, places[point]] = True
        # The start and end heads read detached features, so that they do not train the pyramid.
        detached = levels._replace(features=levels.features.detach())
        scale = self.scales.repeat_interleave(torch.tensor(output.lengths, device=point.device))
        with self.arithmetic:
            start = self.start_head(detached, spread(wanted, self.bins, 0))[:, places]
            end = self.end_head(detached, spread(wanted, 0, self.bins))[:, places]
            offsets = self.offset_head(levels, wanted)[:, places]
        return Borders(start.float(), end.float(), F.relu(offsets.float() * scale[:, None]))

    def _inside(self, mask: Tensor) -> Tensor:
        """The snippets that take part: valid ones; published: padding as well."""
        return mask if self.corrected else torch.ones_like(mask)


def spread(wanted: Tensor, before: int, after: int) -> Tensor:
    """True at most so many places before, or after, a wanted one (B, R), bool.

    >>> spread(torch.tensor([[False, False, False, True, False]]), 2, 1).int().tolist()
    [[0, 1, 1, 1, 1]]
    """
    padded = F.pad(wanted.float(), (after, before))
    return F.max_pool1d(padded, before + after + 1, stride=1).bool()


def _pack(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, T_l, D) one after the other, (B, R, D), each followed by one empty place."""
    return torch.cat([F.pad(level, (0, 0, 0, 1)) for level in levels], dim=1)


def _places(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Places of all points in the packed levels, (P,).

    >>> _places([3, 2], torch.device("cpu")).tolist()
    [0, 1, 2, 4, 5]
    """
    level = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))
    return torch.arange(len(level), device=device) + level
