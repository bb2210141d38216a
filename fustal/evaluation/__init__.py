"""Quality of detections and pseudo labels: mean average precision, precision and recall, kinds of errors.

Taught in notebook 05; the quality of pseudo labels in notebook 02.
"""

from fustal.evaluation.detections import (
    averages,
    mean_average_precision,
    precision_recall,
    summary,
    video_level_average_precision,
)
from fustal.evaluation.diagnosis import average_precision_by_length, error_shares, kinds_of_detections
from fustal.evaluation.labels import (
    agreement,
    coverage,
    label_measures,
    overtaking,
    pseudo_label_quality,
    true_positive,
)

__all__ = [
    "agreement",
    "average_precision_by_length",
    "averages",
    "coverage",
    "error_shares",
    "kinds_of_detections",
    "label_measures",
    "mean_average_precision",
    "overtaking",
    "precision_recall",
    "pseudo_label_quality",
    "summary",
    "true_positive",
    "video_level_average_precision",
]
