"""Parameters of a preset that follow from how many videos there are, how long they are, and their labels.

The rules come near to what was chosen by hand for the presets of this repository, whose data sets have 60 to 10,000
training videos. They ask for no segment of a training video but to keep enough detections. Told on the page "Your own
data" (docs/own_data.md).
"""

from typing import NamedTuple

import numpy as np

STUDENT_STEPS = 500
"""Steps of the student's first training, in epochs of which there are 8 to 60."""

GENERATOR_PASSES = 40
"""So often the generator's training sees each video, in 200 to 6,000 steps."""

LONG = 750
"""Snippets that the generator takes of a video at most, the paper's number."""

LONGEST = 2304
"""Snippets of which the student's training sequences are at most, the paper's number."""

TOP_SECONDS = 60.0
"""The snippets that speak for a class last so long together at most: a fifth of a video of five minutes."""

MEMORY = 0.4
"""The average of the weights forgets over this share of both trainings, as the paper's does."""


class Known(NamedTuple):
    """What the parameters follow from.

    Attributes:
        videos: number of training videos.
        classes: number of classes.
        seconds: median duration of the videos.
        generator: snippets of each video on the generator's grid (N,).
        student: on the student's grid (N,).
        most_actions: annotated segments of the video that has most; 0 where none are known.
        segments: whether those of training videos are known.
    """

    videos: int
    classes: int
    seconds: float
    generator: np.ndarray
    student: np.ndarray
    most_actions: int
    segments: bool


class Size(NamedTuple):
    """A parameter, its value, and the reason, for a comment."""

    name: str
    value: object
    why: str


def sizes(known: Known) -> list[Size]:
    """The parameters that follow, in the order of the stages."""
    found = _of_generator(known) + _of_student(known)
    if known.classes > 100:
        found.append(Size("tious", "0.5:0.05:0.95", "as on ActivityNet, which has as many classes"))
    return found


def _of_generator(known: Known) -> list[Size]:
    snippets = _between(20, np.ceil(np.percentile(known.generator, 90)), LONG)
    longer = (known.generator > snippets).sum()
    batch = min(known.videos, 64 if known.classes > 100 else 16)
    steps = _between(200, 50 * np.ceil(GENERATOR_PASSES * known.videos / batch / 50), 6000)
    easy = _between(5, known.seconds / TOP_SECONDS, snippets // 4)
    share = (
        f"{snippets // easy} of {snippets} snippets, {known.seconds / easy:.0f} s of a video of {known.seconds:.0f} s"
    )
    why = f"nine of ten videos have at most so many snippets; at most {LONG}, the paper's"
    return [
        Size("generator_snippets", snippets, f"{why}; {longer} longer videos are sampled"),
        Size("generator_batch", batch, "videos; cross-video contrast wants some of the same class among them"),
        Size("generator_steps", steps, f"{GENERATOR_PASSES} times each of {known.videos} training videos; 200 to 6000"),
        Size(
            "easy_ratio", easy, f"a guess: {share}, speak for a class; set it to what is not much longer than an action"
        ),
        Size("hard_ratio", 4 * easy, "four times easy_ratio, as the paper's"),
    ]


def _of_student(known: Known) -> list[Size]:
    longest = _between(32, 32 * np.ceil(np.percentile(known.student, 90) / 32), LONGEST)
    cropped = (known.student > longest).sum()
    batch = next(size for size, below in ((2, 8), (4, 200), (8, 2000), (16, np.inf)) if known.videos < below)
    steps = int(np.ceil(known.videos / batch))
    epochs = _between(8, STUDENT_STEPS / steps, 60)
    more = _between(4, epochs / 2, 30)
    decay = round(float(np.clip(1 - 1 / (MEMORY * steps * (epochs + more)), 0.9, 0.999)), 4)
    inside = known.seconds * min(1.0, longest / np.median(known.student))
    kept = max(_between(200, 100 * np.ceil(known.student.max() / 100), 2000), 200 * -(-known.most_actions // 100))
    why = "a detection for each snippet of the longest video, 200 to 2000"
    why += f"; or twice the most actions of a video, {known.most_actions}" if known.most_actions else ""
    found = [
        Size(
            "max_snippets", longest, f"nine of ten videos, a multiple of 32, at most {LONGEST}; {cropped} are cropped"
        ),
        Size("student_batch", batch, f"videos, for {known.videos}"),
        Size("student_epochs", epochs, f"of {steps} steps: about {STUDENT_STEPS} steps; 8 to 60 epochs"),
        Size("mil_ratio", _between(5, inside / TOP_SECONDS, longest // 4), "as easy_ratio, for the student"),
        Size("ema_decay", decay, f"per step: forgets over {MEMORY:.0%} of both trainings, as the paper's"),
        Size("max_detections", kept, why),
        Size("distill_epochs", more, "half of student_epochs, as it goes on from the student"),
        Size("relabel_confidence", 0.2, "an average over many steps is less sure than the last weights; see agreement"),
    ]
    if known.segments:
        return [
            *found,
            Size("upper_bound_epochs", epochs + more, "as many as both trainings: the student on true segments"),
        ]
    none = "no segments of training videos are known: "
    nothing = [("watched_videos", "nothing to measure"), ("upper_bound_epochs", "no upper bound")]
    return found + [Size(name, 0, none + what) for name, what in nothing]


def _between(low: float, value: float, high: float) -> int:
    """The value, rounded, if it lies between; never below the first."""
    return int(max(low, min(round(value), high)))


def preset_text(run: str, known: Known) -> str:
    """The preset, each value with its reason.

    Args:
        run: its name, as YAML.
        known: what the values follow from.
    """
    lines = ["# Written by `fustal init`. What is not named here keeps its default (fustal/params.py)."]
    lines += [f"run: {run}", "dataset: card.yaml"]
    for name, value, why in sizes(known):
        value = f'"{value}"' if isinstance(value, str) else value
        lines += [f"# {why}", f"{name}: {value}"]
    return "\n".join(lines) + "\n"
