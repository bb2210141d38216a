"""Extreme but valid data: all stages train, detect and evaluate on them."""

import numpy as np
import pandas as pd
import pytest

from fustal import generator
from fustal.data.features import FeatureStore
from fustal.data.results import RESULT_COLUMNS
from fustal.distillation import distill
from fustal.evaluation.detections import mean_average_precision
from fustal.evaluation.labels import pseudo_label_quality
from fustal.labels import add_iou_score, choose_share, select
from fustal.params import Params
from fustal.proposals import propose_videos
from fustal.student import StudentState, detect_videos, train_student
from tests.datasets import dataset_of

PARAMS = Params(
    generator_steps=3,
    generator_dim=8,
    generator_snippets=8,
    generator_batch=4,
    hard_ratio=8,
    student_dim=16,
    student_mlp=16,
    student_levels=3,
    student_epochs=1,
    distill_epochs=1,
    max_snippets=16,
    pre_nms_topk=20,
    device="cpu",
)


def chain(folder, lengths, labels, params=PARAMS, features=None):
    """Runs all stages on videos with these lengths (snippets) and labels; the last video is the test video."""
    random = np.random.default_rng(0)
    train = [f"train{i}" for i in range(len(lengths) - 1)]
    names = [*train, "test0"]
    for name, length in zip(names, lengths, strict=True):
        if features is None:
            values = random.standard_normal((length, 5)).astype(np.float32)
        else:
            values = features(length)
        np.save(folder / f"{name}.npy", values)
    videos = pd.DataFrame({"video": names, "subset": [name[:-1] for name in names], "duration": np.nan, "fps": np.nan})
    segments = pd.DataFrame({"video": names, "label": labels, "start": 0.0, "end": np.array(lengths) / 2})
    dataset = dataset_of(folder, videos, segments, ["a", "b", "never"], fps=1.0)
    store = FeatureStore(dataset, "student")
    model, log = generator.train_generator(params, store, folder / "generator")
    assert np.isfinite(log.loss).all()
    proposals = propose_videos([model], store, train, params, known=True)
    pseudo_labels = select(add_iou_score(proposals, params.iou_score_kind), choose_share({}, params))
    train_student(params, store, pseudo_labels, folder / "student")
    trained = StudentState.load(folder / "student", params, store)
    distill(params, store, pseudo_labels, trained, folder / "distilled")
    ema = trained.ema
    assert np.isfinite(pd.read_csv(folder / "distilled" / "log.csv").loss).all()
    detections = detect_videos(ema, store, ["test0"], params)
    ap = mean_average_precision(detections, dataset.segments_of("test"), [0.1, 0.5])
    assert ap.map(lambda value: 0 <= value <= 1).all(axis=None)
    assert len(pseudo_label_quality(pseudo_labels, dataset.segments_of("train"))) == 3
    return proposals, pseudo_labels, detections


@pytest.mark.parametrize("lengths", [[1, 1, 1, 1, 1], [2, 1, 3, 1, 2], [1, 40, 2, 30, 1], [600, 1, 5, 9, 700]])
def test_videos_of_one_snippet_and_of_many(tmp_path, lengths):
    *_, detections = chain(tmp_path, lengths, list("abaab"))
    assert set(detections.video) <= {"test0"}
    assert (detections.end <= lengths[-1]).all()


def test_one_training_video(tmp_path):
    chain(tmp_path, [20, 12], ["a", "a"])


def test_no_two_videos_have_equal_labels(tmp_path):
    chain(tmp_path, [20, 12, 9, 15], ["a", "b", "never", "a"])


def test_a_class_that_no_training_video_has(tmp_path):
    chain(tmp_path, [20, 12, 9], ["a", "b", "never"])


def test_no_proposal_becomes_a_pseudo_label(tmp_path):
    params = PARAMS.model_copy(update={"label_rule": "thresholds", "confidence_min": 1e9})
    _, pseudo_labels, _ = chain(tmp_path, [20, 12, 9, 15], list("abab"), params)
    assert pseudo_labels.empty


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_features(tmp_path, value):
    """Actions and background have the same features: there may be no proposals."""
    chain(tmp_path, [20, 12, 9, 15], list("abab"), features=lambda n: np.full((n, 5), value, np.float32))


def test_large_float16_features(tmp_path):
    chain(tmp_path, [20, 12, 9, 15], list("abab"), features=lambda n: np.full((n, 5), 3e4, np.float16))


def test_nothing_is_detected(tmp_path):
    params = PARAMS.model_copy(update={"pre_nms_score": 1.0})
    *_, detections = chain(tmp_path, [20, 12, 9, 15], list("abab"), params)
    assert detections.empty
    assert list(detections.columns) == RESULT_COLUMNS


def test_training_videos_without_any_label(tmp_path):
    """Every video of a batch is background; `fustal validate` warns about such data."""
    random = np.random.default_rng(0)
    names = ["train0", "train1"]
    for name in names:
        np.save(tmp_path / f"{name}.npy", random.standard_normal((20, 5)).astype(np.float32))
    videos = pd.DataFrame({"video": names, "subset": "train", "duration": 20.0, "fps": 1.0})
    nothing = pd.DataFrame(columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})
    dataset = dataset_of(tmp_path, videos, nothing, ["a"], fps=1.0)
    store = FeatureStore(dataset, "student")
    _, log = generator.train_generator(PARAMS, store, tmp_path / "generator")
    assert np.isfinite(log.loss).all()
    train_student(PARAMS, store, nothing, tmp_path / "student")
    assert np.isfinite(pd.read_csv(tmp_path / "student" / "log.csv").loss).all()
