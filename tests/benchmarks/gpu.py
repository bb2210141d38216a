"""The whole chain at THUMOS'14's sizes: seconds, peak GPU memory and share of peak throughput of each stage.

`python -m tests.benchmarks.gpu` simulates 200 training and 210 test videos of THUMOS'14's durations, 2 × 1024 features
on both grids, and runs the stages of the notebooks with `params/thumos14.yaml`, in float32 and in bfloat16. It writes a
JSON file after every stage, from which the table in the README is made. `--steps` and `--epochs` shorten the trainings:
then `full_seconds` is extrapolated to full length, and the student learns the true segments, as a generator with few
steps has few proposals. `--small` uses tiny sizes and runs on any machine.

Throughput is the number of floating-point operations of the networks' convolutions and matrix products, forward and
backward, divided by the time of the whole stage, input and optimizer included; operations are counted over one step
of the generator and one epoch of the student. The peak is `--peak`, or the throughput of a large matrix product in the
same precision; convolutions in float32 may use TF32 where PyTorch allows it, so that product may use it, too.
"""

import argparse
import contextlib
import functools
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from fustal import ROOT, generator, student
from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.data.results import as_labels
from fustal.data.simulate import Look, latent, make_prototypes, observe
from fustal.data.writing import write_json
from fustal.distillation import Relabel
from fustal.engine.device import has_bfloat16, pick_device, precision
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.labels import add_iou_score, select
from fustal.params import Params, parse_grid
from fustal.proposals import propose_videos
from fustal.runs.provenance import provenance
from fustal.student import StudentState, detect_videos
from fustal.student.training import train_epochs
from tests.benchmarks import shapes

SMALL = {
    "generator_snippets": 32,
    "generator_dim": 16,
    "generator_batch": 4,
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 3,
    "student_stem": 1,
    "student_batch": 4,
    "max_snippets": 128,
    "max_detections": 50,
}
"""`--small`: minimum sizes, with 8 + 6 videos of 2 × 8 features."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all stages and writes the file."""
    options = parse(arguments)
    changes = {"device": options.device}
    counts = shapes.VIDEOS
    dim = 1024
    if options.small:
        changes |= SMALL
        counts = {"train": 8, "test": 6}
        dim = 8
    params = Params.read(ROOT / "params" / "thumos14.yaml", **changes)
    report = {
        "machine": provenance(params),
        "shapes": f"{counts['train']} + {counts['test']} videos, 2 x {dim} features" + " (small)" * options.small,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "peak_tflops": {},
        "stages": [],
        "map": {},
    }
    with contextlib.ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dataset = make_dataset(folder, counts, dim)
        for arithmetic in options.precision:
            chosen = params.model_copy(update={"precision": arithmetic})
            if arithmetic == "bfloat16" and not has_bfloat16(pick_device(params)):
                report["stages"].append({"precision": arithmetic, "stage": "not run: this device does not have it"})
                write_json(report, options.out)
                continue
            peak = options.peak or measure_peak(chosen, 128 if options.small else 8192)
            report["peak_tflops"][arithmetic] = peak
            Chain(chosen, dataset, options, report, peak).run()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--small", action="store_true", help="tiny shapes, a few steps")
    parser.add_argument("--steps", type=int, help="steps of the generator, instead of all")
    parser.add_argument("--epochs", type=int, help="epochs of student and distillation each, instead of all")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, instead of a measured one")
    parser.add_argument("--data", type=Path, help="folder in which the features are kept for later calls")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    if options.small:
        options.steps = options.steps or 3
        options.epochs = options.epochs or 1
    return options


# --- data ---


def make_dataset(root: Path, counts: dict[str, int], dim: int) -> Dataset:
    """A data set of THUMOS'14's durations with simulated features, which are made if they do not exist."""
    videos, segments = shapes.annotate(counts)
    grids = {"generator": shapes.GENERATOR, "student": shapes.STUDENT}
    classes = sorted(set(segments.label))
    dataset = Dataset(
        "sizes", "", root, root / "gt.json", classes, videos, segments[["video", "label"]], segments, grids
    )
    if not (root / "complete").exists():
        look = Look()
        prototypes = make_prototypes(classes, 2 * dim, look, seed=0)

        def write(video: str) -> None:
            random = np.random.default_rng(zlib.crc32(video.encode()))
            seconds = videos.duration[video]
            signal = latent(seconds, segments[segments.video == video], prototypes, look, random)
            for part in grids.values():
                path = root / part.pattern.format(video=video)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, observe(signal, part, seconds, look).astype(np.float16))

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(write, videos.index))
        (root / "complete").touch()
    return dataset


# --- measurement ---


def measure_peak(params: Params, size: int) -> float:
    """Maximum TFLOP/s of ten products of square matrices on the device."""
    device = pick_device(params)
    before = torch.get_float32_matmul_precision()
    a = torch.randn(size, size, device=device)
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")
    with precision(params, device):
        if params.precision == "bfloat16":
            a = a.to(torch.bfloat16)
        times = []
        for _ in range(10):
            _, seconds = timed(lambda: a @ a, device)
            times.append(seconds)
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 / min(times) / 1e12


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result of a function, and the seconds until the device has computed it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, perf_counter() - began


def count_flops(work: Callable[[], Any]) -> int:
    """Floating-point operations of the convolutions and matrix products of a function."""
    mapping = {torch.ops.aten.convolution_backward: _backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return counter.get_total_flops()


def _backward_flops(gradient, x, weight, *rest, out_shape=None) -> int:
    """Each required gradient has the cost of the convolution; PyTorch's own count is wrong with groups."""
    of_x, of_weight, _ = rest[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * (of_x + of_weight)


class Chain:
    """The stages of a run in one precision, each of which adds a row to the report.

    Args:
        params: at full length.
        dataset: with features on both grids.
        options: of the command line.
        report: receives rows, and is written after each stage.
        peak: TFLOP/s.
    """

    def __init__(
        self, params: Params, dataset: Dataset, options: argparse.Namespace, report: dict[str, Any], peak: float
    ) -> None:
        self.params = params
        self.dataset = dataset
        self.options = options
        self.report = report
        self.peak = peak
        self.device = pick_device(params)
        self.train = dataset.split("train")
        self.test = dataset.split("test")

    def run(self) -> None:
        """Runs all stages, one after the other."""
        with tempfile.TemporaryDirectory() as folder:
            proposals = self.generate(Path(folder))
            truth = self.dataset.segments_of("train")
            labels = select(add_iou_score(proposals), self.params)
            ema = self.learn(as_labels(truth) if self.options.steps else labels, Path(folder))
        store = FeatureStore(self.dataset, "student")
        for videos, name in ((self.train, "training"), (self.test, "test")):
            found = self.measure(
                f"localise the {name} videos",
                lambda videos=videos: detect_videos(ema, store, videos, self.params),
                videos=len(videos),
            )
        self.evaluate("detections", found)

    def generate(self, folder: Path) -> pd.DataFrame:
        """Trains the generator; returns the proposals of the training videos."""
        store = FeatureStore(self.dataset, "generator")
        steps = self.options.steps or self.params.generator_steps

        def train(count: int, name: str) -> Any:
            params = self.params.model_copy(update={"generator_steps": count})
            return generator.train_generator(params, store, folder / name)

        flops = count_flops(lambda: train(1, "one step"))
        model, _ = self.measure(
            "generator", lambda: train(steps, "generator"), steps=steps, of=self.params.generator_steps, flops=flops
        )
        for videos, known in ((self.test, False), (self.train, True)):
            proposals = self.measure(
                f"propose on the {'training' if known else 'test'} videos",
                lambda videos=videos, known=known: propose_videos([model], store, videos, self.params, known=known),
                videos=len(videos),
            )
            if not known:
                self.evaluate("proposals", proposals)
        return proposals

    def learn(self, labels: pd.DataFrame, folder: Path) -> student.Student:
        """Trains the student on labels and then on its own predictions; returns the average of its weights."""
        store = FeatureStore(self.dataset, "student")
        data = student.TrainingVideos(self.params, store, labels, self.device)
        torch.manual_seed(self.params.seed)
        state = StudentState.new(self.params, store)
        full = {"student": self.params.student_epochs, "distillation": self.params.distill_epochs}
        first = self.options.epochs or full["student"]
        last = first + (self.options.epochs or full["distillation"])
        relabel = Relabel(self.params).to(self.device)
        for name, epochs, extra in (("student", range(first), None), ("distillation", range(first, last), relabel)):
            train = functools.partial(train_epochs, self.params, data, relabel=extra)
            trial = StudentState.new(self.params, store)
            one_epoch = functools.partial(train, trial, folder / f"{name}, one epoch", epochs[:1])
            self.measure(
                name,
                lambda train=train, name=name, epochs=epochs: (state.ema, train(state, folder / name, epochs)),
                steps=len(epochs) * data.steps_per_epoch,
                of=full[name] * data.steps_per_epoch,
                flops=count_flops(one_epoch) / data.steps_per_epoch,
            )
        return state.ema

    def measure(
        self,
        stage: str,
        work: Callable[[], Any],
        *,
        steps: int | None = None,
        of: int | None = None,
        flops: float | None = None,
        videos: int | None = None,
    ) -> Any:
        """Runs a stage and adds its row.

        Args:
            stage: its name.
            work: the stage; a training returns a pair of something and its log.
            steps: of a training.
            of: its steps at full length.
            flops: of a step.
            videos: of an inference.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        result, seconds = timed(work, self.device)
        row = {"precision": self.params.precision, "stage": stage, "seconds": seconds}
        if videos:
            row |= {"videos": videos}
        if steps:
            achieved = flops * steps / seconds / 1e12
            row |= {"steps": steps, "full_steps": of, "full_seconds": seconds * of / steps, "extrapolated": steps < of}
            row |= {"waiting": result[1].attrs["waiting"], "tflops": achieved, "share_of_peak": achieved / self.peak}
        if self.device.type == "cuda":
            row |= {"peak_gpu_gib": torch.cuda.max_memory_allocated() / 2**30}
        self.report["stages"].append(row)
        write_json(self.report, self.options.out)
        words = [f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()]
        print(", ".join(words))
        return result

    def evaluate(self, what: str, found: pd.DataFrame) -> None:
        """Adds the mAP of the test videos, which are simulated: it is no measure of quality on real video."""
        ap = mean_average_precision(found, self.dataset.segments_of("test"), parse_grid(self.params.tious))
        self.report["map"].setdefault(self.params.precision, {})[what] = averages(ap)
        write_json(self.report, self.options.out)


if __name__ == "__main__":
    main()
