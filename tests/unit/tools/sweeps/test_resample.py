"""The table of both uncertainties, from runs made by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from fustal.data.results import write_results
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.exceptions import InputError
from fustal.params import Params, parse_grid
from fustal.tools import cli
from fustal.tools.sweeps.resample import FILES, resampled_stages, resampled_table
from fustal.tools.sweeps.tables import read_metrics

VIDEOS = [f"test{i}" for i in range(8)]
TRUTH = pd.DataFrame({"video": VIDEOS, "label": "Run", "start": 2.0, "end": 6.0})


def found(right):
    """One detection for each test video, right in some of them, all with equal scores."""
    shift = np.where(np.isin(np.arange(len(VIDEOS)), right), 0.0, 10.0)
    return TRUTH.assign(score=0.5, start=TRUTH.start + shift, end=TRUTH.end + shift)


@pytest.fixture
def card(tmp_path):
    """A data set of eight test videos with an action each, and a training video. It has no features."""
    database = {"train0": {"subset": "train", "duration": 30.0, "annotations": [{"label": "Run", "segment": [1, 2]}]}}
    for row in TRUTH.itertuples():
        segments = [{"label": row.label, "segment": [row.start, row.end]}]
        database[row.video] = {"subset": "test", "duration": 30.0, "annotations": segments}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    grid = {"pattern": "{video}.npy", "fps": 10, "stride": 1, "window": 1}
    content = {
        "name": "toy",
        "about": "Toy.",
        "root": ".",
        "annotations": "gt.json",
        "grids": dict.fromkeys(["generator", "student"], grid),
    }
    (tmp_path / "card.yaml").write_text(json.dumps(content))
    return tmp_path / "card.yaml"


@pytest.fixture
def make(tmp_path, card, monkeypatch):
    """Writes detections and metrics of a run below outputs/ and returns its name."""
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path / "outputs")

    def write(seed, stages, run="tiny", **parameters):
        params = Params(dataset=str(card), seed=seed, **parameters)
        mean_ap = {}
        for stage, detections in stages.items():
            file = tmp_path / "outputs" / f"{run}-seed{seed}" / FILES[stage]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_results(detections, file)
            values = averages(mean_average_precision(detections, TRUTH, parse_grid(params.tious)))
            mean_ap[stage] = {name: round(100 * value, 3) for name, value in values.items()}
        metrics = {
            "run": run,
            "dataset": "toy",
            "test": "8 videos / 8 segments",
            "mAP": mean_ap,
            "labels": {},
            "parameters": params.of(Params),
        }
        folder = tmp_path / "outputs" / f"{run}-seed{seed}" / "evaluation"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder.parent.name

    return write


def rows(text):
    """Cells of the table, by the first cell of their row."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_stages_and_seeds_share_the_resamples(make):
    runs = [make(seed, {"generator": found([0, 1]), "student": found([0, 1, 2, 3])}) for seed in (0, 1, 2)]
    stages = resampled_stages(read_metrics(runs), times=100)
    assert list(stages) == ["generator", "student"]
    assert stages["generator"].shape == (101, 3)
    assert (stages["generator"].nunique(axis=1) == 1).all(), "equal detections, equal resamples"
    expected = [
        100 * averages(mean_average_precision(found(right), TRUTH, [0.5]))["0.5"] for right in ([0, 1], range(4))
    ]
    assert [stages[name].loc[0, 2] for name in stages] == pytest.approx(expected)
    assert (stages["student"] >= stages["generator"]).all(axis=None), (
        "in each resample, as the student finds all and more"
    )


def test_both_intervals(make):
    runs = []
    for seed in range(3):
        runs.append(
            make(seed, {"generator": found([0]), "distilled": found(range(4 + seed)), "upper_bound": found(range(8))})
        )
    text = resampled_table(runs, times=200)
    assert text.startswith(
        "**tiny** — 3 seeds; test videos (8 videos / 8 segments) drawn 200 times with replacement\n\n"
    )
    table = rows(text)
    assert list(table) == [
        "mAP, average over 0.1:0.7",
        "---",
        "generator",
        "distilled student",
        "same student on true segments",
    ]
    # Of equal scores, right ones first: the AP is the share of videos. One of eight is found, then 4, 5 and 6 of them.
    mean, seeds, videos, *change = table["generator"]
    assert (mean, seeds, change) == ("12.5", "[12.5, 12.5]", ["—"] * 3)
    low, high = map(float, videos.strip("[]").split(", "))
    assert low + high == pytest.approx(25, abs=0.11)
    assert high - low == pytest.approx(2 * 1.96 * 100 * (1 / 8 * 7 / 8 / 8) ** 0.5, rel=0.15), (
        "of a binomial distribution"
    )
    mean, seeds, _, difference, difference_seeds, _ = table["distilled student"]
    assert (mean, difference) == ("62.5", "+50.0")
    # 50, 62.5 and 75: standard deviation 12.5, t = 4.303
    assert seeds == "[31.4, 93.6]"
    assert difference_seeds == "[+18.9, +81.1]"
    assert table["same student on true segments"][:3] == ["100.0", "[100.0, 100.0]", "[100.0, 100.0]"], (
        "in all resamples"
    )


def test_a_stage_that_some_seeds_lack(make):
    both = {"generator": found([0]), "upper_bound": found(range(8))}
    runs = [make(0, both), make(1, {"generator": found([0, 1])}), make(2, {"generator": found([0, 1, 2])})]
    line = rows(resampled_table(runs, times=100))["same student on true segments"]
    assert line[:2] == ["100.0", "—"]
    assert line[3:5] == ["+87.5", "—"], "of the seed that has both"


def test_another_methods_detections(make, tmp_path):
    write_results(found([0, 1]), tmp_path / "theirs.json")
    name = make(0, {"given": found([0, 1])}, detections_file=str(tmp_path / "theirs.json"))
    (tmp_path / "outputs" / name / FILES["given"]).unlink()
    assert rows(resampled_table([name], times=100))["another method's detections"][0] == "25.0"


def test_runs_have_their_own_tables(make):
    runs = [make(0, {"generator": found([0])}), make(0, {"generator": found([0, 1])}, run="other")]
    text = resampled_table(runs, times=100)
    assert [line.split("**")[1] for line in text.splitlines() if line.startswith("**")] == ["tiny", "other"]
    assert text.count("1 seed;") == 2


def test_what_was_not_evaluated_is_refused(make, tmp_path):
    name = make(0, {"generator": found([0])})
    file = tmp_path / "outputs" / name / FILES["generator"]
    write_results(found([0, 1]), file)
    with pytest.raises(InputError, match="has another mAP on this data set than in ") as error:
        resampled_table([name], times=100)
    assert str(error.value).startswith(str(file))
    file.unlink()
    with pytest.raises(InputError, match=f"{FILES['generator']}: no such file"):
        resampled_table([name], times=100)


@pytest.mark.parametrize("other", [{"held_out": 0.5}, {"tious": "0.5"}])
def test_seeds_with_other_data_are_refused(make, other):
    runs = [make(0, {"generator": found([0])}), make(1, {"generator": found([0])}, **other)]
    with pytest.raises(InputError, match="run 'tiny' has a seed with other data or tIoU thresholds"):
        resampled_table(runs, times=100)


def test_the_command_adds_the_table(make, capsys):
    name = make(0, {"generator": found([0])})
    cli.results([name])
    assert "over test videos" not in capsys.readouterr().out
    cli.results([name], resample=100)
    printed = capsys.readouterr().out
    assert printed.index("| mAP at tIoU |") < printed.index("| mAP, average over 0.1:0.7 |")
