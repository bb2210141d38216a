"""Derives the parameters of a preset from the number of videos, their lengths, and their labels.

The rules come near to the values that were chosen by hand for the presets of this repository, whose data sets have 60
to 10,000 training videos. No rule uses the times of a training segment; only the number of segments is used, to keep
enough detections. The page "Your own data" (docs/own_data.md) lists the rules.
"""

from typing import NamedTuple

import numpy as np

from fustal.engine.video_score import choose_video_score

GENERATOR_PASSES = 60
"""How many times the generator is trained on each video, in 300 to 6,000 steps."""

FAST_STEPS = 1000
"""Steps of the generator up to which its learning rate is `FAST`; with more steps it falls in proportion."""

FAST = 1e-3
"""Learning rate of a generator with few steps."""

STUDENT_STEPS = 300
"""Steps of the student's first training, in 8 to 100 epochs: few, as a longer one fits the errors of its labels."""

DISTILLATION = 1.5
"""Epochs of distillation, as a multiple of the student's: labels go on improving."""

LONG = 750
"""Maximum number of snippets of a video that the generator uses; the paper's number."""

LONGEST = 2304
"""Maximum length of the student's training sequences in snippets; the paper's number."""

BATCHES = ((8, 2), (100, 4), (2000, 8))
"""(number of training videos, the student's batch for fewer than that)."""


class Known(NamedTuple):
    """What the parameters are derived from.

    Attributes:
        labels: multi-hot labels of the training videos (N, C).
        generator: snippets of each video on the generator's grid (N,).
        student: snippets of each video on the student's grid (N,).
        most_actions: maximum number of annotated segments in a video; 0 if there are no segments.
        segments: whether training videos have segments.
    """

    labels: np.ndarray
    generator: np.ndarray
    student: np.ndarray
    most_actions: int
    segments: bool

    @property
    def videos(self) -> int:
        """Number of training videos."""
        return self.labels.shape[0]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.labels.shape[1]


class Size(NamedTuple):
    """A parameter, its value, and the reason for it, which is written as a comment."""

    name: str
    value: object
    why: str


def sizes(known: Known) -> list[Size]:
    """Derives the parameters.

    Args:
        known: labels, and numbers of snippets and segments.

    Returns:
        Parameters in the order of the stages.
    """
    found = [video_score(known), *_of_generator(known), *_of_student(known), *_of_upper_bound(known)]
    if known.classes > 100:
        found.append(Size("tious", "0.5:0.05:0.95", "as on ActivityNet, which has as many classes"))
    return found


def video_score(known: Known) -> Size:
    """Which video score `auto` takes."""
    kind, why = choose_video_score(known.labels)
    return Size("video_score", "auto", f"{kind}, by the labels: {why}")


def _of_generator(known: Known) -> list[Size]:
    snippets = _between(20, np.ceil(np.percentile(known.generator, 90)), LONG)
    longer = (known.generator > snippets).sum()
    batch = min(known.videos, 64 if known.classes > 100 else 16)
    steps = _between(300, 50 * np.ceil(GENERATOR_PASSES * known.videos / batch / 50), 6000)
    rate = float(f"{FAST * min(1, FAST_STEPS / steps):.1g}")
    length = f"90 % of the videos have at most this many snippets; maximum {LONG}, as in the paper"
    passes = f"each of {known.videos} training videos {GENERATOR_PASSES} times; 300 to 6000 steps"
    return [
        Size("generator_snippets", snippets, f"{length}; {longer} longer videos are sampled"),
        Size("generator_batch", batch, "videos; the contrast between videos needs several of one class"),
        Size("generator_steps", steps, passes),
        Size("generator_lr", rate, f"{FAST:g} up to {FAST_STEPS} steps; with more, rate x steps stays the same"),
    ]


def _of_student(known: Known) -> list[Size]:
    longest = _between(32, 32 * np.ceil(np.percentile(known.student, 90) / 32), LONGEST)
    cropped = (known.student > longest).sum()
    batch = _student_batch(known.videos)
    epochs, more = _epochs(known.videos)
    steps = int(np.ceil(known.videos / batch))
    length = f"90 % of the videos fit; a multiple of 32, maximum {LONGEST}; {cropped} videos are cropped"
    return [
        Size("max_snippets", longest, length),
        Size("student_batch", batch, f"videos, of {known.videos}"),
        Size("student_epochs", epochs, f"of {steps} steps each: about {STUDENT_STEPS} steps, in 8 to 100 epochs"),
        _max_detections(known),
        Size("distill_epochs", more, f"{DISTILLATION:g} times student_epochs, as the labels go on improving"),
    ]


def _of_upper_bound(known: Known) -> list[Size]:
    """Training on true segments, where training videos have them."""
    if known.segments:
        why = "as many as both trainings; the student is trained on true segments"
        return [Size("upper_bound_epochs", sum(_epochs(known.videos)), why)]
    none = "training videos have no segments"
    return [
        Size("watched_videos", 0, f"{none}: nothing to measure"),
        Size("upper_bound_epochs", 0, f"{none}: no upper bound"),
    ]


def _student_batch(videos: int) -> int:
    for limit, batch in BATCHES:
        if videos < limit:
            return batch
    return 16


def _epochs(videos: int) -> tuple[int, int]:
    """Epochs of the student's training and of distillation."""
    steps = np.ceil(videos / _student_batch(videos))
    epochs = _between(8, STUDENT_STEPS / steps, 100)
    return epochs, round(DISTILLATION * epochs)


def _max_detections(known: Known) -> Size:
    snippets = _between(200, 100 * np.ceil(known.student.max() / 100), 2000)
    actions = 200 * -(-known.most_actions // 100)  # twice their number, rounded up to hundreds before
    why = "a detection for each snippet of the longest video, 200 to 2000"
    if known.most_actions:
        why += f"; or twice the maximum number of actions in a video, {known.most_actions}"
    return Size("max_detections", max(snippets, actions), why)


def _between(low: float, value: float, high: float) -> int:
    """The rounded value, at most `high`, and at least `low`, which takes precedence."""
    return int(max(low, min(round(value), high)))


def preset_text(run: str, known: Known) -> str:
    """Writes a preset, each value below a comment that gives its reason.

    Args:
        run: name of the run, as YAML.
        known: what the values are derived from.

    Returns:
        YAML.
    """
    lines = ["# Written by `fustal init`. Parameters that are not listed keep their defaults (fustal/params.py)."]
    lines += [f"run: {run}", "dataset: card.yaml"]
    for name, value, why in sizes(known):
        written = f'"{value}"' if isinstance(value, str) else value
        lines += [f"# {why}", f"{name}: {written}"]
    return "\n".join(lines) + "\n"
