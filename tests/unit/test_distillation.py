import math

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fustal import distillation
from fustal.distillation import distill, label_counts, label_warnings, most_confident
from fustal.params import Params
from fustal.student import load_student, train_student
from fustal.student.batches import Batch

SMALL = {
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 2,
    "student_stem": 1,
    "student_bins": 4,
    "sgp_init_std": 0.1,
    "max_snippets": 64,
    "student_batch": 4,
    "student_epochs": 2,
    "distill_epochs": 2,
    "device": "cpu",
}
FOUND = torch.tensor([[0.0, 4.0], [0.0, 4.4], [8.0, 70.0], [8.0, 9.0]]), torch.tensor([0.9, 0.5, 0.6, 0.2])
LABELS = torch.tensor([0, 0, 1, 1])


def test_confident_detections_become_labels():
    segments, scores, labels = most_confident((*FOUND, LABELS), Params(relabel_confidence=0.4))
    assert scores.tolist() == pytest.approx([0.9, 0.6])  # soft-NMS takes the second below the confidence
    assert labels.tolist() == [0, 1]
    assert segments.tolist() == [[0, 4], [8, 70]]


def test_confidence_early_gives_the_same_as_late():
    torch.manual_seed(0)
    start = torch.rand(200) * 50
    found = torch.stack([start, start + 5 * torch.rand(200)], dim=1), torch.rand(200), torch.randint(3, (200,))
    early = most_confident(found, Params())
    segments, scores, labels = distillation.suppress(found, Params())
    late = scores > 0.4
    assert late.sum() > 10
    assert_close(early, (segments[late], scores[late], labels[late]))


def test_single_best_where_nothing_is_confident():
    assert most_confident((*FOUND, LABELS), Params(relabel_confidence=0.95))[1].tolist() == pytest.approx([0.9])
    nothing = torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert [len(part) for part in most_confident(nothing, Params())] == [0, 0, 0]


def batch_of_two():
    mask = torch.ones(2, 64, 1, dtype=torch.bool)
    segments = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    return Batch(
        torch.randn(2, 64, 6), mask, segments, [torch.tensor([0]), torch.tensor([1])], torch.eye(2), [torch.ones(1)] * 2
    )


def test_distillation_goes_on_from_files(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL)
    train_student(params, dataset, store, dataset.segments, tmp_path / "student")
    results = []
    for name in "ab":
        loaded = load_student(tmp_path / "student", params, store.dim, 2)
        results.append(distill(params, dataset, store, dataset.segments, *loaded, tmp_path / name))
        student, ema, optimizer = loaded
        steps = {float(state["step"]) for state in optimizer.state.values()}
        assert steps == {4 * math.ceil(8 / params.student_batch)}
        assert not torch.equal(student.class_head.out.bias, ema.class_head.out.bias)
    assert_close(results[0][1].state_dict(), results[1][1].state_dict(), rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "checkpoint.safetensors",
        "ema.safetensors",
        "log.csv",
        "model.safetensors",
        "optimizer.safetensors",
    ]


def _counts(**classes):
    return pd.DataFrame(classes, index=["taught", "teacher", "after"]).T


def test_labels_are_counted_by_class_and_stage():
    stages = {"taught": ["a", "b", "b"], "teacher": [], "after": ["c"]}
    counts = label_counts({name: pd.DataFrame({"label": labels}, dtype=object) for name, labels in stages.items()})
    assert counts.T.to_dict("list") == {"a": [1, 0, 0], "b": [2, 0, 0], "c": [0, 0, 1]}
    assert counts.index.name == "class"
    nothing = label_counts({name: pd.DataFrame({"label": []}) for name in stages})
    assert (list(nothing), len(nothing), label_warnings(nothing)) == (list(stages), 0, [])


def test_a_class_that_loses_or_gets_nearly_all_labels_is_named():
    assert label_warnings(_counts(a=[126, 50, 13], b=[200, 100, 300])) == []
    (lost,) = label_warnings(_counts(a=[126, 50, 12], b=[200, 100, 300]))
    assert lost.startswith("1 of 2 classes lost nearly all labels")
    assert lost.endswith(": 'a' 126 to 12")
    (grown,) = label_warnings(_counts(a=[3000, 0, 50_369], b=[3000, 0, 3000]))
    assert grown.endswith("raise relabel_confidence: 'a' 3000 to 50369")
    (most,) = label_warnings(_counts(a=[1000, 0, 2001], b=[1000, 0, 1000]))
    assert most.endswith(": 'a' 1000 to 2001")
    assert label_warnings(_counts(a=[9, 0, 0], b=[0, 0, 9])) == [], "too few to say"
    assert label_warnings(_counts(a=[100, 0, 900])) == [], "there is no other class"


def test_many_classes_are_one_line():
    (line,) = label_warnings(_counts(**{f"class {i}": [100, 0, 0] for i in range(8)}))
    assert line.startswith("8 of 8 classes lost")
    assert line.count("100 to 0") == 5
    assert line.endswith(", ...")
