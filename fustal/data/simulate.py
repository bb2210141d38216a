"""Data sets with simulated features: two modalities on two grids, from one latent signal per video.

The features are not computed from video. They imitate the difficulties of weak supervision: an action is clearest at
its core and vague at its ends, and annotators disagree about these ends. A scene appears with its class and stays after
the action. Some moments look like an action and are not annotated. Every video has its own style. Notebook 01, section
"The data set", shows the signal.

Tuning. The constants of `Look` were chosen by hand, with THUMOS'14's annotations and by the results on its 210 test
videos. The aim was a generator with about the results that it has on the real features: average mAP (.1:.7) 38 to 42,
from 60 to 66 at tIoU .1 down to about 12 at .7. At the same time the student should reach 65 to 75 when it is trained
on the true segments. Filter, distillation and pseudo labels were not considered. Measured with the settings of
`params/thumos14-simulated.yaml`, mAP in percent:

    tIoU                                            .1    .2    .3    .4    .5    .6    .7   average
    generator, mean of the seeds 0, 1 and 2       62.7  56.4  50.2  43.2  34.7  25.2  14.0      40.9
    EMA student on the true segments, 20 epochs   84.1  82.7  80.2  76.2  68.6  58.0  39.1      69.8
    the same run after 25 epochs                  86.6  85.2  82.9  80.0  74.0  62.7  44.2      73.7
    the same run after 30 epochs                  87.9  87.0  85.0  81.8  76.1  64.9  47.0      75.7

The generator's averages are 40.3, 39.8 and 42.5; without the cross-video term seed 0 gives 36.9. The student was
trained with seed 0 only, with `sgp_init_std` 0 (the preset now has the default, 0.1). Its mAP was still rising, and it
ends a little above the aim. Later, proposals were centred on the windows of their snippets: the generator's mean over
these seeds is now 41.8. The decay of the student's average is now closer to 1. As the constants were chosen on test
videos, no result on these features is evidence about real video.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Grid
from fustal.data.writing import write_json

RATE = 12.5
"""Samples of the latent signal per second; a window of 16 frames at 25 fps is the mean of 8 samples."""


@dataclass(frozen=True)
class Look:
    """The constants of a simulation. Amplitudes are in units of a prototype's root mean square, times in seconds."""

    core: float = 1.0  # amplitude of a class's core, in the middle of an action
    core_width: float = 0.16  # median of the core's standard deviation in time, as a share of the action
    core_spread: float = 0.4  # standard deviation of the logarithm of that width, over actions
    core_place: float = 0.3  # the core's peak lies between this share of the action and one minus it
    ends: float = 0.6  # amplitude of a class's start and of its end
    end_share: float = 0.3  # share of the action in which each of them fades
    motion: float = 0.2  # amplitude of the part that is common to all actions, from start to end
    disagreement: float = 0.08  # standard deviation of true minus annotated starts and ends, as a share of the action
    strength: float = 0.35  # standard deviation of the logarithm of an action's amplitude
    scene: float = 0.8  # amplitude of the scene of a class, during its actions and at other times
    scene_duration: float = 4.0  # away from actions, the scene can appear or disappear after each such time
    scene_share: float = 0.25  # share of the time away from actions in which the scene is present
    linger: float = 3.0  # mean time for which the scene is present before and after an action: run-up, replay, applause
    background: float = 0.7  # amplitude of the regime of a video: a place, a camera
    regimes: int = 12  # number of regimes in the whole data set
    regime_duration: float = 20.0  # mean duration of a regime
    burst: float = 0.6  # amplitude of bursts: the core of a class for a moment, without an action
    burst_rate: float = 1.0  # bursts per minute and class
    burst_duration: float = 2.0  # mean duration of a burst (between 0.5 and 1.5 times this)
    style: float = 1.0  # amplitude of the constant offset of a video
    noise: float = 2.8  # amplitude of the noise of the latent signal
    noise_width: float = 0.16  # standard deviation of the Gaussian that smooths the noise in time
    blur: float = 0.15  # standard deviation of the blur by the receptive field, in addition to the window


@dataclass(frozen=True)
class Prototypes:
    """Feature vectors of unit root mean square; `core`, `start`, `end`, `scene` map a class to (D,)."""

    core: dict[str, np.ndarray]
    start: dict[str, np.ndarray]
    end: dict[str, np.ndarray]
    scene: dict[str, np.ndarray]
    regimes: np.ndarray
    motion: np.ndarray


def simulate(
    videos: pd.DataFrame,
    segments: pd.DataFrame,
    root: Path,
    grids: Mapping[Any, Grid],
    *,
    dim: int,
    seed: int,
    look: Look | None = None,
) -> None:
    """Writes `gt.json` and simulated features for annotated videos.

    The features of a video depend on the seed, its name and its annotations, not on the other videos.

    Args:
        videos: frame indexed by video name: subset, duration (s), fps; see `annotations.read_annotations`.
        segments: frame with video, label, start, end (s).
        root: the folder of the data set.
        grids: the grids of the data-set card by stage, with two modalities.
        dim: number of features of one modality.
        seed: of all random numbers.
        look: the constants of the simulation.
    """
    look = look or Look()
    prototypes = make_prototypes(sorted(set(segments.label)), 2 * dim, look, seed)
    by_video = dict(tuple(segments.groupby("video")))
    for video, subset, duration in zip(videos.index, videos.subset, videos.duration, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(video.encode())])
        signal = latent(duration, by_video.get(video, segments[:0]), prototypes, look, rng)
        for grid in grids.values():
            features = observe(signal, grid, duration, look).astype(np.float16)
            for modality, part in zip(grid.modalities, np.split(features, 2, axis=1), strict=True):
                path = root / grid.pattern.format(video=video, subset=subset, modality=modality)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, part)
    write_annotations(videos, segments, root / "gt.json")


def make_prototypes(classes: list[str], dim: int, look: Look, seed: int) -> Prototypes:
    """Draws all prototypes of a data set; those of a class depend on its name, not on the other classes."""

    def draw(key: str, rows: int = 1) -> np.ndarray:
        # A generator for each key, as the order of the draws must not matter
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        vectors = rng.normal(size=(rows, dim))
        return vectors / np.sqrt((vectors**2).mean(axis=1, keepdims=True))

    def draw_classes(kind: str) -> dict[str, np.ndarray]:
        return {label: draw(f"{kind}/{label}")[0] for label in classes}

    return Prototypes(
        core=draw_classes("core"),
        start=draw_classes("start"),
        end=draw_classes("end"),
        scene=draw_classes("scene"),
        regimes=draw("regimes", rows=look.regimes),
        motion=draw("motion")[0],
    )


def latent(
    duration: float, segments: pd.DataFrame, prototypes: Prototypes, look: Look, rng: np.random.Generator
) -> np.ndarray:
    """The latent signal of one video, (N, D) at `RATE` Hz, in units of a prototype."""
    times = (np.arange(max(1, round(duration * RATE))) + 0.5) / RATE
    labels = sorted(set(segments.label))
    style = look.style * rng.normal(size=prototypes.motion.shape)
    signal = (_background(times, prototypes, look, rng) + style).astype(np.float32)
    for label in labels:
        own = segments[segments.label == label]
        signal += np.outer(_presence(times, own, look, rng), prototypes.scene[label])
    for label, start, end in segments[["label", "start", "end"]].itertuples(index=False):
        # The annotated times are not exactly the true ones
        first, last = np.array([start, end]) + look.disagreement * (end - start) * rng.normal(size=2)
        length = max(last - first, 1 / RATE)
        inside = slice(*np.searchsorted(times, (first, first + length)))
        signal[inside] += _action((times[inside] - first) / length, label, prototypes, look, rng)
    for label in labels:
        signal += np.outer(_bursts(times, look, rng), prototypes.core[label])
    white = rng.standard_normal(signal.shape, dtype=np.float32)
    return signal + look.noise * gaussian_filter1d(white, look.noise_width * RATE, axis=0)


def _background(times: np.ndarray, prototypes: Prototypes, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The background of a video, (N, D): one regime after the other."""
    cuts = np.sort(rng.uniform(0, times[-1], size=max(1, int(times[-1] / look.regime_duration))))
    kinds = rng.integers(0, len(prototypes.regimes), len(cuts) + 1)
    return look.background * prototypes.regimes[kinds[np.searchsorted(cuts, times)]]


def _presence(times: np.ndarray, segments: pd.DataFrame, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The amplitude of a class's scene, (N,): present at random times, and around each action."""
    period = (times / look.scene_duration).astype(int)
    present = (rng.random(period[-1] + 1) < look.scene_share)[period]
    for start, end in segments[["start", "end"]].itertuples(index=False):
        before, after = look.linger * rng.exponential(size=2)
        present |= (times > start - before) & (times < end + after)
    return look.scene * present


def _action(phase: np.ndarray, label: str, prototypes: Prototypes, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The signal of one action, (N, D), at phases (N,) from 0 to 1: a core near the middle, and both ends."""
    peak = rng.uniform(look.core_place, 1 - look.core_place)
    strength = rng.lognormal(0, look.strength)
    width = look.core_width * rng.lognormal(0, look.core_spread)
    core = look.core * strength * np.exp(-0.5 * ((phase - peak) / width) ** 2)
    head = look.ends * (1 - phase / look.end_share).clip(0, 1)
    tail = look.ends * (1 - (1 - phase) / look.end_share).clip(0, 1)
    return (
        np.outer(core, prototypes.core[label])
        + np.outer(head, prototypes.start[label])
        + np.outer(tail, prototypes.end[label])
        + look.motion * strength * prototypes.motion
    )


def _bursts(times: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The amplitude of a class's bursts, (N,): its core for a moment, at random times."""
    present = np.zeros(len(times))
    for _ in range(rng.poisson(look.burst_rate * times[-1] / 60)):
        centre = rng.uniform(0, times[-1])
        length = look.burst_duration * rng.uniform(0.5, 1.5)
        present[np.abs(times - centre) < length / 2] = look.burst
    return present


def observe(signal: np.ndarray, grid: Grid, duration: float, look: Look) -> np.ndarray:
    """The features of a latent signal: the mean over each window, blurred, with 0 instead of negative values.

    Args:
        signal: (N, D) at `RATE` Hz.
        grid: of the windows; its fps is a number.
        duration: of the video, in seconds. Windows that end after it are left out, except the first one.
        look: gives the blur.

    Returns:
        (T, D) features.
    """
    blurred = gaussian_filter1d(signal, look.blur * RATE, axis=0) if look.blur else signal
    fps = float(grid.fps)
    count = max(1, int((duration * fps - grid.window) // grid.stride) + 1)
    # In samples of the signal: the width of a window, and where each window begins
    width = grid.window / fps * RATE
    first = np.arange(count) * grid.stride / fps * RATE
    # The mean over a window is a difference of two cumulative sums
    total = np.concatenate([np.zeros((1, signal.shape[1])), np.cumsum(blurred, axis=0)])
    means = (_at(total, first + width) - _at(total, first)) / width
    return np.maximum(means, 0)


def _at(total: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Rows of a cumulative sum at positions with fractions, (T, D)."""
    position = position.clip(0, len(total) - 1)
    low = np.minimum(position.astype(int), len(total) - 2)
    return total[low] + (position - low)[:, None] * (total[low + 1] - total[low])


def write_annotations(videos: pd.DataFrame, segments: pd.DataFrame, path: Path) -> None:
    """Writes frames of videos and segments as ActivityNet-style JSON."""
    database: dict[str, dict[str, Any]] = {}
    for video, subset, duration, fps in videos[["subset", "duration", "fps"]].itertuples(name=None):
        database[video] = {"subset": subset, "duration": duration, "fps": fps, "annotations": []}
    for video, label, start, end in segments[SEGMENT_COLUMNS].itertuples(index=False, name=None):
        database[video]["annotations"].append({"label": label, "segment": [start, end]})
    write_json({"version": "FuSTAL", "database": database}, path)
