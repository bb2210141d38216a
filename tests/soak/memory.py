"""Peak memory of training and inference on 200, 2,000 and 20,000 videos, which must not grow with their features.

About 5 kB for each video do grow: names and the offset in its file (0.5 kB), its pseudo labels as three tensors (2 kB),
proposals and detections, and memory that the allocator keeps. So 20,000 videos are also measured with features of a
quarter of the width: except for the batches, they must take the same memory.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fustal import generator
from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.data.results import as_labels
from fustal.params import Params
from fustal.proposals import propose_videos
from fustal.student import detect_videos, train_student
from tests.datasets import dataset_of

SNIPPETS = 24
WIDE = 1024
NARROW = 256
CLASSES = ["a", "b"]
FEW = 200
SOME = 2_000
MANY = 20_000
CASES = [(MANY, WIDE), (MANY, NARROW), (FEW, WIDE), (SOME, WIDE)]
"""Videos and the width of their features."""

MAXIMUM = 8
"""kB by which memory may grow for each video, from SOME to MANY; its features take 48 kB on disk."""

BATCHES = 0.15
"""Share of the additional features of many wide videos that may be in memory: the batches take about 60 of 700 MiB."""

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


def soak_memory() -> Iterator[str]:
    """Measures all cases, two at a time; yields failures, one line each."""
    peaks = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(2, maxtasksperchild=1) as pool:
        arguments = [(Path(folder) / f"{count}-{width}", count, width) for count, width in CASES]
        for (count, width), peak in zip(CASES, pool.starmap(measure, arguments, chunksize=1), strict=True):
            peaks[count, width] = peak
            features = f"{count * kilobytes(width) / 1024:.0f} MiB of features {width} wide"
            print(f"{count} videos, {features}: peak {peak:.0f} MiB", flush=True)
    grown = (peaks[MANY, WIDE] - peaks[SOME, WIDE]) * 1024 / (MANY - SOME)
    line = f"memory grows by {grown:.1f} kB a video, its features by {kilobytes(WIDE):.0f} kB"
    print(line, flush=True)
    if grown > MAXIMUM:
        yield line
    more = peaks[MANY, WIDE] - peaks[MANY, NARROW]
    features = MANY * (kilobytes(WIDE) - kilobytes(NARROW)) / 1024
    line = f"{features:.0f} MiB more of features in {MANY} videos take {more:.0f} MiB more of memory"
    print(line, flush=True)
    if more > BATCHES * features:
        yield line


def kilobytes(width: int) -> float:
    """Size of the features of a video on disk."""
    return SNIPPETS * width * 2 / 1024


def measure(folder: Path, count: int, width: int) -> float:
    """Trains generator and student for at most an epoch, and runs both on all videos.

    Returns:
        Peak memory of this process (MiB).
    """
    torch.set_num_threads(1)
    dataset = make_dataset(folder, count, width)
    store = FeatureStore(dataset, "student")
    videos = dataset.split("train")
    model, _ = generator.train_generator(PARAMS, store, folder / "generator")
    propose_videos([model], store, videos, PARAMS, known=True)
    ema = train_student(PARAMS, store, as_labels(dataset.segments), folder / "student").ema
    detect_videos(ema, store, videos, PARAMS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_dataset(folder: Path, count: int, width: int) -> Dataset:
    """A data set of training videos with random features, one file for each."""
    folder.mkdir()
    random = np.random.default_rng(0)
    names = [f"video{i}" for i in range(count)]
    for name in names:
        np.save(folder / f"{name}.npy", random.standard_normal((SNIPPETS, width), np.float32).astype(np.float16))
    labels = [CLASSES[i % 2] for i in range(count)]
    videos = pd.DataFrame({"video": names, "subset": "train", "duration": 24.0, "fps": 1.0})
    segments = pd.DataFrame({"video": names, "label": labels, "start": 5.0, "end": 9.0})
    return dataset_of(folder, videos, segments, CLASSES, fps=1.0)
