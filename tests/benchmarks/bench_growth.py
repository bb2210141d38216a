"""How the cost of reading, proposals, filter and evaluation grows with the number of videos."""

import numpy as np
import pandas as pd
import pytest

from fustal.data.features import FeatureStore
from fustal.evaluation.detections import mean_average_precision
from fustal.labels import add_iou_score, select
from fustal.params import Params
from fustal.proposals import propose
from tests.benchmarks.bench_post import TIOUS, activations, evaluation_case
from tests.benchmarks.conftest import fastest
from tests.datasets import dataset_of

SIZES = [4, 40, 400]
PARAMS, CLASSES = Params(label_share=0.6), np.array([0, 1])


@pytest.fixture
def reading(tmp_path):
    """Reads the features of some videos with a new store."""
    names = [f"video{i}" for i in range(max(SIZES))]
    features = np.random.default_rng(0).standard_normal((400, 128), np.float32).astype(np.float16)
    for name in names:
        np.save(tmp_path / f"{name}.npy", features)
    videos = pd.DataFrame({"video": names, "subset": "test", "duration": 100.0, "fps": 4.0})
    segments = pd.DataFrame({"video": names, "label": "a", "start": 1.0, "end": 2.0})
    dataset = dataset_of(tmp_path, videos, segments, ["a"], fps=4.0)

    def prepare(size):
        def read():
            store = FeatureStore(dataset, "student")
            for name in names[:size]:
                store[name]

        return read

    return prepare


@pytest.fixture(scope="module")
def videos():
    return [activations(seed, length=200) for seed in range(max(SIZES))]


def _propose(case, name):
    return propose(*case, CLASSES, 0.64, PARAMS).assign(video=name)


@pytest.fixture
def proposing(videos):
    return lambda size: lambda: [_propose(case, i) for i, case in enumerate(videos[:size])]


@pytest.fixture
def filtering(videos):
    def prepare(size):
        proposals = pd.concat([_propose(case, i) for i, case in enumerate(videos[:size])], ignore_index=True)
        return lambda: select(add_iou_score(proposals), PARAMS)

    return prepare


@pytest.fixture
def evaluating():
    def prepare(size):
        case = evaluation_case(200 * size, size, 16 * size)
        return lambda: mean_average_precision(*case, TIOUS)

    return prepare


@pytest.mark.parametrize("stage", ["reading", "proposing", "filtering", "evaluating"])
def test_growth(benchmark, request, stage):
    prepare = request.getfixturevalue(stage)
    seconds = [fastest(prepare(size), repeats=5) for size in SIZES]
    exponent = np.polyfit(np.log(SIZES), np.log(seconds), 1)[0]
    benchmark.extra_info |= {"what": stage, "sizes": SIZES, "seconds": seconds, "exponent": exponent}
    benchmark.pedantic(prepare(SIZES[-1]), rounds=1)
    print(f"\n{stage}: time ~ videos^{exponent:.2f}")
    assert exponent < 1.2
