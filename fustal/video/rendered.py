"""A data set of rendered videos: stick figures that wave, jump, crouch and turn before changing backgrounds.

Everything is known and nothing is real: it shows the way from a video file to detections, and is no evidence about
real video. `fustal fetch rendered` makes it.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Grid
from fustal.data.extraction import EXTRACTION
from fustal.data.simulate import write_annotations
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.video import needed
from fustal.video.extract import make_extractor

SIZE = (96, 128)
"""Rows and columns of a picture."""

FPS = 15
"""Frames per second."""

BACKBONE = "motion"

CLASSES = {"Crouch": 2.6, "Jump": 2.4, "Turn": 3.0, "Wave": 3.0}
"""Classes, and the mean duration of their actions in seconds."""

LIMBS = (
    ("head", "head", 0.085),
    ("neck", "hip", 0.035),
    ("neck", "left elbow", 0.025),
    ("left elbow", "left hand", 0.025),
    ("neck", "right elbow", 0.025),
    ("right elbow", "right hand", 0.025),
    ("hip", "left knee", 0.03),
    ("left knee", "left foot", 0.03),
    ("hip", "right knee", 0.03),
    ("right knee", "right foot", 0.03),
)
"""The joints that a part of the figure connects, and its radius; the unit is the height of the figure."""

RADII = np.array([radius for _, _, radius in LIMBS])

STANDING = {
    "head": (0.0, 0.91),
    "neck": (0.0, 0.80),
    "hip": (0.0, 0.48),
    "left elbow": (-0.10, 0.63),
    "left hand": (-0.13, 0.46),
    "right elbow": (0.10, 0.63),
    "right hand": (0.13, 0.46),
    "left knee": (-0.06, 0.25),
    "left foot": (-0.09, 0.0),
    "right knee": (0.06, 0.25),
    "right foot": (0.09, 0.0),
}
"""Joint -> how far it is to the right and above the ground."""


def pose(label: str, time: float, rate: float) -> dict[str, tuple[float, float]]:
    """The joints of a figure during an action.

    Args:
        label: one of `CLASSES`.
        time: seconds since the action began.
        rate: repetitions per second.

    Returns:
        Joint -> place, as in `STANDING`.
    """
    joints = dict(STANDING)
    cycle = 2 * np.pi * rate * time
    if label == "Wave":
        swing = 0.7 * np.sin(cycle)
        joints["right elbow"] = (0.17, 0.86)
        joints["right hand"] = (0.17 + 0.2 * np.sin(swing), 0.86 + 0.2 * np.cos(swing))
    if label == "Jump":
        up = 0.25 * abs(np.sin(cycle / 2))
        joints = {joint: (x, y + up) for joint, (x, y) in joints.items()}
    if label == "Crouch":
        down = 0.13 * (1 - np.cos(cycle))
        for joint, (x, y) in STANDING.items():
            if "knee" in joint:
                joints[joint] = (x * (1 + 8 * down), y - 0.3 * down)
            elif "foot" not in joint:
                joints[joint] = (x, y - down)
    if label == "Turn":
        wide = np.cos(cycle)
        for side, sign in (("left", -1), ("right", 1)):
            joints[f"{side} elbow"] = (sign * 0.14, 0.74)
            joints[f"{side} hand"] = (sign * 0.28, 0.70)
        joints = {joint: (x * wide, y) for joint, (x, y) in joints.items()}
    return joints


def plan(count: int, subset: str, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Invents which actions happen when.

    Args:
        count: number of videos.
        subset: "train" or "test".
        random: source of random numbers.

    Returns:
        Frames of videos and of segments, like `annotations.read_annotations`.
    """
    classes = list(CLASSES)
    videos = []
    segments = []
    for index in range(count):
        video = f"{subset}_{index:03d}"
        frames = int(random.integers(12 * FPS, 19 * FPS))
        videos.append((video, subset, frames / FPS, float(FPS)))
        # The classes in turn, each alone or with another one; every tenth video has no action
        labels = [classes[index % 4], classes[(index + random.integers(1, 4)) % 4]][: random.integers(1, 3)]
        if index % 10 == 9:
            continue
        time = random.uniform(1, 4)
        turn = 0
        while True:
            label = labels[turn % len(labels)]
            end = time + CLASSES[label] * random.uniform(0.7, 1.4)
            if end > frames / FPS - 0.5:
                break
            segments.append((video, label, round(time, 2), round(end, 2)))
            time = end + random.uniform(1.5, 4)
            turn += 1
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    return frame, pd.DataFrame(segments, columns=SEGMENT_COLUMNS)


def draw(video: str, duration: float, segments: pd.DataFrame, seed: int) -> Iterable[np.ndarray]:
    """The pictures of a video.

    A figure stands or walks before boxes of random colours. The background changes once or twice, a ball rolls by, and
    the camera is noisy: none of these is an action.

    Args:
        video: its name.
        duration: seconds.
        segments: of this video: label, start (s), end (s).
        seed: of the random numbers.

    Yields:
        uint8 (H, W, 3).
    """
    random = np.random.default_rng([seed, *video.encode()])
    frames = round(duration * FPS)
    height = random.uniform(0.55, 0.7) * SIZE[0]
    ground = random.uniform(0.85, 0.95) * SIZE[0]
    place = random.uniform(0.3, 0.7) * SIZE[1]
    walk = 0.0
    actions = list(segments[["label", "start", "end"]].itertuples(index=False))
    rates = random.uniform(0.85, 1.15, len(actions))
    colour = random.uniform(0, 70, 3)
    changes = set(random.integers(frames // 5, frames, random.integers(1, 3)).tolist())
    background = _background(random)
    ball = random.uniform(-200, 0)
    for k in range(frames):
        time = (k + 0.5) / FPS
        if k in changes:
            background = _background(random)
        joints = STANDING
        for action, rate in zip(actions, rates, strict=True):
            if action.start <= time < action.end:
                joints = _blended(action.label, time - action.start, action.end - action.start, rate)
                walk = 0.0
        if joints is STANDING and random.random() < 0.03:
            walk = random.uniform(-1.2, 1.2)
        place = float(np.clip(place + walk, 0.25 * SIZE[1], 0.75 * SIZE[1]))
        picture = background.copy()
        ball += 0.8
        _draw(picture, np.array([[ball % 300, ground - 4] * 2]), np.array([4.0]), colour[::-1] + 120)
        limbs = [[*joints[start], *joints[end]] for start, end, _ in LIMBS]
        to_picture = height * np.array([1, -1, 1, -1])
        _draw(picture, np.array([place, ground] * 2) + to_picture * limbs, height * RADII, colour)
        picture += 2 * random.standard_normal(SIZE, np.float32)[..., None]
        yield picture.clip(0, 255).astype(np.uint8)


def _blended(label: str, time: float, length: float, rate: float) -> dict[str, tuple[float, float]]:
    """The pose of an action; within a fifth of a second of its ends it passes from standing, and to it."""
    usual = {"Wave": 2.0, "Jump": 1.3, "Turn": 0.8, "Crouch": 0.7}[label]
    acting = pose(label, time, usual * rate)
    share = min(1.0, time / 0.2, (length - time) / 0.2)
    joints = {}
    for joint, (x, y) in STANDING.items():
        joints[joint] = (x + share * (acting[joint][0] - x), y + share * (acting[joint][1] - y))
    return joints


def _background(random: np.random.Generator) -> np.ndarray:
    """A wall with boxes, float32 (H, W, 3)."""
    picture = np.empty((*SIZE, 3), np.float32)
    picture[:] = random.uniform(130, 220, 3)
    for _ in range(random.integers(4, 10)):
        top, left = random.integers(0, SIZE[0] - 10), random.integers(0, SIZE[1] - 10)
        rows, columns = random.integers(8, 40, 2)
        picture[top : top + rows, left : left + columns] = random.uniform(90, 250, 3)
    return picture


def _draw(picture: np.ndarray, lines: np.ndarray, radii: np.ndarray, colour: np.ndarray) -> None:
    """Draws thick lines with round ends and soft edges.

    Args:
        picture: float32 (H, W, 3), changed.
        lines: column and row of both ends (N, 4).
        radii: pixels (N,).
        colour: red, green, blue.
    """
    covered = np.zeros(SIZE, np.float32)
    for (x0, y0, x1, y1), radius in zip(lines, radii, strict=True):
        # Only the rows and columns that the line can reach
        rows = slice(max(int(min(y0, y1) - radius) - 1, 0), max(int(max(y0, y1) + radius) + 2, 0))
        columns = slice(max(int(min(x0, x1) - radius) - 1, 0), max(int(max(x0, x1) + radius) + 2, 0))
        y = np.arange(SIZE[0], dtype=np.float32)[rows, None]
        x = np.arange(SIZE[1], dtype=np.float32)[None, columns]
        dx, dy = x1 - x0, y1 - y0
        share = ((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-6)
        share = share.clip(0, 1)
        far = np.hypot(x - x0 - share * dx, y - y0 - share * dy)
        np.maximum(covered[rows, columns], radius + 0.5 - far, out=covered[rows, columns])
    top, bottom = int(max(lines[:, 1::2].min() - radii.max() - 1, 0)), int(lines[:, 1::2].max() + radii.max() + 2)
    part = picture[top:bottom]
    part += covered[top:bottom].clip(0, 1)[..., None] * (colour.astype(np.float32) - part)


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    rate: Fraction | int = FPS,
    codec: str = "libx264",
    times: Iterable[int] | None = None,
    base: Fraction | None = None,
) -> None:
    """Writes a video file; the ending of its name decides on the container.

    Args:
        path: the file.
        pictures: uint8 (H, W, 3), H and W even.
        rate: frames per second.
        codec: of FFmpeg.
        times: of the pictures in units of `base`, for a variable frame rate; None: one after the other.
        base: seconds of a unit of time; None: those of a frame.
    """
    av = needed("av")
    unit = base or 1 / Fraction(rate)
    stamps = iter(times) if times is not None else None
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = unit
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "20"}
        for i, picture in enumerate(pictures):
            if i == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i if stamps is None else next(stamps)
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def build(root: Path, grids: Mapping[str, Grid], train: int = 45, test: int = 15, seed: int = 0) -> None:
    """Writes videos, `gt.json`, the features on both grids, and the record of their extraction.

    Args:
        root: the folder of the data set.
        grids: those of the data-set card.
        train: number of training videos.
        test: number of test videos.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    parts = [plan(train, "train", random), plan(test, "test", random)]
    videos = pd.concat([part[0] for part in parts])
    segments = pd.concat([part[1] for part in parts], ignore_index=True)
    dense = grids["student"]
    extractor = make_extractor(BACKBONE, None, FPS, dense.stride, dense.window, "cpu")
    if {stage: grid.stride for stage, grid in grids.items()} != extractor.made.strides() or dense.fps != FPS:
        raise InputError(f"rendered: the grids of its card must be of {FPS} fps, and the generator's stride the window")
    (root / "videos").mkdir(parents=True)

    def make(video: str) -> None:
        film = root / "videos" / f"{video}.mp4"
        own = segments[segments.video == video].reset_index(drop=True)
        write_video(film, draw(video, videos.duration[video], own, seed))
        features = extractor.extract(film, {grid.stride for grid in grids.values()})
        for grid in grids.values():
            path = root / grid.pattern.format(video=video)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, features[grid.stride])

    with ThreadPoolExecutor(2) as pool:  # one draws while another one encodes or reads
        for _ in tqdm(pool.map(make, videos.index), desc="rendered", unit="video", total=len(videos)):
            pass
    write_annotations(videos, segments, root / "gt.json")
    write_json(extractor.made.model_dump(), root / EXTRACTION)
