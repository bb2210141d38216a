"""Detections of whole videos: batches of similar length through the student, as a frame in seconds.

Taught in notebook 03. Source: docs/method.md section 4.
"""

from collections.abc import Sequence

import pandas as pd
import torch

from fustal.data.features import FeatureStore
from fustal.engine.videos import to_frame, whole_videos
from fustal.params import Params
from fustal.student.decoding import Detections, detect
from fustal.student.network import Student


@torch.inference_mode()
def detect_videos(model: Student, store: FeatureStore, videos: Sequence[str], params: Params) -> pd.DataFrame:
    """Detects the actions of videos, those of similar length together.

    The detections of a video do not depend on the others, except for rounding: padding takes no part in the corrected
    recipe, and in the published one only videos that are padded to the same length share a batch.

    Args:
        model: a student or its average.
        store: features on the student's grid.
        videos: their names.
        params: `recipe` and `max_snippets` (padding), thresholds, soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s), clipped to the video, best first within a video.
    """
    device = next(model.parameters()).device
    model.eval()
    found: dict[str, Detections] = {}
    for names, x, mask in whole_videos(store, videos, params, device):
        detections = detect(model, model(x, mask), params)
        found.update(zip(names, detections, strict=True))
    return to_frame(found, videos, store)
