"""SBHAR (UCI HAPT): real recordings of a smartphone at the waist, cut into windows and described by hand-made features.

61 untrimmed recordings of 30 people; 6 channels at 50 Hz (acceleration in g, angular velocity in rad/s); 12 classes:
six activities and the six postural transitions between them. Nearly every recording holds all 12 classes, so that its
video-level label says nothing; a window of 60 s holds about three of them. Source: Reyes-Ortiz et al. 2015 (UCI HAPT;
cite it, non-commercial use). Notebook 01 uses the windows as its videos.
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

FPS = 50
"""Samples per second of both sensors."""

WINDOW = 60.0
"""Seconds of a window, the "video" of this data set."""

MIN_WINDOW = 20.0
"""Seconds: what is left at the end of a recording becomes a window from this length on and is dropped below it."""

MIN_SLIVER = 0.5
"""Seconds: what a window's border leaves of a segment is dropped below this length (whole segments never are)."""

SCALES = (0.5, 1.28, 2.56)
"""Seconds of signal, centred on a snippet, that its statistics see. The last one is also that of the spectra."""

BANDS = (0.3, 1.0, 1.8, 2.6, 4.0, 7.0, 12.0, 20.0)
"""Hz, borders of the bands whose energies are features; steps of walking lie at 1.5 to 2.5 Hz."""

LAGS = (1.0, 2.0, 4.0)
"""Seconds before and after a snippet between which the turn of gravity is measured: a transition changes posture."""


@dataclass(frozen=True)
class Recording:
    """One untrimmed recording: `signal` (N, 6), and segments as `{"label", "segment": [start s, end s]}`."""

    name: str
    subset: str
    signal: np.ndarray
    annotations: list[dict[str, Any]]


def read_recordings(folder: Path) -> list[Recording]:
    """Reads the recordings from one of two layouts.

    Args:
        folder: holds `sbhar_float16.npz` and `gt.json`, or (at any depth) the public archive's `RawData/*.txt`,
            `activity_labels.txt` and `Train/subject_id_train.txt`.

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
        if isinstance(error, InputError):
            raise
        raise InputError(f"{raw}: does not have the form of SBHAR's text files: {one_line(error)}") from None


def _read_npz(folder: Path) -> Iterator[Recording]:
    try:
        with open_regular(folder / "sbhar_float16.npz") as file, np.load(file, allow_pickle=False) as signals:
            for name, video in read_json(folder / "gt.json")["database"].items():
                yield Recording(name, video["subset"], signals[name].astype(np.float64), video["annotations"])
    except InputError:
        raise
    except Exception as error:  # a broken archive can raise anything
        reason = one_line(error)[:200]
        raise InputError(f"{folder / 'sbhar_float16.npz'}: does not fit gt.json, or is broken: {reason}") from None


def _read_public(raw: Path) -> Iterator[Recording]:
    names = dict(line.split() for line in _lines(raw.parent / "activity_labels.txt"))
    trained = set(map(int, _lines(raw.parent / "Train" / "subject_id_train.txt")))
    segments: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(raw / "labels.txt"):
        experiment, user, activity, first, last = line.split()  # the first and last sample, counted from 1
        annotation = {"label": names[activity], "segment": [(int(first) - 1) / FPS, int(last) / FPS]}
        segments.setdefault(f"exp{int(experiment):02d}_user{int(user):02d}", []).append(annotation)
    for name, annotations in segments.items():
        subset = "train" if int(name[-2:]) in trained else "test"
        yield Recording(name, subset, _read_text_signal(raw, name), annotations)


def _read_text_signal(raw: Path, name: str) -> np.ndarray:
    parts = [np.loadtxt(_lines(raw / f"{sensor}_{name}.txt"), ndmin=2) for sensor in ("acc", "gyro")]
    if len(parts[0]) != len(parts[1]):
        raise InputError(f"{raw}: acc_{name}.txt has {len(parts[0])} samples, gyro_{name}.txt {len(parts[1])}")
    return np.hstack(parts)


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).splitlines() if line.strip()]


def cut(recording: Recording) -> dict[str, dict[str, Any]]:
    """Cuts a recording into windows of 60 s: entries of an ActivityNet-style database.

    Segments are clipped to their window. What a border leaves of a segment is dropped if shorter than `MIN_SLIVER`; the
    end of the recording is dropped if shorter than `MIN_WINDOW`. Training windows without a segment are dropped: a
    training video of this task has at least one label. Test windows stay: what is found there is a false positive.

    Returns:
        window name -> subset, duration and fps, the annotations, and where the window comes from.

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
    for annotation in annotations:
        first, last = annotation["segment"]
        clipped = max(first, start), min(last, end)
        if clipped[1] - clipped[0] >= min(MIN_SLIVER, last - first):
            yield {"label": annotation["label"], "segment": [round(t - start, 3) for t in clipped]}


def describe(signal: np.ndarray, stride: int, window: int) -> np.ndarray:
    """Hand-made features of the snippets of a whole recording; no label has a part in them.

    Statistics of the sensors, of gravity and of what is left without it at the time scales `SCALES`, energies in
    frequency bands, correlations of axes, and the turn of gravity. The signal seen is wider than the snippet and
    centred on it. What has a heavy tail is compressed by a logarithm.

    Args:
        signal: (N, 6) acceleration in g and angular velocity in rad/s.
        stride: samples between snippets.
        window: samples of a snippet; snippet i is centred at sample `i * stride + window / 2`.

    Returns:
        (T, D) for all snippets centred inside the recording.
    """
    channels, gravity = _channels(signal)
    centres = np.arange(window // 2, len(signal), stride)
    features = []
    for seconds in SCALES:
        pieces = _pieces(channels, centres, round(seconds * FPS))
        features.append(_statistics(pieces))
    features += [_spectrum(pieces), _correlations(pieces[:, :, 3:9]), _turns(gravity, centres)]
    return np.hstack(features).astype(np.float32)


def _channels(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 15): gravity, body acceleration, angular velocity (x, y, z each), and six that no rotation changes."""
    low_pass = scipy.signal.butter(3, 0.3, fs=FPS, output="sos")
    gravity = scipy.signal.sosfiltfilt(low_pass, signal[:, :3], axis=0)
    body, gyro = signal[:, :3] - gravity, signal[:, 3:]
    down = gravity / np.linalg.norm(gravity, axis=1, keepdims=True).clip(1e-6)
    vertical = (body * down).sum(axis=1)
    yaw = (gyro * down).sum(axis=1)
    horizontal = np.linalg.norm(body - vertical[:, None] * down, axis=1)
    tilt = np.linalg.norm(gyro - yaw[:, None] * down, axis=1)
    jerk = np.linalg.norm(np.gradient(signal[:, :3], 1 / FPS, axis=0), axis=1) / 10
    turn = np.linalg.norm(np.gradient(gyro, 1 / FPS, axis=0), axis=1) / 10
    return np.column_stack([gravity, body, gyro, vertical, yaw, horizontal, tilt, jerk, turn]), gravity


def _pieces(channels: np.ndarray, centres: np.ndarray, width: int) -> np.ndarray:
    """(T, width, C): the signal around each centre; the recording's ends are repeated outwards."""
    at = centres[:, None] + np.arange(width) - width // 2
    return channels[at.clip(0, len(channels) - 1)]


def _statistics(pieces: np.ndarray) -> np.ndarray:
    """Mean, slope, least and greatest value, and log deviation of each channel: (T, 5 C)."""
    ramp = np.linspace(-1, 1, pieces.shape[1])
    mean, deviation = pieces.mean(axis=1), pieces.std(axis=1)
    slope = np.einsum("twc,w->tc", pieces, ramp) / (ramp @ ramp)
    level = np.arcsinh(np.hstack([mean, 4 * slope, pieces.min(axis=1), pieces.max(axis=1)]))
    return np.hstack([level, np.log(deviation + 0.003)])


def _spectrum(pieces: np.ndarray) -> np.ndarray:
    """Log energy in each of `BANDS` of body acceleration, angular velocity and the vertical axis: (T, 7 * 8)."""
    moving = pieces[:, :, 3:11]
    taper = np.hanning(pieces.shape[1])[:, None]
    power = np.abs(np.fft.rfft((moving - moving.mean(axis=1, keepdims=True)) * taper, axis=1)) ** 2
    band = np.digitize(np.fft.rfftfreq(pieces.shape[1], 1 / FPS), BANDS)
    energies = [power[:, band == index].mean(axis=1) for index in range(1, len(BANDS))]
    return np.log(np.hstack(energies) + 0.01)


def _correlations(moving: np.ndarray) -> np.ndarray:
    """Correlations between the axes of body acceleration and angular velocity: (T, 15)."""
    centred = moving - moving.mean(axis=1, keepdims=True)
    covariance = np.einsum("twi,twj->tij", centred, centred) / moving.shape[1]
    deviation = np.sqrt(np.einsum("tii->ti", covariance)) + 0.01  # a phone at rest has none, not a noisy one
    first, second = np.triu_indices(moving.shape[2], k=1)
    return covariance[:, first, second] / (deviation[:, first] * deviation[:, second])


def _turns(gravity: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """How gravity moves, and by which distance, from before to after a snippet, for each of `LAGS`: (T, 3 * 4)."""
    turns = []
    for lag in LAGS:
        before, after = ((centres + round(sign * lag * FPS)).clip(0, len(gravity) - 1) for sign in (-1, 1))
        change = gravity[after] - gravity[before]
        turns += [change, np.log(np.linalg.norm(change, axis=1, keepdims=True) + 0.02)]
    return np.hstack(turns)


def build(source: Path, root: Path, grids: Mapping[str, Grid]) -> None:
    """Writes `gt.json` and the windows' features on every grid.

    Features are computed on whole recordings, so that a window's borders are no borders of the signal; they are
    standardised with the training recordings' mean and deviation, and clipped to +-5.

    Args:
        source: a folder that `read_recordings` understands.
        root: where the data set goes.
        grids: those of the data-set card; their frames are samples.

    Raises:
        InputError: from `read_recordings`.
    """
    recordings = read_recordings(source)
    windows = {recording.name: cut(recording) for recording in recordings}
    for grid in grids.values():
        features = {r.name: describe(r.signal, grid.stride, grid.window) for r in recordings}
        known = np.concatenate([features[r.name] for r in recordings if r.subset == "train"])
        mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6
        for name, values in features.items():
            standard = ((values - mean) / deviation).clip(-5, 5).astype(np.float16)
            _write_windows(standard, windows[name], root, grid)
    database = {name: window for cuts in windows.values() for name, window in cuts.items()}
    write_json({"version": "SBHAR, 60 s windows", "database": database}, root / "gt.json")


def _write_windows(features: np.ndarray, windows: dict[str, dict[str, Any]], root: Path, grid: Grid) -> None:
    """Cuts a recording's features (T, D): a window gets the snippets whose centres lie in it."""
    for name, window in windows.items():
        first = round(window["start"] * FPS) // grid.stride  # a window starts on a snippet's first sample
        count = -(-(round(window["duration"] * FPS) - grid.window // 2) // grid.stride)
        path = root / grid.pattern.format(video=name, subset=window["subset"])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, features[first : first + count])
