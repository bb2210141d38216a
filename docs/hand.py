"""Draws a test sequence of shrec22 and what a run has found: `python -m docs.hand outputs/results/shrec22-seed0`.

It writes `docs/hand.png` and prints the text for blind readers. The sequence is the first test sequence.
"""

import sys
from pathlib import Path

import numpy as np

from fustal import ROOT, viz
from fustal.data.cards import load_dataset
from fustal.data.results import read_results
from fustal.runs.identity import read_record
from fustal.tools.export import MIN_SCORE

FILES = {
    "generator": "generator/proposals_test.json",
    "student": "student/detections_test.json",
    "distilled": "distilled/detections_test.json",
}


def main(run: Path) -> None:
    """Draws as many segments of each stage as the sequence has actions: those of the highest scores."""
    record = read_record(run / "distilled")
    if record is None:
        sys.exit(f"{run}: has no distilled student")
    data = load_dataset(record.parameters["dataset"])
    video = data.split("test")[0]
    truth = data.segments[data.segments.video == video]
    rows = {"truth": truth}
    for name, file in FILES.items():
        found = read_results(run / file, data.videos.index, data.classes)
        rows[name] = found[(found.video == video) & (found.score >= MIN_SCORE)].nlargest(len(truth), "score")
    joints = np.load(data.root / "joints" / f"{video}.npy")
    figure = viz.hands(joints, 20.0, rows)
    viz.save(figure, ROOT / "docs" / "hand.png")
    print(figure.alt_text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
