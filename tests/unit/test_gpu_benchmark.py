"""The GPU benchmark runs on any machine, with small sizes."""

import json

import torch

from tests.benchmarks import gpu


def test_gpu_benchmark_runs_anywhere(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(["--small", "--device", "cpu", "--precision", "float32", "--out", str(out)])
    report = json.loads(out.read_text())
    trained = {row["stage"]: row for row in report["stages"] if "steps" in row}
    assert list(trained) == ["generator", "student", "distillation"]
    assert trained["generator"]["full_steps"] == 6000
    assert all(row["extrapolated"] and row["full_seconds"] > row["seconds"] for row in trained.values())
    assert all(row["share_of_peak"] > 0 and 0 <= row["waiting"] <= 1 for row in trained.values())
    assert trained["distillation"]["tflops"] * trained["distillation"]["seconds"] > (
        trained["student"]["tflops"] * trained["student"]["seconds"]
    )
    assert set(report["map"]["float32"]) == {"proposals", "detections"}


def test_gpu_benchmark_counts_operations():
    x, weight = torch.randn(2, 16, 1, 64, requires_grad=True), torch.randn(16, 1, 1, 11, requires_grad=True)

    def convolve():
        return torch.nn.functional.conv2d(x, weight, padding=(0, 5), groups=16)

    once = 2 * 2 * 16 * 64 * 11
    assert gpu.count_flops(convolve) == once
    assert gpu.count_flops(lambda: convolve().sum().backward()) == 3 * once
