"""The regression-based student: TriDet on pseudo labels, with a video-level loss.

Taught in notebook 03. Source: docs/method.md section 4.
"""

from fustal.student.batches import TrainingVideos
from fustal.student.decoding import apply_soft_nms, candidates, class_scores, decode, detect
from fustal.student.inference import detect_videos
from fustal.student.losses import diou_loss, focal_loss, mil_loss, offset_iou, student_loss
from fustal.student.network import Borders, Student, StudentOutput
from fustal.student.targets import Truth, assign, points
from fustal.student.training import StudentState, train_student

__all__ = [
    "Borders",
    "Student",
    "StudentOutput",
    "StudentState",
    "TrainingVideos",
    "Truth",
    "apply_soft_nms",
    "assign",
    "candidates",
    "class_scores",
    "decode",
    "detect",
    "detect_videos",
    "diou_loss",
    "focal_loss",
    "mil_loss",
    "offset_iou",
    "points",
    "student_loss",
    "train_student",
]
