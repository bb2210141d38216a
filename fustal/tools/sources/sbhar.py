"""SBHAR (UCI HAPT): real recordings of a smartphone at the waist, cut into windows and described by hand-made features.

61 untrimmed recordings of 30 people; 6 channels at 50 Hz (acceleration in g, angular velocity in rad/s); 12 classes:
six activities and the six postural transitions between them. Nearly every recording holds all 12 classes, so its
video-level label carries no information; a window of 60 s holds about three of them. Source: Reyes-Ortiz et al. 2015
(UCI HAPT; cite it, non-commercial use). Notebook 01 uses the windows as its videos.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from fustal.data.cards import Grid
from fustal.data.files import one_line, open_regular, read_json, read_text
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.tools.sources.signals import pieces_of, slope_of, standardised

FPS = 50
"""Samples per second of both sensors."""

WINDOW = 60.0
"""Seconds of a window, the "video" of this data set."""

MIN_WINDOW = 20.0
"""Seconds, minimum length of the last window of a recording; a shorter rest is dropped."""

MIN_SLIVER = 0.5
"""Seconds, minimum length of a segment that a window's border has cut; a whole segment may be shorter."""

SCALES = (0.5, 1.28, 2.56)
"""Seconds of signal, centred on a snippet, from which its statistics are computed; spectra use the last one."""

BANDS = (0.3, 1.0, 1.8, 2.6, 4.0, 7.0, 12.0, 20.0)
"""Hz, borders of the bands whose energies are features; the steps of walking are at 1.5 to 2.5 Hz."""

LAGS = (1.0, 2.0, 4.0)
"""Seconds before and after a snippet, between which the turn of gravity is measured: a transition changes posture."""


@dataclass(frozen=True)
class Recording:
    """One untrimmed recording.

    Attributes:
        name: e.g. "exp01_user01".
        subset: "train" or "test".
        signal: (N, 6) acceleration in g and angular velocity in rad/s, at `FPS`.
        annotations: segments as `{"label": name, "segment": [start s, end s]}`.
    """

    name: str
    subset: str
    signal: np.ndarray
    annotations: list[dict[str, Any]]


def read_recordings(folder: Path) -> list[Recording]:
    """Reads the recordings from one of two layouts.

    Args:
        folder: holds `sbhar_float16.npz` and `gt.json`, or (at any depth) the public archive's `RawData/*.txt`,
            `activity_labels.txt` and `Train/subject_id_train.txt`.

    Returns:
        All recordings, in the order of the files.

    Raises:
        InputError: neither layout, or a file of it is missing or unreadable.
    """
    if (folder / "sbhar_float16.npz").exists():
        return list(_read_npz(folder))
    raw = next(folder.rglob("RawData"), None)
    if raw is None:
        raise InputError(f"{folder}: neither sbhar_float16.npz nor a folder RawData is here")
    try:
        return list(_read_public(raw))
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):  # a ValueError that has its message already
            raise
        raise InputError(f"{raw}: does not have the form of SBHAR's text files: {one_line(error)}") from None


def _read_npz(folder: Path) -> Iterator[Recording]:
    try:
        with open_regular(folder / "sbhar_float16.npz") as file, np.load(file, allow_pickle=False) as signals:
            for name, video in read_json(folder / "gt.json")["database"].items():
                yield Recording(name, video["subset"], signals[name].astype(np.float64), video["annotations"])
    except InputError:
        raise
    except Exception as error:  # a broken archive can raise any exception
        reason = one_line(error)[:200]
        raise InputError(f"{folder / 'sbhar_float16.npz'}: does not fit gt.json, or is broken: {reason}") from None


def _read_public(raw: Path) -> Iterator[Recording]:
    names = dict(line.split() for line in _lines(raw.parent / "activity_labels.txt"))
    train_users = set(map(int, _lines(raw.parent / "Train" / "subject_id_train.txt")))
    segments: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(raw / "labels.txt"):
        experiment, user, activity, first, last = line.split()  # first and last sample, counted from 1
        name = f"exp{int(experiment):02d}_user{int(user):02d}"
        annotation = {"label": names[activity], "segment": [(int(first) - 1) / FPS, int(last) / FPS]}
        segments.setdefault(name, []).append(annotation)
    for name, annotations in segments.items():
        subset = "train" if int(name[-2:]) in train_users else "test"
        yield Recording(name, subset, _read_text_signal(raw, name), annotations)


def _read_text_signal(raw: Path, name: str) -> np.ndarray:
    """The signal (N, 6) of a recording, from its two text files."""
    acceleration = np.loadtxt(_lines(raw / f"acc_{name}.txt"), ndmin=2)
    velocity = np.loadtxt(_lines(raw / f"gyro_{name}.txt"), ndmin=2)
    if len(acceleration) != len(velocity):
        raise InputError(f"{raw}: acc_{name}.txt has {len(acceleration)} samples, gyro_{name}.txt {len(velocity)}")
    return np.hstack([acceleration, velocity])


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def cut(recording: Recording) -> dict[str, dict[str, Any]]:
    """Cuts a recording into windows of 60 s: entries of an ActivityNet-style database.

    Segments are clipped to their window, and dropped if a border leaves less than `MIN_SLIVER` of them. The rest of
    the recording after the last whole window is dropped if it is shorter than `MIN_WINDOW`. Training windows without a
    segment are dropped: a training video of this task has at least one label. Test windows without a segment stay:
    every detection in them is a false positive.

    Args:
        recording: the recording.

    Returns:
        Name of a window -> subset, duration (s) and fps, annotations, and the recording and start (s) it is cut from.

    >>> walk = {"label": "WALKING", "segment": [10.0, 60.2]}
    >>> windows = cut(Recording("exp01_user01", "train", np.zeros((80 * FPS, 6)), [walk]))
    >>> [(name, window["duration"], window["annotations"]) for name, window in windows.items()]
    [('exp01_user01_w00', 60.0, [{'label': 'WALKING', 'segment': [10.0, 60.0]}])]
    """
    end = len(recording.signal) / FPS
    windows = {}
    for index, start in enumerate(np.arange(0.0, end, WINDOW).tolist()):
        duration = min(WINDOW, end - start)
        annotations = list(_clip(recording.annotations, start, start + duration))
        if duration >= MIN_WINDOW and (annotations or recording.subset == "test"):
            windows[f"{recording.name}_w{index:02d}"] = {
                "subset": recording.subset,
                "duration": round(duration, 3),
                "fps": FPS,
                "recording": recording.name,
                "start": start,
                "annotations": annotations,
            }
    return windows


def _clip(annotations: list[dict[str, Any]], start: float, end: float) -> Iterator[dict[str, Any]]:
    """The segments of a window, their times from its start; `start` and `end` in seconds of the recording."""
    for annotation in annotations:
        first, last = annotation["segment"]
        left = max(first, start)
        right = min(last, end)
        # Outside the window right - left is negative. A segment that is shorter than a sliver as a whole is kept.
        if right - left >= min(MIN_SLIVER, last - first):
            yield {"label": annotation["label"], "segment": [round(left - start, 3), round(right - start, 3)]}


def describe(signal: np.ndarray, stride: int, window: int) -> np.ndarray:
    """Hand-made features of the snippets of a whole recording; labels are not used.

    Statistics of gravity, of the acceleration without gravity and of the angular velocity at the time scales `SCALES`,
    energies in frequency bands, correlations of axes, and the turn of gravity. The signal that a snippet's features
    cover is wider than the snippet and centred on it. Heavy-tailed values are compressed by a logarithm.

    Args:
        signal: (N, 6) acceleration in g and angular velocity in rad/s.
        stride: samples between snippets.
        window: samples of a snippet; snippet i is centred at sample `i * stride + window / 2`.

    Returns:
        (T, D) for all snippets centred inside the recording.
    """
    channels = _channels(signal)
    centres = np.arange(window // 2, len(signal), stride)
    features = []
    for seconds in SCALES:
        pieces = pieces_of(channels, centres, round(seconds * FPS))
        features.append(_statistics(pieces))
    features.append(_spectrum(pieces))  # pieces of the last, longest scale
    features.append(_correlations(pieces[:, :, BODY_AND_GYRO]))
    features.append(_turns(channels[:, GRAVITY], centres))
    return np.hstack(features).astype(np.float32)


GRAVITY = slice(0, 3)
BODY_AND_GYRO = slice(3, 9)
MOVING = slice(3, 11)
"""Columns of `_channels`. The last: body acceleration, angular velocity, and both along the vertical axis."""


def _channels(signal: np.ndarray) -> np.ndarray:
    """(N, 15): gravity, body acceleration, angular velocity (x, y, z each), and six that no rotation changes.

    The six: body acceleration and angular velocity along the vertical axis, both across it, and the changes per second
    of acceleration and of angular velocity.
    """
    # Gravity changes slowly: the part of the acceleration below 0.3 Hz.
    low_pass = scipy.signal.butter(3, 0.3, fs=FPS, output="sos")
    gravity = scipy.signal.sosfiltfilt(low_pass, signal[:, :3], axis=0)
    body = signal[:, :3] - gravity
    gyro = signal[:, 3:]
    # "Down" is known from gravity: parts along it and across it do not depend on how the phone is worn.
    down = gravity / np.linalg.norm(gravity, axis=1, keepdims=True).clip(1e-6)
    vertical = (body * down).sum(axis=1)
    yaw = (gyro * down).sum(axis=1)
    horizontal = np.linalg.norm(body - vertical[:, None] * down, axis=1)
    tilt = np.linalg.norm(gyro - yaw[:, None] * down, axis=1)
    jerk = np.linalg.norm(np.gradient(signal[:, :3], 1 / FPS, axis=0), axis=1) / 10
    turn = np.linalg.norm(np.gradient(gyro, 1 / FPS, axis=0), axis=1) / 10
    return np.column_stack([gravity, body, gyro, vertical, yaw, horizontal, tilt, jerk, turn])


def _statistics(pieces: np.ndarray) -> np.ndarray:
    """Mean, slope, minimum, maximum and log deviation of each channel: (T, 5 C)."""
    mean = pieces.mean(axis=1)
    deviation = pieces.std(axis=1)
    level = np.arcsinh(np.hstack([mean, 4 * slope_of(pieces), pieces.min(axis=1), pieces.max(axis=1)]))
    return np.hstack([level, np.log(deviation + 0.003)])


def _spectrum(pieces: np.ndarray) -> np.ndarray:
    """Log energy in each of the 7 bands of `BANDS`, of the 8 channels of `MOVING`: (T, 7 * 8)."""
    moving = pieces[:, :, MOVING]
    centred = moving - moving.mean(axis=1, keepdims=True)
    taper = np.hanning(pieces.shape[1])[:, None]
    power = np.abs(np.fft.rfft(centred * taper, axis=1)) ** 2
    band = np.digitize(np.fft.rfftfreq(pieces.shape[1], 1 / FPS), BANDS)
    energies = [power[:, band == index].mean(axis=1) for index in range(1, len(BANDS))]
    return np.log(np.hstack(energies) + 0.01)


def _correlations(moving: np.ndarray) -> np.ndarray:
    """Correlations between the axes of body acceleration and angular velocity: (T, 15)."""
    centred = moving - moving.mean(axis=1, keepdims=True)
    covariance = np.einsum("twi,twj->tij", centred, centred) / moving.shape[1]
    deviation = np.sqrt(np.einsum("tii->ti", covariance)) + 0.01  # so a phone at rest gets about 0, not noise
    first, second = np.triu_indices(moving.shape[2], k=1)
    return covariance[:, first, second] / (deviation[:, first] * deviation[:, second])


def _turns(gravity: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The change of gravity (x, y, z) and its log length from before to after a snippet, for `LAGS`: (T, 3 * 4)."""
    turns = []
    for lag in LAGS:
        samples = round(lag * FPS)
        before = (centres - samples).clip(0, len(gravity) - 1)
        after = (centres + samples).clip(0, len(gravity) - 1)
        change = gravity[after] - gravity[before]
        turns.append(change)
        turns.append(np.log(np.linalg.norm(change, axis=1, keepdims=True) + 0.02))
    return np.hstack(turns)


def build(source: Path, root: Path, grids: Mapping[str, Grid]) -> None:
    """Writes `gt.json` and the windows' features on every grid.

    Features are computed on whole recordings: the border of a window is no border of the signal. They are standardised
    with mean and deviation of the training recordings, and clipped to +-5.

    Args:
        source: a folder that `read_recordings` can read.
        root: the folder of the data set.
        grids: those of the data-set card; their frames are samples.

    Raises:
        InputError: see `read_recordings`.
    """
    recordings = read_recordings(source)
    windows = {recording.name: cut(recording) for recording in recordings}
    train = {recording.name for recording in recordings if recording.subset == "train"}
    for grid in grids.values():
        features = {}
        for recording in recordings:
            features[recording.name] = describe(recording.signal, grid.stride, grid.window)
        for name, values in standardised(features, train):
            _write_windows(values, windows[name], root, grid)
    database = {}
    for cuts in windows.values():
        database.update(cuts)
    write_json({"version": "SBHAR, 60 s windows", "database": database}, root / "gt.json")


def _write_windows(features: np.ndarray, windows: dict[str, dict[str, Any]], root: Path, grid: Grid) -> None:
    """Cuts a recording's features (T, D) into those of its windows: the snippets whose centres are in the window."""
    for name, window in windows.items():
        first = round(window["start"] * FPS) // grid.stride  # a window starts on a snippet's first sample
        count = -(-(round(window["duration"] * FPS) - grid.window // 2) // grid.stride)
        path = root / grid.pattern.format(video=name, subset=window["subset"])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, features[first : first + count])
