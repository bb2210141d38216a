"""The page on own data is correct: its code runs, and its tables name the parameters and columns that are used."""

import re

import numpy as np
import pandas as pd
import pytest

from fustal import ROOT
from fustal.data.cards import hold_out, load_dataset
from fustal.data.results import write_results
from fustal.data.text import COLUMNS
from fustal.params import Params
from fustal.tools.own_data.init import Given, init
from fustal.tools.own_data.sizes import Known, sizes

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")


def test_choosing_parameters_without_segments(tmp_path, monkeypatch, capsys):
    root = tmp_path / "my"
    root.mkdir()
    for i in range(12):
        np.save(root / f"v{i}.npy", np.ones((20, 2), np.float32))
    (root / "labels.csv").write_text("video,label\n" + "".join(f"v{i},{'AB'[i % 2]}\n" for i in range(12)))
    init(root, given=Given(fps=25, stride=16))
    held = hold_out(load_dataset(root / "card.yaml"), 0.25)

    def results(videos):
        labels = held.video_labels[held.video_labels.video.isin(videos)]
        return pd.DataFrame(labels).assign(score=0.5, start=0.0, end=4.0)

    run = tmp_path / "outputs" / "held-out"
    for file, videos in (
        ("selection/pseudo_labels.json", held.split("train")),
        ("distilled/labels_train.json", held.split("train")),
        ("distilled/detections_test.json", held.split("test")),
    ):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        write_results(results(videos), run / file)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "classes of held-out videos: 1.0"
    assert second.startswith("agreement: 1.0 labels: ")


@pytest.mark.parametrize("segments", [True, False])
def test_the_table_names_what_init_writes(segments):
    lengths = np.arange(20, 60)
    known = Known(np.ones((40, 120), bool), lengths, lengths, 3, segments)
    section = PAGE.partition("## The preset, line by line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    written = {name for name, _, _ in sizes(known)}
    assert written <= named | {"tious"}
    possible = sizes(known._replace(segments=True)) + sizes(known._replace(segments=False))
    assert named & set(Params.model_fields) <= {name for name, _, _ in possible}


def test_the_table_of_columns_is_complete():
    section = PAGE.partition("| column | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", re.sub(r"\|[^|]*\|$", "", section, flags=re.MULTILINE))) == set(COLUMNS)
