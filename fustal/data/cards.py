"""Data-set cards, and the data sets that they describe: videos, labels, segments, the grids of the features.

Taught in notebook 01, section "The data set".
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from fustal import ROOT
from fustal.data.annotations import parse_annotations
from fustal.data.files import shown, validated
from fustal.data.names import find_card, read_as
from fustal.data.problems import grouped
from fustal.data.text import read_video_list
from fustal.data.values import can_name_a_file
from fustal.data.writing import recover
from fustal.exceptions import InputError, Problem

MANY = 1_000_000
"""The maximum of frames, and of frames per second, in a card; a larger number must be an error."""


def _usable(text: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("holds a control character")
    return text


PathText = Annotated[str, Field(max_length=1000), AfterValidator(_usable)]
"""A path in a card, or a part of one."""


class Grid(BaseModel):
    """The place of a stage's features, and the times of their snippets.

    Snippet i is centred at (i * stride + window / 2) / fps seconds (docs/method.md section 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: PathText = Field(description="path below the root, with {video}, optionally {subset} and {modality}")
    modalities: list[PathText] = Field(
        default=[], max_length=100, description="values of {modality}, concatenated in this order"
    )
    fps: Annotated[float, Field(gt=0, le=MANY, allow_inf_nan=False)] | Literal["annotation"] = Field(
        description="frames per second, or that of each video's annotation"
    )
    stride: int = Field(ge=1, le=MANY, description="frames from one snippet to the next")
    window: int = Field(ge=1, le=MANY, description="frames that a snippet is computed from")

    @field_validator("pattern")
    @classmethod
    def _names_each_video(cls, value: str) -> str:
        names = set()
        has_format = False
        for _, name, form, conversion in Formatter().parse(value):
            if name is None:  # text after the last field
                continue
            names.add(name)
            if form or conversion:
                has_format = True
        if "video" not in names or names - {"video", "subset", "modality"} or has_format:
            raise ValueError("must hold {video}, and besides it only {subset} and {modality}, without : or ! in them")
        return value


class Card(BaseModel):
    """A data-set card, `params/datasets/*.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w][\w.-]*$", max_length=100)
    about: str = Field(default="", description="a sentence about the features, which notebook 01 prints")
    root: PathText = Field(description="folder of the data, relative to the card")
    annotations: PathText = Field(description="ActivityNet-style JSON, or CSV, relative to the root")
    train_subset: str = "train"
    test_subset: str = "test"
    train_split: PathText | None = Field(default=None, description="file of video names that restricts the subset")
    test_split: PathText | None = None
    ignored_labels: list[str] = Field(default=[], description="labels that are no classes, such as Ambiguous: left out")
    grids: dict[Literal["generator", "student"], Grid] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_file_for_each_modality(self) -> "Card":
        """Checks that modalities differ in their file: else the same features would be read twice."""
        for stage, grid in self.grids.items():
            named = any(name == "modality" for _, name, _, _ in Formatter().parse(grid.pattern))
            if len(set(grid.modalities)) < len(grid.modalities):
                raise ValueError(f"grids.{stage}: one of the modalities {shown(grid.modalities)} is there twice")
            if len(grid.modalities) > 1 and not named:
                raise ValueError(f"grids.{stage}: several modalities need {{modality}} in the pattern")
            if named and not grid.modalities:
                raise ValueError(f"grids.{stage}: {{modality}} in the pattern needs modalities, such as [rgb, flow]")
        return self


@dataclass(frozen=True)
class Dataset:
    """A data set without its features.

    Attributes:
        name: of the card.
        about: the card's sentence about the features.
        root: folder of the data.
        annotations: path of the annotation file.
        classes: class names, sorted; the position of a class is its index everywhere.
        videos: frame indexed by video name: subset ("train" or "test"), duration (s) and fps, NaN if unknown. After
            `hold_out` also stored_as, the subset in the paths of the features.
        video_labels: frame with video, label: which classes occur. Training uses nothing else.
        segments: frame with video, label, start (s), end (s), where they are known. Only for measurements.
        grids: the grids of the features by stage, "generator" and "student".
    """

    name: str
    about: str
    root: Path
    annotations: Path
    classes: list[str]
    videos: pd.DataFrame
    video_labels: pd.DataFrame
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
            Multi-hot float32 array (N, C): which classes occur, not when.
        """
        present = pd.crosstab(self.video_labels.video, self.video_labels.label) > 0
        return present.reindex(index=videos, columns=self.classes, fill_value=False).to_numpy(np.float32)


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """Replaces the test videos of a data set by some of its training videos.

    Parameters can then be chosen by the video-level labels of videos that are not used in training.

    Args:
        dataset: the whole data set.
        share: the part of the training videos that is held out, from 0 to below 1; 0: the data set is not changed.

    Returns:
        A data set of the training videos alone. The same videos are chosen in every call.

    Raises:
        InputError: no video would be left for training, or none would be held out.
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
    # The paths of features contain the old subset
    videos = videos.assign(stored_as=videos.subset, subset=subset)
    video_labels = dataset.video_labels[dataset.video_labels.video.isin(train)].reset_index(drop=True)
    segments = dataset.segments[dataset.segments.video.isin(train)].reset_index(drop=True)
    return replace(dataset, videos=videos, video_labels=video_labels, segments=segments)


def read_card(path: Path) -> Card:
    """Reads a data-set card; `find_card` gives its path.

    Raises:
        InputError: it cannot be read, it is another kind of file, or it has a wrong entry.
    """
    return validated(Card, read_as("card", path, Card.model_fields), path)


def load_dataset(card: str | Path) -> Dataset:
    """Reads a data-set card and the annotations it names.

    Args:
        card: a name in `params/datasets`, or the path of a YAML file.

    Raises:
        InputError: card, annotations or split files are missing or wrong; the message names the first problem.
    """
    dataset, problems = inspect_dataset(card)
    errors = grouped(problem for problem in problems if not problem.warning)
    if errors:
        more = f" (and {len(errors) - 1} more: fustal validate {card})" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
    return dataset


def inspect_dataset(card_path: str | Path) -> tuple[Dataset, list[Problem]]:
    """Like `load_dataset`, but returns all problems and warnings of annotations and splits instead of raising one.

    Raises:
        InputError: the card, the annotations or a split file cannot be read.
    """
    path = find_card(card_path)
    card = read_card(path)
    root = (path.parent / card.root).resolve()
    annotations = root / card.annotations
    recover(root)  # a fetch that was killed may have left the data without their name
    if not annotations.exists():
        ours = path.parent == ROOT / "params" / "datasets"
        fix = f"fustal fetch {card.name}" if ours else "correct root and annotations in the card"
        raise InputError(f"{annotations}: no such file: data set {card.name!r} is not here ({fix})")
    all_videos, labels, problems = parse_annotations(annotations)
    train, wrong = _videos_of("train", all_videos, annotations, card, root)
    problems += wrong
    test, wrong = _videos_of("test", all_videos, annotations, card, root)
    problems += wrong
    for video in train.index.intersection(test.index):
        fix = "set train_split and test_split, or different subsets, in the card"
        problems.append(Problem(path, "is in training and in test", video, fix))
    videos = pd.concat([train, test])
    videos = videos[~videos.index.duplicated()]
    labels = labels[labels.video.isin(videos.index)]
    problems += _ignored(labels, card, path)
    labels = labels[~labels.label.isin(card.ignored_labels)]
    # After an error, missing labels can be a consequence of it: only the error is reported
    only_warnings = all(problem.warning for problem in problems)
    if only_warnings and not labels.video.isin(train.index).any():
        fix = "write which classes occur in them"
        problems.append(Problem(annotations, "no training video has a label", fix=fix))
    # One grid can serve both stages
    first = next(iter(card.grids.values()))
    grids = {"generator": card.grids.get("generator", first), "student": card.grids.get("student", first)}
    return Dataset(
        name=card.name,
        about=card.about,
        root=root,
        annotations=annotations,
        classes=sorted(set(labels.label)),
        videos=videos,
        video_labels=labels[["video", "label"]].drop_duplicates(ignore_index=True),
        segments=labels.dropna().reset_index(drop=True),
        grids=grids,
    ), problems


def _ignored(labels: pd.DataFrame, card: Card, path: Path) -> list[Problem]:
    """A warning for each ignored label of a card: how many annotations are left out."""
    problems = []
    for label in card.ignored_labels:
        count = int((labels.label == label).sum())
        annotations = "1 annotation" if count == 1 else f"{count or 'no'} annotations"
        what = f"ignored_labels: {annotations} of {shown(label)} left out"
        fix = "" if count else "correct the label"
        problems.append(Problem(path, what, fix=fix, warning=True))
    return problems


def _videos_of(
    subset: Literal["train", "test"], videos: pd.DataFrame, annotations: Path, card: Card, root: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """The videos for training or for testing, and the problems with them.

    Args:
        subset: "train" or "test".
        videos: all videos of the annotations.
        annotations: their file, for messages.
        card: names the subset in the annotations, and its list of videos.
        root: folder of the data.
    """
    name = card.train_subset if subset == "train" else card.test_subset
    split = card.train_split if subset == "train" else card.test_split
    problems = []
    chosen = videos[videos.subset.str.lower() == name.lower()]
    if chosen.empty:
        what = f"no video of subset {name!r} (there are {sorted(set(videos.subset))})"
        problems.append(Problem(annotations, what, fix=f"set {subset}_subset in the card"))
    if split:
        chosen, wrong = _restricted(chosen, videos, root / split, name, subset)
        problems += wrong
    return chosen.assign(subset=subset), problems


def _restricted(
    chosen: pd.DataFrame, videos: pd.DataFrame, split: Path, name: str, subset: str
) -> tuple[pd.DataFrame, list[Problem]]:
    """The videos of a subset that a list names, and the problems with the list.

    Args:
        chosen: the videos of the subset.
        videos: all videos of the annotations.
        split: the list.
        name: of the subset in the annotations.
        subset: "train" or "test". A list of test videos may name videos that are not in the annotations: actions can be
            localised in them, too.
    """
    if not split.exists():
        raise InputError(f"{split}: no such split file")
    names = read_video_list(split, set(videos.index))
    unknown = [video for video in names if video not in chosen.index]
    kept = chosen[chosen.index.isin(names)]
    if subset == "test":
        new = [video for video in unknown if video not in videos.index and can_name_a_file(video)]
        unknown = [video for video in unknown if video in videos.index or not can_name_a_file(video)]
        kept = pd.concat([kept, pd.DataFrame(math.nan, new, ["duration", "fps"])])
    if kept.empty:
        example = f", such as {shown(names[0][:40])}" if names else ""
        what = f"none of its {len(names)} lines names a video of subset {name!r}{example}"
        return kept, [Problem(split, what, fix="write the names of videos into it, one a line")]
    fix = "correct the name, or remove it from the split file"
    return kept, [Problem(split, f"is not in subset {name!r}", video, fix) for video in unknown]
