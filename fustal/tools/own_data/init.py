"""A data-set card and a preset for a folder of one's own: found out by looking, and told.

The page "Your own data" (docs/own_data.md) says what is looked for and by which rules.
"""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fustal.data.annotations import parse_annotations
from fustal.data.cards import Card, inspect_dataset
from fustal.data.features import FeatureStore
from fustal.data.files import MARKS, one_line, open_regular, read_json, shown, validated
from fustal.data.problems import EXAMPLES, grouped
from fustal.data.text import TABLES, table_header
from fustal.data.writing import atomic
from fustal.exceptions import InputError, Problem
from fustal.params import Params
from fustal.tools.own_data.layout import Features, find_features, walk
from fustal.tools.own_data.sizes import LONG, LONGEST, Known, preset_text
from fustal.tools.own_data.splits import OURS, Split, find_split
from fustal.tools.own_data.timing import Given, Step, find_grids
from fustal.tools.own_data.validation import annotation_problems, plain_name, segment_problems
from fustal.tools.own_data.wtalc import GRID, convert, is_wtalc

AMBIGUOUS = "ambiguous"
"""THUMOS'14's label for what counts neither as an action nor as none."""

HEAD = 100_000
"""Bytes of a table that are read to see whether it is one of labels."""


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
        trust: read pickles of W-TALC's layout, see `fustal.tools.own_data.wtalc`.
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
            newer = [path.name for path in folder.rglob("*.npy") if _is_newer(path, folder / root)]
            if newer:
                what = f"is older than {shown(newer[0])}, from which it was converted"
                raise InputError(f"{folder / root}: {what}: move it away to have it made anew")
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
    wrong = grouped(problem for problem in problems if not problem.warning)
    if wrong and (videos.empty or labels.empty):
        raise InputError(f"{wrong[0]}: {wrong[0].fix}")
    unread = grouped(p for p in problems if not p.warning and p.video is not None and p.video not in videos.index)
    if unread:  # whose part and labels are unknown
        raise InputError(f"{unread[0]}: {unread[0].fix}")
    ignored = sorted(label for label in set(labels.label) if plain_name(label) == AMBIGUOUS)
    labels = labels[~labels.label.isin(ignored)]
    features = find_features(data, videos.index)
    split = find_split(data, videos, set(labels.video), features, file)
    grids = find_grids(features, videos, given)
    inside = file.resolve().is_relative_to(data.resolve())
    place = file.resolve().relative_to(data.resolve()).as_posix() if inside else str(file.resolve())
    card = card_text(name, root, place, split, features, grids, ignored)
    known = _known(videos, labels, split, features, grids)
    preset = preset_text(_yaml(name), known)
    texts = {f"{root}/{file}": "\n".join([OURS, *videos, ""]) for file, videos in split.new.items()}
    _check(folder, card, preset)
    _write(folder, texts | {"card.yaml": card, "params.yaml": preset})
    classes = sorted(set(labels.label))
    named = one_line(", ".join(classes[:EXAMPLES])) + ", ..." * (len(classes) > EXAMPLES)
    counts = f"{len(videos)} videos, {len(classes)} classes ({named}), {labels.start.notna().sum()} segments"
    return [
        f"annotations: {place}, {counts}",
        *(f"features: {len(f.files)} videos, {_said(f)}; {step.how}" for f, step in zip(features, grids, strict=True)),
        f"split: {len(split.train)} training and {len(split.test)} test videos, {split.how}",
        *(f"note: {note}" for note in split.notes),
        *_notes(videos, set(labels.video), features, split, known),
        *_oddities(folder / "card.yaml"),
        f"wrote card.yaml, params.yaml{''.join(f', {file}' for file in split.new)}; next:",
        f"  fustal validate {shlex.quote(str(folder / 'card.yaml'))}",
        f"  fustal run {shlex.quote(str(folder / 'params.yaml'))}",
    ]


def _known(
    videos: pd.DataFrame, labels: pd.DataFrame, split: Split, features: list[Features], grids: list[Step]
) -> Known:
    """What the sizes of the preset follow from."""
    fps = videos.fps.median() if grids[0].fps == "annotation" else grids[0].fps
    shorter, longer = (np.array([*found.lengths.values()]) for found in (features[0], features[-1]))
    segments = labels.dropna()
    return Known(
        videos=len(split.train),
        classes=labels.label.nunique(),
        seconds=float(np.median(shorter) * grids[0].stride / fps),
        generator=shorter,
        student=longer,
        most_actions=int(segments.groupby("video").size().max()) if len(segments) else 0,
        segments=bool(segments.video.isin(split.train).any()),
    )


def _is_newer(path: Path, converted: Path) -> bool:
    """Whether a file of W-TALC's layout was changed after the conversion."""
    made = converted / "gt.json"
    if not made.exists() or path.is_relative_to(converted):
        return False
    return path.stat().st_mtime_ns > made.stat().st_mtime_ns


def find_annotations(folder: Path) -> Path:
    """The JSON with a `database`, or the table with `video` and `label`, not more than two folders deep.

    Raises:
        InputError: there is none, or more than one.
    """
    found, others = [], []
    for path in walk(folder, (*TABLES, ".json"), depth=2):
        try:
            reason = _is_no_table(path) if path.suffix.lower() in TABLES else _is_no_database(path)
        except InputError as error:
            reason = str(error)
        if reason:
            others.append(reason)
        else:
            found.append(path)
    if len(found) > 1:
        listed = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise InputError(f"{folder}: holds several annotations ({listed}): choose by --annotations FILE")
    if not found:
        more = f" ({others[0]})" if others else ""
        form = "a CSV with columns video and label, or a JSON with a 'database'"
        raise InputError(f"{folder}: holds no annotations: write {form}{more}")
    return found[0]


def _is_no_table(path: Path) -> str:
    """Why a table is none of labels; empty: it is one. Only its beginning is read; the encoding is checked later."""
    with open_regular(path) as file:
        head = file.read(HEAD)
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    names = table_header(head.decode(encoding, errors="replace")).names
    return "" if {"video", "label"} <= set(names) else f"{path.name}: its columns are {shown(', '.join(names))[1:-1]}"


def _is_no_database(path: Path) -> str:
    """Why a JSON is no annotations; empty: it is such."""
    return "" if isinstance(read_json(path).get("database"), dict) else f"{path.name}: has no 'database'"


def card_text(
    name: str,
    root: str,
    annotations: str,
    split: Split,
    features: list[Features],
    grids: list[Step],
    ignored: list[str],
) -> str:
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
    if ignored:
        lines += ["# what has this label is left out: it marks what is neither an action nor none"]
        lines += [f"ignored_labels: {_yaml(ignored)}"]
    lines.append("grids:")
    for stage, found, step in zip(("generator", "student"), features, grids, strict=False):
        fps = step.fps if step.fps == "annotation" else f"{step.fps:g}"
        lines.append(f"  # {step.how}")
        entries = f"fps: {fps}, stride: {step.stride}, window: {step.window}"
        lines.append(
            f"  {stage}: {{pattern: {_yaml(found.pattern)}, modalities: {_yaml(found.modalities)}, {entries}}}"
        )
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


def _oddities(card: Path) -> list[str]:
    """What is odd, or wrong, about labels and times, a line for each kind."""
    dataset, problems = inspect_dataset(card)
    problems += annotation_problems(dataset) + segment_problems(dataset, FeatureStore(dataset, "student"))
    told = [problem for problem in grouped(problems) if "without a label" not in problem.what]  # by a note
    return [_line(problem) for problem in told]


def _line(problem: Problem) -> str:
    """A problem without its file."""
    return f"{'note' if problem.warning else 'wrong'}: {problem.what}{': ' * bool(problem.fix)}{problem.fix}"


def _notes(videos: pd.DataFrame, labelled: set[str], features: list[Features], split: Split, known: Known) -> list[str]:
    """What is not used, or will be missing, or is taken to mean something."""
    stored = set.intersection(*(set(found.files) for found in features))
    used = {*split.train, *split.test}
    counts = (
        (
            len({*split.train} & set(videos.index) - labelled),
            "training videos are listed without a label: nothing happens in them; those of which nothing is known, "
            "to be localised, must not be listed",
        ),
        (
            (known.generator > LONG).sum(),
            f"videos have more than {LONG} snippets, of which the generator takes {LONG}, evenly spaced",
        ),
        (
            (known.student > LONGEST).sum(),
            f"videos have more than {LONGEST} snippets: the student trains on parts of them",
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
