"""Numbers of labels by class and stage, and the warnings about them."""

import pandas as pd

from fustal.evaluation.balance import label_counts, label_warnings


def _counts(**classes):
    return pd.DataFrame(classes, index=["taught", "teacher", "after"]).T


def test_labels_are_counted_by_class_and_stage():
    stages = {"taught": ["a", "b", "b"], "teacher": [], "after": ["c"]}
    frames = {name: pd.DataFrame({"label": labels}, dtype=object) for name, labels in stages.items()}
    counts = label_counts(frames)
    assert counts.T.to_dict("list") == {"a": [1, 0, 0], "b": [2, 0, 0], "c": [0, 0, 1]}
    assert counts.index.name == "class"
    nothing = label_counts({name: pd.DataFrame({"label": []}) for name in stages})
    assert list(nothing) == list(stages)
    assert len(nothing) == 0
    assert label_warnings(nothing) == []


def test_a_class_that_loses_or_gets_nearly_all_labels_is_named():
    assert label_warnings(_counts(a=[126, 50, 13], b=[200, 100, 300])) == []
    (lost,) = label_warnings(_counts(a=[126, 50, 12], b=[200, 100, 300]))
    assert lost.startswith("1 of 2 classes lost nearly all labels")
    assert lost.endswith(": 'a' 126 to 12")
    (grown,) = label_warnings(_counts(a=[3000, 0, 50_369], b=[3000, 0, 3000]))
    assert grown.endswith("raise label_share (thresholds: relabel_confidence): 'a' 3000 to 50369")
    (majority,) = label_warnings(_counts(a=[1000, 0, 2001], b=[1000, 0, 1000]))
    assert majority.endswith(": 'a' 1000 to 2001")
    assert label_warnings(_counts(a=[9, 0, 0], b=[0, 0, 9])) == [], "too few labels for a warning"
    assert label_warnings(_counts(a=[100, 0, 900])) == [], "there is no other class"


def test_many_classes_are_one_line():
    (line,) = label_warnings(_counts(**{f"class {i}": [100, 0, 0] for i in range(8)}))
    assert line.startswith("8 of 8 classes lost")
    assert line.count("100 to 0") == 5
    assert line.endswith(", ...")
