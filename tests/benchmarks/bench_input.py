"""The time in which the training of the generator waits for input, with the loading thread and without."""

from time import perf_counter

import numpy as np
import pandas as pd
import pytest
import torch

from fustal.data.cards import Dataset, Grid
from fustal.data.features import FeatureStore
from fustal.engine.device import batch_of_step
from fustal.generator import Generator, batch_losses, train_generator
from fustal.params import Params

VIDEOS, MODALITY, STEPS = 40, 1024, 20
PARAMS = Params(generator_snippets=750, generator_dim=64, generator_steps=STEPS, device="cpu")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Features as wide as THUMOS'14's, float16, of videos of 200 to 2000 snippets."""
    root = tmp_path_factory.mktemp("features")
    random = np.random.default_rng(0)
    names = [f"video{i}" for i in range(VIDEOS)]
    for name in names:
        length = int(random.integers(200, 2000))
        for modality in ("rgb", "flow"):
            (root / modality).mkdir(exist_ok=True)
            features = random.standard_normal((length, MODALITY), np.float32).astype(np.float16)
            np.save(root / modality / f"{name}.npy", features)
    table = {"video": names, "subset": "train", "duration": np.nan, "fps": np.nan}
    grid = Grid(pattern="{modality}/{video}.npy", modalities=["rgb", "flow"], fps=25, stride=16, window=16)
    segments = {"video": names, "label": [f"c{i % 20}" for i in range(VIDEOS)], "start": 0.0, "end": 1.0}
    return Dataset(
        name="wide",
        about="",
        root=root,
        annotations=root / "gt.json",
        classes=sorted(set(segments["label"])),
        videos=pd.DataFrame(table).set_index("video"),
        video_labels=pd.DataFrame(segments)[["video", "label"]],
        segments=pd.DataFrame(segments),
        grids={"generator": grid},
    )


def plain_training(dataset, params):
    """The same training, whose steps first read whole files; returns the share of time for reading."""
    videos = dataset.split("train")
    labels = torch.from_numpy(dataset.labels(videos))
    model = Generator(2 * MODALITY, len(dataset.classes), params.generator_dim, params.generator_dropout)
    optimizer = torch.optim.Adam(model.parameters(), params.generator_lr)
    random = np.random.default_rng(0)
    began = perf_counter()
    waited = 0.0
    for i in range(params.generator_steps):
        started = perf_counter()
        batch = []
        chosen = batch_of_step(len(videos), params.generator_batch, i, params.seed)
        for n in chosen:
            parts = [np.load(dataset.root / part / f"{videos[n]}.npy") for part in ("rgb", "flow")]
            features = np.concatenate([part.astype(np.float32) for part in parts], axis=1)
            edges = np.linspace(0, len(features), params.generator_snippets, endpoint=False)
            drawn = (edges + random.random(len(edges)) * len(features) / len(edges)).astype(int)
            batch.append(torch.from_numpy(features[drawn]))
        features = torch.stack(batch)
        waited += perf_counter() - started
        loss = batch_losses(model(features), labels[chosen], params)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return waited / (perf_counter() - began)


def test_waiting_for_input(compare, benchmark, wide, tmp_path):
    ours = []
    plain = []

    def train():
        _, log = train_generator(PARAMS, FeatureStore(wide, "generator"), tmp_path / str(len(ours)))
        ours.append(log.attrs["waiting"])

    compare(
        "waiting for input, share of the generator's training",
        "input is never the bottleneck",
        train,
        lambda: plain.append(plain_training(wide, PARAMS)),
        note=f"{VIDEOS} videos of 200 to 2000 snippets, 2 × {MODALITY} float16, embeddings of {PARAMS.generator_dim}",
        rounds=2,
    )
    benchmark.extra_info["waiting"] = {"ours": min(ours), "plain": min(plain)}
    print(f"\nshare of the time spent waiting for input: {min(ours):.1%}, loading in line: {min(plain):.1%}")
