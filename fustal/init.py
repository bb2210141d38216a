"""A data-set card and a preset for a folder of one's own: found out by looking, and told.

The page "Your own data" (docs/own_data.md) says what is looked for and by which rules.
"""

import contextlib
import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from fustal import InputError
from fustal.annotations import parse_annotations
from fustal.dataset import Card
from fustal.files import read_json, validated
from fustal.layout import Features, find_features, ratio, walk
from fustal.params import Params
from fustal.splits import Split, find_split
from fustal.writing import atomic
from fustal.wtalc import GRID, convert, is_wtalc

NEAR = 0.02
"""A stride in frames is believed where it comes so near to a usual one."""


@dataclass
class Given:
    """What the user says of the grid: frames per second, frames from snippet to snippet, frames that a snippet sees."""

    fps: float | None = None
    stride: int | None = None
    window: int | None = None


class Step(NamedTuple):
    """A grid as the card says it, and how it was found."""

    fps: float | str
    stride: int
    window: int
    how: str


def init(
    folder: Path,
    *,
    name: str | None = None,
    given: Given | None = None,
    annotations: Path | None = None,
    trust: bool = False,
    force: bool = False,
) -> list[str]:
    """Writes `card.yaml` and `params.yaml`, and where nothing tells training from test `train.txt` and `test.txt`.

    Args:
        folder: holds features and annotations.
        name: of data set and run; None: the folder's.
        given: of the grid, what cannot be found out.
        annotations: which file, where there are several.
        trust: read pickles of W-TALC's layout, see `fustal.wtalc`.
        force: replace a card and a preset that are there.

    Returns:
        Lines that tell what was found and how to go on.

    Raises:
        InputError: something is missing or not clear; then nothing was written.
    """
    folder, given = Path(folder), given or Given()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if there := [file for file in ("card.yaml", "params.yaml") if (folder / file).exists() and not force]:
        raise InputError(f"{folder / there[0]}: is there already (--force replaces it)")
    root, converted = "converted" if is_wtalc(folder) else ".", False
    try:
        if root == "converted":
            given = Given(given.fps or GRID.fps, given.stride or GRID.stride, given.window or GRID.window)
            if not (folder / root).exists():
                convert(folder, folder / root, trust=trust)
                converted = True
        return _init(folder, root, name or _as_name(folder.resolve().name), given, annotations)
    except BaseException:
        if converted:
            shutil.rmtree(folder / root)
        raise


def _init(folder: Path, root: str, name: str, given: Given, chosen: Path | None) -> list[str]:
    data = folder / root
    file = chosen or find_annotations(data)
    videos, labels, problems = parse_annotations(file)
    if videos.empty:
        raise InputError(problems[0])
    features = find_features(data, videos.index)
    split = find_split(data, videos, set(labels.video), features)
    grids = find_grids(features, videos, given)
    inside = file.resolve().is_relative_to(data.resolve())
    place = file.resolve().relative_to(data.resolve()).as_posix() if inside else str(file.resolve())
    card = card_text(name, root, place, split, features, grids)
    classes = labels.label.nunique()
    known = labels.video[labels.start.notna()].isin(split.train).any()
    preset = preset_text(name, features, classes, bool(known))
    texts = {f"{root}/{file}": "".join(f"{video}\n" for video in videos) for file, videos in split.new.items()}
    _check(folder, card, preset)
    _write(folder, texts | {"card.yaml": card, "params.yaml": preset})
    return [
        f"annotations: {place}, {len(videos)} videos, {classes} classes, {labels.start.notna().sum()} segments",
        *(f"features: {len(f.files)} videos, {_said(f)}; {step.how}" for f, step in zip(features, grids, strict=True)),
        f"split: {len(split.train)} training and {len(split.test)} test videos, {split.how}",
        *_notes(videos, set(labels.video), features, split),
        *([f"annotations: {len(problems)} problems, the next command lists them"] if problems else []),
        f"wrote card.yaml, params.yaml{''.join(f', {file}' for file in split.new)}; next:",
        f"  fustal validate {shlex.quote(str(folder / 'card.yaml'))}",
        f"  fustal run {shlex.quote(str(folder / 'params.yaml'))}",
    ]


def find_annotations(folder: Path) -> Path:
    """The JSON with a `database`, or the CSV with `video` and `label`, not more than two folders deep.

    Raises:
        InputError: there is none, or more than one.
    """
    tables = [path for path in walk(folder, ".csv", depth=2) if _is_table(path)]
    broken, found = [], tables
    for path in walk(folder, ".json", depth=2):
        try:
            found += [path] if isinstance(read_json(path).get("database"), dict) else []
        except InputError as error:
            broken.append(str(error))
    if len(found) > 1:
        listed = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise InputError(f"{folder}: holds several annotations ({listed}): choose by --annotations FILE")
    if not found:
        more = f" ({broken[0]})" if broken else ""
        form = "a CSV with columns video and label, or a JSON with a 'database'"
        raise InputError(f"{folder}: holds no annotations: write {form}{more}")
    return found[0]


def _is_table(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline(10_000)
        names = next(csv.reader([first], delimiter=max(",;\t", key=first.count)), [])
    except (OSError, ValueError, csv.Error):
        return False
    return {"video", "label"} <= {name.strip().lower() for name in names}


def find_grids(features: list[Features], videos: pd.DataFrame, given: Given) -> list[Step]:
    """When the snippets of each grid happen.

    Args:
        features: of one grid, or of two, the shorter first; a given stride is that of the first.
        videos: frame of the annotations, with duration (s) and fps, NaN where unknown.
        given: what the user says.

    Raises:
        InputError: durations are unknown and fps or stride is not given.
    """
    durations = _steps(features[0], videos.duration)
    stored = videos.loc[videos.index.isin(features[0].lengths)]
    annotated = given.fps is None and stored.fps.notna().all() and len(stored) == len(features[0].lengths)
    if durations.empty and not (given.stride and (given.fps or annotated)):
        what = "durations of the videos are not annotated, so that the time of a snippet is unknown"
        raise InputError(
            f"{what}: give --fps F and --stride S (frames from one snippet to the next), or write durations (s) there"
        )
    if annotated:
        return [
            _step("annotation", found, _steps(found, videos.duration * videos.fps), given, features)
            for found in features
        ]
    if durations.empty:
        return [_step(given.fps, found, durations, given, features) for found in features]
    fps = given.fps or _likely_fps(float(durations.median()), given.stride)
    return [_step(fps, found, _steps(found, videos.duration * fps), given, features) for found in features]


def _steps(found: Features, extent: pd.Series) -> pd.Series:
    """Of each video its extent, in seconds or frames, by its number of snippets."""
    return (extent / pd.Series(found.lengths, dtype=float)).dropna()


def _likely_fps(seconds: float, stride: int | None) -> float:
    """25 or 30 where that makes a usual stride, else milliseconds taken as frames."""
    for fps in (25, 30):
        for frames in [stride] if stride else (1, 2, 4, 8, 16, 32, 64):
            if abs(seconds * fps / frames - 1) < NEAR:
                return fps
    return round(stride / seconds, 3) if stride else 1000


def _step(fps: float | str, found: Features, frames: pd.Series, given: Given, features: list[Features]) -> Step:
    """The grid of one kind of features.

    Args:
        fps: of the card.
        found: the features.
        frames: of each video its frames by its snippets; empty where durations are unknown.
        given: stride and window of the user.
        features: all, as a given stride is that of the first.
    """
    if given.stride:
        stride = max(1, round(given.stride * ratio(features[0], found)))
    else:
        stride = max(1, round(float(frames.median())))
    how = f"every {stride} frames at {'the annotated' if fps == 'annotation' else f'{fps:g}'} fps"
    how += ", as given" if given.stride else f": duration / snippets, median of {len(frames)} videos"
    how += "" if fps != 1000 or given.fps else " (a frame is a millisecond here)"
    low, high = frames.quantile([0.1, 0.9]) if len(frames) else (stride, stride)
    if high > 1.25 * low:
        how += f"; ODD: it differs, {low:.3g} to {high:.3g} frames; features stretched to one length fit no grid"
    return Step(fps if fps == "annotation" else float(fps), stride, given.window or stride, how)


def card_text(name: str, root: str, annotations: str, split: Split, features: list[Features], grids: list[Step]) -> str:
    """The card, with comments that say where its numbers come from."""
    lines = [
        "# Written by `fustal init`, from what is in this folder. `fustal validate` checks it; correct it by hand.",
        f"name: {_yaml(name)}",
        f"about: {_yaml('Features of own videos.')}",
        f"root: {_yaml(root)}",
        f"annotations: {_yaml(annotations)}",
        f"# {split.how}",
        f"train_subset: {_yaml(split.subsets[0])}",
        f"test_subset: {_yaml(split.subsets[1])}",
    ]
    for side, file in zip(("train", "test"), split.files or (), strict=False):
        lines.append(f"{side}_split: {_yaml(file)}")
    lines.append("grids:")
    for stage, found, step in zip(("generator", "student"), features, grids, strict=False):
        fps = step.fps if step.fps == "annotation" else f"{step.fps:g}"
        lines.append(f"  # {step.how}")
        if step.window == step.stride:
            lines.append("  # window: taken as the stride, snippets side by side; correct it if yours see more frames")
        entries = f"fps: {fps}, stride: {step.stride}, window: {step.window}"
        lines.append(
            f"  {stage}: {{pattern: {_yaml(found.pattern)}, modalities: {_yaml(found.modalities)}, {entries}}}"
        )
    return "\n".join(lines) + "\n"


def preset_text(name: str, features: list[Features], classes: int, segments: bool) -> str:
    """The preset: sizes that follow from the lengths of the videos, and the rest as its default is.

    Args:
        name: of the run.
        features: of one grid or two, the shorter first.
        classes: how many.
        segments: whether those of training videos are known, to measure.
    """
    shorter, longer = (np.percentile([*found.lengths.values()], 90) for found in (features[0], features[-1]))
    lines = [
        "# Written by `fustal init`. What is not named here keeps its default (fustal/params.py).",
        f"run: {_yaml(name)}",
        "dataset: card.yaml",
        "# nine of ten videos have at most so many snippets; at most 750, the paper's",
        f"generator_snippets: {int(max(20, min(750, np.ceil(shorter))))}",
        "# the same for the student, a multiple of 32, at most 2304",
        f"max_snippets: {int(min(2304, 32 * np.ceil(longer / 32)))}",
    ]
    if not segments:
        lines += ["# no segments of training videos are known: nothing to measure, and no upper bound"]
        lines += ["watched_videos: 0", "upper_bound_epochs: 0"]
    if classes > 100:
        lines += ["# as on ActivityNet, which has as many classes", 'tious: "0.5:0.05:0.95"']
    return "\n".join(lines) + "\n"


def _check(folder: Path, card: str, preset: str) -> None:
    """Reads what would be written: a name that cannot be one is refused before."""
    try:
        validated(Card, yaml.safe_load(card), folder)
    except InputError as error:
        raise InputError(f"{error} (--name NAME)") from None
    Params(**yaml.safe_load(preset))


def _write(folder: Path, texts: dict[str, str]) -> None:
    """All files or none."""
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(atomic(folder / name)).write_text(text, encoding="utf-8")


def _notes(videos: pd.DataFrame, labelled: set[str], features: list[Features], split: Split) -> list[str]:
    """What is not used, or will be missing, or is taken to mean something."""
    stored = set.intersection(*(set(found.files) for found in features))
    used = {*split.train, *split.test}
    counts = (
        (
            len({*split.train} & set(videos.index) - labelled),
            "training videos are listed without a label: nothing happens in them; those of which nothing is known, "
            "to be localised, must not be listed",
        ),
        (len(used - stored), "videos of the split files have no features: fustal validate lists them"),
        (len(set(videos.index) - stored - used), "annotated videos have no features: left out"),
        (len((set(videos.index) & stored) - used), "annotated videos are in neither part: left out"),
        (len(stored - set(videos.index) - used), "feature files are of no annotated video: left out"),
    )
    return [f"note: {count} {what}" for count, what in counts if count]


def _said(found: Features) -> str:
    return found.pattern + (f" ({', '.join(found.modalities)})" if found.modalities else "")


def _as_name(text: str) -> str:
    """A folder's name as that of a data set and run."""
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".-")[:100] or "own"


def _yaml(value: object) -> str:
    """JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False)
