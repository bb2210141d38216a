"""EMA distillation: the average of the student's weights labels the training videos once more.

Taught in notebook 04. Source: docs/method.md section 5. The average is kept from the first step of the student's
training on (`fustal.student.training`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fustal.data.features import FeatureStore
from fustal.data.writing import atomic
from fustal.engine.checkpoint import save_module
from fustal.engine.videos import to_frame, whole_videos
from fustal.evaluation.labels import agreement
from fustal.labels import SHARES, add_iou_score, best_labels, choose_share, labels_by_share
from fustal.params import Params
from fustal.student.batches import Batch, TrainingVideos, label_weights
from fustal.student.decoding import Detections, apply_soft_nms, candidates, class_scores
from fustal.student.network import Student
from fustal.student.targets import Truth
from fustal.student.training import StudentState, train_epochs

PRIOR = 1.0
"""Power of the IoU score of a teacher's detections. They are much denser than proposals, and pieces of an action are
often as confident as the whole: the whole overlaps more of them."""

RECALL = 2.0
"""How many times as much a lost label counts as a new one, in the agreement of a teacher with the labels that it was
trained on. It may find actions that have no label, so that a new label is weaker evidence of an error."""


class Relabel(nn.Module):
    """Replaces the labels of a batch by the teacher's predictions on the same sequences.

    A video without any prediction keeps its pseudo labels. `published`: the first batch of an epoch with such a video
    is skipped, and the rest of the epoch uses the pseudo labels. A module, so that a checkpoint holds the epoch in
    which that happened.

    Args:
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params = params
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
        found = predict(teacher, batch.x, batch.mask, truth.video_labels, self.params)
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
def predict(teacher: Student, x: Tensor, mask: Tensor, video_labels: Tensor, params: Params) -> list[Detections]:
    """The teacher's labels of sequences.

    Args:
        teacher: the average of the student's weights.
        x: features (B, T, D).
        mask: valid snippets (B, T, 1).
        video_labels: known labels (B, C), multi-hot; corrected: only these classes are predicted.
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.

    Returns:
        Segments (N, 2) in snippets, scores and labels (N,) of each sequence; N may be 0.
    """
    output = teacher.eval()(x, mask)
    scores = class_scores(output)
    if params.corrected:
        scores = scores * video_labels[:, None]
    # Soft-NMS only lowers scores: what cannot become a label is not decoded.
    best = scores.amax(dim=(1, 2), keepdim=True)
    minimum = best.clamp(max=params.relabel_confidence)
    found = candidates(teacher, output, scores * (scores >= minimum), params)
    lengths = mask.sum(dim=1).flatten().tolist()
    result = []
    for detections, length in zip(found, lengths, strict=True):
        segments, confidence, labels = most_confident(detections, params)
        result.append((segments.clamp(0, length), confidence, labels))
    return result


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
    """The labels that the teacher gives to whole videos by `label_rule: thresholds`, to be measured.

    Args:
        teacher: the average of the student's weights.
        store: features on the student's grid.
        videos: training videos.
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    return _of_whole_videos(teacher, store, videos, params, predict)


def label_again(teacher: Student, store: FeatureStore, labels: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The labels of the training videos by the rule of the pseudo labels, from the teacher's detections.

    Args:
        teacher: the average of the student's weights.
        store: features on the student's grid.
        labels: those that the teacher was trained on; its own agree with them as much as possible, see `choose_share`.
        params: `label_share`, settings of decoding.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    videos = store.dataset.split("train")
    every = add_iou_score(class_candidates(teacher, store, videos, params), "class-aware")
    if params.label_share:
        chosen = best_labels(every, params.label_share, PRIOR)
    else:
        by_share = labels_by_share(every, PRIOR)
        agreed = {share: agreement(found, labels, RECALL) for share, found in by_share.items()}
        chosen = by_share[choose_share(agreed, params).label_share]
    # Borders are not moved again: the student has learned to find the moved ones, which would move further each time.
    return chosen.drop(columns="iou_score")


@torch.no_grad()
def class_candidates(teacher: Student, store: FeatureStore, videos: Sequence[str], params: Params) -> pd.DataFrame:
    """Detections before NMS of the known classes of videos.

    Args:
        teacher: the average of the student's weights.
        store: features on the student's grid.
        videos: training videos.
        params: settings of decoding; `pre_nms_score` does not count, so that a class with low scores keeps its labels.

    Returns:
        Frame with video, label, score, start (s), end (s), with at least the first of `SHARES` of the highest score of
        the class in the video.
    """
    every = params.model_copy(update={"pre_nms_score": 0.0})
    return _of_whole_videos(teacher, store, videos, every, _class_candidates)


def _class_candidates(
    teacher: Student, x: Tensor, mask: Tensor, video_labels: Tensor, params: Params
) -> list[Detections]:
    """See `class_candidates`; arguments as those of `predict`."""
    output = teacher.eval()(x, mask)
    scores = class_scores(output) * video_labels[:, None]
    lowest = min(params.label_share or SHARES[0], SHARES[0])
    minimum = lowest * scores.amax(dim=1, keepdim=True)
    return candidates(teacher, output, scores * (scores >= minimum), params)


def _of_whole_videos(
    teacher: Student,
    store: FeatureStore,
    videos: Sequence[str],
    params: Params,
    detect: Callable[[Student, Tensor, Tensor, Tensor, Params], list[Detections]],
) -> pd.DataFrame:
    """What a function such as `predict` finds in whole videos of known labels, as a frame."""
    device = next(teacher.parameters()).device
    found: dict[str, Detections] = {}
    for names, x, mask in whole_videos(store, videos, params, device):
        video_labels = torch.from_numpy(store.dataset.labels(names)).to(device)
        found.update(zip(names, detect(teacher, x, mask, video_labels, params), strict=True))
    return to_frame(found, videos, store)


def distill(
    params: Params, store: FeatureStore, pseudo_labels: pd.DataFrame, state: StudentState, folder: Path
) -> pd.DataFrame:
    """Continues the training of the student on the labels of its average (notebook 04).

    `label_rule: thresholds`, the paper's: each batch is labelled again. `best`: all videos are labelled again at the
    beginning of each of `distill_rounds` rounds. What a teacher learns from its own labels drifts with each generation
    of labels, so there are few (docs/method.md section 9).

    Args:
        params: of the run.
        store: features on the student's grid, of a data set whose training videos and video-level labels are used.
        pseudo_labels: what the student was trained on.
        state: as notebook 03 has left it, see `StudentState.load`; it is trained, and its average is the result.
        folder: receives weights and log; a training that was interrupted continues from the checkpoints there.

    Returns:
        The labels of whole videos that the average was trained on last.
    """
    device = next(state.student.parameters()).device
    first = params.student_epochs
    last = first + params.distill_epochs
    if params.label_rule == "thresholds" or not params.relabel:
        data = TrainingVideos(params, store, pseudo_labels, device)
        by_batch = Relabel(params).to(device) if params.relabel else None
        train_epochs(params, data, state, folder, range(first, last), relabel=by_batch)
        return pseudo_labels
    rounds = min(params.distill_rounds, params.distill_epochs)
    ends = np.linspace(first, last, rounds + 1).round().astype(int).tolist()
    labels = pseudo_labels
    logs = []
    for number, epochs in enumerate(map(range, ends[:-1], ends[1:]), start=1):
        labels = label_again(state.ema, store, labels, params)
        data = TrainingVideos(params, store, labels, device)
        logs.append(train_epochs(params, data, state, folder / f"round_{number}", epochs))
    save_module(state.student, folder / "model.safetensors")
    save_module(state.ema, folder / "ema.safetensors")
    with atomic(folder / "log.csv") as temporary:
        pd.concat(logs).to_csv(temporary, index=False)
    return labels
