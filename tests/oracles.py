"""What limits the student: it is trained on pseudo labels that true segments have corrected in one way.

    python -m tests.oracles outputs/results/sbhar-seed0 outputs/results/shrec22-seed0 [--readme README.md]

A measurement and no result: weak supervision has no true segments. Each run must have its generator and its pseudo
labels; all students have its parameters, and are measured at their last epoch, by their averaged weights.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fustal.borders import choose_borders, move_borders
from fustal.data.cards import Dataset, load_dataset
from fustal.data.features import FeatureStore
from fustal.data.results import as_labels, read_results
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.evaluation.labels import pseudo_label_quality
from fustal.evaluation.matching import times_of, tiou_of
from fustal.labels import add_iou_score, best_labels, weigh_durations
from fustal.params import Params
from fustal.runs.identity import read_record
from fustal.student import detect_videos, train_student
from fustal.tools.sweeps.tables import insert, markdown_lines

TIOUS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
COLUMNS = ["labels' F1 at .5", "mAP at .1", "mAP at .5", "mAP at .7", "average mAP"]


def perfect_borders(labels: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Each label gets start and end of the true segment of its class that it overlaps most; false labels stay."""
    return _corrected(labels, truth, ["video", "label"], ["start", "end"])


def perfect_classes(labels: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Each label gets the class of the true segment that it overlaps most; labels outside of all actions stay."""
    return _corrected(labels, truth, ["video"], ["label"])


def perfect_counts(candidates: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """As many labels as true segments for each class in each video: the most confident ones."""
    wanted = truth.groupby(["video", "label"]).size()
    place = candidates.groupby(["video", "label"]).score.rank(method="first", ascending=False)
    keys = pd.MultiIndex.from_frame(candidates[["video", "label"]])
    return candidates[place.to_numpy() <= wanted.reindex(keys, fill_value=0).to_numpy()].reset_index(drop=True)


def perfect_choice(candidates: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """For each true segment the candidate of its class with the highest tIoU, if any overlaps it."""
    kept = set()
    groups = candidates.groupby(["video", "label"]).indices
    for key, true_rows in truth.groupby(["video", "label"]).indices.items():
        rows = groups.get(key)
        if rows is None:
            continue
        tiou = pairs(truth.iloc[true_rows], candidates.iloc[rows])
        best = tiou.argmax(axis=1)
        kept.update(rows[best[tiou.max(axis=1) > 0]])
    return candidates.iloc[sorted(kept)].reset_index(drop=True)


def pairs(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """tIoU (A, B) of all pairs of segments, whatever their videos and classes."""
    return tiou_of(times_of(a)[:, :, None], times_of(b)[:, None])


def _corrected(labels: pd.DataFrame, truth: pd.DataFrame, group: list[str], corrected: list[str]) -> pd.DataFrame:
    """Labels that take some columns from the true segment of their group that they overlap most."""
    result = labels.copy()
    true_rows_of = truth.groupby(group).indices
    for key, rows in labels.groupby(group).indices.items():
        true_rows = true_rows_of.get(key)
        if true_rows is None:
            continue
        tiou = pairs(labels.iloc[rows], truth.iloc[true_rows])
        overlaps = tiou.max(axis=1) > 0
        for column in corrected:
            values = truth[column].to_numpy()[true_rows[tiou.argmax(axis=1)]]
            result.iloc[rows[overlaps], result.columns.get_loc(column)] = values[overlaps]
    return result


def oracles(run: Path, params: Params, data: Dataset) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label sets of one run by name, each made when it is asked for."""
    truth = data.segments_of("train")
    labels = read_results(run / "selection" / "pseudo_labels.json", data.videos.index, data.classes)
    yield "pseudo labels", labels
    yield "perfect borders", perfect_borders(labels, truth)
    yield "perfect classes", perfect_classes(labels, truth)
    proposals = read_results(run / "generator" / "proposals_train.json", data.videos.index, data.classes)
    proposals = add_iou_score(proposals, params.iou_score_kind)
    store = FeatureStore(data, "generator")
    for name, chosen in {
        "perfect counts": perfect_counts(
            best_labels(weigh_durations(proposals, params), 0.0, params.label_prior), truth
        ),
        "best proposals": perfect_choice(proposals, truth),
    }.items():
        kind, _ = choose_borders(chosen, store, params)
        yield name, move_borders(chosen, store) if kind == "features" else chosen
    yield "true segments", as_labels(truth)


def measure(run: Path) -> tuple[str, pd.DataFrame]:
    """The data set of a run, and by label set, in percent: F1 of the labels, and mAP of a student trained on them."""
    record = read_record(run / "selection")
    if record is None:
        sys.exit(f"{run}: has no pseudo labels: run `fustal run` or `fustal sweep` first")
    params = Params(**record.parameters)
    data = load_dataset(params.dataset)
    store = FeatureStore(data, "student")
    rows = {}
    for name, labels in oracles(run, params, data):
        f1 = pseudo_label_quality(labels, data.segments_of("train"), [0.5]).f1.item()
        torch.manual_seed(params.seed)
        with tempfile.TemporaryDirectory() as folder:
            state = train_student(params, store, labels, Path(folder))
        found = detect_videos(state.ema, store, data.split("test"), params)
        ap = averages(mean_average_precision(found, data.segments_of("test"), TIOUS))
        rows[name] = [f1, ap["0.1"], ap["0.5"], ap["0.7"], ap["0.1:0.7"]]
        print(f"{run.name}, {name}: {', '.join(f'{100 * value:.1f}' for value in rows[name])}", flush=True)
    return data.name, 100 * pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)


def page(measured: Sequence[tuple[str, pd.DataFrame]]) -> str:
    """A Markdown table: mean ± standard deviation over the runs of a data set."""
    lines = [["data set", "labels", "seeds", *COLUMNS], ["---", "---"] + ["---:"] * (len(COLUMNS) + 1)]
    for dataset in dict.fromkeys(name for name, _ in measured):
        tables = [table for name, table in measured if name == dataset]
        values = np.stack([table.to_numpy() for table in tables])  # (seeds, label sets, columns)
        for row, labels in enumerate(tables[0].index):
            cells = [f"{mean:.1f}" for mean in values[:, row].mean(axis=0)]
            if len(tables) > 1:
                spread = values[:, row].std(axis=0, ddof=1)
                cells = [f"{mean} ± {std:.1f}" for mean, std in zip(cells, spread, strict=True)]
            lines.append([dataset, str(labels), str(len(tables)), *cells])
    return markdown_lines(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, with one seed each")
    parser.add_argument("--readme", type=Path, help="a page to put the table into, between its marks")
    arguments = parser.parse_args()
    text = page([measure(run) for run in arguments.runs])
    print(text)
    if arguments.readme:
        insert(text, arguments.readme, "oracles")


if __name__ == "__main__":
    main()
