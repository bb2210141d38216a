"""Post-processing of the networks' outputs in loops, as the field writes it: the same results, for comparing speed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import interp1d
from torch import Tensor

from fustal.params import Params, parse_grid


def plain_tiou(start: float, end: float, starts: np.ndarray, ends: np.ndarray, plus: float = 0) -> np.ndarray:
    """tIoU of one segment with many (N,); `plus` is added to lengths and overlaps."""
    overlap = np.maximum(0, np.minimum(end, ends) - np.maximum(start, starts) + plus)
    return overlap / np.maximum((end - start + plus) + (ends - starts + plus) - overlap, 1e-12)


def soft_nms(
    segments: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, max_segments: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS class by class: picks the best, lowers all others by their overlap, drops low ones, and repeats.

    Returns:
        Segments, scores and labels, best first; equal scores in the order of label and start.
    """
    segments = segments.numpy()
    scores = scores.numpy()
    labels = labels.numpy()
    picks = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(segments[rows, 0], kind="stable")]
        rows = rows[scores[rows] >= min_score]
        start = segments[rows, 0]
        end = segments[rows, 1]
        score = scores[rows]
        while len(rows):
            best = score.argmax()
            picks.append((score[best], rows[best]))
            left = np.arange(len(rows)) != best
            tiou = plain_tiou(start[best], end[best], start[left], end[left])
            score = score[left] * np.exp(np.asarray(-1 / sigma, score.dtype) * tiou * tiou)
            enough = score >= min_score
            rows = rows[left][enough]
            start = start[left][enough]
            end = end[left][enough]
            score = score[enough]
    picks = sorted(picks, key=lambda pick: -pick[0])[:max_segments]
    rows = np.array([row for _, row in picks], int)
    decayed = np.array([score for score, _ in picks], scores.dtype)
    return torch.from_numpy(segments[rows]), torch.from_numpy(decayed), torch.from_numpy(labels[rows])


def plain_hard_nms(segments: np.ndarray, scores: np.ndarray, threshold: float, plus: float = 0) -> np.ndarray:
    """Indices of the segments that hard NMS keeps, best first: one round for each of them."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best = order[0]
        order = order[1:]
        kept.append(best)
        tiou = plain_tiou(*segments[best], segments[order, 0], segments[order, 1], plus)
        order = order[tiou < threshold]
    return np.array(kept, int)


def plain_upsample(sequence: np.ndarray, factor: int) -> np.ndarray:
    """Min-max normalised over time, then linearly interpolated by scipy."""
    low = max(sequence.min(), 0.0)
    high = max(sequence.max(), 0.0)
    span = high - low if high > low else 1.0
    values = np.clip((sequence.astype(float) - low) / span, 0, 1)
    if len(values) == 1:
        return np.repeat(values, factor)
    interpolate = interp1d(np.arange(len(values)), values, fill_value="extrapolate")
    return interpolate(np.arange(len(values) * factor) / factor)


def plain_runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of each run of at least two true positions (N,)."""
    positions = np.flatnonzero(mask)
    parts = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return [(part[0], part[-1]) for part in parts if len(part) >= 2]


def plain_contrast(values: np.ndarray, first: int, last: int, flank: float) -> float:
    """Outer-inner contrast of one run, as docs/method.md section 2 defines it."""
    reach = flank * (last - first + 1)
    left = values[max(0, int(first - reach)) : first]
    right = values[last + 1 : min(len(values) - 1, int(last + reach)) + 1]
    flanks = np.concatenate([left, right])
    outside = flanks.mean() if len(flanks) else 0.0
    return values[first : last + 1].mean() - outside


def plain_contrasted_runs(activation: np.ndarray, action: np.ndarray, params: Params) -> list[tuple[int, int, float]]:
    """First, last and contrast of the runs of all thresholds, one after the other."""
    found = []
    for threshold in parse_grid(params.cas_thresholds):
        above = np.where(activation >= threshold, activation, 0.0)
        for a, b in plain_runs(above > 0):
            found.append((a, b, plain_contrast(above, a, b, params.oic_flank)))
    for threshold in parse_grid(params.actionness_thresholds):
        for a, b in plain_runs((action >= threshold) & (action > 0)):
            found.append((a, b, plain_contrast(activation, a, b, params.oic_flank)))
    return found


def plain_propose(
    cas: np.ndarray,
    actionness: np.ndarray,
    score: np.ndarray,
    classes: np.ndarray,
    snippet_seconds: float,
    params: Params,
) -> pd.DataFrame:
    """The result of `fustal.proposals.propose` in the corrected recipe."""
    action = plain_upsample(actionness, params.upscale)
    rows = []
    position = snippet_seconds / params.upscale
    for c in classes:
        runs = plain_contrasted_runs(plain_upsample(cas[:, c], params.upscale), action, params)
        segments = np.array([(a * position, (b + 1) * position) for a, b, _ in runs]).reshape(-1, 2)
        scores = np.array([contrast + params.oic_video_weight * score[c] for *_, contrast in runs])
        for i in plain_hard_nms(segments, scores, params.proposal_nms):
            rows.append((int(c), scores[i], segments[i, 0], segments[i, 1]))
    return pd.DataFrame(rows, columns=["label", "score", "start", "end"])


def plain_iou_score(proposals: pd.DataFrame) -> np.ndarray:
    """IoU score of each proposal, in the order of the rows: for each one a pass over its video."""
    score = np.zeros(len(proposals))
    for rows in proposals.groupby("video").indices.values():
        start, end = proposals[["start", "end"]].to_numpy()[rows].T
        for n, row in enumerate(rows):
            others = np.arange(len(rows)) != n
            score[row] = plain_tiou(start[n], end[n], start[others], end[others]).sum()
    return score


def plain_read_results(path: Path) -> pd.DataFrame:
    """A result file as the field reads it: Python's json, and a loop over detections; nothing is checked."""
    rows = []
    for video, items in json.loads(path.read_text(encoding="utf-8"))["results"].items():
        for item in items:
            start, end = item["segment"]
            rows.append((video, item["label"], float(item["score"]), float(start), float(end)))
    return pd.DataFrame(rows, columns=["video", "label", "score", "start", "end"])


def plain_mean_average_precision(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: list[float]
) -> pd.DataFrame:
    """Interpolated AP like the ActivityNet evaluator: loops over classes, detections and tIoU thresholds.

    Of equal tIoUs the last is tried first, as the evaluator reads its sorted tIoUs backwards.
    """
    ap = {}
    for label, truth in ground_truth.groupby("label"):
        found = detections[detections.label == label].sort_values("score", ascending=False, kind="stable")
        videos = truth.reset_index(drop=True).groupby("video")
        hit = np.zeros((len(tious), len(found)))
        matched = np.zeros((len(tious), len(truth)), bool)
        for n, (_, one) in enumerate(found.iterrows()):
            if one.video not in videos.groups:
                continue
            near = videos.get_group(one.video)
            tiou = plain_tiou(one.start, one.end, near.start.to_numpy(), near.end.to_numpy())
            for k, threshold in enumerate(tious):
                for j in np.argsort(tiou, kind="stable")[::-1]:
                    if tiou[j] < threshold:
                        break
                    if not matched[k, near.index[j]]:
                        matched[k, near.index[j]] = True
                        hit[k, n] = 1
                        break
        ap[label] = [_interpolated(row, len(truth)) for row in hit]
    return pd.DataFrame.from_dict(ap, orient="index", columns=tious)


def _interpolated(hits: np.ndarray, count: int) -> float:
    """Area under the interpolated precision-recall curve of ranked hits (N,)."""
    right = np.cumsum(hits)
    precision = np.concatenate([[0], right / np.arange(1, len(hits) + 1), [0]])
    recall = np.concatenate([[0], right / count, [1]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    step = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[step] - recall[step - 1]) * precision[step]).sum())
