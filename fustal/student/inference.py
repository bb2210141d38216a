"""Detections of whole videos: batches of similar length through the student, as a frame in seconds.

Taught in notebook 03 (docs/method.md section 4).
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from fustal.data.annotations import RESULT_COLUMNS
from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.params import Params
from fustal.student.batches import whole_videos
from fustal.student.decoding import Detections, detect
from fustal.student.network import Student

if TYPE_CHECKING:
    pass


@torch.inference_mode()
def localize(
    model: Student, dataset: Dataset, store: FeatureStore, videos: Sequence[str], params: Params
) -> pd.DataFrame:
    """Detects the actions of videos, those of similar length together.

    What it finds in a video does not depend on the others but for rounding: padding takes no part in the corrected
    recipe, and in the published one only videos that are padded to the same length go together.

    Args:
        model: a student or its average.
        dataset: names the classes.
        store: features on the student's grid.
        videos: names.
        params: `recipe` and `max_snippets` (padding), thresholds, soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s), clipped to the video, best first within a video.
    """
    device = next(model.parameters()).device
    found = (
        pair
        for names, x, mask in whole_videos(store, videos, params, device)
        for pair in zip(names, detect(model.eval(), model(x, mask), params), strict=True)
    )
    return to_frame(found, videos, dataset, store)


def to_frame(
    found: Iterable[tuple[str, Detections]], videos: Sequence[str], dataset: Dataset, store: FeatureStore
) -> pd.DataFrame:
    """Detections in snippets as a frame of results in seconds, clipped to the videos.

    Args:
        found: videos and their detections, in any order.
        videos: their order in the frame.
        dataset: names the classes.
        store: knows each video's grid.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    classes, order = np.array(dataset.classes, dtype=object), {video: i for i, video in enumerate(videos)}
    columns: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in RESULT_COLUMNS}
    for video, detections in found:
        segments, scores, labels = (part.cpu() for part in detections)
        start, end = store.grid_of(video).to_seconds(segments.double()).clamp(0, store.duration(video)).T.numpy()
        whose, what = np.full(len(labels), video, dtype=object), classes[labels.numpy()]
        for column, part in zip(columns.values(), (whose, what, scores.double().numpy(), start, end), strict=True):
            column.append(part)
    frame = pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})
    return frame.sort_values("video", key=lambda names: names.map(order), kind="stable", ignore_index=True)
