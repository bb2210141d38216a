"""Tables of results: `metrics.json` files of runs and sweeps as frames, and as Markdown with mean ± std over seeds."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import fsspec
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from fustal.data.files import digest, explain, one_line, read_json, read_text
from fustal.data.names import find_run
from fustal.data.writing import atomic, check_output
from fustal.exceptions import InputError
from fustal.tools.sweeps.intervals import interval

STAGE_NAMES = {
    "generator": "generator",
    "student": "student on pseudo labels",
    "student_ema": "student, EMA weights",
    "distilled": "distilled student",
    "upper_bound": "same student on true segments",
    "given": "another method's detections",
}
"""Title of each stage in the table, in the order of its rows."""

LABEL_MEASURES = (
    "precision at 0.5",
    "recall at 0.5",
    "f1 at 0.5",
    "mean tIoU",
    "boundary error (s)",
    "start error (s)",
    "end error (s)",
    "coverage",
    "labels",
)
"""Measures of labels that the table shows; `metrics.json` has more."""


def digits_of(measure: str) -> int:
    """Digits after the point: two of seconds, none of a number of labels, one of percent."""
    if measure.endswith("(s)"):
        return 2
    return 0 if measure == "labels" else 1


TIoU = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(:\d+(\.\d+)?)?$")]
"""A threshold, or the ends of a range of them."""

Values = Annotated[dict[TIoU, FiniteFloat], Field(min_length=1)]
"""Percent at each threshold and over ranges of thresholds, the widest range last."""


class Seeded(BaseModel):
    """Parameters of a run; only the seed is checked here."""

    model_config = ConfigDict(strict=True, extra="allow")

    seed: int


class Metrics(BaseModel):
    """A `metrics.json`: percent, counts and seconds, by stage and measure."""

    model_config = ConfigDict(strict=True)

    run: str
    dataset: str
    test: str
    mAP: dict[str, Values] = Field(min_length=1)
    video_level: dict[str, FiniteFloat] = Field(default={}, alias="video-level mAP")
    by_class: dict[str, Annotated[dict[str, Values], Field(min_length=1)]] = Field(default={}, alias="AP")
    labels: dict[str, dict[str, FiniteFloat]]
    parameters: Seeded
    provenance: dict[str, Any] = {}

    def measures(self) -> list[dict[str, Any]]:
        """A dictionary of stage, measure and value for each value, without those of single classes."""
        labels = {f"labels/{name}": values for name, values in self.labels.items()}
        video_level = {stage: {"video-level mAP": value} for stage, value in self.video_level.items()}
        rows = []
        for part in (self.mAP, video_level, labels):
            for stage, values in part.items():
                rows += [{"stage": stage, "measure": name, "value": value} for name, value in values.items()]
        return rows


def read_metrics(runs: Sequence[str | Path]) -> dict[Path, Metrics]:
    """Reads the metrics of runs.

    Args:
        runs: names or folders of runs (see `names.find_run`), or paths of `metrics.json` files.

    Returns:
        File -> its content. `run` is the name of the folder without the seed: the name in the file can be another one,
        as jobs of a sweep share the files of equal stages.

    Raises:
        InputError: there is no such run, it has not been evaluated, its file is broken, or it is given twice.
    """
    found: dict[Path, Metrics] = {}
    seen: set[tuple[str, int]] = set()
    for item in runs:
        path = Path(item)
        if not os.path.isfile(path):
            path = find_run(item, "evaluation/metrics.json") / "evaluation" / "metrics.json"
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file: run notebook 05_evaluation.ipynb first")
        metrics = parsed(read_json(path), path)
        if path.absolute().parts[-2:] == ("evaluation", "metrics.json"):
            metrics.run = path.absolute().parts[-3]
        metrics.run = re.sub(r"-seed\d+$", "", metrics.run)
        key = metrics.run, metrics.parameters.seed
        if key in seen:
            raise InputError(f"{path}: run {key[0]!r} with seed {key[1]} is given twice")
        seen.add(key)
        found[path] = metrics
    return found


def changed_since(runs: Sequence[str | Path]) -> list[str]:
    """Runs whose files were made again after their evaluation: their metrics are out of date.

    Args:
        runs: see `read_metrics`.

    Returns:
        A line for each such run.
    """
    lines = []
    for path in read_metrics(runs):
        record = path.with_name("stage.json")
        inputs = read_json(record).get("inputs") if record.is_file() else None
        if not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            file = path.parents[1] / name
            if file.is_file() and digest(file) != value:
                lines.append(f"{path}: is out of date: {name} was made again since (evaluate again with fustal run)")
                break
    return lines


def parsed(values: Any, path: str | Path) -> Metrics:
    """Validates the content of a `metrics.json`.

    Args:
        values: the content.
        path: of the file, for messages.

    Raises:
        InputError: the first entry that is missing or of a wrong type.
    """
    try:
        return Metrics.model_validate(values)
    except ValidationError as error:
        what = explain(error.errors()[0], Metrics, "entry")
        raise InputError(f"{path}: is not the metrics of a run ({what})") from None


def collect(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Reads the metrics of runs into one frame, one row per value.

    Args:
        runs: see `read_metrics`.

    Returns:
        Frame with run (without its seed), dataset, test, seed, stage, measure, value.
    """
    rows = []
    for metrics in read_metrics(runs).values():
        about = {"run": metrics.run, "seed": metrics.parameters.seed, "dataset": metrics.dataset, "test": metrics.test}
        rows += [about | measure for measure in metrics.measures()]
    return pd.DataFrame(rows)


def collect_sweeps(folders: Sequence[str]) -> pd.DataFrame:
    """Reads the metrics of all jobs of sweeps, with their parameters, versions and hardware.

    Args:
        folders: of the sweeps, or their URLs on a file system that fsspec supports.

    Returns:
        One row per value: sweep, run (name of the job's folder), dataset, test, stage, measure, value, the parameters,
        and versions and hardware with the prefix "made.".

    Raises:
        InputError: a folder without metrics, or broken metrics.
    """
    frames = []
    for folder in folders:
        system, root = fsspec.url_to_fs(folder)
        # Listed without a pattern: the folder's name may contain brackets, which have a meaning in patterns.
        jobs = sorted(system.ls(root, detail=False)) if system.isdir(root) else []
        candidates = [f"{job}/evaluation/metrics.json" for job in jobs]
        paths = [path for path in candidates if system.isfile(path)]
        if not paths:
            raise InputError(f"{folder}: contains no <job>/evaluation/metrics.json")
        for path in paths:
            job = {"sweep": Path(root).name, "run": Path(path).parts[-3]}
            frames.append(_job_rows(path, system.cat_file(path), job))
    first = ["sweep", "run", "dataset", "test", "stage", "measure", "value"]
    frame = pd.concat(frames, ignore_index=True)
    return frame[first + [name for name in frame if name not in first]]


def _job_rows(path: str, content: bytes, job: dict[str, str]) -> pd.DataFrame:
    """The rows of one job: a value each, with the same parameters, versions and hardware in all rows."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {one_line(error)}") from None
    metrics = parsed(values, path)
    rows = pd.DataFrame(metrics.measures()).assign(**job, dataset=metrics.dataset, test=metrics.test)
    columns = {name: value for name, value in metrics.parameters.model_dump().items() if name not in rows}
    made = dict(metrics.provenance)
    packages = made.pop("packages", None)  # versions, which become columns of their own
    if isinstance(packages, dict):
        made |= packages
    for name, value in made.items():
        columns[f"made.{name}"] = value
    return rows.assign(**columns)


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame as CSV or Parquet, atomically.

    Args:
        frame: any.
        path: a .csv or .parquet file.

    Returns:
        The path.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{path}: must end in .csv or .parquet")
    check_output(path)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary)
        else:
            frame.to_csv(temporary, index=False)
    return path


def table(results: pd.DataFrame) -> str:
    """Markdown: for each run the mAP of every stage and the quality of the labels, in percent, mean ± std over seeds.

    Args:
        results: of `collect`.
    """
    blocks = []
    for run, part in results.groupby("run", sort=False):
        blocks.append(_heading(run, part))
        seeds = part.seed.nunique()
        stages = [name for name in STAGE_NAMES if name in set(part.stage)]
        mean_ap = part[part.measure.str.match(r"[\d.:]+$")]
        titles = {STAGE_NAMES[name]: name for name in stages}
        blocks.append(_markdown(mean_ap, titles, "mAP at tIoU", seeds))
        for line in (_gain(mean_ap, seeds), _ratio(mean_ap, seeds)):
            if line:
                blocks.append(line)
        labels = {name.removeprefix("labels/"): name for name in part.stage.unique() if name.startswith("labels/")}
        if labels:
            measures = part[part.measure.isin(LABEL_MEASURES)]
            blocks.append(_markdown(measures, labels, "labels of training videos", seeds))
    return "\n\n".join(blocks)


def class_table(runs: Sequence[str | Path]) -> str:
    """Markdown: for each run the average precision of each class, in percent, mean ± std over seeds.

    Args:
        runs: see `read_metrics`.

    Returns:
        A table per run: a row per class, a column per stage.

    Raises:
        InputError: as `read_metrics`; or metrics of an older version without single classes.
    """
    rows = []
    for path, metrics in read_metrics(runs).items():
        if not metrics.by_class:
            raise InputError(
                f"{path}: has no average precision of single classes: run notebook 05_evaluation.ipynb again"
            )
        about = {"run": metrics.run, "seed": metrics.parameters.seed, "dataset": metrics.dataset, "test": metrics.test}
        for stage, classes in metrics.by_class.items():
            for name, values in classes.items():
                at, value = list(values.items())[-1]  # the widest range of tIoU
                rows.append(about | {"measure": STAGE_NAMES.get(stage, stage), "stage": name, "value": value, "at": at})
    blocks = []
    for run, part in pd.DataFrame(rows).groupby("run", sort=False):
        blocks.append(_heading(run, part))
        names = {" ".join(name.split()).replace("|", "\\|"): name for name in part.stage.unique()}
        blocks.append(_markdown(part, names, f"AP over {part['at'].iloc[0]}", part.seed.nunique()))
    return "\n\n".join(blocks)


def _heading(run: str, part: pd.DataFrame) -> str:
    """Name of a run, its data set, and its seeds."""
    seeds = sorted(part.seed.unique())
    spread = "mean ± std, " if len(seeds) > 1 else ""
    return (
        f"**{run}** — data set {part.dataset.iloc[0]}, tested on {part.test.iloc[0]}; "
        f"{_seeds(len(seeds))} ({', '.join(map(str, seeds))}), {spread}last step"
    )


def _seeds(count: int) -> str:
    """A number of seeds in words: "1 seed", "3 seeds"."""
    return "1 seed" if count == 1 else f"{count} seeds"


def _gain(mean_ap: pd.DataFrame, seeds: int) -> str:
    """A line on the gain of the distilled student over the generator, paired by seed; empty if one is missing."""
    measure, by_stage = _averages(mean_ap)
    if not {"generator", "distilled"} <= set(by_stage):
        return ""
    gain = (by_stage.distilled - by_stage.generator).dropna().to_numpy()
    if not len(gain):
        return ""
    low, high = interval(gain)
    between = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    pairs = "" if len(gain) == seeds else f" ({_seeds(len(gain))})"
    return f"Distilled student - generator, average over {measure}: {gain.mean():+.1f}{between}{pairs}"


def _ratio(mean_ap: pd.DataFrame, seeds: int) -> str:
    """A line on the ratio of the distilled student to the upper bound, paired by seed; empty if one is missing."""
    measure, by_stage = _averages(mean_ap)
    if not {"distilled", "upper_bound"} <= set(by_stage):
        return ""
    share = (by_stage.distilled / by_stage.upper_bound).dropna()
    if share.empty:
        return ""
    text = _cell(share, 2, seeds)
    return f"Distilled student / same student on true segments, average over {measure}: {text}"


def _averages(mean_ap: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The widest range of tIoU, and the mAP over it: a row per seed, a column per stage."""
    measure = mean_ap.measure.iloc[-1]
    return measure, mean_ap[mean_ap.measure == measure].pivot_table(index="seed", columns="stage", values="value")


def insert(text: str, path: Path, name: str = "results") -> None:
    """Replaces the text between two markers of a file, `<!-- name: begin -->` and `<!-- name: end -->`.

    Args:
        text: the new text.
        path: of the file.
        name: of the markers.

    Raises:
        InputError: the file cannot be read, or has no such markers.
    """
    begin = f"<!-- {name}: begin -->"
    end = f"<!-- {name}: end -->"
    page = read_text(path)
    if begin not in page or end not in page.split(begin)[1]:
        raise InputError(f"{path}: has no lines {begin} and {end}")
    head, _, rest = page.partition(begin)
    tail = rest.partition(end)[2]
    with atomic(path) as temporary:
        temporary.write_bytes(f"{head}{begin}\n{text}\n{end}{tail}".encode())


def _markdown(part: pd.DataFrame, stages: dict[str, str], corner: str, seeds: int) -> str:
    """A table with a row per stage and a column per measure.

    Args:
        part: rows of one run: stage, seed, measure, value.
        stages: title of a row -> its stage.
        corner: text of the first cell.
        seeds: number of seeds of the run. A row or a cell with fewer seeds shows their number.
    """
    measures = list(dict.fromkeys(part.measure[part.stage.isin(stages.values())]))
    lines = [[corner, *measures], ["---"] + ["---:"] * len(measures)]
    for title, stage in stages.items():
        row = part[part.stage == stage]
        row_seeds = row.seed.nunique()
        line = [title if row_seeds == seeds else f"{title} ({_seeds(row_seeds)})"]
        for name in measures:
            line.append(_cell(row.value[row.measure == name], digits_of(name), row_seeds))
        lines.append(line)
    return markdown_lines(lines)


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Lines of a Markdown table from lists of cells."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values: pd.Series, digits: int, seeds: int) -> str:
    """Mean ± std, and the number of seeds if it has fewer than the row; a dash without values."""
    if values.empty:
        return "—"
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    fewer = "" if len(values) == seeds else f" ({_seeds(len(values))})"
    return f"{values.mean():.{digits}f}{spread}{fewer}"
