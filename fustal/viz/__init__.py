"""Every figure of the notebooks, and the check of their exercises.

A function of a figure returns it with an alt text for blind readers. This text is the attribute `alt_text`: `show` puts
it into the notebook with the picture, `save` into the PNG file. The colours of Okabe and Ito (2008) differ for
colour-blind readers as well. Times are in seconds.
"""

from fustal.viz.common import as_source, save, show
from fustal.viz.exercises import check, code
from fustal.viz.hand import hands
from fustal.viz.interactive import explore
from fustal.viz.results import (
    average_precision,
    class_ap,
    class_balance,
    differences,
    ema_curve,
    error_kinds,
    label_quality,
    length_ap,
    precision_recall,
    quality_bars,
    training_curves,
)
from fustal.viz.signals import (
    activation,
    embeddings,
    iou_matrix,
    mining,
    score_histogram,
    selection_scatter,
    target_assignment,
    threshold_runs,
    timeline,
    trident,
)
from fustal.viz.task import durations, features, overlap, overview, snippet_windows

__all__ = [
    "activation",
    "as_source",
    "average_precision",
    "check",
    "class_ap",
    "class_balance",
    "code",
    "differences",
    "durations",
    "ema_curve",
    "embeddings",
    "error_kinds",
    "explore",
    "features",
    "hands",
    "iou_matrix",
    "label_quality",
    "length_ap",
    "mining",
    "overlap",
    "overview",
    "precision_recall",
    "quality_bars",
    "save",
    "score_histogram",
    "selection_scatter",
    "show",
    "snippet_windows",
    "target_assignment",
    "threshold_runs",
    "timeline",
    "training_curves",
    "trident",
]
