"""The table of results: read from the `metrics.json` of runs, mean ± std over seeds."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from fustal import InputError
from fustal.files import read_json
from fustal.runs import OUTPUTS
from fustal.writing import atomic

STAGE_NAMES = {
    "generator": "generator",
    "student": "student on pseudo labels",
    "student_ema": "student, EMA weights",
    "distilled": "distilled student",
    "upper_bound": "same student on true segments",
    "given": "another method's detections",
}


LABEL_MEASURES = (
    *("precision at 0.5", "recall at 0.5", "f1 at 0.5", "mean tIoU", "boundary error (s)", "coverage", "labels"),
)
"""Measures of labels that the table shows; `metrics.json` has more."""


def collect(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Reads the metrics of runs into one tidy frame.

    Args:
        runs: names below `outputs/`, or paths of `metrics.json` files.

    Returns:
        Frame with run (without its seed), dataset, seed, stage, measure, value.
    """
    rows = []
    for item in runs:
        path = Path(item) if str(item).endswith(".json") else OUTPUTS / item / "evaluation" / "metrics.json"
        metrics = read_json(path)
        try:
            about = {"run": re.sub(r"-seed\d+$", "", metrics["run"]), "seed": metrics["parameters"]["seed"]}
            about |= {"dataset": metrics["dataset"], "test": metrics["test"]}
            rows += [about | measure for measure in _measures(metrics)]
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: is not the metrics of a run ({error!r})") from None
    return pd.DataFrame(rows)


def collect_sweeps(folders: Sequence[str]) -> pd.DataFrame:
    """All that the jobs of some sweeps measured, with what they were made with.

    Args:
        folders: of the sweeps; or their URLs on any file system that fsspec knows.

    Returns:
        Tidy frame: sweep, run (the job, by its folder: the metrics of equal jobs are copies), dataset, test, stage,
        measure, value, the parameters, and versions and hardware with the prefix "made.".

    Raises:
        InputError: there are no metrics in one of them.
    """
    frames = []
    for folder in folders:
        system, root = fsspec.url_to_fs(folder)
        paths = sorted(system.glob(f"{root}/*/evaluation/metrics.json"))
        if not paths:
            raise InputError(f"{folder}: holds no <job>/evaluation/metrics.json")
        for path in paths:
            job = {"sweep": Path(root).name, "run": Path(path).parts[-3]}
            frames.append(_job_rows(path, system.cat_file(path), job))
    first = ["sweep", "run", "dataset", "test", "stage", "measure", "value"]
    frame = pd.concat(frames, ignore_index=True)
    return frame[first + [name for name in frame if name not in first]]


def _job_rows(path: str, content: bytes, job: dict[str, str]) -> pd.DataFrame:
    """What one job measured, a row a measure; its parameters and what it was made with are the same in all."""
    try:
        metrics = json.loads(content)
        rows = pd.DataFrame(_measures(metrics)).assign(**job, dataset=metrics["dataset"], test=metrics["test"])
        made = metrics["provenance"] | metrics["provenance"]["packages"]
        made = {f"made.{name}": value for name, value in made.items() if name != "packages"}
        about = {name: value for name, value in metrics["parameters"].items() if name not in rows}
        return rows.assign(**about | made)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not the metrics of a run ({error!r})") from None


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame as CSV or Parquet, as the file's name says, atomically; returns the path."""
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{path}: must end in .csv or .parquet")
    with atomic(path) as temporary:
        frame.to_parquet(temporary) if path.suffix == ".parquet" else frame.to_csv(temporary, index=False)
    return path


def _measures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Stage, measure and value of everything that a run measured."""
    labels = {f"labels/{name}": values for name, values in metrics["labels"].items()}
    video_level = {stage: {"video-level mAP": value} for stage, value in metrics.get("video-level mAP", {}).items()}
    return [
        {"stage": stage, "measure": name, "value": value}
        for part in (metrics["mAP"], video_level, labels)
        for stage, values in part.items()
        for name, value in values.items()
    ]


def table(results: pd.DataFrame) -> str:
    """Markdown: for each run, mAP of every stage and quality of the labels, in percent, mean ± std over seeds."""
    blocks = []
    for run, part in results.groupby("run", sort=False):
        seeds = sorted(part.seed.unique())
        blocks.append(
            f"**{run}** — data set {part.dataset.iloc[0]}, tested on {part.test.iloc[0]}; "
            f"{len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}), mean ± std, last step"
        )
        stages = [name for name in STAGE_NAMES if name in set(part.stage)]
        mean_ap = part[part.measure.str.match(r"[\d.:]+$")]
        blocks.append(_markdown(mean_ap, {STAGE_NAMES[name]: name for name in stages}, "mAP at tIoU"))
        blocks += [line for line in (_gain(mean_ap), _ratio(mean_ap)) if line]
        labels = {name.removeprefix("labels/"): name for name in part.stage.unique() if name.startswith("labels/")}
        if labels:
            blocks.append(_markdown(part[part.measure.isin(LABEL_MEASURES)], labels, "labels of training videos"))
    return "\n\n".join(blocks)


def _gain(mean_ap: pd.DataFrame) -> str:
    """What all stages together are worth, paired by seed; empty where one of the two ends is missing."""
    measure, by_stage = _averages(mean_ap)
    if not {"generator", "distilled"} <= set(by_stage):
        return ""
    gain = (by_stage.distilled - by_stage.generator).dropna().to_numpy()
    between = " [{:+.1f}, {:+.1f}]".format(*interval(gain)) if len(gain) > 1 else ""
    return f"Distilled student - generator, average over {measure}: {gain.mean():+.1f}{between}"


def _ratio(mean_ap: pd.DataFrame) -> str:
    """What weak labels reach of what true segments do; empty where there is no upper bound."""
    measure, by_stage = _averages(mean_ap)
    if not {"distilled", "upper_bound"} <= set(by_stage):
        return ""
    share = _cell((by_stage.distilled / by_stage.upper_bound).dropna(), 2)
    return f"Distilled student / same student on true segments, average over {measure}: {share}"


def _averages(mean_ap: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The widest range of tIoU, and the mAP over it: a row a seed, a column a stage."""
    measure = mean_ap.measure.iloc[-1]
    return measure, mean_ap[mean_ap.measure == measure].pivot_table(index="seed", columns="stage", values="value")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of 95 % of the mean; the same values give the same interval.

    With five values it is too narrow: it holds the true mean in some 85 of 100 cases, not 95.

    >>> low, high = interval(np.array([1.0, 2.0, 3.0]))
    >>> 1 <= low < 2 < high <= 3
    True
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(0)
    found = bootstrap((values,), np.mean, method="percentile", rng=random).confidence_interval
    return float(found.low), float(found.high)


def insert(text: str, path: Path, name: str = "results") -> None:
    """Puts a text between two markers of a file, `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise InputError(f"{path}: has no lines {begin} and {end}")
    head, tail = page.split(begin)[0], page.split(end)[1]
    with atomic(path) as temporary:
        temporary.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def _markdown(part: pd.DataFrame, stages: dict[str, str], corner: str) -> str:
    measures = list(dict.fromkeys(part.measure[part.stage.isin(stages.values())]))
    lines = [[corner, *measures], ["---"] + ["---:"] * len(measures)]
    for title, stage in stages.items():
        values = {measure: part.value[(part.stage == stage) & (part.measure == measure)] for measure in measures}
        lines.append([title, *(_cell(cell, 0 if name == "labels" else 1) for name, cell in values.items())])
    return markdown_lines(lines)


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Cells as the lines of a table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values: pd.Series, digits: int) -> str:
    if values.empty:
        return "—"
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"
