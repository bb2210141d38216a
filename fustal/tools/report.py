"""One page of HTML that shows a run: its stages, its results, and everything needed to repeat it.

The page is made from the run's files only; a run of which only some stages have finished has a page with these. The
template `report.html` escapes all text and loads nothing from elsewhere. The figures are those of notebook 05.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from pydantic import BaseModel, ConfigDict, FiniteFloat

from fustal import viz
from fustal.data.cards import Dataset, hold_out, load_dataset
from fustal.data.files import one_line, open_regular, read_json, validated
from fustal.data.names import find_run
from fustal.data.results import read_results
from fustal.data.writing import STARTED, atomic, check_output
from fustal.evaluation.balance import label_counts, label_warnings
from fustal.evaluation.detections import mean_average_precision, precision_recall, summary
from fustal.evaluation.diagnosis import average_precision_by_length, error_shares
from fustal.evaluation.labels import label_measures
from fustal.exceptions import InputError
from fustal.params import Params, parse_grid
from fustal.runs.chain import CHAIN, DETECTIONS, LABELS, UPPER_BOUND, Stage
from fustal.runs.identity import RECORD
from fustal.runs.stage import changed_file
from fustal.tools.export import MIN_SCORE
from fustal.tools.sweeps.tables import LABEL_MEASURES, STAGE_NAMES, TIoU, digits_of
from fustal.tools.templates import rendered

LOGS = {
    "generator": "generator/log.csv",
    "student": "student/log.csv",
    "upper_bound": "student/upper_bound/log.csv",
    "distilled": "distilled/log.csv",
}
"""Stage -> the losses of its training, step by step."""

IN_TIMELINES = {"generator": 0.4, "student": MIN_SCORE, "distilled": MIN_SCORE}
"""Stage -> minimum score of the detections in the timelines."""

RELABELLED = ("pseudo labels", "teacher", "distilled")
"""Labels whose numbers are compared for each class, before and after distillation."""

TIMELINES = 4
"""Number of test videos with a timeline: the first ones; they are not selected."""


MIN_AXIS = 1e-3
"""Seconds, minimum length of a timeline's axis."""


class ReportRecord(BaseModel):
    """The entries of a stage's record that the page shows."""

    parameters: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: FiniteFloat
    provenance: dict[str, Any]
    taken_from: str = ""


class ReportMetrics(BaseModel):
    """The entries of metrics.json that the page shows: percent, counts and seconds, by stage and measure."""

    model_config = ConfigDict(strict=True)

    mAP: dict[str, dict[TIoU, FiniteFloat]] = {}
    labels: dict[str, dict[str, FiniteFloat]] = {}


@dataclass(frozen=True)
class Table:
    """A table of measures.

    Attributes:
        columns: the measures.
        rows: title and numbers of each stage, as text.
    """

    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
        alt: text for readers who cannot see it.
        source: the picture itself, as a data URL.
        caption: the text below it.
    """

    alt: str
    source: str
    caption: str


@dataclass(frozen=True)
class ReportedRun:
    """A run, and its stages that have finished.

    Attributes:
        name: of the run.
        folder: of the run.
        records: of the stages that have finished, in the order of the chain.
        parameters: as the last of these stages recorded them.
        params: the same, validated, without those that this version does not have.
        dataset: with the videos that the run held out; None where it cannot be read.
    """

    name: str
    folder: Path
    records: dict[str, ReportRecord]
    parameters: dict[str, Any]
    params: Params
    dataset: Dataset | None

    def truth(self, subset: str) -> pd.DataFrame:
        """The true segments of "train" or "test"; empty where there are none."""
        return self.dataset.segments_of(subset) if self.dataset else pd.DataFrame(columns=["video", "label"])

    def has(self, file: str) -> bool:
        """Whether a file can be shown: it exists, and no unfinished stage has left it.

        Args:
            file: its path in the run's folder, e.g. "student/log.csv".
        """
        stage = Path(file).parts[0]
        # A stage's folder without a started.json holds files that no stage made, such as another method's.
        finished = stage in self.records or not (self.folder / stage / STARTED).exists()
        if "upper_bound" in file and not self.params.upper_bound_epochs:
            return False  # left by an earlier run with an upper bound
        return finished and (self.folder / file).exists()

    def results(self, files: Mapping[str, str]) -> dict[str, pd.DataFrame]:
        """Proposals, labels or detections of the stages that have them.

        Args:
            files: stage -> its file.
        """
        videos = self.dataset.videos.index if self.dataset else None
        classes = self.dataset.classes if self.dataset else None
        return {
            name: read_results(self.folder / file, videos, classes) for name, file in files.items() if self.has(file)
        }


def report(name: str, out: Path | None = None) -> Path:
    """Writes the page of a run, completely or not at all.

    Args:
        name: of the run, see `names.find_run`.
        out: file, .html or .htm; None: `report.html` in the run's folder.

    Returns:
        The file.

    Raises:
        InputError: there is no such run, no stage of it has finished, or its files are wrong.
    """
    if out and out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: must end in .html or .htm")
    run = read_run(name)
    path = out or run.folder / "report.html"
    check_output(path)
    text = page(run, path.parent)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return path


def read_run(name: str) -> ReportedRun:
    """Reads the records of a run's finished stages.

    Args:
        name: see `names.find_run`.

    Raises:
        InputError: there is no such run, no stage of it has finished, or a record is wrong.
    """
    folder = find_run(name, f"*/{RECORD}")
    records = {}
    for stage in CHAIN:
        path = folder / stage / RECORD
        if path.exists():
            records[stage] = validated(ReportRecord, read_json(path), path)
            last = path
    if not records:
        raise InputError(f"{folder}: has not finished any stage")
    parameters = list(records.values())[-1].parameters
    try:
        params = Params(**{name: value for name, value in parameters.items() if name in Params.model_fields})
    except InputError as error:
        raise InputError(f"{last}: {error}") from None
    dataset: Dataset | None = None
    # The run may come from another machine: the page is made without its data set, too.
    with contextlib.suppress(InputError, OSError):
        dataset = hold_out(load_dataset(params.dataset), params.held_out)
    return ReportedRun(folder.name, folder, records, parameters, params, dataset)


def page(run: ReportedRun, where: Path) -> str:
    """The page as text.

    Args:
        run: the run to show.
        where: the folder of the page; its links are relative to it.
    """
    detections = run.results(DETECTIONS | {"upper_bound": UPPER_BOUND})
    labels = run.results(LABELS)
    counts = label_counts({name: labels[name] for name in RELABELLED if name in labels})
    metrics = _metrics_of(run, detections, labels)
    parameters = _parameter_rows(run)
    return rendered(
        "report.html",
        run=run,
        about=run.dataset.about if run.dataset else "",
        stages=[_stage_row(run, stage, where) for stage in CHAIN.values()],
        mean_ap=_table_of(metrics.mAP, STAGE_NAMES),
        labels=_table_of(metrics.labels, {name: name for name in LABELS}, LABEL_MEASURES),
        tested={"videos": len(run.dataset.split("test")) if run.dataset else 0, "segments": len(run.truth("test"))},
        result_figures=list(_result_figures(run, detections, metrics)),
        label_figures=list(_label_figures(metrics)),
        label_counts=_counts_of(counts),
        label_warnings=label_warnings(counts) if tuple(counts) == RELABELLED else [],
        curves=list(_training_figures(run)),
        timelines=list(_timelines(run, detections)),
        changed=[row for row in parameters if row["value"] != row["default"]],
        unchanged=[row for row in parameters if row["value"] == row["default"]],
        provenance=_provenance_rows(run),
    )


def _metrics_of(
    run: ReportedRun, detections: Mapping[str, pd.DataFrame], labels: Mapping[str, pd.DataFrame]
) -> ReportMetrics:
    """The metrics of notebook 05; where it has not finished, the same measures of the stages that have."""
    if "evaluation" in run.records:
        path = run.folder / "evaluation" / "metrics.json"
        return validated(ReportMetrics, read_json(path), path)
    metrics = ReportMetrics()
    test = run.truth("test")
    train = run.truth("train")
    if len(test) and detections:
        tious = parse_grid(run.params.tious)
        ap = {name: mean_average_precision(frame, test, tious) for name, frame in detections.items()}
        metrics.mAP = summary(ap).T.to_dict()
    if len(train):
        metrics.labels = {name: label_measures(frame, train) for name, frame in labels.items()}
    return metrics


def _table_of(
    values: Mapping[str, Mapping[str, float]], titles: Mapping[str, str], measures: Sequence[str] = ()
) -> Table:
    """A table with a row for each stage and a column for each measure.

    Args:
        values: stage -> measure -> value.
        titles: stage -> its title, in the order of the rows. Stages without a title come last, under their name.
        measures: the columns, of which those without any value are left out; empty: all measures that have values.
    """
    stages = [stage for stage in titles if stage in values]
    stages += [stage for stage in values if stage not in titles]
    present: list[str] = []
    for stage in stages:
        present += [measure for measure in values[stage] if measure not in present]
    columns = [measure for measure in measures if measure in present] if measures else present
    rows = []
    for stage in stages:
        cells = [_number(values[stage].get(measure), digits_of(measure)) for measure in columns]
        rows.append((titles.get(stage, stage), cells))
    return Table(columns, rows)


def _stage_row(run: ReportedRun, stage: Stage, where: Path) -> dict[str, str]:
    """A stage of the chain: when it finished, how long it took, its executed notebook, and what is wrong with it."""
    notebook = run.folder / "notebooks" / stage.notebook
    link = quote(os.path.relpath(notebook, where)) if notebook.exists() else ""
    row = {"name": stage.name, "notebook": stage.notebook, "link": link}
    record = run.records.get(stage.name)
    if record is None:
        return row | {"date": "", "seconds": "", "note": "has not finished"}
    date = str(record.provenance.get("date", "")).replace("T", " ").replace("Z", " UTC")
    note = f"taken from {record.taken_from}" if record.taken_from else ""
    changed = changed_file(stage, run.params, run.folder, record.inputs | record.outputs)
    makers = [Path(name).parts[0] for name in record.inputs]
    again = [name for name in makers if name not in run.records and (run.folder / name / STARTED).exists()]
    if changed:
        note = f"{changed} has changed since"
    elif again:
        note = f"has read {again[0]}, which has been started again since"
    return row | {"date": date, "seconds": _number(record.seconds, digits=1), "note": note}


def _parameter_rows(run: ReportedRun) -> list[dict[str, Any]]:
    """Each parameter with its value, its default and its meaning."""
    rows = []
    for name, value in run.parameters.items():
        field = Params.model_fields.get(name)
        default = field.default if field else ""
        meaning = field.description if field else "not a parameter of this version"
        rows.append({"name": name, "value": value, "default": default, "meaning": meaning})
    return rows


def _provenance_rows(run: ReportedRun) -> list[tuple[str, str]]:
    """Code, versions and hardware: each fact once where all stages agree, else the value of each stage."""
    # Both: name -> stage -> value. Packages come last, sorted; other facts stay in the order of the records.
    facts: dict[str, dict[str, str]] = {}
    packages: dict[str, dict[str, str]] = {}
    for stage, record in run.records.items():
        for name, value in record.provenance.items():
            if name == "packages" and isinstance(value, dict):
                for package, version in value.items():
                    packages.setdefault(str(package), {})[stage] = str(version)
            elif name not in ("packages", "date"):  # the date stands in the table of stages
                facts.setdefault(name, {})[stage] = str(value)
    rows = []
    for name, values in [*facts.items(), *sorted(packages.items())]:
        text = "; ".join(f"{stage}: {value}" for stage, value in values.items())
        different = set(values.values())
        rows.append((name, different.pop() if len(different) == 1 else text))
    return rows


def _result_figures(
    run: ReportedRun, detections: Mapping[str, pd.DataFrame], metrics: ReportMetrics
) -> Iterator[Picture]:
    """The figures of notebook 05 on test videos."""
    table = pd.DataFrame(metrics.mAP).T
    truth = run.truth("test")
    if table.size:
        caption = "mAP at each tIoU: low thresholds accept rough borders, high thresholds demand exact ones."
        yield _picture(viz.average_precision(table), caption)
    if not len(truth) or not detections:
        return
    # These figures show one threshold: the middle one.
    tious = parse_grid(run.params.tious)
    tiou = float(tious[len(tious) // 2])
    curves = {}
    class_ap = {}
    errors = {}
    length_ap = {}
    for name, frame in detections.items():
        curves[name] = precision_recall(frame, truth, tiou)
        class_ap[name] = 100 * mean_average_precision(frame, truth, [tiou])[tiou]
        errors[name] = error_shares(frame, truth, tiou)
        length_ap[name] = average_precision_by_length(frame, truth, tiou)
    at = f"at tIoU {tiou:g}"
    yield _picture(viz.precision_recall(curves), f"Precision over recall {at}, all classes in one list.")
    yield _picture(viz.class_ap(pd.DataFrame(class_ap)), f"Average precision of each class {at}.")
    yield _picture(
        viz.error_kinds(pd.DataFrame(errors).T),
        f"Kinds of errors {at} of the best detections, of each class as many as it has actions; and the actions that "
        "no detection finds.",
    )
    yield _picture(viz.length_ap(pd.DataFrame(length_ap).T), f"mAP by length of action, {at}.")


def _label_figures(metrics: ReportMetrics) -> Iterator[Picture]:
    """Precision, recall and F1 of the labels of training videos."""
    rows = {}
    for name, values in metrics.labels.items():
        rows[name] = {measure: values.get(f"{measure} at 0.5") for measure in ("precision", "recall", "f1")}
    table = pd.DataFrame(rows).T
    if table.size:
        yield _picture(viz.quality_bars(table.astype(float).fillna(0) / 100), "Quality of the labels at tIoU 0.5.")


def _counts_of(counts: pd.DataFrame) -> Table:
    """The number of labels of each class, see `label_counts`, as a table."""
    rows = []
    for name, row in zip(counts.index, counts.astype(str).values.tolist(), strict=True):
        rows.append((str(name), row))
    return Table(list(counts.columns), rows)


def _training_figures(run: ReportedRun) -> Iterator[Picture]:
    """The losses of each training."""
    for stage, file in LOGS.items():
        if run.has(file):
            log = _read_log(run.folder / file)
            yield _picture(viz.training_curves(log), f"Training: {STAGE_NAMES[stage]}.")


def _read_log(path: Path) -> pd.DataFrame:
    """The log of a training: step, and a column for each loss."""
    try:
        with open_regular(path) as opened:
            log = pd.read_csv(opened).astype(float)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as the log of a training: {one_line(error)}") from None
    if "step" not in log:
        raise InputError(f"{path}: has no column 'step'")
    return log


def _timelines(run: ReportedRun, detections: Mapping[str, pd.DataFrame]) -> Iterator[Picture]:
    """The detections of each stage in the first test videos, below their true segments where these are known."""
    shown = {name: detections[name] for name in IN_TIMELINES if name in detections}
    if not shown:
        return
    truth = run.truth("test")
    videos = run.dataset.split("test") if run.dataset else list(pd.concat(shown.values()).video.unique())
    for video in videos[:TIMELINES]:
        rows = {}
        if len(truth):
            rows["true segments"] = truth[truth.video == video]
        for name, frame in shown.items():
            rows[name] = frame[(frame.video == video) & (frame.score >= IN_TIMELINES[name])]
        # The axis ends with the video or with the last segment. NaN is an unknown duration, or a row without segments.
        ends = [frame.end.max() for frame in rows.values()]
        if run.dataset:
            ends.append(run.dataset.videos.duration[video])
        duration = max((end for end in ends if not math.isnan(end)), default=0.0)
        duration = max(duration, MIN_AXIS)
        yield _picture(viz.timeline(rows, duration), video)


def _picture(figure: Any, caption: str) -> Picture:
    """A figure of `fustal.viz`, which has an `alt_text`, as it stands in the page."""
    source = viz.as_source(figure, dpi=120, bbox_inches="tight")  # "tight": long names can make a legend wider
    return Picture(alt=figure.alt_text, source=source, caption=caption)


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
