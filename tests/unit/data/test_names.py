"""Names that the user types: found by path, folder or name, or refused with a list of the existing ones."""

import os
import re
from itertools import chain

import pytest

from fustal import ROOT, params
from fustal.data import names
from fustal.data.cards import Card
from fustal.data.names import KINDS, among, find, find_card, find_run, folder_of, read_as
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN
from fustal.tools.sweeps.plan import Sweep

TEXTS = {
    "card": "name: mine\nroot: .\nannotations: gt.json\ngrids: {student: {pattern: '{video}.npy'}}\n",
    "preset": "run: mine\ndataset: card.yaml\nstudent_epochs: 3\n",
    "sweep": "base: demo\nseeds: [0, 1]\n",
}
ENTRIES = {"card": Card.model_fields, "preset": Params.model_fields, "sweep": Sweep.model_fields}


def test_near_names_are_listed_first():
    assert among("thumos", ["activitynet13", "thumos14-simulated", "thumos14"]) == (
        "(did you mean 'thumos14'? there are thumos14, thumos14-simulated, activitynet13)"
    )
    assert among("nothing", ["tiny"]) == "(there are tiny)"
    assert among("", []) == "(there are none)"
    many = among("run7", [f"run{i}" for i in range(100)])
    assert many.startswith("(did you mean 'run7'? there are run7, run")
    assert many.endswith(" and 88 more)")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_found_by_its_path_or_its_folder(tmp_path, kind):
    file = tmp_path / KINDS[kind].file
    with pytest.raises(InputError, match=f"{tmp_path.name}: is a folder without {file.name}"):
        find(kind, tmp_path)
    with pytest.raises(InputError, match=f"{file.name}: no such {KINDS[kind].missing}"):
        find(kind, file)
    file.write_text(TEXTS[kind])
    assert find(kind, tmp_path) == find(kind, file) == file


@pytest.mark.parametrize("given", ["a\0b", "x" * 5000, ""])
def test_names_that_no_file_can_have(given):
    with pytest.raises(InputError):
        find("card", f"{given}.yaml")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for kind in KINDS:
        with pytest.raises(InputError, match=r"pipe\.yaml: is not a regular file"):
            find(kind, tmp_path / "pipe.yaml")


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_the_error_of_a_wrong_kind_names_kind_and_command(tmp_path, given, wanted):
    file = tmp_path / "some.yaml"
    file.write_text(TEXTS[given])
    if given == wanted:
        assert read_as(wanted, file, ENTRIES[wanted])
        return
    message = f"{file}: this is {KINDS[given].title}; {KINDS[wanted].title} is wanted: {KINDS[given].command} {file}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_as(wanted, file, ENTRIES[wanted])


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_of_the_files_of_the_repository(kind):
    for file in KINDS[kind].folder.glob("*.yaml"):
        assert read_as(kind, file, ENTRIES[kind])
        for other in KINDS.keys() - {kind}:
            with pytest.raises(InputError, match=f"this is {KINDS[kind].title}"):
                read_as(other, file, ENTRIES[other])


def test_a_file_with_a_misspelt_entry_is_of_its_kind(tmp_path):
    (tmp_path / "p.yaml").write_text("run: mine\nseeds: 3\n")
    with pytest.raises(InputError, match=r"unknown parameter 'seeds' \(did you mean 'seed'\?\)"):
        Params.read(tmp_path / "p.yaml")


def test_no_two_kinds_share_an_entry():
    entries = list(chain.from_iterable(ENTRIES.values()))
    assert len(entries) == len(set(entries))
    for kind, fields in ENTRIES.items():
        for name in KINDS[kind].entries:
            assert any(entry.startswith(name) for entry in fields)


def test_stages_are_those_of_the_chain():
    assert names.STAGES == tuple(CHAIN) == tuple(params.STAGE_PARAMS)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A folder of runs: demo, which is evaluated, and a job of the sweep grid."""
    monkeypatch.setattr(names, "OUTPUTS", tmp_path / "here" / "outputs")
    for run in ("demo", "grid/job-seed0"):
        for stage in ("generator", "evaluation"):
            folder = tmp_path / "here" / "outputs" / run / stage
            folder.mkdir(parents=True)
            (folder / "stage.json").write_text("{}")
    (tmp_path / "here" / "outputs" / "demo" / "evaluation" / "metrics.json").write_text("{}")
    return tmp_path / "here" / "outputs"


@pytest.mark.parametrize("where", [".", "here", "here/outputs", "else/where"])
@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("demo", "demo"),
        ("outputs/demo", "demo"),
        ("outputs/demo/", "demo"),
        ("outputs/demo/evaluation/metrics.json", "demo"),
        ("demo/evaluation/metrics.json", "demo"),
        ("grid/job-seed0", "grid/job-seed0"),
        ("outputs/grid/job-seed0", "grid/job-seed0"),
    ],
)
def test_a_run_is_found_from_any_folder(outputs, monkeypatch, where, given, run):
    folder = outputs.parents[1] / where
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    assert find_run(given) == outputs / run
    assert find_run(outputs / given.removeprefix("outputs/")) == outputs / run


def test_a_folder_of_data_is_no_run(outputs, monkeypatch, tmp_path):
    (tmp_path / "demo" / "features").mkdir(parents=True)
    (tmp_path / "data" / "features").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_run("demo") == outputs / "demo"
    for given in ("data", ".", "", "grid2"):
        with pytest.raises(InputError, match=r"no such run \(.*there are .*demo.*\)$"):
            find_run(given)


def test_existing_runs_are_listed_near_ones_first(outputs):
    with pytest.raises(InputError, match=r"dmo: no such run \(did you mean 'demo'\? there are demo, grid/job-seed0\)$"):
        find_run("dmo")
    with pytest.raises(InputError, match=r"\(there are demo\)$"):
        find_run("nothing", "evaluation/metrics.json")


# --- papermill's parameter file ---------------------------------------------------------------------------------------


class Process:
    """Replaces the process of papermill."""

    def __init__(self, words, folder):
        self.words, self.folder = words, folder

    def parents(self):
        return [self]

    def cmdline(self):
        return self.words

    def cwd(self):
        return str(self.folder)

    def environ(self):
        return {}


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["-f", "mine/p.yaml"], "mine"),
        (["--parameters_file", "mine/p.yaml"], "mine"),
        (["--parameters_file=mine/p.yaml"], "mine"),
        (["-f", "mine/p.yaml", "-f", "other.yaml"], "mine"),
        (["-f", "mine/p.yaml", "-p", "seed", "3"], "mine"),
        (["-f", "mine/p.yaml", "-p", "dataset", "card.yaml"], "."),
        (["-f", "other.yaml"], "."),
        (["-f", "nothing.yaml"], "."),
        ([], "."),
    ],
)
def test_a_path_is_relative_to_papermills_parameter_file(tmp_path, monkeypatch, options, folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "p.yaml").write_text("dataset: card.yaml\n")
    (tmp_path / "other.yaml").write_text("seed: 3\n")
    monkeypatch.chdir(tmp_path)
    words = ["/x/python", "/x/bin/papermill", "01.ipynb", "out.ipynb", *options]
    monkeypatch.setattr("psutil.Process", lambda: Process(words, tmp_path))
    monkeypatch.setattr(names, "in_notebook", lambda: True)
    assert folder_of("dataset", "card.yaml") == (tmp_path / folder).resolve()
    (tmp_path / folder / "card.yaml").write_text("")
    assert find_card("card.yaml") == (tmp_path / folder / "card.yaml").resolve()
    assert Params.from_notebook({"dataset": "card.yaml"}).dataset == str((tmp_path / folder / "card.yaml").resolve())


def test_a_card_that_a_notebook_does_not_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "in_notebook", lambda: True)
    with pytest.raises(InputError, match=r"give a card's whole path, or the preset to papermill by -f$"):
        find_card("card.yaml")


def test_a_card_by_its_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_card("mine") == find_card(tmp_path / "mine") == tmp_path / "mine" / "card.yaml"
    assert find_card("demo") == ROOT / "params" / "datasets" / "demo.yaml"
