"""Checks before a sweep, submitted tasks and progress, on a cluster in this process whose tasks write a trace."""

import contextlib
import os
from types import SimpleNamespace

import fsspec
import pytest
import yaml

from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.batch import StageError
from fustal.runs.chain import CHAIN
from fustal.tools.sweeps.plan import jobs_of, plan, read_sweep

distributed = pytest.importorskip("distributed")
cluster = pytest.importorskip("fustal.tools.sweeps.cluster")
progress = pytest.importorskip("fustal.tools.sweeps.progress")


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.Client(**options, resources={"GPU": 1}) as client:
        yield client


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": "demo", "variants": {"a": {}, "b": {"iou_score_min": 0.1}}}))
    return plan(jobs_of(read_sweep(path), path), None)


def leave_a_trace(values, stage, donor, outputs, *before):
    """Replaces the execution of a notebook; the student of job b fails."""
    if (values["run"], stage) == ("b-seed0", "student"):
        raise StageError("03: too hard\n (see x)")
    with open(f"{outputs}/trace", "a") as file:
        file.write(f"{values['run']} {stage} {donor}\n")
    return 1.0


def test_tasks_run_in_order_and_a_failing_job_stops_no_other(client, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "run_task", leave_a_trace)
    lines = []
    futures = cluster.submit(client, tasks, str(tmp_path))
    failures = progress.follow(client, futures, tasks, lines.append, every=0.05)
    assert failures == ["b-seed0: 03: too hard (see x)"]
    done = (tmp_path / "trace").read_text().splitlines()
    expected = [f"a-seed0 {stage} None" for stage in CHAIN]
    expected += ["b-seed0 generator a-seed0", "b-seed0 selection None"]
    assert sorted(done) == sorted(expected)
    assert done.index("a-seed0 generator None") < done.index("b-seed0 generator a-seed0")
    assert sum("failed" in line for line in lines[:-1]) == 1, "later stages of a failed job get no lines"
    assert lines[-1].startswith("1 of 2 jobs done, 1 failed, 9 stages computed")


def test_what_is_done_is_not_submitted(client, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "run_task", leave_a_trace)
    done = [task._replace(done=True) if task.stage == "generator" else task for task in tasks]
    futures = cluster.submit(client, done, str(tmp_path))
    assert ("a-seed0", "generator") not in futures
    assert len(futures) == 8
    states = progress.states_of(client, futures, done)
    assert states["a-seed0", "generator"] == "done"
    for future in futures.values():
        future.cancel()


def test_the_live_table_counts_jobs_and_stages(client, tasks):
    finished = SimpleNamespace(status="finished", result=lambda: 60.0, key="x")
    states = {task.name: "done" if task.stage == "generator" else "waiting" for task in tasks}
    futures = {task.name: finished for task in tasks if task.stage == "generator"}
    group = progress.board(states, futures, tasks, client, 120)
    text = "".join(str(part) for part in group.renderables[1:])
    assert "2 min passed, time left: unknown" in text
    table = group.renderables[0]
    assert [list(column.cells) for column in table.columns][1] == ["2", "", "", "", "", ""]
    assert [list(column.cells) for column in table.columns][3] == ["", "2", "2", "2", "2", "2"]
    known = {task.name: finished for task in tasks if task.params.run == "a-seed0"}
    states = {task.name: "done" if task.name in known else "waiting" for task in tasks}
    assert progress.time_left(states, known, tasks, workers=2) == 4 * 60 / 2


def test_workers_are_checked_before_anything_starts(client, tasks, tmp_path, monkeypatch):
    jobs = [task.params for task in tasks]
    cluster.check(client, jobs, str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(client, "nthreads", lambda: {"tcp://x": 4})
        with pytest.raises(InputError, match=r"^worker tcp://x: has 4 threads: start workers with --nthreads 1$"):
            cluster.check(client, jobs, str(tmp_path / "new"))
    seen = iter(["same", "other", "another"])
    monkeypatch.setattr(cluster, "environment_of", lambda *_: {"code": next(seen)})
    with pytest.raises(InputError, match=r"^worker .*: code is (an)?other, but same on the client$"):
        cluster.check(client, jobs, str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # warnings of the network layer about a refused connection
def test_a_missing_scheduler_is_an_error():
    connecting = cluster.connect("tcp://127.0.0.1:9", None, [Params()], 1.0)
    with pytest.raises(InputError, match=r"--scheduler tcp://127.0.0.1:9: no workers there"):
        connecting.__enter__()


@pytest.mark.parametrize(
    ("cores", "gpus", "memory", "threads", "expected"),
    [(8, 0, 64, 1, 8), (8, 0, 64, 4, 2), (8, 0, 8, 1, 2), (2, 0, 1, 1, 1), (8, 0, 64, 0, 1), (16, 4, 64, 1, 4)],
)
def test_local_workers_share_the_machine(monkeypatch, cores, gpus, memory, threads, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(cluster.psutil, "virtual_memory", lambda: SimpleNamespace(total=memory * 2**30))
    workers = cluster.local_workers(None, [Params(threads=threads)], 4.0)
    assert len(workers) == expected
    assert all(worker["options"]["nthreads"] == 1 for worker in workers.values())
    if gpus:
        cards = [worker["options"]["env"]["CUDA_VISIBLE_DEVICES"] for worker in workers.values()]
        assert cards == ["0", "1", "2", "3"]
        assert workers[0]["options"]["resources"] == {"GPU": 1}
        assert "env" not in cluster.local_workers(None, [Params(device="cpu")], 4.0)[0]["options"]


def test_a_stage_runs_in_the_sweeps_folder_and_a_donors_is_taken_over_once(tmp_path, monkeypatch):
    ran = []
    taken = []

    def run_chain(params, *, stages, outputs, report, bar):
        ran.append((stages, outputs))

    monkeypatch.setattr(cluster, "run_chain", run_chain)
    monkeypatch.setattr(cluster, "adopt", lambda source, params, *_: taken.append((source.name, params.run)))
    monkeypatch.setattr(cluster, "is_done", lambda params, *_: params.run == "done")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    values = {name: Params(run=name, device="cpu").of(Params) for name in ("new", "done")}
    assert 0 <= cluster.run_task(values["new"], "student", None, str(tmp_path)) < 60
    assert ran == [(["student"], tmp_path)]
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ, "dask's setting, which halves the speed of a training"
    assert Params.read(tmp_path / "new" / "params.yaml") == Params(**values["new"])
    for name in values:
        cluster.run_task(values[name], "student", "other", str(tmp_path))
    assert taken == [("other", "new")]


def test_the_folder_of_a_url_is_copied_and_written_back():
    system = fsspec.filesystem("memory")
    system.pipe({"/runs/a/generator/x": b"1", "/runs/b/generator/y": b"2", "/runs/c/z": b"3"})
    with cluster.workplace("memory://runs", "a", "b") as folder:
        assert (folder / "a" / "generator" / "x").read_bytes() == b"1"
        assert (folder / "b" / "generator" / "y").read_bytes() == b"2"
        assert not (folder / "c").exists()
        (folder / "a" / "selection").mkdir()
        (folder / "a" / "selection" / "new").write_bytes(b"4")
        (folder / "b" / "generator" / "y").write_bytes(b"5")
    assert system.cat("/runs/a/selection/new") == b"4"
    assert system.cat("/runs/b/generator/y") == b"2"
    with contextlib.suppress(StageError), cluster.workplace("memory://runs", "d", None) as folder:
        (folder / "d").mkdir()
        (folder / "d" / "error").write_bytes(b"6")
        raise StageError
    assert system.cat("/runs/d/error") == b"6", "files of a failed stage are kept"


def test_a_local_folder_is_used_directly(tmp_path):
    with cluster.workplace(str(tmp_path), "a", None) as folder:
        assert folder == tmp_path
