"""Two uncertainties of the mAP of each stage: over seeds, and over test videos (`fustal results --resample`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fustal.data.cards import Dataset, hold_out, load_dataset
from fustal.data.files import validated
from fustal.data.results import read_results
from fustal.evaluation.resampling import draw_videos, resampled_map
from fustal.exceptions import InputError
from fustal.params import Params, parse_grid
from fustal.runs.chain import CHAIN, DETECTIONS, UPPER_BOUND, inputs_of
from fustal.tools.sweeps.intervals import interval, resampled_interval
from fustal.tools.sweeps.tables import STAGE_NAMES, Metrics, markdown_lines, read_metrics

FILES = DETECTIONS | {"upper_bound": UPPER_BOUND, "given": DETECTIONS["distilled"]}
"""Stage in `metrics.json` -> its detections of the test videos."""

ROUNDING = 0.01
"""Maximum difference of a mAP in percent to the rounded one in `metrics.json`."""


def resampled_table(runs: Sequence[str | Path], times: int) -> str:
    """Markdown: for each run the mAP of every stage and its difference to the stage before, with two intervals of 95 %.

    The t interval over seeds is for these test videos. The interval over test videos is for these seeds: of the mean
    over seeds. All seeds and stages of a run are measured on the same resamples of the test videos.

    Args:
        runs: see `read_metrics`.
        times: number of resamples.

    Returns:
        A table for each run.

    Raises:
        InputError: as `read_metrics`; a data set or detections that are missing, or that are not those that were
            evaluated; or seeds of a run with different data or thresholds.
    """
    groups: dict[str, dict[Path, Metrics]] = {}
    for path, metrics in read_metrics(runs).items():
        groups.setdefault(metrics.run, {})[path] = metrics
    blocks = []
    for run, members in groups.items():
        first = next(iter(members.values()))
        average = _average(next(iter(first.mAP.values())))[0]
        seeds = "1 seed" if len(members) == 1 else f"{len(members)} seeds"
        blocks.append(f"**{run}** — {seeds}; test videos ({first.test}) drawn {times} times with replacement")
        blocks.append(_table(resampled_stages(members, times), f"mAP, average over {average}"))
    return "\n\n".join(blocks)


def resampled_stages(members: Mapping[Path, Metrics], times: int) -> dict[str, pd.DataFrame]:
    """The mAP of each stage of a run, on its test videos and on resamples of them.

    Args:
        members: `metrics.json` -> its content, of each seed.
        times: number of resamples R.

    Returns:
        Stage -> mAP in percent, averaged over all tIoU thresholds: a column for each seed; in the first row with all
        test videos, below it with each resample (1 + R rows).

    Raises:
        InputError: see `resampled_table`.
    """
    columns: dict[str, dict[int, np.ndarray]] = {}
    used: tuple[str, float, str] | None = None
    for path, metrics in members.items():
        params = validated(Params, metrics.parameters.model_dump(), path)
        what = params.dataset, params.held_out, params.tious
        if used is None:
            used = what
            dataset = hold_out(load_dataset(params.dataset), params.held_out)
            truth = dataset.segments_of("test")
            copies = _copies(dataset, times)
        elif used != what:
            raise InputError(f"{path}: run {metrics.run!r} has a seed with other data or tIoU thresholds")
        folder = path.absolute().parents[1]
        inputs = inputs_of(CHAIN["evaluation"], params, folder)
        for stage, name in FILES.items():
            if stage not in metrics.mAP:
                continue
            file = inputs.get(name, folder / name)
            detections = read_results(file, dataset.videos.index, dataset.classes)
            found = 100 * resampled_map(detections, truth, parse_grid(params.tious), copies)
            if abs(found[0] - _average(metrics.mAP[stage])[1]) > ROUNDING:
                raise InputError(
                    f"{file}: has another mAP on this data set than in {path}: evaluate again with fustal run"
                )
            columns.setdefault(stage, {})[params.seed] = found
    return {stage: pd.DataFrame(by_seed) for stage, by_seed in columns.items()}


def _average(values: Mapping[str, float]) -> tuple[str, float]:
    """The widest range of tIoU, and the mAP over it."""
    return list(values.items())[-1]


def _copies(dataset: Dataset, times: int) -> pd.DataFrame:
    """For `resampled_map`: first all test videos once, then the resamples. Other videos are never drawn or left out."""
    test = dataset.split("test")
    drawn = np.concatenate([np.ones((1, len(test)), int), draw_videos(len(test), times)])
    return pd.DataFrame(drawn, columns=test).reindex(columns=dataset.videos.index, fill_value=1)


def _table(stages: Mapping[str, pd.DataFrame], corner: str) -> str:
    """A row for each stage: its mAP, and the difference to the stage before, of the seeds that have both."""
    columns = ["mean", "over seeds", "over test videos", "- row above", "over seeds", "over test videos"]
    lines = [[corner, *columns], ["---"] + ["---:"] * len(columns)]
    names = [name for name in STAGE_NAMES if name in stages]
    for number, name in enumerate(names):
        change = ["—"] * 3
        if number:
            difference = (stages[name] - stages[names[number - 1]]).dropna(axis=1, how="all")
            if len(difference.columns):
                change = _cells(difference, "+")
        lines.append([STAGE_NAMES[name], *_cells(stages[name], ""), *change])
    return markdown_lines(lines)


def _cells(values: pd.DataFrame, sign: str) -> list[str]:
    """Mean over seeds, its interval over seeds (a dash with too few), and its interval over test videos."""
    by_seed = values.iloc[0].to_numpy()
    mean = by_seed.mean()
    cells = [f"{mean:{sign}.1f}"]
    for low, high in (interval(by_seed), resampled_interval(mean, values.iloc[1:].mean(axis=1).to_numpy())):
        cells.append("—" if np.isnan(low) else f"[{low:{sign}.1f}, {high:{sign}.1f}]")
    return cells
