"""EMA distillation: the average of the student's weights labels the training videos once more.

Taught in notebook 04. Source: docs/method.md section 5. The average is kept from the first step of the student's
training on (`fustal.student.training`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from fustal.data.features import FeatureStore
from fustal.engine.videos import to_frame, whole_videos
from fustal.evaluation.labels import agreement
from fustal.params import Params
from fustal.proposals import SHARES, add_iou_score, best_labels, choose_share
from fustal.segments import best_segments, iou_score, prior_rank, vote
from fustal.student.batches import Batch, TrainingVideos, label_weights
from fustal.student.decoding import Detections, apply_soft_nms, candidates, class_scores
from fustal.student.network import Student, StudentOutput
from fustal.student.targets import Truth
from fustal.student.training import StudentState, train_epochs


class Relabel(nn.Module):
    """Replaces the labels of a batch by the teacher's predictions on the same sequences.

    A video without any prediction keeps its pseudo labels. `published`: the first batch of an epoch with such a video
    is skipped, and the rest of the epoch uses the pseudo labels. A module, so that a checkpoint holds the epoch in
    which that happened.

    Args:
        params: `label_rule`, `recipe`, settings of decoding and soft-NMS.
        reference: video -> the highest score of each of its classes, (C,), see `highest_scores`; `label_rule:
            thresholds` does not use it.
    """

    def __init__(self, params: Params, reference: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.params = params
        self.reference = reference
        self.fallback_epoch: Tensor
        self.register_buffer("fallback_epoch", torch.tensor(-1))

    @torch.no_grad()
    def forward(self, teacher: Student, batch: Batch, epoch: int) -> Truth | None:
        """Labels a batch with the teacher's predictions.

        Args:
            teacher: the average of the student's weights.
            batch: sequences without noise, with the pseudo labels.
            epoch: number of the epoch.

        Returns:
            The new labels, or None: this batch trains nothing.
        """
        truth = batch.truth
        if self.fallback_epoch == epoch:
            return truth
        # The teacher sees the features without noise.
        reference = None
        if self.reference is not None:
            reference = torch.stack([self.reference[video] for video in batch.videos])
        found = predict(teacher, batch.x, batch.mask, truth.video_labels, self.params, reference)
        missing = [len(labels) == 0 for _, _, labels in found]
        if any(missing) and not self.params.corrected:
            self.fallback_epoch.fill_(epoch)
            return None
        # Videos without any prediction keep what they had.
        segments = list(truth.segments)
        labels = list(truth.labels)
        weights = list(truth.weights)
        for i, (new_segments, new_scores, new_labels) in enumerate(found):
            if not missing[i]:
                segments[i] = new_segments
                labels[i] = new_labels
                weights[i] = label_weights(new_scores, new_labels, self.params)
        return truth._replace(segments=segments, labels=labels, weights=weights)


@torch.no_grad()
def predict(
    teacher: Student, x: Tensor, mask: Tensor, video_labels: Tensor, params: Params, reference: Tensor | None = None
) -> list[Detections]:
    """The teacher's labels of sequences.

    Args:
        teacher: the average of the student's weights.
        x: features (B, T, D).
        mask: valid snippets (B, T, 1).
        video_labels: known labels (B, C), multi-hot. Corrected, or `label_rule: best`: no other class is predicted.
        params: `label_rule` and what it uses, `recipe`, settings of decoding and soft-NMS.
        reference: (B, C) the highest score of each class in the whole video, for `label_rule: best`: a sequence without
            an action of a class gets no label of it. None: the sequences are whole videos.

    Returns:
        Segments (N, 2) in snippets, scores and labels (N,) of each sequence; N may be 0.
    """
    output = teacher.eval()(x, mask)
    scores = class_scores(output)
    if params.corrected or params.label_rule == "best":  # which gives every class with a score a label
        scores = scores * video_labels[:, None]
    highest = scores.amax(dim=1)  # (B, C)
    if params.label_rule == "thresholds":
        # Soft-NMS only lowers scores: what cannot become a label is not decoded.
        minimum = highest.amax(dim=1, keepdim=True).clamp(max=params.relabel_confidence)
        found = candidates(teacher, output, scores * (scores >= minimum[:, None]), params)
        chosen = [most_confident(detections, params) for detections in found]
    else:
        if reference is not None:
            highest = torch.maximum(highest, reference)
        found = class_candidates(teacher, output, scores, params)
        minimum = params.label_share * highest
        chosen = [best_of_classes(*pair, params) for pair in zip(found, minimum, strict=True)]
    lengths = mask.sum(dim=1).flatten().tolist()
    result = []
    for (segments, confidence, labels), length in zip(chosen, lengths, strict=True):
        result.append((segments.clamp(0, length), confidence, labels))
    return result


def class_candidates(teacher: Student, output: StudentOutput, scores: Tensor, params: Params) -> list[Detections]:
    """Detections before NMS with enough of the highest score of their class in the sequence.

    Enough is the first of `SHARES`, or `label_share` if that is less.

    Args:
        teacher: its boundary heads are evaluated.
        output: of the teacher.
        scores: (B, P, C), 0 for classes that a video does not have.
        params: `label_share`, and settings of decoding; `pre_nms_score` does not count, so that a class with low scores
            keeps its labels.

    Returns:
        Per sequence segments (N, 2) in snippets, scores (N,), labels (N,).
    """
    minimum = min(SHARES[0], params.label_share or 1) * scores.amax(dim=1, keepdim=True)
    every = params.model_copy(update={"pre_nms_score": 0.0})
    return candidates(teacher, output, scores * (scores >= minimum), every)


def best_of_classes(found: Detections, minimum: Tensor, params: Params) -> Detections:
    """The detections that become labels by the rule of the pseudo labels, see `fustal.segments.best_segments`.

    Args:
        found: candidates of one video before NMS; may be empty.
        minimum: (C,) of the score of each class.
        params: `label_prior`, `voting_tiou`.

    Returns:
        Segments, each the average of the candidates near it (see `fustal.segments.vote`), scores and labels.
    """
    segments, scores, labels = found
    chosen = [labels[:0]]
    averaged = [segments[:0]]
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        rank = prior_rank(scores[rows], iou_score(segments[rows], scores[rows]), params.label_prior)
        best = best_segments(segments[rows], scores[rows], rank, minimum[label].item())
        chosen.append(rows[best])
        # The best of many candidates is longer than most of them: without an average, labels grow at each relabelling.
        averaged.append(vote(segments[rows][best], segments[rows], scores[rows], params.voting_tiou))
    rows = torch.cat(chosen)
    return torch.cat(averaged), scores[rows], labels[rows]


def most_confident(found: Detections, params: Params) -> Detections:
    """The detections that become labels: those above `relabel_confidence` after soft-NMS, else the best.

    Soft-NMS only lowers scores, and a detection only lowers those of worse ones. So detections that are not above it
    are left out before; with `class_agnostic_nms` they do not vote then.

    Args:
        found: candidates of one video before NMS; may be empty.
        params: `relabel_confidence`, and settings of soft-NMS.
    """
    found = apply_soft_nms(_confident(found, params), params)
    return _confident(found, params)


def _confident(found: Detections, params: Params) -> Detections:
    """The detections above `relabel_confidence`, or else the best, several if their scores are equal; may be empty."""
    segments, scores, labels = found
    if not len(scores):
        return found
    chosen = scores > params.relabel_confidence
    if not chosen.any():
        chosen = scores == scores.amax()
    return segments[chosen], scores[chosen], labels[chosen]


@torch.no_grad()
def teacher_labels(teacher: Student, store: FeatureStore, videos: Sequence[str], params: Params) -> pd.DataFrame:
    """The labels that the teacher gives to whole videos, to be measured; `distill` labels each batch by itself.

    Args:
        teacher: the average of the student's weights.
        store: features on the student's grid.
        videos: training videos.
        params: `label_rule`, `recipe`, settings of decoding and soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    device = next(teacher.parameters()).device
    found: dict[str, Detections] = {}
    for names, x, mask in whole_videos(store, videos, params, device):
        video_labels = torch.from_numpy(store.dataset.labels(names)).to(device)
        found.update(zip(names, predict(teacher, x, mask, video_labels, params), strict=True))
    return to_frame(found, videos, store)


@torch.no_grad()
def teacher_agreement(
    teacher: Student, store: FeatureStore, pseudo_labels: pd.DataFrame, params: Params
) -> dict[float, float]:
    """How much the teacher's labels agree with those that it was trained on, for each of `SHARES`.

    `fustal.proposals.choose_share` takes the share at which they agree most.

    Args:
        teacher: the average of the student's weights.
        store: features on the student's grid.
        pseudo_labels: what it was trained on.
        params: `recipe`, settings of decoding.
    """
    device = next(teacher.parameters()).device
    videos = store.dataset.split("train")
    found: dict[str, Detections] = {}
    for names, x, mask in whole_videos(store, videos, params, device):
        output = teacher.eval()(x, mask)
        scores = class_scores(output) * torch.from_numpy(store.dataset.labels(names)).to(device)[:, None]
        found.update(zip(names, class_candidates(teacher, output, scores, params), strict=True))
    every = add_iou_score(to_frame(found, videos, store), "class-aware")
    agreed = {}
    for share in SHARES:
        agreed[share] = agreement(best_labels(every, share, params.label_prior), pseudo_labels)
    return agreed


@torch.no_grad()
def highest_scores(teacher: Student, store: FeatureStore, videos: Sequence[str], params: Params) -> dict[str, Tensor]:
    """The highest score of each class in each whole video: video -> (C,)."""
    device = next(teacher.parameters()).device
    found: dict[str, Tensor] = {}
    for names, x, mask in whole_videos(store, videos, params, device):
        scores = class_scores(teacher.eval()(x, mask))
        found.update(zip(names, scores.amax(dim=1), strict=True))
    return found


def distill(
    params: Params, store: FeatureStore, pseudo_labels: pd.DataFrame, state: StudentState, folder: Path
) -> StudentState:
    """Continues the training of the student on the labels that its average predicts (notebook 04).

    Args:
        params: of the run.
        store: features on the student's grid, of a data set whose training videos and video-level labels are used.
        pseudo_labels: for videos in which the teacher finds nothing.
        state: as notebook 03 has left it, see `StudentState.load`; it is trained.
        folder: receives weights and log.

    Returns:
        The same state; its average is the result.
    """
    device = next(state.student.parameters()).device
    data = TrainingVideos(params, store, pseudo_labels, device)
    epochs = range(params.student_epochs, params.student_epochs + params.distill_epochs)
    relabel = None
    if params.relabel:
        reference = None
        if params.label_rule == "best":
            if not params.label_share:
                params = choose_share(teacher_agreement(state.ema, store, pseudo_labels, params), params)
            reference = highest_scores(state.ema, store, data.videos, params)
        relabel = Relabel(params, reference).to(device)
    train_epochs(params, data, state, folder, epochs, relabel=relabel)
    return state
