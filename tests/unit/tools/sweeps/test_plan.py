"""Sweep files, their jobs, and the stages that jobs share."""

import pytest
import yaml

from fustal import ROOT
from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.data.files import digest
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN
from fustal.runs.identity import data_key
from fustal.runs.stage import adopt, is_done, stage_key
from fustal.tools.sweeps.plan import describe, jobs_of, plan, read_sweep

STAGES = list(CHAIN)


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file, reads it, and returns its jobs."""

    def make(**content):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content))
        return jobs_of(read_sweep(path), path)

    return make


def test_every_sweep_of_the_repository_can_be_read():
    for path in (ROOT / "params" / "sweeps").glob("*.yaml"):
        jobs = jobs_of(read_sweep(path), path)
        assert len({params.run for params in jobs}) == len(jobs) > 1


def test_jobs_are_all_combinations(write):
    jobs = write(
        base={"demo": {"student_epochs": 3}},
        variants={"full": {}, "no-mil": {"mil_weight": 0.0}},
        grid={"iou_score_min": [0.0, 0.2], "recipe": ["published", "corrected"]},
        seeds=[0, 7],
    )
    assert len(jobs) == 2 * 2 * 2 * 2
    assert jobs[0].run == "full-iou_score_min-0.0-recipe-published-seed0"
    last = jobs[-1]
    assert last.run == "no-mil-iou_score_min-0.2-recipe-corrected-seed7"
    assert (last.mil_weight, last.iou_score_min, last.recipe) == (0, 0.2, "corrected")
    assert (last.seed, last.student_epochs) == (7, 3)


def test_several_presets(write):
    jobs = write(base={"demo": {}, "sbhar": {"student_epochs": 2}}, variants={"a": {"mil_weight": 0.5}})
    assert [params.run for params in jobs] == ["demo-a-seed0", "sbhar-a-seed0"]
    assert [params.dataset for params in jobs] == ["demo", "sbhar"]
    assert [params.student_epochs for params in jobs] == [Params().student_epochs, 2]
    assert [params.mil_weight for params in jobs] == [0.5, 0.5]


def test_a_variant_that_is_skipped_with_a_preset(write):
    jobs = write(base={"demo": {}, "sbhar": {}}, variants={"a": {}, "b": {}}, skipped={"a": ["sbhar"]})
    assert [params.run for params in jobs] == ["demo-a-seed0", "demo-b-seed0", "sbhar-b-seed0"]


def test_a_preset_beside_the_sweep(write, tmp_path):
    (tmp_path / "mine.yaml").write_text("student_epochs: 5\n")
    (params,) = write(base="mine.yaml")
    assert (params.run, params.student_epochs) == ("seed0", 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "base: Field required"),
        ({"base": "demo", "sedes": [1]}, "unknown entry 'sedes' (did you mean 'seeds'?)"),
        ({"base": "demo", "seeds": []}, "seeds: List should have at least 1 item"),
        ({"base": "demo", "seeds": ["a"]}, "seeds.0"),
        ({"base": "demo", "grid": {"seed": [1]}}, "seed cannot be varied by hand"),
        ({"base": "demo", "variants": {"a": {"run": "b"}}}, "run cannot be varied by hand"),
        ({"base": {"demo": {"sudent_lr": 1.0}}}, "unknown parameter 'sudent_lr'"),
        ({"base": "demo", "grid": {"student_lr": [1.0, -1.0]}}, "job student_lr--1.0-seed0"),
        ({"base": "demo", "seeds": [1, 1]}, "two jobs have the name seed1"),
        ({"base": "demo", "variants": {"a b": {}, "a/b": {}}}, "two jobs have the name a_b-seed0"),
        ({"base": "demo", "variants": {"a": {}}, "skipped": {"b": ["demo"]}}, "skipped: 'b' is not a variant"),
        ({"base": "demo", "variants": {"a": {}}, "skipped": {"a": ["sbhar"]}}, "has a preset that is not in base"),
        ({"base": "nothing"}, "no such parameter file"),
    ],
)
def test_wrong_sweeps_are_refused(write, tmp_path, content, message):
    with pytest.raises(InputError) as error:
        write(**content)
    assert str(error.value).startswith(str(tmp_path / "sweep.yaml"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def shared(tasks):
    return {(task.params.run, task.stage): task.donor for task in tasks if task.donor}


def test_equal_stages_are_computed_once(write):
    jobs = write(base="demo", variants={"a": {}, "b": {"iou_score_min": 0.1}, "c": {"distill_epochs": 3}}, seeds=[0, 1])
    tasks = plan(jobs, None)
    assert len(tasks) == 6 * 5
    expected = {}
    for seed in ("seed0", "seed1"):
        expected[f"b-{seed}", "generator"] = f"a-{seed}"
        for stage in STAGES[:3]:
            expected[f"c-{seed}", stage] = f"a-{seed}"
    assert shared(tasks) == expected
    names = [task.name for task in tasks]
    for task in tasks:
        assert not task.donor or names.index((task.donor, task.stage)) < names.index(task.name)
        i = STAGES.index(task.stage)
        assert not i or names.index((task.params.run, STAGES[i - 1])) < names.index(task.name)


def test_the_same_parameters_after_other_ones_are_another_stage(write):
    tasks = plan(write(base="demo", variants={"a": {}, "b": {"generator_lr": 1e-3}}), None)
    assert shared(tasks) == {}, "selection has the same parameters, but other proposals"


@pytest.fixture
def pretend(tmp_path):
    """Writes the files of a finished generator."""

    def finish(params):
        ensure(params.dataset)
        stage, folder = CHAIN["generator"], tmp_path / params.run
        (folder / "generator" / "inner").mkdir(parents=True)
        (folder / "generator" / "inner" / "more.csv").write_text("1\n")
        for name in stage.outputs:
            (folder / name).write_text(name)
        record = {
            "stage": "generator",
            "key": stage_key(params, stage, data_key(load_dataset(params.dataset))),
            "data": "data",
            "code": "code",
            "parameters": params.of(Params),
            "inputs": {},
            "outputs": {name: digest(folder / name) for name in stage.outputs},
        }
        write_json(record, folder / "generator" / "stage.json")
        (folder / "notebooks").mkdir()
        (folder / "notebooks" / stage.notebook).write_text("{}")
        return folder

    return finish


def test_a_finished_stage_is_a_donor_and_does_not_run_again(write, pretend, tmp_path):
    jobs = write(base="demo", variants={"a": {}, "b": {"iou_score_min": 0.1}})
    pretend(jobs[1])
    tasks = {task.name: task for task in plan(jobs, tmp_path)}
    assert tasks["b-seed0", "generator"].done
    assert (tasks["a-seed0", "generator"].donor, tasks["a-seed0", "generator"].done) == ("b-seed0", False)
    rest = ", ".join(f"{stage}: compute" for stage in STAGES[1:])
    assert f"a-seed0: generator: from b-seed0, {rest}" in describe(list(tasks.values()))


def test_an_adopted_stage_is_done_and_names_its_donor(pretend, tmp_path):
    source, params = pretend(Params(run="a")), Params(run="b", iou_score_min=0.1)
    adopt(source, params, "generator", tmp_path)
    adopt(source, params, "generator", tmp_path)
    assert is_done(params, "generator", data_key(load_dataset("demo")), tmp_path)
    assert (tmp_path / "b" / "generator" / "inner" / "more.csv").read_text() == "1\n"
    assert (tmp_path / "b" / "notebooks" / CHAIN["generator"].notebook).exists()
    record = yaml.safe_load((tmp_path / "b" / "generator" / "stage.json").read_text())
    assert (record["taken_from"], record["parameters"]["run"], record["parameters"]["iou_score_min"]) == ("a", "b", 0.1)
    assert not is_done(Params(run="b", seed=1), "generator", data_key(load_dataset("demo")), tmp_path)
    original = yaml.safe_load((source / "generator" / "stage.json").read_text())
    assert "taken_from" not in original, "the file of the donor is not changed"
