"""Draws what a run has made of real recordings: `python -m docs.real outputs/results/shrec22-seed0`.

The run is on shrec22, and finished. The pictures are written to `docs/real`, and their texts for blind readers are
printed. Nothing is chosen by its looks: one picture shows the first test sequence, two show the first training sequence
that has a label, and the others show all sequences. README and notebooks embed them.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin

from fustal import ROOT, FeatureStore, viz
from fustal.data.cards import Dataset, load_dataset
from fustal.data.files import validated
from fustal.data.results import read_results
from fustal.engine.checkpoint import load_module
from fustal.engine.video_score import with_video_score
from fustal.evaluation import error_shares, pseudo_label_quality
from fustal.evaluation.balance import label_counts
from fustal.evaluation.labels import true_positive
from fustal.generator import Generator
from fustal.labels import add_iou_score
from fustal.params import Params
from fustal.proposals import mean_activations, normalise
from fustal.runs.chain import DETECTIONS, LABELS, PROPOSALS_TRAIN, PSEUDO_LABELS
from fustal.runs.identity import RECORD, read_record
from fustal.student import Student, detect_videos
from fustal.tools.export import MIN_SCORE
from fustal.viz.common import DescribedFigure

TARGET = ROOT / "docs" / "real"

TIOUS = (0.5, 0.7)
"""Thresholds of the F1 of labels."""

COLOURS = 256
"""Of a picture, so that its file is small."""


class Run:
    """A finished run on shrec22.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        record = read_record(folder / "distilled")
        if record is None:
            sys.exit(f"{folder}: has no distilled student")
        self.folder = folder
        self.data: Dataset = load_dataset(record.parameters["dataset"])
        params = validated(Params, record.parameters, folder / "distilled" / RECORD)
        self.params = with_video_score(params, self.data)

    def results(self, file: str) -> pd.DataFrame:
        """Proposals, labels or detections of the run."""
        return read_results(self.folder / file, self.data.videos.index, self.data.classes)

    def generators(self) -> list[Generator]:
        """The generator, and the second one if there is one."""
        store = FeatureStore(self.data, "generator")
        models = []
        for path in ("generator/model.safetensors", "generator/second/model.safetensors"):
            if (self.folder / path).exists():
                model = Generator.from_params(self.params, store.dim, len(self.data.classes))
                load_module(model, self.folder / path)
                models.append(model.eval())
        return models

    def student(self) -> Student:
        """The student before distillation."""
        store = FeatureStore(self.data, "student")
        model = Student.from_params(self.params, store.dim, len(self.data.classes))
        load_module(model, self.folder / "student/model.safetensors")
        return model.eval()


def main(folder: Path) -> None:
    """Writes all pictures."""
    torch.set_num_threads(1)
    run = Run(folder)
    train = run.data.split("train")
    labelled = train[run.data.labels(train).any(axis=1).argmax()]  # the first one with a label
    TARGET.mkdir(exist_ok=True)
    figures = {
        "hand": hand(run, run.data.split("test")[0]),
        "cas": cas(run, labelled),
        "prior": prior(run),
        "student": student(run, labelled),
        "labels": labels(run),
        "errors": errors(run),
    }
    for name, figure in figures.items():
        write(figure, TARGET / f"{name}.png")
        print(f"{name}.png: {figure.alt_text}\n")


def hand(run: Run, video: str) -> DescribedFigure:
    """A test sequence: truth, its label, and of each stage as many segments as there are gestures, the best ones."""
    truth = of(run.data.segments, video)
    duration = FeatureStore(run.data, "student").duration(video)
    names = ", ".join(sorted(set(truth.label)))
    rows = {"truth": truth, "video label": pd.DataFrame({"start": [0.0], "end": [duration], "label": [names]})}
    for name in ("generator", "student", "distilled"):
        rows[name] = best(of(run.results(DETECTIONS[name]), video), len(truth))
    return drawn_hands(run, video, rows)


def cas(run: Run, video: str) -> DescribedFigure:
    """A training sequence: the activation of each of its classes, and the proposals that were cut from it."""
    store = FeatureStore(run.data, "generator")
    activations, _, _ = mean_activations(run.generators(), store, video, run.params)
    times = store.grid_of(video).to_seconds(np.arange(len(activations)) * store.length(video) / len(activations))
    truth = of(run.data.segments, video).sort_values("start")
    curves = {}
    for name in truth.label.unique():
        curves[name] = normalise(activations[:, run.data.classes.index(name)])
    return viz.class_curves(curves, times, of(run.results(PROPOSALS_TRAIN), video), truth)


def prior(run: Run) -> DescribedFigure:
    """All proposals of training sequences: how many are true, by the IoU score of the paper and by the class-aware."""
    proposals = run.results(PROPOSALS_TRAIN)
    truth = run.data.segments_of("train")
    scores = {}
    for kind in ("paper", "class-aware"):
        scored = add_iou_score(proposals, kind)
        scores[kind] = scored.iou_score.to_numpy(), true_positive(scored, truth, tiou=0.5)
    return viz.prior_shares(scores)


def student(run: Run, video: str) -> DescribedFigure:
    """A training sequence: truth, pseudo labels, and the student's best detections, as many as there are gestures."""
    truth = of(run.data.segments, video)
    found = detect_videos(run.student(), FeatureStore(run.data, "student"), [video], run.params)
    rows = {"truth": truth, "pseudo labels": of(run.results(PSEUDO_LABELS), video), "student": best(found, len(truth))}
    return drawn_hands(run, video, rows)


def labels(run: Run) -> DescribedFigure:
    """All labels of training sequences: F1 after each stage, and the number of each class."""
    truth = run.data.segments_of("train")
    stages = {name: run.results(file) for name, file in LABELS.items() if (run.folder / file).exists()}
    f1 = pd.DataFrame({name: 100 * pseudo_label_quality(part, truth, TIOUS).f1 for name, part in stages.items()}).T
    counted = {"truth": truth} | {name: part for name, part in stages.items() if name != "proposals"}
    return viz.label_stages(f1, label_counts(counted))


def errors(run: Run) -> DescribedFigure:
    """All test sequences: kinds of errors of each stage."""
    truth = run.data.segments_of("test")
    stages = ("generator", "student", "distilled")
    shares = {name: error_shares(run.results(DETECTIONS[name]), truth, tiou=0.5) for name in stages}
    return viz.error_kinds(pd.DataFrame(shares).T)


def of(frame: pd.DataFrame, video: str) -> pd.DataFrame:
    """The rows of a video."""
    return frame[frame.video == video]


def best(found: pd.DataFrame, count: int) -> pd.DataFrame:
    """The detections with the highest scores."""
    return found[found.score >= MIN_SCORE].nlargest(count, "score")


def drawn_hands(run: Run, video: str, rows: dict[str, pd.DataFrame]) -> DescribedFigure:
    """The hand of a sequence above rows of segments."""
    joints = np.load(run.data.root / "joints" / f"{video}.npy")
    return viz.hands(joints, FeatureStore(run.data, "student").grid_of(video).fps, rows)


def write(figure: DescribedFigure, path: Path) -> None:
    """Writes a figure in few colours, with its text for blind readers in the file."""
    viz.save(figure, path)
    about = PngImagePlugin.PngInfo()
    about.add_text("Description", figure.alt_text)
    picture = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, "PNG", optimize=True, pnginfo=about)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
