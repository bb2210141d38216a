"""One page of HTML that shows a run: what ran, what came of it, and all that it takes to make it again.

It is made of the run's files alone, so that a run that has only come to some of its stages has a page of these. All of
it is escaped by the template `report.html`, which loads nothing from anywhere; its figures are those of notebook 05.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, FiniteFloat

from fustal import viz
from fustal.data.annotations import read_results
from fustal.data.cards import Dataset, hold_out, load_dataset
from fustal.data.files import one_line, open_regular, read_json, validated
from fustal.data.names import find_run
from fustal.data.writing import atomic, check_output
from fustal.evaluation.balance import label_counts, label_warnings
from fustal.evaluation.detections import mean_average_precision, precision_recall, summary
from fustal.evaluation.diagnosis import average_precision_by_length, error_shares
from fustal.evaluation.labels import label_measures
from fustal.exceptions import InputError
from fustal.params import Params, parse_grid
from fustal.runs.chain import CHAIN
from fustal.runs.stage import changed_file
from fustal.tools.export import LEAST_SCORE
from fustal.tools.sweeps.tables import LABEL_MEASURES, STAGE_NAMES, TIoU

DETECTIONS = {
    "generator": "generator/proposals_test.json",
    "student": "student/detections_test.json",
    "student_ema": "student/detections_test_ema.json",
    "distilled": "distilled/detections_test.json",
    "upper_bound": "student/upper_bound/detections_test.json",
}
"""Stage -> its file on test videos."""

LABELS = {
    "proposals": "generator/proposals_train.json",
    "pseudo labels": "selection/pseudo_labels.json",
    "teacher": "distilled/labels_before.json",
    "distilled": "distilled/labels_train.json",
}
"""Stage -> its labels of training videos."""

LOGS = {
    "generator": "generator/log.csv",
    "student": "student/log.csv",
    "upper_bound": "student/upper_bound/log.csv",
    "distilled": "distilled/log.csv",
}
"""Stage -> the losses of its training."""

IN_TIMELINES = {"generator": 0.4, "student": LEAST_SCORE, "distilled": LEAST_SCORE}
"""Stage -> least score of what the timelines show."""

TIMELINES = 4
"""Test videos that have one: the first, so that nobody has chosen them."""


class Record(BaseModel):
    """What the page needs of a stage.json."""

    parameters: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: FiniteFloat
    provenance: dict[str, Any]
    taken_from: str = ""


class Metrics(BaseModel):
    """What the page needs of metrics.json: percent, counts and seconds, by stage and measure."""

    model_config = ConfigDict(strict=True)

    mAP: dict[str, dict[TIoU, FiniteFloat]] = {}
    labels: dict[str, dict[str, FiniteFloat]] = {}


@dataclass(frozen=True)
class Finished:
    """What a run has come to.

    Attributes:
        name: of the run.
        folder: of the run.
        records: of the stages that have finished, in the chain's order.
        parameters: as the last of them recorded them.
        params: the same without what this version does not know, validated.
        dataset: as the run saw it; None where it cannot be read here.
    """

    name: str
    folder: Path
    records: dict[str, Record]
    parameters: dict[str, Any]
    params: Params
    dataset: Dataset | None

    def truth(self, subset: str) -> pd.DataFrame:
        """The true segments of "train" or "test", if there are any."""
        return self.dataset.segments_of(subset) if self.dataset else pd.DataFrame(columns=["video", "label"])

    def has(self, file: str) -> bool:
        """Whether a file belongs to a finished stage, or was put there by no stage at all."""
        stage = Path(file).parts[0]
        finished = stage in self.records or not (self.folder / stage / "started.json").exists()
        wanted = self.params.upper_bound_epochs or "upper_bound" not in file
        return bool(finished and wanted and (self.folder / file).exists())

    def results(self, files: Mapping[str, str]) -> dict[str, pd.DataFrame]:
        """Proposals, labels or detections of those stages that have them."""
        known = (self.dataset.videos.index, self.dataset.classes) if self.dataset else ()
        return {name: read_results(self.folder / file, *known) for name, file in files.items() if self.has(file)}


def report(name: str, out: Path | None = None) -> Path:
    """Writes the page of a run, atomically.

    Args:
        name: of the run, see `names.find_run`.
        out: file, .html or .htm; None: `report.html` in the run's folder.

    Returns:
        The file.

    Raises:
        InputError: there is no such run, it has finished no stage, or its files are wrong.
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


def read_run(name: str) -> Finished:
    """Reads what the finished stages of a run recorded."""
    folder = find_run(name, "*/stage.json")
    paths = {stage: folder / stage / "stage.json" for stage in CHAIN}
    records = {stage: validated(Record, read_json(path), path) for stage, path in paths.items() if path.exists()}
    if not records:
        raise InputError(f"{folder}: has not finished any stage")
    parameters = list(records.values())[-1].parameters
    try:
        params = Params(**{key: value for key, value in parameters.items() if key in Params.model_fields})
    except InputError as error:
        raise InputError(f"{paths[list(records)[-1]]}: {error}") from None
    try:
        dataset = hold_out(load_dataset(params.dataset), params.held_out)
    except (InputError, OSError):
        dataset = None
    return Finished(folder.name, folder, records, parameters, params, dataset)


def page(run: Finished, where: Path) -> str:
    """The page as text.

    Args:
        run: what it shows.
        where: the folder that it will lie in, from which its links start.
    """
    detections, labels = run.results(DETECTIONS), run.results(LABELS)
    metrics, parameters = measured(run, detections, labels), parameter_rows(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        run=run,
        about=run.dataset.about if run.dataset else "",
        stages=stage_rows(run, where),
        mean_ap=rows_of(metrics.mAP, STAGE_NAMES),
        labels=rows_of(metrics.labels, {name: name for name in LABELS}, LABEL_MEASURES),
        tested={"videos": len(run.dataset.split("test")) if run.dataset else 0, "segments": len(run.truth("test"))},
        result_figures=list(result_figures(run, detections, metrics)),
        label_figures=list(label_figures(metrics)),
        label_warnings=relabelled(labels),
        curves=list(training_figures(run)),
        timelines=list(timelines(run, detections)),
        changed=[row for row in parameters if row["value"] != row["default"]],
        unchanged=[row for row in parameters if row["value"] == row["default"]],
        provenance=provenance_rows(run),
    )


def measured(run: Finished, detections: Mapping[str, pd.DataFrame], labels: Mapping[str, pd.DataFrame]) -> Metrics:
    """What notebook 05 measured; where it has not finished, the same of what there is."""
    if "evaluation" in run.records:
        path = run.folder / "evaluation" / "metrics.json"
        return validated(Metrics, read_json(path), path)
    metrics, test, train = Metrics(), run.truth("test"), run.truth("train")
    if len(test) and detections:
        tious = parse_grid(run.params.tious)
        ap = {name: mean_average_precision(frame, test, tious) for name, frame in detections.items()}
        metrics.mAP = summary(ap).T.to_dict()
    if len(train):
        metrics.labels = {name: label_measures(frame, train) for name, frame in labels.items()}
    return metrics


def rows_of(
    values: Mapping[str, Mapping[str, float]], titles: Mapping[str, str], measures: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A table of measures, as text.

    Args:
        values: stage -> measure -> value.
        titles: stage -> how the table calls it; in the order of its rows, before the stages that it does not name.
        measures: its columns, as far as there are values; none: all.
    """
    stages = sorted(values, key=lambda name: list(titles).index(name) if name in titles else len(titles))
    there = list(dict.fromkeys(measure for stage in stages for measure in values[stage]))
    columns = [measure for measure in measures or there if measure in there]
    rows = [
        (
            titles.get(stage, stage),
            [_number(values[stage].get(column), 0 if column == "labels" else 1) for column in columns],
        )
        for stage in stages
    ]
    return {"columns": columns, "rows": rows}


def stage_rows(run: Finished, where: Path) -> list[dict[str, str]]:
    """A row for each stage of the chain: when it finished, how long it took, its executed notebook, what is wrong."""
    rows = []
    for name, stage in CHAIN.items():
        record, notebook = run.records.get(name), run.folder / "notebooks" / stage.notebook
        row = {"name": name, "notebook": stage.notebook, "date": "", "seconds": "", "note": "has not finished"}
        row["link"] = quote(os.path.relpath(notebook, where)) if notebook.exists() else ""
        if record:
            date = str(record.provenance.get("date", ""))
            row |= {"date": date.replace("T", " ").replace("Z", " UTC"), "seconds": _number(record.seconds, 1)}
            changed = changed_file(stage, run.params, run.folder, record.inputs | record.outputs)
            taken = f"taken from {record.taken_from}" if record.taken_from else ""
            row["note"] = f"{changed} has changed since" if changed else taken
        rows.append(row)
    return rows


def parameter_rows(run: Finished) -> list[dict[str, Any]]:
    """Each parameter with its value, its default and what it is."""
    fields = Params.model_fields
    return [
        {
            "name": name,
            "value": value,
            "default": fields[name].default if name in fields else "",
            "meaning": fields[name].description if name in fields else "not known to this version",
        }
        for name, value in run.parameters.items()
    ]


def provenance_rows(run: Finished) -> list[tuple[str, str]]:
    """What all stages were made with; where they differ, each one's."""
    facts: dict[str, dict[str, str]] = {}
    for stage, record in run.records.items():
        packages = record.provenance.get("packages")
        flat = record.provenance | (packages if isinstance(packages, dict) else {})
        for name in flat.keys() - {"packages", "date"}:
            facts.setdefault(str(name), {})[stage] = str(flat[name])
    order = {name: None for record in run.records.values() for name in record.provenance if name in facts}
    rows = []
    for name in [*order, *sorted(facts.keys() - order.keys())]:
        values = facts[name]
        same = len(set(values.values())) == 1
        rows.append((name, next(iter(values.values())) if same else "; ".join(f"{k}: {v}" for k, v in values.items())))
    return rows


def result_figures(run: Finished, detections: Mapping[str, pd.DataFrame], metrics: Metrics) -> Iterator[dict[str, str]]:
    """The figures of notebook 05 on test videos."""
    table, truth = pd.DataFrame(metrics.mAP).T, run.truth("test")
    if table.size:
        yield _figure(
            viz.average_precision(table), "mAP at each tIoU: on the left rough hits count, on the right borders."
        )
    if not len(truth) or not detections:
        return
    tious = parse_grid(run.params.tious)
    middle = float(tious[len(tious) // 2])
    ap = {name: 100 * mean_average_precision(frame, truth, [middle])[middle] for name, frame in detections.items()}

    def each(measure: Callable[..., Any]) -> dict[str, Any]:
        return {name: measure(frame, truth, middle) for name, frame in detections.items()}

    at = f"at tIoU {middle:g}"
    yield _figure(viz.precision_recall(each(precision_recall)), f"Precision over recall {at}, all classes in one list.")
    yield _figure(viz.class_ap(pd.DataFrame(ap)), f"Average precision of each class {at}.")
    yield _figure(
        viz.error_kinds(pd.DataFrame(each(error_shares)).T),
        f"What the best detections are {at}, as many of each class as it has actions; and the actions that none finds.",
    )
    yield _figure(viz.length_ap(pd.DataFrame(each(average_precision_by_length)).T), f"mAP by length of action, {at}.")


def label_figures(metrics: Metrics) -> Iterator[dict[str, str]]:
    """Precision, recall and F1 of the labels of training videos."""
    names = ("precision", "recall", "f1")
    table = pd.DataFrame({k: {name: v.get(f"{name} at 0.5") for name in names} for k, v in metrics.labels.items()})
    if table.size:
        yield _figure(viz.quality_bars(table.T.astype(float).fillna(0) / 100), "Quality of the labels at tIoU 0.5.")


def relabelled(labels: Mapping[str, pd.DataFrame]) -> list[str]:
    """What distillation did to the labels of single classes, where it is conspicuous."""
    stages = ("pseudo labels", "teacher", "distilled")
    return label_warnings(label_counts({name: labels[name] for name in stages})) if set(stages) <= set(labels) else []


def training_figures(run: Finished) -> Iterator[dict[str, str]]:
    """The losses of each training."""
    for stage, file in LOGS.items():
        if not run.has(file):
            continue
        try:
            with open_regular(run.folder / file) as opened:
                log = pd.read_csv(opened).astype(float)
        except (ValueError, OSError) as error:
            what = f"cannot be read as the log of a training: {one_line(error)}"
            raise InputError(f"{run.folder / file}: {what}") from None
        if "step" not in log:
            raise InputError(f"{run.folder / file}: has no column 'step'")
        yield _figure(viz.training_curves(log), f"Training: {STAGE_NAMES[stage]}.")


def timelines(run: Finished, detections: Mapping[str, pd.DataFrame]) -> Iterator[dict[str, str]]:
    """What the stages say of the first test videos, below what happens in them where that is known."""
    shown, truth = {name: detections[name] for name in IN_TIMELINES if name in detections}, run.truth("test")
    if not shown:
        return
    seen = pd.concat(shown.values()).video.unique()
    for video in (run.dataset.split("test") if run.dataset else list(seen))[:TIMELINES]:
        rows = {"true segments": truth[truth.video == video]} if len(truth) else {}
        for name, frame in shown.items():
            rows[name] = frame[(frame.video == video) & (frame.score >= IN_TIMELINES[name])]
        ends = [run.dataset.videos.duration[video]] if run.dataset else []
        duration = pd.Series([*ends, *(frame.end.max() for frame in rows.values()), 1e-3], dtype=float).max()
        yield _figure(viz.timeline(rows, duration), video)


def _figure(figure: Figure, caption: str) -> dict[str, str]:
    source = viz.as_source(figure, dpi=120, bbox_inches="tight")  # also where long names make a legend wider
    return {"alt": figure.alt_text, "source": source, "caption": caption}


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
