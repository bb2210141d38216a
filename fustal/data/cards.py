"""Data-set cards and what they describe: videos, their labels, their segments, the grids of their features.

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
from fustal.data.annotations import can_name_a_file, parse_annotations
from fustal.data.files import shown, validated
from fustal.data.names import find_card, read_as
from fustal.data.problems import grouped
from fustal.data.text import read_video_list
from fustal.data.writing import recover
from fustal.exceptions import InputError, Problem

MANY = 1_000_000
"""Frames, and frames per second, beyond which a card must be wrong."""


def _usable(text: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("holds a control character")
    return text


PathText = Annotated[str, Field(max_length=1000), AfterValidator(_usable)]
"""A path in a card, or a part of one."""


class Grid(BaseModel):
    """Where the features of a stage lie and when their snippets happen.

    Snippet i is centred at (i * stride + window / 2) / fps seconds (docs/method.md section 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: PathText = Field(description="path below the root, with {video} and possibly {subset} and {modality}")
    modalities: list[PathText] = Field(
        default=[], max_length=100, description="values of {modality}, concatenated in this order"
    )
    fps: Annotated[float, Field(gt=0, le=MANY, allow_inf_nan=False)] | Literal["annotation"] = Field(
        description="frames per second, or that of each video's annotation"
    )
    stride: int = Field(ge=1, le=MANY, description="frames from one snippet to the next")
    window: int = Field(ge=1, le=MANY, description="frames that a snippet sees")

    @field_validator("pattern")
    @classmethod
    def _names_each_video(cls, value: str) -> str:
        fields = [
            (name, form or conversion) for _, name, form, conversion in Formatter().parse(value) if name is not None
        ]
        names = {name for name, _ in fields}
        if "video" not in names or names - {"video", "subset", "modality"} or any(more for _, more in fields):
            raise ValueError("must hold {video}, and besides it only {subset} and {modality}, without : or ! in them")
        return value


class Card(BaseModel):
    """A data-set card, `params/datasets/*.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w][\w.-]*$", max_length=100)
    about: str = Field(default="", description="a sentence that notebook 01 prints: what the features are")
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
        """Two modalities that are the same file would be the same features twice."""
        for stage, grid in self.grids.items():
            named = "modality" in {name for _, name, _, _ in Formatter().parse(grid.pattern)}
            if len(set(grid.modalities)) < len(grid.modalities):
                raise ValueError(f"grids.{stage}: one of the modalities {shown(grid.modalities)} is there twice")
            if len(grid.modalities) > 1 and not named:
                raise ValueError(f"grids.{stage}: several modalities need {{modality}} in the pattern")
            if named and not grid.modalities:
                raise ValueError(f"grids.{stage}: {{modality}} in the pattern needs modalities, such as [rgb, flow]")
        return self


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
        video_labels: frame with video, label: which classes occur. All that training sees.
        segments: frame with video, label, start (s), end (s), where they are known: to measure, and for nothing else.
        grids: feature grids of the two stages.
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
            Multi-hot float32 array (N, C): which classes occur, and nothing of when.
        """
        present = pd.crosstab(self.video_labels.video, self.video_labels.label) > 0
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
    video_labels, segments = (
        frame[frame.video.isin(train)].reset_index(drop=True) for frame in (dataset.video_labels, dataset.segments)
    )
    videos = videos.assign(stored_as=videos.subset, subset=subset)
    return replace(dataset, videos=videos, video_labels=video_labels, segments=segments)


def read_card(path: Path) -> Card:
    """Reads a data-set card, whose path `find_card` gives.

    Raises:
        InputError: it cannot be read, is another kind of file, or has an entry that does not fit.
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
    if wrong := grouped(problem for problem in problems if not problem.warning):
        more = f" (and {len(wrong) - 1} more: fustal validate {card})" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}{more}")
    return dataset


def inspect_dataset(card_path: str | Path) -> tuple[Dataset, list[Problem]]:
    """Like `load_dataset`, but returns all problems and warnings of annotations and splits, and raises none."""
    path = find_card(card_path)
    card = read_card(path)
    root = (path.parent / card.root).resolve()
    annotations = root / card.annotations
    recover(root)
    if not annotations.exists():
        ours = path.parent == ROOT / "params" / "datasets"
        fix = f"fustal fetch {card.name}" if ours else "correct root and annotations in the card"
        raise InputError(f"{annotations}: no such file: data set {card.name!r} is not here ({fix})")
    videos, labels, problems = parse_annotations(annotations)
    parts = []
    for subset, name, split in (
        ("train", card.train_subset, card.train_split),
        ("test", card.test_subset, card.test_split),
    ):
        chosen = videos[videos.subset.str.lower() == name.lower()]
        if chosen.empty:
            what = f"no video of subset {name!r} (there are {sorted(set(videos.subset))})"
            problems.append(Problem(annotations, what, fix=f"set {subset}_subset in the card"))
        if split:
            chosen, wrong = _restricted(chosen, videos, root / split, name, subset)
            problems += wrong
        parts.append(chosen.assign(subset=subset))
    if both := parts[0].index.intersection(parts[1].index).tolist():
        fix = "set train_split and test_split, or different subsets, in the card"
        problems += [Problem(path, "is in training and in test", video, fix) for video in both]
    videos = pd.concat(parts)
    videos = videos[~videos.index.duplicated()]
    labels = labels[labels.video.isin(videos.index)]
    for label in card.ignored_labels:
        count = int((labels.label == label).sum())
        what = f"ignored_labels: {count or 'no'} annotation{'s' * (count != 1)} of {shown(label)} left out"
        problems.append(Problem(path, what, fix="" if count else "correct the label", warning=True))
    labels = labels[~labels.label.isin(card.ignored_labels)]
    known = all(problem.warning for problem in problems)  # what is wrong may be why there is none
    if known and not labels.video.isin(parts[0].index).any():
        problems.append(Problem(annotations, "no training video has a label", fix="say which classes occur in them"))
    grids = {stage: card.grids.get(stage) or next(iter(card.grids.values())) for stage in ("generator", "student")}
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


def _restricted(
    chosen: pd.DataFrame, videos: pd.DataFrame, split: Path, name: str, subset: str
) -> tuple[pd.DataFrame, list[Problem]]:
    """The videos of a subset that a list names, and what is wrong with the list.

    Args:
        chosen: of the subset.
        videos: all of the annotations.
        split: the list.
        name: of the subset, in the annotations.
        subset: "train", or "test", where the list may name videos that are not in the annotations: what nothing is
            known of can still be localised.
    """
    if not split.exists():
        raise InputError(f"{split}: no such split file")
    names = read_video_list(split, set(videos.index))
    unknown = [video for video in names if video not in chosen.index]
    kept = chosen[chosen.index.isin(names)]
    if subset == "test":
        new = [video for video in unknown if video not in videos.index and can_name_a_file(video)]
        unknown = [video for video in unknown if video not in set(new)]
        kept = pd.concat([kept, pd.DataFrame(math.nan, new, ["duration", "fps"])])
    if kept.empty:
        such = f", such as {shown(names[0][:40])}" if names else ""
        what = f"none of its {len(names)} lines names a video of subset {name!r}{such}"
        return kept, [Problem(split, what, fix="write the names of videos there, one a line")]
    fix = "correct the name, or take it out of the split file"
    return kept, [Problem(split, f"is not in subset {name!r}", video, fix) for video in unknown]
