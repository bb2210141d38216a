"""EMA distillation: the average of the student's weights labels the training videos once more (docs/method.md section 5).

Taught in notebook 04. The average itself is kept from the first step of training on (`fustal.student.training`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.data.files import shown
from fustal.params import Params
from fustal.student.batches import Batch, TrainingVideos, label_weights, whole_videos
from fustal.student.decoding import Detections, candidates, class_scores, suppress
from fustal.student.inference import to_frame
from fustal.student.network import Student
from fustal.student.training import (
    train_epochs,
)

FEW = 10
"""A class with fewer labels is too small to say what became of it."""

LOST = 0.1
"""A class that keeps less than this share of its labels has lost nearly all of them."""

FLOODED = 10
"""A class that gets more than so many times its labels may drown the others."""

EXAMPLES = 5
"""So many classes are named in a warning."""


class Relabel(nn.Module):
    """Replaces the labels of a batch by the teacher's predictions on the same sequences.

    A video without any prediction keeps the generator's labels; in the published recipe it sends the rest of its epoch
    back to them. A module, so that a checkpoint knows of the latter.

    Args:
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params = params
        self.register_buffer("fallback_epoch", torch.tensor(-1))

    @torch.no_grad()
    def forward(self, teacher: Student, batch: Batch, epoch: int) -> Batch:
        """Labels a batch with the teacher's predictions.

        Args:
            teacher: the average of the student's weights.
            batch: sequences without noise, with the generator's labels.
            epoch: number of the epoch.

        Returns:
            The batch with other segments and labels.
        """
        if self.fallback_epoch == epoch:
            return batch
        found = predict(teacher, batch.x, batch.mask, batch.video_labels, self.params)
        missing = [not len(labels) for _, _, labels in found]
        if not self.params.corrected and any(missing):
            self.fallback_epoch.fill_(epoch)
            return batch
        generated = zip(batch.segments, batch.labels, batch.weights, strict=True)
        predicted = [
            (segments, labels, label_weights(scores, labels, self.params)) for segments, scores, labels in found
        ]
        chosen = [old if lost else new for old, new, lost in zip(generated, predicted, missing, strict=True)]
        segments, labels, weights = (list(part) for part in zip(*chosen, strict=True))
        return batch._replace(segments=segments, labels=labels, weights=weights)


@torch.no_grad()
def predict(teacher: Student, x: Tensor, mask: Tensor, video_labels: Tensor, params: Params) -> list[Detections]:
    """The teacher's labels of sequences.

    Only what can become a label is decoded: what is above `relabel_confidence`, else the best of the video.

    Args:
        teacher: the average of the student's weights.
        x: features (B, T, D).
        mask: valid snippets (B, T, 1).
        video_labels: known labels (B, C), multi-hot; corrected: the only ones.
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.

    Returns:
        Segments (N, 2) in snippets, scores and labels (N,) of each sequence; N may be 0.
    """
    output = teacher.eval()(x, mask)
    scores = class_scores(output)
    if params.corrected:
        scores = scores * video_labels[:, None]
    least = scores.amax(dim=(1, 2), keepdim=True).clamp(max=params.relabel_confidence)
    found = candidates(teacher, output, scores * (scores >= least), params)
    confident = [most_confident(video, params) for video in found]
    lengths = mask.sum(dim=1).flatten().tolist()
    return [(video[0].clamp(0, length), *video[1:]) for video, length in zip(confident, lengths, strict=True)]


@torch.no_grad()
def teacher_labels(
    teacher: Student, dataset: Dataset, store: FeatureStore, videos: Sequence[str], params: Params
) -> pd.DataFrame:
    """The labels that the teacher gives to whole videos; to look at, as `distill` labels each batch anew.

    Args:
        teacher: the average of the student's weights.
        dataset: names the classes, knows the videos' labels.
        store: features on the student's grid.
        videos: training videos.
        params: `relabel_confidence`, `recipe`, settings of decoding and soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    found = {}
    for names, x, mask in whole_videos(store, videos, params, next(teacher.parameters()).device):
        known = torch.from_numpy(dataset.labels(names)).to(x.device)
        found |= zip(names, predict(teacher, x, mask, known, params), strict=True)
    return to_frame(found.items(), videos, dataset, store)


def most_confident(found: Detections, params: Params) -> Detections:
    """The detections that become labels: those above `relabel_confidence` after soft-NMS, else the single best.

    What is not above it before soft-NMS cannot be afterwards, nor can it suppress what is: it is left out at once.

    Args:
        found: candidates of one video before NMS; may be empty.
        params: `relabel_confidence`, and settings of soft-NMS.
    """
    early = _is_sure(found[1], params)
    found = suppress(tuple(part[early] for part in found), params)
    late = _is_sure(found[1], params)
    return tuple(part[late] for part in found)


def _is_sure(scores: Tensor, params: Params) -> Tensor:
    """Which of a video's scores (N,) exceed `relabel_confidence`, or else are the best; N may be 0."""
    sure = scores > params.relabel_confidence
    return sure if sure.any() or not len(scores) else scores == scores.amax()


def label_counts(labels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How many labels each class has at each stage.

    Args:
        labels: name of a stage -> its labels, in the order of the stages.

    Returns:
        Index class, sorted; a column a stage.

    >>> taught, teacher = pd.DataFrame({"label": ["run", "run", "jump"]}), pd.DataFrame({"label": ["run"]})
    >>> label_counts({"taught": taught, "teacher": teacher}).to_dict("index")
    {'jump': {'taught': 1, 'teacher': 0}, 'run': {'taught': 2, 'teacher': 1}}
    """
    counts = {name: frame.label.value_counts() for name, frame in labels.items()}
    return pd.DataFrame(counts).fillna(0).astype(int).sort_index().rename_axis("class")


def label_warnings(counts: pd.DataFrame) -> list[str]:
    """Says which classes lost nearly all of their labels by relabelling, and which got far more.

    The latter have more than `FLOODED` times their labels, or more than twice, and then more than half of all.

    Args:
        counts: of `label_counts`; the first stage is compared with the last.

    Returns:
        A line for each kind, none where nothing is conspicuous.

    >>> label_warnings(pd.DataFrame({"taught": [126, 80], "after": [2, 90]}, index=["run", "jump"]))
    ["1 of 2 classes lost nearly all labels, lower relabel_confidence or train longer: 'run' 126 to 2"]
    """
    before, after = counts.iloc[:, 0], counts.iloc[:, -1]
    most = (after > 2 * before) & (after > after.sum() / 2) & (len(counts) > 1)
    kinds = {
        "lost nearly all labels, lower relabel_confidence or train longer": (before >= FEW) & (after < LOST * before),
        "got far more labels, raise relabel_confidence": (after >= FEW) & ((after > FLOODED * before) | most),
    }
    lines = []
    for what, chosen in kinds.items():
        named = [f"{shown(name)} {before[name]} to {after[name]}" for name in counts.index[chosen]]
        if named:
            more = ", ..." if len(named) > EXAMPLES else ""
            lines.append(f"{len(named)} of {len(counts)} classes {what}: {', '.join(named[:EXAMPLES])}{more}")
    return lines


def distill(
    params: Params,
    dataset: Dataset,
    store: FeatureStore,
    pseudo_labels: pd.DataFrame,
    student: Student,
    ema: Student,
    optimizer: torch.optim.Optimizer,
    folder: Path,
) -> tuple[Student, Student]:
    """Goes on training the student on the labels that its average predicts (notebook 04).

    Args:
        params: of the run.
        dataset: its training videos and their video-level labels.
        store: features on the student's grid.
        pseudo_labels: the generator's, for videos in which the teacher finds nothing.
        student: as notebook 03 left it, see `fustal.student.load_student`.
        ema: the average of its weights.
        optimizer: in the state in which notebook 03 left it.
        folder: receives weights and log.

    Returns:
        The student and its average; the average is the result.
    """
    data = TrainingVideos(params, dataset, store, pseudo_labels, next(student.parameters()).device)
    epochs = range(params.student_epochs, params.student_epochs + params.distill_epochs)
    relabel = Relabel(params).to(data.device) if params.relabel else None
    train_epochs(
        params, data, student, ema, optimizer, folder, epochs=epochs, relabel=relabel, description="distillation"
    )
    return student, ema
