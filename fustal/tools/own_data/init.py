"""Writes a data-set card and a preset for a folder of features and labels, from what is in the folder: `fustal init`.

The page "Your own data" (docs/own_data.md) describes what is looked for, and the rules.
"""

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fustal.data.annotations import parse_annotations
from fustal.data.cards import Card, inspect_dataset
from fustal.data.extraction import EXTRACTION, PATTERNS, VIDEOS, Extraction, read_extraction
from fustal.data.features import FeatureStore
from fustal.data.files import MARKS, one_line, open_regular, read_json, shown, validated
from fustal.data.problems import EXAMPLES, grouped
from fustal.data.text import TABLES, table_header
from fustal.data.writing import atomic
from fustal.exceptions import InputError, Problem
from fustal.params import Params
from fustal.tools.own_data.layout import Features, find_features, stored_videos, walk
from fustal.tools.own_data.sizes import LONG, LONGEST, Known, preset_text, video_score
from fustal.tools.own_data.splits import OURS, Split, find_split
from fustal.tools.own_data.timing import Given, Step, find_grids
from fustal.tools.own_data.validation import action_problems, annotation_problems, plain_name, segment_problems
from fustal.tools.own_data.wtalc import FPS, STRIDE, convert, is_wtalc

AMBIGUOUS = "ambiguous"
"""THUMOS'14's label for segments that count neither as an action nor as background."""

HEAD = 100_000
"""Number of bytes of a table that are read to find out whether it is one of labels."""


@dataclass
class Found:
    """What was found in a folder.

    Attributes:
        root: folder of the data, relative to the card.
        annotations: their file, as the card names it.
        ignored: labels that the card leaves out.
        videos: frame of the annotations.
        labels: frame of the labels without the ignored ones.
        features: for each grid.
        split: training and test videos.
        grids: as many as `features`.
    """

    root: str
    annotations: str
    ignored: list[str]
    videos: pd.DataFrame
    labels: pd.DataFrame
    features: list[Features]
    split: Split
    grids: list[Step]


def init(
    folder: Path,
    *,
    name: str | None = None,
    given: Given | None = None,
    annotations: Path | None = None,
    trust: bool = False,
    force: bool = False,
) -> list[str]:
    """Writes `card.yaml` and `params.yaml`; also `train.txt` and `test.txt` if the folder has no split of its own.

    Args:
        folder: holds features and annotations.
        name: of data set and run; None: the folder's.
        given: frame rate, stride and window, as far as the user gives them.
        annotations: their file, if there are several.
        trust: read pickles of W-TALC's layout, see `fustal.tools.own_data.wtalc`.
        force: replace an existing card and preset.

    Returns:
        Lines to print: what was found, and the next commands.

    Raises:
        InputError: something is missing or ambiguous. Then nothing is written.
    """
    folder = Path(folder)
    given = given or Given()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for file in ("card.yaml", "params.yaml"):
        if (folder / file).exists() and not force:
            raise InputError(f"{folder / file}: already exists (--force replaces it)")
    name = name or _as_name(folder.resolve().name)
    if not is_wtalc(folder):
        return _init(folder, ".", name, given, annotations)
    given = Given(given.fps or FPS, given.stride or STRIDE, given.window or STRIDE)
    converted = folder / "converted"
    _check_up_to_date(folder, converted)
    if converted.exists():
        return _init(folder, converted.name, name, given, annotations)
    convert(folder, converted, trust=trust)
    # A conversion is not kept if the rest fails, as then nothing is written.
    try:
        return _init(folder, converted.name, name, given, annotations)
    except BaseException:
        shutil.rmtree(converted)
        raise


def _check_up_to_date(folder: Path, converted: Path) -> None:
    """Refuses an earlier conversion if a file of W-TALC's layout was changed after it."""
    made = converted / "gt.json"
    if not made.exists():
        return
    for path in folder.rglob("*.npy"):
        if not path.is_relative_to(converted) and path.stat().st_mtime_ns > made.stat().st_mtime_ns:
            what = f"is older than {shown(path.name)}, from which it was converted"
            raise InputError(f"{converted}: {what}: move it away, and it is made again")


def _init(folder: Path, root: str, name: str, given: Given, annotations: Path | None) -> list[str]:
    """Looks at the data and writes all files.

    Args:
        folder: where card and preset are written.
        root: folder of the data below it.
        name: of data set and run.
        given: by the user.
        annotations: their file; None: to be found.
    """
    found = _look(folder, root, annotations, given)
    known = _known(found)
    card = card_text(name, found)
    preset = preset_text(_yaml(name), known)
    _check(folder, card, preset)  # before anything is written
    texts = {}
    for file, videos in found.split.new.items():
        texts[f"{root}/{file}"] = "\n".join([OURS, *videos, ""])
    _write(folder, texts | {"card.yaml": card, "params.yaml": preset})
    written = ", ".join(["card.yaml", "params.yaml", *found.split.new])
    return [
        *_summary(found),
        f"video score: {video_score(known).why}",
        *_notes(found),
        *_oddities(folder / "card.yaml"),
        f"wrote {written}; next:",
        f"  fustal validate {shlex.quote(str(folder / 'card.yaml'))}",
        f"  fustal run {shlex.quote(str(folder / 'params.yaml'))}",
    ]


def _look(folder: Path, root: str, annotations: Path | None, given: Given) -> Found:
    """Finds annotations, features, split and grids; arguments as in `_init`.

    Raises:
        InputError: one of them is missing or ambiguous.
    """
    data = folder / root
    _check_extracted(data)
    file = annotations or find_annotations(data)
    videos, labels = _read_annotations(file)
    ignored = sorted(label for label in set(labels.label) if plain_name(label) == AMBIGUOUS)
    labels = labels[~labels.label.isin(ignored)]
    features = find_features(data, videos.index)
    split = find_split(data, videos, set(labels.video), features, file)
    made = read_extraction(data)
    if made and given == Given():
        grids = extracted_grids(made, features, data)
    else:
        grids = find_grids(features, videos, given)
    place = file.resolve()
    inside = place.is_relative_to(data.resolve())
    named = place.relative_to(data.resolve()).as_posix() if inside else str(place)
    return Found(root, named, ignored, videos, labels, features, split, grids)


def _check_extracted(data: Path) -> None:
    """Refuses a folder with videos and without features.

    Raises:
        InputError: names the command that makes them.
    """
    if next(walk(data, ".npy"), None) is None and (video := next(walk(data, VIDEOS), None)):
        command = f"fustal extract {shlex.quote(str(video.parent))} --out {shlex.quote(str(data))}"
        raise InputError(f"{data}: holds videos such as {video.name}, and no features: make them first: {command}")


def extracted_grids(made: Extraction, features: list[Features], data: Path) -> list[Step]:
    """The grids of features that `fustal extract` made.

    Args:
        made: its record.
        features: what was found.
        data: the folder, for messages.

    Raises:
        InputError: other features are in the folder.
    """
    strides = {PATTERNS[stage]: stride for stage, stride in made.strides().items()}
    patterns = [found.pattern for found in features]
    if patterns != list(strides):
        what = f"{EXTRACTION} tells of {', '.join(strides)}, and the features are {', '.join(patterns)}"
        raise InputError(f"{data}: {what}: move the others away")
    how = f"frames at {made.fps:g} fps, window {made.window}, as {EXTRACTION} tells"
    return [Step(made.fps, stride, made.window, f"every {stride} {how}") for stride in strides.values()]


def _read_annotations(file: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Frames of videos and labels.

    Raises:
        InputError: there are none, or the entry of a video cannot be read: its subset and labels are then unknown, and
            it must not become a test video.
    """
    videos, labels, problems = parse_annotations(file)
    wrong = [problem for problem in problems if not problem.warning]
    if not (videos.empty or labels.empty):
        wrong = [problem for problem in wrong if problem.video is not None and problem.video not in videos.index]
    if wrong:
        first = grouped(wrong)[0]
        raise InputError(f"{first}: {first.fix}")
    return videos, labels


def _known(found: Found) -> Known:
    """What the preset is derived from."""
    counts = pd.crosstab(found.labels.video, found.labels.label)
    shorter = np.array(list(found.features[0].lengths.values()))
    longer = np.array(list(found.features[-1].lengths.values()))
    segments = found.labels.dropna()
    return Known(
        labels=counts.reindex(found.split.train, fill_value=0).to_numpy() > 0,
        generator=shorter,
        student=longer,
        most_actions=int(segments.groupby("video").size().max()) if len(segments) else 0,
        segments=bool(segments.video.isin(found.split.train).any()),
    )


# --- annotations ------------------------------------------------------------------------------------------------------


def find_annotations(folder: Path) -> Path:
    """Finds the JSON with a `database`, or the table with `video` and `label`, at most two folders deep.

    Args:
        folder: root of the data.

    Returns:
        Path of the file.

    Raises:
        InputError: there is none, or more than one.
    """
    found = []
    others = []
    for path in walk(folder, (*TABLES, ".json"), depth=2):
        if path.name == EXTRACTION:
            continue
        reason = _why_not(path)
        if reason:
            others.append(reason)
        else:
            found.append(path)
    if len(found) > 1:
        listed = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise InputError(f"{folder}: holds several annotations ({listed}): choose one with --annotations FILE")
    if not found:
        more = f" ({'; '.join(others[:EXAMPLES])})" if others else ""
        form = "a CSV with columns video and label, or a JSON with a 'database'"
        raise InputError(f"{folder}: holds no annotations: write {form}{more}")
    return found[0]


def _why_not(path: Path) -> str:
    """Why a file does not hold annotations; empty if it does. Of a table only the beginning is read."""
    try:
        if path.suffix.lower() not in TABLES:
            is_database = isinstance(read_json(path).get("database"), dict)
            return "" if is_database else f"{path.name}: has no 'database'"
        with open_regular(path) as file:
            head = file.read(HEAD)
    except InputError as error:
        return str(error)
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    # A wrong encoding is refused when the whole file is read.
    names = table_header(head.decode(encoding, errors="replace")).names
    if "video" in names and "label" in names:
        return ""
    return f"{path.name}: its columns are {shown(', '.join(names))[1:-1]}"


# --- what is written --------------------------------------------------------------------------------------------------


def card_text(name: str, found: Found) -> str:
    """Writes a card, with comments that give the source of its numbers.

    Args:
        name: of the data set.
        found: in its folder.

    Returns:
        YAML.
    """
    split = found.split
    lines = [
        "# Written by `fustal init` from the files in this folder. `fustal validate` checks it; correct it by hand.",
        f"name: {_yaml(name)}",
        f"about: {_yaml('Features of own videos.')}",
        f"root: {_yaml(found.root)}",
        f"annotations: {_yaml(found.annotations)}",
        f"# {split.how}",
        f"train_subset: {_yaml(split.subsets[0])}",
        f"test_subset: {_yaml(split.subsets[1])}",
    ]
    if split.files:
        lines.append(f"train_split: {_yaml(split.files[0])}")
        lines.append(f"test_split: {_yaml(split.files[1])}")
    if found.ignored:
        lines.append("# left out, as these segments are neither actions nor background")
        lines.append(f"ignored_labels: {_yaml(found.ignored)}")
    lines.append("grids:")
    stages = ("generator", "student")[: len(found.grids)]
    for stage, features, step in zip(stages, found.features, found.grids, strict=True):
        fps = step.fps if isinstance(step.fps, str) else f"{step.fps:g}"
        files = f"pattern: {_yaml(features.pattern)}, modalities: {_yaml(features.modalities)}"
        lines.append(f"  # {step.how}")
        lines.append(f"  {stage}: {{{files}, fps: {fps}, stride: {step.stride}, window: {step.window}}}")
    return "\n".join(lines) + "\n"


def _check(folder: Path, card: str, preset: str) -> None:
    """Reads card and preset before they are written, which refuses an invalid name."""
    try:
        validated(Card, yaml.safe_load(card), folder)
    except InputError as error:
        raise InputError(f"{error} (--name NAME)") from None
    Params(**yaml.safe_load(preset))


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Writes all files or none."""
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(atomic(folder / name)).write_text(text, encoding="utf-8")


# --- what is printed --------------------------------------------------------------------------------------------------


def _summary(found: Found) -> list[str]:
    """Lines on annotations, features and split."""
    labels, split = found.labels, found.split
    classes = sorted(set(labels.label))
    counts = (
        f"{len(found.videos)} videos, {len(classes)} classes ({_first(classes)}), {labels.start.notna().sum()} segments"
    )
    lines = [f"annotations: {found.annotations}, {counts}"]
    for features, step in zip(found.features, found.grids, strict=True):
        modalities = f" ({', '.join(features.modalities)})" if features.modalities else ""
        lines.append(f"features: {len(features.files)} videos, {features.pattern}{modalities}; {step.how}")
    lines.append(f"split: {len(split.train)} training and {len(split.test)} test videos, {split.how}")
    return lines + [f"note: {note}" for note in split.notes]


def _notes(found: Found) -> list[str]:
    """Lines on videos that are not used, are used in part, lack features, or have no label."""
    listed = set(found.videos.index)
    stored = stored_videos(found.features)
    train = set(found.split.train)
    used = train.union(found.split.test)
    unlabelled = (train & listed).difference(found.labels.video)
    kinds = (
        (
            unlabelled,
            "training videos are listed without a label, which means that no action occurs in them: "
            "do not list videos whose content is unknown",
        ),
        (
            [video for video, length in found.features[0].lengths.items() if length > LONG],
            f"videos have more than {LONG} snippets, of which the generator uses {LONG}, evenly spaced",
        ),
        (
            [video for video, length in found.features[-1].lengths.items() if length > LONGEST],
            f"videos have more than {LONGEST} snippets: the student trains on parts of them",
        ),
        (used - stored, "videos of the split files have no features: fustal validate lists them"),
        (listed - stored - used, "annotated videos have no features: left out"),
        ((listed & stored) - used, "annotated videos are in neither part: left out"),
        (stored - listed - used, "feature files belong to no annotated video: left out"),
    )
    return [f"note: {len(videos)} {what} ({_first(videos)})" for videos, what in kinds if len(videos)]


def _first(names: Collection[str]) -> str:
    """The first of some names, for a message."""
    return one_line(", ".join(sorted(names)[:EXAMPLES])) + ", ..." * (len(names) > EXAMPLES)


def _oddities(card: Path) -> list[str]:
    """What is unusual or wrong about labels and times, a line for each kind of problem."""
    dataset, problems = inspect_dataset(card)
    problems += annotation_problems(dataset) + action_problems(dataset)
    problems += segment_problems(dataset, FeatureStore(dataset, "student"))
    lines = []
    for problem in grouped(problems):
        if "without a label" not in problem.what:  # a note counts these videos
            lines.append(_line(problem))
    return lines


def _line(problem: Problem) -> str:
    """A problem without its file."""
    kind = "note" if problem.warning else "error"
    return f"{kind}: {problem.what}: {problem.fix}" if problem.fix else f"{kind}: {problem.what}"


def _as_name(text: str) -> str:
    """A folder's name without the characters that names of data sets and runs may not have."""
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".-")[:100] or "own"


def _yaml(value: object) -> str:
    """A value as JSON, which is valid YAML."""
    return json.dumps(value, ensure_ascii=False)
