"""The regression-based student: TriDet on pseudo labels, with a video-level loss (docs/method.md section 4, notebook 03)."""

from fustal.student.batches import TrainingVideos
from fustal.student.decoding import candidates, class_scores, decode, detect, suppress
from fustal.student.inference import localize
from fustal.student.losses import diou_loss, focal_loss, mil_loss, offset_iou, student_loss
from fustal.student.network import Borders, Student, StudentOutput
from fustal.student.targets import assign, points
from fustal.student.training import load_student, train_student

__all__ = [
    "Borders",
    "Student",
    "StudentOutput",
    "TrainingVideos",
    "assign",
    "candidates",
    "class_scores",
    "decode",
    "detect",
    "diou_loss",
    "focal_loss",
    "load_student",
    "localize",
    "mil_loss",
    "offset_iou",
    "points",
    "student_loss",
    "suppress",
    "train_student",
]
