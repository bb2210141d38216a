"""The regression-based student: TriDet on pseudo labels, with a video-level loss.

Taught in notebook 03. Source: docs/method.md section 4.
"""

from fustal.student.batches import TrainingVideos
from fustal.student.inference import detect_videos
from fustal.student.network import Student
from fustal.student.targets import Truth, assign, points
from fustal.student.training import StudentState, train_student

__all__ = ["Student", "StudentState", "TrainingVideos", "Truth", "assign", "detect_videos", "points", "train_student"]
