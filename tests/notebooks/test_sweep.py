"""A sweep of small demo chains: a worker is killed, a job fails, and the other results are those of single runs."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from fustal import ROOT
from tests.notebooks.miniature import SMALL, environment, without_zmq

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

SWEEP = {
    "base": {str(ROOT / "params" / "demo.yaml"): SMALL | {"upper_bound_epochs": 0}},
    "variants": {"full": {}, "longer": {"distill_epochs": 3}, "diverging": {"student_lr": 1e3}},
}
COMMAND = [sys.executable, "-m", "fustal"]


def kernels(process):
    """The processes of notebooks that run for a sweep."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "ipykernel_launcher" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has ended in the meantime
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Folder, exit status, output and errors of a sweep whose worker was killed while it trained the generator."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.yaml").write_text(yaml.safe_dump(SWEEP))
    command = [*COMMAND, "sweep", str(folder / "small.yaml"), "--workers", "2"]
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        sweep = psutil.Popen(command, stdout=out, stderr=err, env=environment(folder))
        started = folder / "small" / "full-seed0" / "generator" / "started.json"
        wait_for(started.exists)
        (kernel,) = kernels(sweep)
        kernel.parent().send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs([kernel], timeout=20)
        assert not alive, "the processes of a lost worker end with it"
        sweep.wait()
    return folder, sweep.returncode, (folder / "out").read_text(), (folder / "err").read_text()


def test_a_lost_worker_and_a_failing_job_stop_no_other_job(swept):
    _, status, out, err = swept
    assert status == 1
    (failure,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    error = "03_student_training.ipynb: FloatingPointError: student: the loss"
    assert failure.startswith(f"failed: diverging-seed0: {error}")
    partial = failure.split("(see ")[1].rstrip(")")
    assert partial.endswith("small/diverging-seed0/notebooks/03_student_training.partial.ipynb")
    assert "FloatingPointError" in Path(partial).read_text()
    assert "2 of 3 jobs done, 1 failed" in out
    assert "15 stages, of which 10 are to be computed" in out


def test_results_are_those_of_a_single_run(swept, tmp_path):
    folder = swept[0] / "small"
    params = yaml.safe_load((folder / "longer-seed0" / "params.yaml").read_text())
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(params))
    alone = [*COMMAND, "run", str(tmp_path / "alone.yaml")]
    subprocess.run(alone, env=environment(tmp_path), check=True, capture_output=True)
    file = "longer-seed0/evaluation/metrics.json"
    swept_metrics = json.loads((folder / file).read_text())
    single_metrics = json.loads((tmp_path / file).read_text())
    for part in ("mAP", "labels", "parameters"):
        assert swept_metrics[part] == single_metrics[part]
    record = json.loads((folder / "longer-seed0" / "student" / "stage.json").read_text())
    assert record["taken_from"] == "full-seed0"


def test_a_sweep_that_is_started_again_runs_only_missing_stages(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "again")
    variants = {"full": {}, "longer": {"distill_epochs": 3}}
    (folder / "small.yaml").write_text(yaml.safe_dump(SWEEP | {"variants": variants}))
    shutil.rmtree(folder / "small" / "longer-seed0" / "evaluation")
    command = [*COMMAND, "sweep", str(folder / "small.yaml"), "--workers", "1"]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    assert (done.returncode, without_zmq(done.stderr)) == (0, "")
    assert "10 stages, of which 1 are to be computed" in done.stdout
    assert "1/1 longer-seed0 evaluation" in done.stdout
    assert "2 of 2 jobs done, 0 failed, 1 stages computed" in done.stdout


def test_a_terminal_shows_a_live_table_only(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "again")
    (folder / "small.yaml").write_text(yaml.safe_dump(SWEEP | {"variants": {"full": {}}}))
    shutil.rmtree(folder / "small" / "full-seed0" / "evaluation")
    terminal, other = pty.openpty()
    place = environment(folder) | {"TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, "sweep", str(folder / "small.yaml"), "--workers", "1"]
    with subprocess.Popen(command, env=place, stdout=other, stderr=other) as process:
        os.close(other)
        parts = []
        with contextlib.suppress(OSError):  # raised on Linux when the terminal ends
            for part in iter(lambda: os.read(terminal, 65536), b""):
                parts.append(part)
    os.close(terminal)
    text = b"".join(parts).decode()
    assert process.returncode == 0, text
    assert "evaluation" in text
    assert "Executing" not in text, "progress bars of notebooks would destroy the table"
    assert "1 of 1 jobs done, 0 failed" in text


def test_collect_makes_one_table(swept, tmp_path):
    def collect(*options):
        command = [*COMMAND, "collect", *map(str, options)]
        return subprocess.run(command, env=environment(swept[0]), capture_output=True, text=True)

    done = collect("small", "--out", tmp_path / "all.parquet")
    assert (done.returncode, without_zmq(done.stderr)) == (0, "")
    frame = pd.read_parquet(tmp_path / "all.parquet")
    assert set(frame.run) == {"full-seed0", "longer-seed0"}
    assert dict(frame.groupby("run").distill_epochs.first()) == {"full-seed0": 2, "longer-seed0": 3}
    assert {"made.torch", "made.processor", "seed", "made.git_commit"} < set(frame)
    assert set(frame.stage) >= {"generator", "student", "student_ema", "distilled", "labels/pseudo labels"}
    assert collect("small").returncode == 0
    again = pd.read_csv(swept[0] / "small" / "results.csv")
    assert (again.shape, list(again)) == (frame.shape, list(frame))
    np.testing.assert_allclose(again.value, frame.value)
    other = shutil.copytree(swept[0] / "small", tmp_path / "other")
    (other / "full-seed0").rename(other / "equal-seed0")
    assert collect("small", other, "--out", tmp_path / "both.csv").returncode == 0
    both = pd.read_csv(tmp_path / "both.csv")
    assert (set(both.sweep), len(both)) == ({"small", "other"}, 2 * len(frame))
    assert set(both.run) == {"full-seed0", "longer-seed0", "equal-seed0"}, (
        "a job has the name of its folder, also in a copy"
    )
    wrong = collect("small", "--out", tmp_path / "all.xlsx")
    assert (wrong.returncode, wrong.stderr) == (2, f"error: {tmp_path / 'all.xlsx'}: must end in .csv or .parquet\n")
    assert collect("nothing").returncode == 2
