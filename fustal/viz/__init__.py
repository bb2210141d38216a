"""Every figure of the notebooks, and the check of their exercises.

A function of a figure returns it with an alt text for blind readers. This text is the attribute `alt_text`: `show` puts
it into the notebook with the picture, `save` into the PNG file. The colours of Okabe and Ito (2008) differ for
colour-blind readers as well. Times are in seconds.
"""

from fustal.viz.common import as_source, save, show
from fustal.viz.exercises import check, code
from fustal.viz.film import frames
from fustal.viz.hand import hands
from fustal.viz.interactive import explore
from fustal.viz.labels import (
    border_change,
    duration_weights,
    rule_quality,
    score_histogram,
    share_curves,
    stacked,
    surviving_runs,
)
from fustal.viz.recordings import class_curves, label_stages, prior_shares
from fustal.viz.results import (
    average_precision,
    class_ap,
    class_balance,
    differences,
    ema_curve,
    error_kinds,
    judged,
    label_quality,
    length_ap,
    memory,
    precision_recall,
    quality_bars,
    resampled,
    stage_steps,
    training_curves,
)
from fustal.viz.signals import (
    activation,
    embeddings,
    iou_matrix,
    mining,
    pyramid,
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
    "border_change",
    "check",
    "class_ap",
    "class_balance",
    "class_curves",
    "code",
    "differences",
    "duration_weights",
    "durations",
    "ema_curve",
    "embeddings",
    "error_kinds",
    "explore",
    "features",
    "frames",
    "hands",
    "iou_matrix",
    "judged",
    "label_quality",
    "label_stages",
    "length_ap",
    "memory",
    "mining",
    "overlap",
    "overview",
    "precision_recall",
    "prior_shares",
    "pyramid",
    "quality_bars",
    "resampled",
    "rule_quality",
    "save",
    "score_histogram",
    "selection_scatter",
    "share_curves",
    "show",
    "snippet_windows",
    "stacked",
    "stage_steps",
    "surviving_runs",
    "target_assignment",
    "threshold_runs",
    "timeline",
    "training_curves",
    "trident",
]
