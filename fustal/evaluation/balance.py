"""Balance of labels over classes, before and after distillation.

Taught in notebook 04.
"""

from collections.abc import Mapping

import pandas as pd

from fustal.data.files import shown

FEW = 10
"""A class with fewer labels is too small for a warning."""

LOST = 0.1
"""A class that keeps less than this share of its labels has lost nearly all of them."""

FLOODED = 10
"""A class that gets more than so many times its labels may outweigh the others."""

SETTING = "label_share (thresholds: relabel_confidence)"
"""What decides how many labels the teacher gives, for `label_rule` best and thresholds."""

EXAMPLES = 5
"""Maximum number of classes named in a warning."""


def label_counts(labels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Number of labels of each class at each stage.

    Args:
        labels: name of a stage -> its labels, in the order of the stages.

    Returns:
        Index class, sorted; a column for each stage.

    >>> taught, teacher = pd.DataFrame({"label": ["run", "run", "jump"]}), pd.DataFrame({"label": ["run"]})
    >>> label_counts({"taught": taught, "teacher": teacher}).to_dict("index")
    {'jump': {'taught': 1, 'teacher': 0}, 'run': {'taught': 2, 'teacher': 1}}
    """
    counts = {name: frame.label.value_counts() for name, frame in labels.items()}
    return pd.DataFrame(counts).fillna(0).astype(int).sort_index().rename_axis("class")


def label_warnings(counts: pd.DataFrame) -> list[str]:
    """Names the classes that lost nearly all of their labels by relabelling, and those that got far more.

    The latter have more than `FLOODED` times their labels, or more than twice, and then more than half of all.

    Args:
        counts: of `label_counts`; the first stage is compared with the last.

    Returns:
        A line for each kind that occurs.

    >>> label_warnings(pd.DataFrame({"taught": [126, 80], "after": [2, 90]}, index=["run", "jump"]))
    ["1 of 2 classes lost nearly all labels, lower label_share (thresholds: relabel_confidence): 'run' 126 to 2"]
    """
    before = counts.iloc[:, 0]
    after = counts.iloc[:, -1]
    lost = (before >= FEW) & (after < LOST * before)
    majority = (after > 2 * before) & (after > after.sum() / 2) & (len(counts) > 1)
    flooded = (after >= FEW) & ((after > FLOODED * before) | majority)
    lines = []
    for what, chosen in (
        (f"lost nearly all labels, lower {SETTING}", lost),
        (f"got far more labels, raise {SETTING}", flooded),
    ):
        named = [f"{shown(name)} {before[name]} to {after[name]}" for name in counts.index[chosen]]
        if named:
            more = ", ..." if len(named) > EXAMPLES else ""
            lines.append(f"{len(named)} of {len(counts)} classes {what}: {', '.join(named[:EXAMPLES])}{more}")
    return lines
