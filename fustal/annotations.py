"""Data-set cards, annotations and result files: ActivityNet-style JSON in, tidy frames out.

Taught in notebook 01, section "The data set".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fustal import ROOT, InputError
from fustal.files import read_json, write_json

SEGMENT_COLUMNS = ["video", "label", "start", "end"]
RESULT_COLUMNS = ["video", "label", "score", "start", "end"]


class Grid(BaseModel):
    """Where the features of a stage lie and when their snippets happen.

    Snippet i is centred at (i * stride + window / 2) / fps seconds (METHOD.md section 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(description="path below the root, with {video} and possibly {subset} and {modality}")
    modalities: list[str] = Field(default=[], description="values of {modality}, concatenated in this order")
    fps: float | Literal["annotation"] = Field(description="frames per second, or that of each video's annotation")
    stride: int = Field(ge=1, description="frames from one snippet to the next")
    window: int = Field(ge=1, description="frames that a snippet sees")


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
    card = read_card(path)
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


def read_results(path: str | Path) -> pd.DataFrame:
    """Reads proposals, pseudo labels or detections from an ActivityNet result file.

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
        try:
            rows += [(video, str(item["label"]), _number(item["score"]), *_segment(item["segment"])) for item in items]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: video {video!r}: {_say(error)}") from None
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})


def write_results(results: pd.DataFrame, path: str | Path) -> None:
    """Writes a frame with video, label, score, start, end as an ActivityNet result file, atomically."""
    columns = results[RESULT_COLUMNS].itertuples(index=False, name=None)
    by_video: dict[str, list[dict[str, Any]]] = {video: [] for video in results.video.unique()}
    for video, label, score, start, end in columns:
        by_video[video].append(
            {"label": label, "score": round(float(score), 6), "segment": [round(float(start), 4), round(float(end), 4)]}
        )
    write_json({"version": "FuSTAL", "results": by_video}, path)


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
            subset = str(entry["subset"])
            duration, fps = (_positive(entry[key], key) if key in entry else math.nan for key in ("duration", "fps"))
            items = entry.get("annotations", [])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{where}: {_say(error)}")
            continue
        videos.append((video, subset, duration, fps))
        for position, item in enumerate(items):
            try:
                segments.append((video, str(item["label"]), *_segment(item["segment"])))
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


def read_card(path: Path) -> Card:
    """Reads a data-set card; one line says what is wrong with it."""
    try:
        return Card(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}"
        ) from None
    except (OSError, UnicodeDecodeError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not a data-set card: {' '.join(str(error).split())}") from None


def _restrict(videos: pd.DataFrame, split: Path) -> tuple[pd.DataFrame, list[str]]:
    if not split.is_file():
        raise InputError(f"{split}: no such split file")
    names = list(dict.fromkeys(line.strip() for line in split.read_text().splitlines() if line.strip()))
    return videos[videos.index.isin(names)], [name for name in names if name not in videos.index]


def _check_name(video: str) -> None:
    if not video or "/" in video or "\\" in video or "\0" in video or video in (".", ".."):
        raise ValueError("the name of a video must be usable as the name of a file")


def _number(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _positive(value: Any, what: str) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError(f"{what} {value!r} is not positive")
    return number


def _segment(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"segment {value!r} is not [start, end]")
    start, end = _number(value[0]), _number(value[1])
    if start < 0 or end < start:
        raise ValueError(f"segment {value!r} must have 0 <= start <= end")
    return start, end


def _say(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
