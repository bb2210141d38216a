"""SHREC 2022 hand gestures: real recordings of the joints of a hand, described by hand-made features.

288 untrimmed sequences of 18 to 38 s: 26 joints (x, y, z in metres, y upwards) that a HoloLens 2 tracks at 20 frames
per second; 16 classes of gestures, 3 to 5 gestures in a sequence, about a quarter of its time. Source: Emporio et al.,
"SHREC 2022 track on online detection of heterogeneous gestures", Computers & Graphics 107, 2022 (cite it).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fustal.data.cards import Grid
from fustal.data.files import one_line, open_regular, read_json
from fustal.data.writing import write_json
from fustal.exceptions import InputError

FPS = 20
"""Frames per second; the times of the real frames vary a little around it."""

JOINTS = 26
"""Wrist, palm, four joints of the thumb, five of each other finger: from the wrist's side to the tip."""

WRIST = 0
KNUCKLES = [7, 12, 17, 22]
"""Where the index, middle, ring and little finger begin to move; the joints before them are rigid to the wrist."""

TIPS = [5, 10, 15, 20, 25]
ROOTS = [2, 7, 12, 17, 22]
"""The joint of each finger from which its length is measured, thumb first."""

MOVING = [3, 4, 5, 8, 9, 10, 13, 14, 15, 18, 19, 20, 23, 24, 25]
"""The joints that move against the palm."""

CONTEXT = 3
"""The motion around a snippet is described in a span of this many windows, too: waving takes longer than a window."""


@dataclass(frozen=True)
class Sequence:
    """One untrimmed sequence.

    Attributes:
        name: e.g. "shrec22_training_001".
        subset: "training" or "test".
        joints: (N, 26, 3) in metres, float16, at `FPS`. Frames in which no hand was seen are zero.
        annotations: segments as `{"label": name, "segment": [start s, end s]}`.
    """

    name: str
    subset: str
    joints: np.ndarray
    annotations: list[dict[str, Any]]


def read_sequences(folder: Path) -> list[Sequence]:
    """Reads the sequences.

    Args:
        folder: holds `shrec22_float16.npz` and `gt.json`.

    Returns:
        All sequences, in the order of the files.

    Raises:
        InputError: a file is missing or unreadable.
    """
    return list(_read_npz(folder))


def _read_npz(folder: Path) -> Iterator[Sequence]:
    try:
        with open_regular(folder / "shrec22_float16.npz") as file, np.load(file, allow_pickle=False) as frames:
            for name, video in read_json(folder / "gt.json")["database"].items():
                joints = frames[name].reshape(-1, JOINTS, 3)
                yield Sequence(name, video["subset"], joints, video["annotations"])
    except InputError:
        raise
    except Exception as error:  # a broken archive can raise any exception
        reason = one_line(error)[:200]
        raise InputError(f"{folder / 'shrec22_float16.npz'}: does not fit gt.json, or is broken: {reason}") from None


def describe(joints: np.ndarray, stride: int, window: int) -> np.ndarray:
    """Hand-made features of the snippets of a whole sequence; labels are not used.

    All lengths are relative to the size of the hand, all places to the median place of the wrist, and all horizontal
    directions to the mean direction of the hand: neither the person's hand nor their place or heading matters. The
    features are means, deviations and slopes of `_channels` in a snippet's window, and those of the motion in a span
    of `CONTEXT` windows around its centre.

    Args:
        joints: (N, 26, 3) in metres. Frames in which no hand was seen are zero or NaN.
        stride: frames between snippets.
        window: frames of a snippet; snippet i is centred at frame `i * stride + window / 2`.

    Returns:
        (T, D) for all snippets centred inside the sequence.
    """
    pose, motion = _channels(_upright(fill(joints)))
    centres = np.arange(window // 2, len(joints), stride)
    near_pose = _pieces(pose, centres, window)
    near_motion = _pieces(motion, centres, window)
    around = _pieces(motion, centres, CONTEXT * window)
    features = [
        near_pose.mean(axis=1),
        np.log(near_pose.std(axis=1) + 0.01),
        _slope(near_pose),
        near_motion.mean(axis=1),
        np.log(np.abs(near_motion).mean(axis=1) + 0.1),
        around.mean(axis=1),
        np.log(around.std(axis=1) + 0.1),
    ]
    return np.hstack(features).astype(np.float32)


def fill(joints: np.ndarray) -> np.ndarray:
    """Replaces frames without a hand: between two frames by interpolation, at an end by the nearest frame.

    Args:
        joints: (N, 26, 3); in a frame without a hand, a joint is NaN or all joints are zero.

    Returns:
        The same as float64 without such frames; all zero if there is no hand in any frame.
    """
    flat = joints.reshape(len(joints), -1).astype(np.float64)
    seen = np.isfinite(flat).all(axis=1) & flat.any(axis=1)
    if not seen.any():
        return np.zeros(joints.shape)
    frames = np.arange(len(flat))
    columns = [np.interp(frames, frames[seen], column[seen]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(joints.shape)


def _upright(joints: np.ndarray) -> np.ndarray:
    """The joints relative to the median wrist, turned around the vertical so that the hand points to +z on average.

    The unit is the size of the hand: the median distance of the wrist from the middle finger's knuckle.
    """
    pointing = joints[:, 12] - joints[:, WRIST]
    size = max(float(np.median(np.linalg.norm(pointing, axis=1))), 1e-3)
    x, _, z = pointing.mean(axis=0)
    length = max(float(np.hypot(x, z)), 1e-6)
    turn = np.array([[z, 0, x], [0, length, 0], [-x, 0, z]]) / length
    return (joints - np.median(joints[:, WRIST], axis=0)) @ turn / size


def _channels(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of each frame.

    Args:
        joints: (N, 26, 3) of `_upright`.

    Returns:
        pose (N, 69): the joints of the fingers in the palm's own axes, how straight each finger is, the distances
        between fingertips, the palm's axes, and the place of the wrist.
        motion (N, 20): velocities of wrist and index finger's tip in units of the hand per second, the speeds of both
        and of all fingertips against the palm, and the palm's turning in radians per second, in its own axes.
    """
    axes = _palm(joints)
    local = np.einsum("nai,nji->nja", axes, joints - joints[:, [WRIST]])
    bones = np.linalg.norm(np.diff(joints, axis=1), axis=2)
    straight = []
    for root, tip in zip(ROOTS, TIPS, strict=True):
        span = np.linalg.norm(joints[:, tip] - joints[:, root], axis=1)
        straight.append(span / bones[:, root:tip].sum(axis=1).clip(1e-6))
    first, second = np.triu_indices(len(TIPS), k=1)
    tips = joints[:, TIPS]
    gaps = np.linalg.norm(tips[:, first] - tips[:, second], axis=2)
    flat = local[:, MOVING].reshape(len(joints), -1)
    pose = np.column_stack([flat, *straight, gaps, axes[:, 0], axes[:, 1], axes[:, 2], joints[:, WRIST]])
    wrist = _velocity(joints[:, WRIST])
    index = _velocity(joints[:, TIPS[1]])
    fingers = np.linalg.norm(_velocity(local[:, TIPS]), axis=2)
    turning = _turning(axes)
    speeds = [np.linalg.norm(part, axis=1) for part in (wrist, index, turning)]
    return pose, np.column_stack([wrist, index, turning, *speeds, fingers])


def _palm(joints: np.ndarray) -> np.ndarray:
    """(N, 3, 3): the palm's axes as rows: from the wrist along the middle finger, out of the palm, and across it."""
    along = _unit(joints[:, 12] - joints[:, WRIST])
    out = _unit(np.cross(joints[:, KNUCKLES[0]] - joints[:, WRIST], joints[:, KNUCKLES[-1]] - joints[:, WRIST]))
    across = _unit(np.cross(along, out))
    return np.stack([along, np.cross(across, along), across], axis=1)


def _turning(axes: np.ndarray) -> np.ndarray:
    """(N, 3): the velocity of the palm's rotation, in its own axes."""
    rate = np.einsum("nai,nbi->nab", _velocity(axes), axes)
    return rate[:, [1, 2, 0], [2, 0, 1]]  # the matrix is antisymmetric


def _velocity(values: np.ndarray) -> np.ndarray:
    """The change per second along the first axis; of a single frame, zero."""
    if len(values) < 2:
        return np.zeros_like(values)
    return np.gradient(values, 1 / FPS, axis=0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)


def _pieces(channels: np.ndarray, centres: np.ndarray, width: int) -> np.ndarray:
    """(T, width, C): the channels around each centre; beyond the sequence's ends, its first or last frame."""
    at = centres[:, None] + np.arange(width) - width // 2
    return channels[at.clip(0, len(channels) - 1)]


def _slope(pieces: np.ndarray) -> np.ndarray:
    """(T, C): half the change of each channel from the beginning to the end of a piece, by a line through it."""
    ramp = np.linspace(-1, 1, pieces.shape[1])
    return np.einsum("twc,w->tc", pieces, ramp) / max(float(ramp @ ramp), 1e-6)


def build(source: Path, root: Path, grids: Mapping[str, Grid]) -> None:
    """Writes `gt.json`, the features on every grid, and the joints themselves for figures.

    Features are standardised with mean and deviation of the training sequences, and clipped to +-5.

    Args:
        source: a folder that `read_sequences` can read.
        root: the folder of the data set.
        grids: those of the data-set card.

    Raises:
        InputError: see `read_sequences`.
    """
    sequences = read_sequences(source)
    for grid in grids.values():
        features = {}
        train = []
        for sequence in sequences:
            values = describe(sequence.joints, grid.stride, grid.window)
            features[sequence.name] = values
            if sequence.subset == "training":
                train.append(values)
        reference = np.concatenate(train)
        mean = reference.mean(axis=0)
        deviation = reference.std(axis=0) + 1e-6
        for sequence in sequences:
            standard = ((features[sequence.name] - mean) / deviation).clip(-5, 5).astype(np.float16)
            path = root / grid.pattern.format(video=sequence.name, subset=sequence.subset, modality="")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, standard)
    (root / "joints").mkdir(parents=True)
    database = {}
    for sequence in sequences:
        np.save(root / "joints" / f"{sequence.name}.npy", fill(sequence.joints).astype(np.float16))
        database[sequence.name] = {
            "subset": sequence.subset,
            "duration": len(sequence.joints) / FPS,
            "fps": FPS,
            "annotations": sequence.annotations,
        }
    write_json({"version": "SHREC 2022, fixed annotations", "database": database}, root / "gt.json")
