"""Peak memory of training and inference on 200, 2,000 and 20,000 videos, which must not grow with their features.

What grows, by some 5 kB a video, is what is known of each: names and where its file's numbers begin (0.5 kB), its
pseudo labels as three tensors (2 kB), proposals and detections, and what the allocator keeps of them. So 20,000 videos
are measured with features a quarter as wide, too, which must take as much but for the batches.
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

SNIPPETS, WIDE, NARROW, CLASSES = 24, 1024, 256, ["a", "b"]
FEW, SOME, MANY = 200, 2_000, 20_000
CASES = [(MANY, WIDE), (MANY, NARROW), (FEW, WIDE), (SOME, WIDE)]
"""Videos and the width of their features."""

MOST = 8
"""kB by which memory may grow for each video, from some to many, whose features take 48 kB in its file."""

BATCHES = 0.15
"""Share of the additional features of many wide videos that may show: some 60 MiB of 700 are the batches in work."""

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
    """Measures, two at a time; what went wrong, a line each."""
    peaks = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(2, maxtasksperchild=1) as pool:
        arguments = [(Path(folder) / f"{count}-{width}", count, width) for count, width in CASES]
        for (count, width), peak in zip(CASES, pool.starmap(measure, arguments, chunksize=1), strict=True):
            peaks[count, width] = peak
            features = f"{count * kilobytes(width) / 1024:.0f} MiB of features {width} wide"
            print(f"{count} videos, {features}: {peak:.0f} MiB at most", flush=True)
    grown = (peaks[MANY, WIDE] - peaks[SOME, WIDE]) * 1024 / (MANY - SOME)
    line = f"memory grows by {grown:.1f} kB a video, its features by {kilobytes(WIDE):.0f} kB"
    print(line, flush=True)
    if grown > MOST:
        yield line
    more, features = peaks[MANY, WIDE] - peaks[MANY, NARROW], MANY * (kilobytes(WIDE) - kilobytes(NARROW)) / 1024
    line = f"{features:.0f} MiB more of features in {MANY} videos take {more:.0f} MiB more of memory"
    print(line, flush=True)
    if more > BATCHES * features:
        yield line


def kilobytes(width: int) -> float:
    """A video's features on disk."""
    return SNIPPETS * width * 2 / 1024


def measure(folder: Path, count: int, width: int) -> float:
    """Trains generator and student for an epoch at most, localises with both in all videos.

    Returns:
        Peak memory of this process (MiB).
    """
    torch.set_num_threads(1)
    dataset = make_dataset(folder, count, width)
    store, videos = FeatureStore(dataset, "student"), dataset.split("train")
    model, _ = generator.train_generator(PARAMS, store, folder / "generator")
    propose_videos(model, store, videos, PARAMS, known=True)
    ema = train_student(PARAMS, store, as_labels(dataset.segments), folder / "student").ema
    detect_videos(ema, store, videos, PARAMS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_dataset(folder: Path, count: int, width: int) -> Dataset:
    """Random features of so many training videos, a file each."""
    folder.mkdir()
    random, names = np.random.default_rng(0), [f"video{i}" for i in range(count)]
    for name in names:
        np.save(folder / f"{name}.npy", random.standard_normal((SNIPPETS, width), np.float32).astype(np.float16))
    labels = [CLASSES[i % 2] for i in range(count)]
    videos = pd.DataFrame({"video": names, "subset": "train", "duration": 24.0, "fps": 1.0})
    segments = pd.DataFrame({"video": names, "label": labels, "start": 5.0, "end": 9.0})
    return dataset_of(folder, videos, segments, CLASSES, fps=1.0)
