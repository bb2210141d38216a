"""A sweep of demo chains in miniature: a worker is killed, a job fails, and the rest is as if run one by one."""

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
from tests.notebooks.miniature import SMALL, environment, said

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

SWEEP = {
    "base": {str(ROOT / "params" / "demo.yaml"): SMALL | {"upper_bound_epochs": 0}},
    "variants": {"full": {}, "longer": {"distill_epochs": 2}, "diverging": {"student_lr": 1e3}},
}
COMMAND = [sys.executable, "-m", "fustal"]


def kernels(process):
    """The processes of notebooks that run for a sweep."""
    found = []
    for child in process.children(recursive=True):
        try:
            found += [child] * ("ipykernel_launcher" in child.cmdline())
        except psutil.Error:  # it has ended in the meantime
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return result


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
        assert not alive, "what a lost worker ran ends with it"
        sweep.wait()
    return folder, sweep.returncode, (folder / "out").read_text(), (folder / "err").read_text()


def test_a_lost_worker_and_a_failing_job_cost_the_others_nothing(swept):
    _, status, out, err = swept
    assert status == 1
    (failure,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert failure.startswith(
        "failed: diverging-seed0: 03_student_training.ipynb: FloatingPointError: student: the loss"
    )
    partial = failure.split("(see ")[1].rstrip(")")
    assert partial.endswith("small/diverging-seed0/notebooks/03_student_training.partial.ipynb")
    assert "FloatingPointError" in Path(partial).read_text()
    assert "2 of 3 jobs done, 1 failed" in out
    assert "15 stages, of which 10 are to be computed" in out


def test_results_are_those_of_a_run_alone(swept, tmp_path):
    folder = swept[0] / "small"
    params = yaml.safe_load((folder / "longer-seed0" / "params.yaml").read_text())
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(params))
    alone = [*COMMAND, "run", str(tmp_path / "alone.yaml")]
    subprocess.run(alone, env=environment(tmp_path), check=True, capture_output=True)
    metrics = [json.loads((f / "longer-seed0" / "evaluation" / "metrics.json").read_text()) for f in (folder, tmp_path)]
    for part in ("mAP", "labels", "parameters"):
        assert metrics[0][part] == metrics[1][part]
    record = json.loads((folder / "longer-seed0" / "student" / "stage.json").read_text())
    assert record["taken_from"] == "full-seed0"


def test_started_again_only_what_is_missing_runs(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "again")
    (folder / "small.yaml").write_text(
        yaml.safe_dump(SWEEP | {"variants": {"full": {}, "longer": {"distill_epochs": 2}}})
    )
    shutil.rmtree(folder / "small" / "longer-seed0" / "evaluation")
    command = [*COMMAND, "sweep", str(folder / "small.yaml"), "--workers", "1"]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    assert (done.returncode, said(done.stderr)) == (0, "")
    assert "10 stages, of which 1 are to be computed" in done.stdout
    assert "1/1 longer-seed0 evaluation" in done.stdout
    assert "2 of 2 jobs done, 0 failed, 1 stages computed" in done.stdout


def test_on_a_terminal_there_is_a_live_table_and_nothing_else(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "again")
    (folder / "small.yaml").write_text(yaml.safe_dump(SWEEP | {"variants": {"full": {}}}))
    shutil.rmtree(folder / "small" / "full-seed0" / "evaluation")
    terminal, other = pty.openpty()
    place = environment(folder) | {"TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, "sweep", str(folder / "small.yaml"), "--workers", "1"]
    with subprocess.Popen(command, env=place, stdout=other, stderr=other) as process:
        os.close(other)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while read := os.read(terminal, 65536):
                shown += read
    os.close(terminal)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "evaluation" in text
    assert "Executing" not in text, "the bars of the workers' notebooks would tear the table"
    assert "1 of 1 jobs done, 0 failed" in text


def test_collect_makes_one_table(swept, tmp_path):
    def collect(*options):
        command = [*COMMAND, "collect", *map(str, options)]
        return subprocess.run(command, env=environment(swept[0]), capture_output=True, text=True)

    done = collect("small", "--out", tmp_path / "all.parquet")
    assert (done.returncode, said(done.stderr)) == (0, "")
    frame = pd.read_parquet(tmp_path / "all.parquet")
    assert set(frame.run) == {"full-seed0", "longer-seed0"}
    assert dict(frame.groupby("run").distill_epochs.first()) == {"full-seed0": 1, "longer-seed0": 2}
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
    assert set(both.run) == {"full-seed0", "longer-seed0", "equal-seed0"}, "a job's name is its folder's, as in a copy"
    wrong = collect("small", "--out", tmp_path / "all.xlsx")
    assert (wrong.returncode, wrong.stderr) == (2, f"error: {tmp_path / 'all.xlsx'}: must end in .csv or .parquet\n")
    assert collect("nothing").returncode == 2
