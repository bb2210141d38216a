"""Derives the parameters of a preset from the number of videos, their lengths, and their labels.

The rules come near to the values that were chosen by hand for the presets of this repository, whose data sets have 60
to 10,000 training videos. No rule uses the times of a training segment; only the number of segments is used, to keep
enough detections. The page "Your own data" (docs/own_data.md) lists the rules.
"""

from typing import NamedTuple

import numpy as np

STUDENT_STEPS = 500
"""Steps of the student's first training, in 8 to 60 epochs."""

GENERATOR_PASSES = 40
"""How many times the generator is trained on each video, in 200 to 6,000 steps."""

LONG = 750
"""Maximum number of snippets of a video that the generator uses; the paper's number."""

LONGEST = 2304
"""Maximum length of the student's training sequences in snippets; the paper's number."""

TOP_SECONDS = 60.0
"""Maximum time (s) that the top snippets of a class cover together. A fifth of a video is shorter up to 5 minutes."""

MEMORY = 0.4
"""Time constant of the weight average, as a share of the steps of both trainings; about the paper's."""

BATCHES = ((8, 2), (200, 4), (2000, 8))
"""(number of training videos, the student's batch for fewer than that)."""


class Known(NamedTuple):
    """What the parameters are derived from.

    Attributes:
        videos: number of training videos.
        classes: number of classes.
        seconds: median duration of the videos (s).
        generator: snippets of each video on the generator's grid (N,).
        student: snippets of each video on the student's grid (N,).
        most_actions: maximum number of annotated segments in a video; 0 if there are no segments.
        segments: whether training videos have segments.
    """

    videos: int
    classes: int
    seconds: float
    generator: np.ndarray
    student: np.ndarray
    most_actions: int
    segments: bool


class Size(NamedTuple):
    """A parameter, its value, and the reason for it, which is written as a comment."""

    name: str
    value: object
    why: str


def sizes(known: Known) -> list[Size]:
    """Derives the parameters.

    Args:
        known: numbers of videos, classes, snippets and segments.

    Returns:
        Parameters in the order of the stages.
    """
    found = _of_generator(known) + _of_student(known) + _of_upper_bound(known)
    if known.classes > 100:
        found.append(Size("tious", "0.5:0.05:0.95", "as on ActivityNet, which has as many classes"))
    return found


def _of_generator(known: Known) -> list[Size]:
    snippets = _between(20, np.ceil(np.percentile(known.generator, 90)), LONG)
    longer = (known.generator > snippets).sum()
    batch = min(known.videos, 64 if known.classes > 100 else 16)
    steps = _between(200, 50 * np.ceil(GENERATOR_PASSES * known.videos / batch / 50), 6000)
    # The top snippets of a class are snippets // easy: a fifth of a video, or less of a long one.
    easy = _between(5, known.seconds / TOP_SECONDS, snippets // 4)
    length = f"90 % of the videos have at most this many snippets; maximum {LONG}, as in the paper"
    top = f"{snippets // easy} of {snippets} snippets, {known.seconds / easy:.0f} s of a video of {known.seconds:.0f} s"
    advice = "choose it so that this is not much longer than an action"
    return [
        Size("generator_snippets", snippets, f"{length}; {longer} longer videos are sampled"),
        Size("generator_batch", batch, "videos; the contrast between videos needs several of one class"),
        Size("generator_steps", steps, f"each of {known.videos} training videos {GENERATOR_PASSES} times; 200 to 6000"),
        Size("easy_ratio", easy, f"a guess: the top {top}, represent a class; {advice}"),
        Size("hard_ratio", 4 * easy, "four times easy_ratio, as in the paper"),
    ]


def _of_student(known: Known) -> list[Size]:
    longest = _between(32, 32 * np.ceil(np.percentile(known.student, 90) / 32), LONGEST)
    cropped = (known.student > longest).sum()
    batch = _student_batch(known.videos)
    steps = int(np.ceil(known.videos / batch))
    epochs, more = _epochs(steps)
    # An average with decay d forgets over about 1 / (1 - d) steps.
    decay = 1 - 1 / (MEMORY * steps * (epochs + more))
    decay = round(float(np.clip(decay, 0.9, 0.999)), 4)
    seconds = known.seconds * min(1.0, longest / np.median(known.student))  # of a training sequence
    length = f"90 % of the videos fit; a multiple of 32, maximum {LONGEST}; {cropped} videos are cropped"
    return [
        Size("max_snippets", longest, length),
        Size("student_batch", batch, f"videos, of {known.videos}"),
        Size("student_epochs", epochs, f"of {steps} steps each: about {STUDENT_STEPS} steps, in 8 to 60 epochs"),
        Size("mil_ratio", _between(5, seconds / TOP_SECONDS, longest // 4), "as easy_ratio, for the student"),
        Size("ema_decay", decay, f"per step: an average over about {MEMORY:.0%} of both trainings, as in the paper"),
        _max_detections(known),
        Size("distill_epochs", more, "half of student_epochs, as training continues from the student"),
        Size(
            "relabel_confidence",
            0.2,
            "an average over many steps is less confident than the last weights; see agreement",
        ),
    ]


def _of_upper_bound(known: Known) -> list[Size]:
    """Training on true segments, where training videos have them."""
    if known.segments:
        epochs, more = _epochs(int(np.ceil(known.videos / _student_batch(known.videos))))
        why = "as many as both trainings; the student is trained on true segments"
        return [Size("upper_bound_epochs", epochs + more, why)]
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


def _epochs(steps: int) -> tuple[int, int]:
    """Epochs of the student's training and of distillation, each of so many steps."""
    epochs = _between(8, STUDENT_STEPS / steps, 60)
    return epochs, _between(4, epochs / 2, 30)


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
