"""Peak memory of training and inference on 200, 2,000 and 20,000 videos, which must not grow with their features."""

import multiprocessing
import resource
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fustal import generator
from fustal.annotations import as_labels
from fustal.dataset import Dataset
from fustal.features import FeatureStore
from fustal.params import Params
from fustal.student import localize, train_student
from tests.datasets import dataset_of

COUNTS = (200, 2_000, 20_000)
SNIPPETS, WIDTH, CLASSES = 24, 1024, ["a", "b"]
MEGABYTES = SNIPPETS * WIDTH * 2 / 2**20
"""Of a video's features on disk."""

PARAMS = Params(
    generator_steps=20,
    generator_dim=16,
    generator_snippets=16,
    upscale=2,
    cas_thresholds="0.1:0.1:0.2",
    actionness_thresholds="0.4:0.1:0.5",
    student_dim=16,
    student_mlp=16,
    student_levels=3,
    student_epochs=1,
    student_batch=64,
    max_snippets=16,
    pre_nms_topk=8,
    max_detections=4,
    device="cpu",
)


def soak_memory() -> list[str]:
    """Measures; what went wrong, a line each."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peaks[count] = pool.apply(measure, (Path(folder) / str(count), count))
            print(
                f"{count} videos, {count * MEGABYTES:.0f} MiB of features: {peaks[count]:.0f} MiB at most", flush=True
            )
    grown, features = peaks[COUNTS[-1]] - peaks[COUNTS[0]], (COUNTS[-1] - COUNTS[0]) * MEGABYTES
    print(f"memory grew by {grown:.0f} MiB while features grew by {features:.0f} MiB", flush=True)
    return [f"memory grows with the features: {peaks}"] if grown > 0.2 * features else []


def measure(folder: Path, count: int) -> float:
    """Trains generator and student for an epoch at most, localises with both in all videos.

    Returns:
        Peak memory of this process (MiB).
    """
    torch.set_num_threads(1)
    dataset = make_dataset(folder, count)
    store, videos = FeatureStore(dataset, "student"), dataset.split("train")
    model, _ = generator.train_generator(PARAMS, dataset, store, folder / "generator")
    generator.localize(model, dataset, store, videos, PARAMS, known=True)
    _, ema = train_student(PARAMS, dataset, store, as_labels(dataset.segments), folder / "student")
    localize(ema, dataset, store, videos, PARAMS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_dataset(folder: Path, count: int) -> Dataset:
    """Random features of so many training videos, a file each."""
    folder.mkdir()
    random, names = np.random.default_rng(0), [f"video{i}" for i in range(count)]
    for name in names:
        np.save(folder / f"{name}.npy", random.standard_normal((SNIPPETS, WIDTH), np.float32).astype(np.float16))
    labels = [CLASSES[i % 2] for i in range(count)]
    videos = pd.DataFrame({"video": names, "subset": "train", "duration": 24.0, "fps": 1.0})
    segments = pd.DataFrame({"video": names, "label": labels, "start": 5.0, "end": 9.0})
    return dataset_of(folder, videos, segments, CLASSES, fps=1.0)
