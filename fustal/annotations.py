"""Data-set cards, annotations and result files: ActivityNet-style JSON in, tidy frames out.

Taught in notebook 01, section "The data set".
"""

import math
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fustal import ROOT, InputError
from fustal.files import read_json, shown, validated, write_json

SEGMENT_COLUMNS = ["video", "label", "start", "end"]
RESULT_COLUMNS = ["video", "label", "score", "start", "end"]


class Grid(BaseModel):
    """Where the features of a stage lie and when their snippets happen.

    Snippet i is centred at (i * stride + window / 2) / fps seconds (METHOD.md section 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(description="path below the root, with {video} and possibly {subset} and {modality}")
    modalities: list[str] = Field(default=[], description="values of {modality}, concatenated in this order")
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["annotation"] = Field(
        description="frames per second, or that of each video's annotation"
    )
    stride: int = Field(ge=1, description="frames from one snippet to the next")
    window: int = Field(ge=1, description="frames that a snippet sees")

    @field_validator("pattern")
    @classmethod
    def _names_each_video(cls, value: str) -> str:
        names = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
        if "video" not in names or names - {"video", "subset", "modality"}:
            raise ValueError("must hold {video}, and besides it only {subset} and {modality}")
        return value


class Card(BaseModel):
    """A data-set card, `params/datasets/*.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w][\w.-]*$")
    about: str = Field(default="", description="a sentence that notebook 01 prints: what the features are")
    root: str = Field(description="folder of the data, relative to the card")
    annotations: str = Field(description="ActivityNet-style JSON, relative to the root")
    train_subset: str = "train"
    test_subset: str = "test"
    train_split: str | None = Field(default=None, description="file of video names that restricts the subset")
    test_split: str | None = None
    grids: dict[Literal["generator", "student"], Grid] = Field(min_length=1)


@dataclass(frozen=True)
class Dataset:
    """Everything known about a data set but its features.

    Attributes:
        name: of the card.
        about: what the card says of it.
        root: folder of the data.
        annotations: path of the annotation file.
        classes: class names, sorted; their positions are the class indices everywhere.
        videos: frame indexed by video name: subset ("train" or "test"), duration (s) and fps, NaN where unknown; and
            stored_as, the subset in the paths of features where that differs (`hold_out`).
        segments: frame with video, label, start (s), end (s).
        grids: feature grids of the two stages.
    """

    name: str
    about: str
    root: Path
    annotations: Path
    classes: list[str]
    videos: pd.DataFrame
    segments: pd.DataFrame
    grids: dict[str, Grid]

    def split(self, subset: str) -> list[str]:
        """The videos of "train" or "test"."""
        return self.videos.index[self.videos.subset == subset].tolist()

    def segments_of(self, subset: str) -> pd.DataFrame:
        """The true segments of "train" (to measure pseudo labels only) or "test"."""
        return self.segments[self.segments.video.isin(self.split(subset))].reset_index(drop=True)

    def labels(self, videos: Sequence[str]) -> np.ndarray:
        """Video-level labels.

        Args:
            videos: N video names.

        Returns:
            Multi-hot float32 array (N, C): which classes occur, and nothing of when.
        """
        present = pd.crosstab(self.segments.video, self.segments.label) > 0
        return present.reindex(index=videos, columns=self.classes, fill_value=False).to_numpy(np.float32)


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The data set with some training videos in the place of its test videos, which are not there any more.

    To choose parameters by the video-level labels of videos that no training saw.

    Args:
        dataset: whole.
        share: of the training videos that are held out; 0: the data set as it is.

    Raises:
        InputError: nothing would be left to train on, or to hold out.
    """
    if not share:
        return dataset
    train = sorted(dataset.split("train"))
    order = np.random.default_rng(0).permutation(len(train))
    chosen = {train[i] for i in order[: round(share * len(train))]}
    if not 0 < len(chosen) < len(train):
        raise InputError(f"held_out: {share} of {len(train)} training videos leaves none on one side")
    videos = dataset.videos.loc[train]
    subset = ["test" if video in chosen else "train" for video in train]
    segments = dataset.segments[dataset.segments.video.isin(train)].reset_index(drop=True)
    return replace(dataset, videos=videos.assign(stored_as=videos.subset, subset=subset), segments=segments)


def load_dataset(card: str | Path) -> Dataset:
    """Reads a data-set card and the annotations it names.

    Args:
        card: a name in `params/datasets`, or the path of a YAML file.

    Raises:
        InputError: card, annotations or split files are missing or wrong; the message names the first problem.
    """
    dataset, problems = inspect_dataset(card)
    if problems:
        more = f" (and {len(problems) - 1} more: fustal validate {card})" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return dataset


def inspect_dataset(card_path: str | Path) -> tuple[Dataset, list[str]]:
    """Like `load_dataset`, but returns every problem of annotations and splits instead of raising the first."""
    path = find_card(card_path)
    card = validated(Card, path)
    root = (path.parent / card.root).resolve()
    annotations = root / card.annotations
    if not annotations.exists():
        raise InputError(f"{annotations}: no such file: data set {card.name!r} is not here (fustal fetch {card.name})")
    videos, segments, problems = _parse_annotations(annotations)
    parts = []
    for subset, name, split in (
        ("train", card.train_subset, card.train_split),
        ("test", card.test_subset, card.test_split),
    ):
        chosen = videos[videos.subset.str.lower() == name.lower()]
        if chosen.empty:
            problems.append(f"{annotations}: no video of subset {name!r} (there are {sorted(set(videos.subset))})")
        if split:
            chosen, unknown = _restrict(chosen, root / split)
            problems += [f"{root / split}: video {video!r} is not in subset {name!r}" for video in unknown]
        parts.append(chosen.assign(subset=subset))
    videos = pd.concat(parts)
    segments = segments[segments.video.isin(videos.index)].reset_index(drop=True)
    train = set(segments.label[segments.video.isin(parts[0].index)])
    problems += [
        f"{annotations}: class {label!r} has no training video" for label in sorted(set(segments.label) - train)
    ]
    grids = {stage: card.grids.get(stage) or next(iter(card.grids.values())) for stage in ("generator", "student")}
    return Dataset(
        card.name, card.about, root, annotations, sorted(set(segments.label)), videos, segments, grids
    ), problems


def read_annotations(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads an ActivityNet-style annotation file.

    Args:
        path: JSON, `database` -> video -> `subset`, `annotations` (`label`, `segment` in seconds as numbers or
            strings), optionally `duration` and `fps`.

    Returns:
        Frame of videos (index video; subset, duration, fps) and frame of segments (video, label, start, end).

    Raises:
        InputError: names file, video and value of the first problem.
    """
    videos, segments, problems = _parse_annotations(Path(path))
    if problems:
        raise InputError(problems[0])
    return videos, segments


def read_results(
    path: str | Path, videos: Collection[str] | None = None, classes: Collection[str] | None = None
) -> pd.DataFrame:
    """Reads proposals, pseudo labels or detections from an ActivityNet result file.

    Args:
        path: JSON, `results` -> video -> list of `label`, `score`, `segment` in seconds.
        videos: those that it may name; None: any that can be the name of a file.
        classes: the labels that it may name; None: any.

    Returns:
        Frame with video, label, score, start (s), end (s).

    Raises:
        InputError: names file, video and value of the first problem.
    """
    results = read_json(path).get("results")
    if not isinstance(results, dict):
        raise InputError(f"{path}: has no 'results' object")
    rows = []
    for video, items in results.items():
        if videos is not None and video not in videos:
            raise InputError(f"{path}: video {shown(video)} is not in the data set")
        try:
            _check_name(video)
            for item in _listed(items):
                label = _text(item["label"])
                if classes is not None and label not in classes:
                    raise ValueError(f"label {shown(label)} is not in the data set")
                rows.append((video, label, _number(item["score"]), *_segment(item["segment"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: video {video!r}: {_say(error)}") from None
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})


def write_results(results: pd.DataFrame, path: str | Path, **entries: Any) -> None:
    """Writes a frame with video, label, score, start, end as an ActivityNet result file, atomically.

    Args:
        results: the frame.
        path: of the file.
        **entries: what else it says besides "results"; also another version.
    """
    columns = results[RESULT_COLUMNS].itertuples(index=False, name=None)
    by_video: dict[str, list[dict[str, Any]]] = {video: [] for video in results.video.unique()}
    for video, label, score, start, end in columns:
        by_video[video].append(
            {"label": label, "score": round(float(score), 6), "segment": [round(float(start), 4), round(float(end), 4)]}
        )
    write_json({"version": "FuSTAL", "results": by_video} | entries, path)


def as_labels(segments: pd.DataFrame) -> pd.DataFrame:
    """True segments in the form of pseudo labels: with score 1."""
    return segments.assign(score=1.0)[RESULT_COLUMNS]


def _parse_annotations(path: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    database = read_json(path).get("database")
    if not isinstance(database, dict) or not database:
        raise InputError(f"{path}: has no 'database' object with videos")
    videos, segments, problems = [], [], []
    for video, entry in database.items():
        where = f"{path}: video {video!r}"
        try:
            _check_name(video)
            (entry,) = _listed([entry])
            subset = _text(entry["subset"])
            duration, fps = (_positive(entry[key], key) if key in entry else math.nan for key in ("duration", "fps"))
            items = _listed(entry.get("annotations", []))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{where}: {_say(error)}")
            continue
        videos.append((video, subset, duration, fps))
        for position, item in enumerate(items):
            try:
                segments.append((video, _text(item["label"]), *_segment(item["segment"], lasting=True)))
            except (KeyError, TypeError, ValueError) as error:
                problems.append(f"{where}: annotation {position}: {_say(error)}")
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    table = pd.DataFrame(segments, columns=SEGMENT_COLUMNS).astype({"start": float, "end": float})
    return frame, table, problems


def find_card(card: str | Path) -> Path:
    """The path of a data-set card, given its name in `params/datasets` or a path."""
    named = ROOT / "params" / "datasets" / f"{card}.yaml"
    if named.exists():
        return named
    if Path(card).is_file():
        return Path(card).resolve()
    known = sorted(path.stem for path in named.parent.glob("*.yaml"))
    raise InputError(f"{card}: no such data-set card (there are {', '.join(known)}, or give the path of a YAML file)")


def _restrict(videos: pd.DataFrame, split: Path) -> tuple[pd.DataFrame, list[str]]:
    if not split.is_file():
        raise InputError(f"{split}: no such split file")
    try:
        lines = split.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise InputError(f"{split}: cannot be read: {error}") from None
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return videos[videos.index.isin(names)], [name for name in names if name not in videos.index]


def _check_name(video: str) -> None:
    control = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in video)
    if not video or control or "/" in video or "\\" in video or video in (".", "..") or len(video.encode()) > 200:
        raise ValueError("the name of a video must be usable as the name of a file")


def _listed(items: Any) -> list[dict[str, Any]]:
    """A list of JSON objects."""
    if not isinstance(items, list):
        raise TypeError(f"{shown(items)} is not a list")
    if wrong := [item for item in items if not isinstance(item, dict)]:
        raise TypeError(f"{shown(wrong[0])} is not an object")
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or value != value.encode(errors="ignore").decode():
        raise TypeError(f"{shown(value)} is not a name")
    return value


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)} is not a finite number")
    return number


def _positive(value: Any, what: str) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError(f"{what} {shown(value)} is not positive")
    return number


def _segment(value: Any, *, lasting: bool = False) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"segment {shown(value)} is not [start, end]")
    start, end = _number(value[0]), _number(value[1])
    if start < 0 or end < start or (lasting and end == start):
        raise ValueError(f"segment {shown(value)} must have 0 <= start {'<' if lasting else '<='} end")
    return start, end


def _say(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
