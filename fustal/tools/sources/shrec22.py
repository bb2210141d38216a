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
from fustal.data.files import one_line, open_regular, read_json, read_text, shown
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.tools.sources.signals import pieces_of, slope_of, standardised

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
"""Deviations of the motion are also of this many windows around a snippet: waving takes longer than a window."""


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


def read_sequences(folder: Path, *others: Path) -> list[Sequence]:
    """Reads the sequences from one of two layouts.

    Args:
        folder: holds `shrec22_float16.npz` and `gt.json`, or (at any depth) the public text files: folders
            `training_set` and `test_set` with `1.txt`, `2.txt` ... and `annotations.txt`. The annotations of the test
            set that were published later, `test_annotations_fixed.txt`, replace those in its folder.
        others: more folders, in which text files are sought, too.

    Returns:
        All sequences, sorted by name.

    Raises:
        InputError: neither layout; a file of it is missing, unreadable or malformed; or there is no training sequence.
    """
    if (folder / "shrec22_float16.npz").exists():
        sequences = list(_read_npz(folder))
    else:
        sequences = list(_read_public([folder, *others]))
    if not any(sequence.subset == "training" for sequence in sequences):
        raise InputError(f"{folder}: has no training sequence")
    return sorted(sequences, key=lambda sequence: sequence.name)


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


def _read_public(folders: list[Path]) -> Iterator[Sequence]:
    for subset in ("training", "test"):
        files = _below(folders, f"*{subset}_set/*.txt")
        frames = {int(file.stem): file for file in files if file.stem.isdecimal()}
        if not frames:
            raise InputError(
                f"{folders[0]}: holds neither shrec22_float16.npz nor the text files of {subset}_set, such as "
                f"{subset}_set/1.txt"
            )
        fixed = _below(folders, f"{subset}_annotations_fixed.txt")
        listed = [file for file in files if file.name == "annotations.txt"]
        if not fixed + listed:
            names = f"{subset}_set/annotations.txt or {subset}_annotations_fixed.txt"
            raise InputError(f"{folders[0]}: the segments of {subset}_set are missing: {names}")
        yield from _read_subset(subset, frames, (fixed + listed)[0])


def _below(folders: list[Path], pattern: str) -> list[Path]:
    """The files of a pattern below some folders, those in the fewest folders first."""
    found = []
    for folder in folders:
        found += sorted(folder.rglob(pattern), key=lambda path: (len(path.parts), path))
    return found


def _read_subset(subset: str, files: Mapping[int, Path], annotations: Path) -> Iterator[Sequence]:
    """The sequences of a subset: number -> file, and the file of their segments."""
    segments = _read_segments(annotations)
    for number, where in segments.items():
        if number not in files:
            raise InputError(f"{annotations}: sequence {number} has no file {number}.txt")
        frames, joints = _read_frames(files[number])
        row = {frame: index for index, frame in enumerate(frames)}
        found = []
        for label, first, last in where:
            for frame in (first, last):
                if frame not in row:
                    raise InputError(
                        f"{annotations}: sequence {number}: {label} is from frame {first} to {last}, but "
                        f"{files[number]} has no frame {frame}"
                    )
            found.append({"label": label, "segment": [row[first] / FPS, (row[last] + 1) / FPS]})
        yield Sequence(f"shrec22_{subset}_{number:03d}", subset, joints, found)
    for number, file in files.items():
        if number not in segments:
            raise InputError(f"{annotations}: has no line for sequence {number}, {file}")


def _read_segments(path: Path) -> dict[int, list[tuple[str, int, int]]]:
    """The number of a sequence -> label, first and last frame of its segments.

    A line is "number;label;first;last;label;first;last;..."; a semicolon at its end means nothing.
    """
    segments: dict[int, list[tuple[str, int, int]]] = {}
    for line, (number, *cells) in _rows(path):
        where = f"{path}: line {line}"
        if len(cells) % 3:
            raise InputError(f"{where}: {len(cells)} values after the sequence's number, not label, first, last, ...")
        sequence = _whole(number, where)
        if sequence in segments:
            raise InputError(f"{where}: sequence {sequence} is there twice")
        segments[sequence] = []
        for label, begin, end in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
            first = _whole(begin, where)
            last = _whole(end, where)
            if not label:
                raise InputError(f"{where}: a segment has no label")
            if last < first:
                raise InputError(f"{where}: {label} ends at frame {last}, before its first frame {first}")
            segments[sequence].append((label, first, last))
    return segments


def _read_frames(path: Path) -> tuple[list[int], np.ndarray]:
    """The numbers of N frames, and their joints (N, 26, 3).

    A line is "number;time;x;y;z;x;y;z;...". Joints are rounded to float16, as those of the npz file are: both layouts
    give the same features.
    """
    frames: list[int] = []
    joints = []
    for line, (number, *cells) in _rows(path):
        where = f"{path}: line {line}"
        if len(cells) != 1 + 3 * JOINTS:
            raise InputError(f"{where}: {1 + len(cells)} columns, not {2 + 3 * JOINTS}")
        frame = _whole(number, where)
        if frames and frame <= frames[-1]:
            raise InputError(f"{where}: frame {frame} does not come after frame {frames[-1]}")
        frames.append(frame)
        joints.append([_number(cell, where) for cell in cells[1:]])
    if not frames:
        raise InputError(f"{path}: has no frames")
    with np.errstate(over="ignore"):  # a number beyond float16 becomes infinite, and `fill` replaces its frame
        return frames, np.array(joints).reshape(-1, JOINTS, 3).astype(np.float16)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that is not blank, and its values."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.strip().removesuffix(";")
        if text:
            yield number, [cell.strip() for cell in text.split(";")]


def _whole(text: str, where: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{where}: {shown(text)} is no whole number")
    return int(text)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {shown(text)} is no number") from None


def describe(joints: np.ndarray, stride: int, window: int) -> np.ndarray:
    """Hand-made features of the snippets of a whole sequence; labels are not used.

    All lengths are relative to the size of the hand, all places to the median place of the wrist, and all horizontal
    directions to the mean direction of the hand: neither the person's hand nor their place or heading matters. The
    features are means, deviations and slopes of `_channels` in a snippet's window, and the deviations of the motion in
    a span of `CONTEXT` windows around its centre.

    Args:
        joints: (N, 26, 3) in metres. Frames in which no hand was seen are zero or NaN.
        stride: frames between snippets.
        window: frames of a snippet; snippet i is centred at frame `i * stride + window / 2`.

    Returns:
        (T, D) for all snippets centred inside the sequence.
    """
    pose, motion = _channels(_upright(fill(joints)))
    centres = np.arange(window // 2, len(joints), stride)
    near_pose = pieces_of(pose, centres, window)
    near_motion = pieces_of(motion, centres, window)
    around = pieces_of(motion, centres, CONTEXT * window)
    features = [
        near_pose.mean(axis=1),
        np.log(near_pose.std(axis=1) + 0.01),
        slope_of(near_pose),
        near_motion.mean(axis=1),
        np.log(np.abs(near_motion).mean(axis=1) + 0.1),
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
    turned = joints @ turn / size
    return turned - np.median(turned[:, WRIST], axis=0)


def _channels(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of each frame.

    Args:
        joints: (N, 26, 3) of `_upright`.

    Returns:
        pose (N, 72): the joints of the fingers in the palm's own axes, how straight each finger is, the distances
        between fingertips, the palm's axes, and the place of the wrist.
        motion (N, 17): velocities of wrist and index finger's tip in units of the hand per second, the speeds of both
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


def build(sources: list[Path], root: Path, grids: Mapping[str, Grid]) -> None:
    """Writes `gt.json`, the features on every grid, and the joints themselves for figures.

    Features are standardised with mean and deviation of the training sequences, and clipped to +-5.

    Args:
        sources: the folders of `read_sequences`.
        root: the folder of the data set.
        grids: those of the data-set card.

    Raises:
        InputError: see `read_sequences`.
    """
    sequences = read_sequences(*sources)
    subsets = {sequence.name: sequence.subset for sequence in sequences}
    train = {name for name, subset in subsets.items() if subset == "training"}
    for grid in grids.values():
        features = {}
        for sequence in sequences:
            features[sequence.name] = describe(sequence.joints, grid.stride, grid.window)
        for name, values in standardised(features, train):
            path = root / grid.pattern.format(video=name, subset=subsets[name], modality="")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values)
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
