"""environment.yml pins the same versions for conda as constraints.txt for pip."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from fustal import ROOT


@pytest.fixture(scope="module")
def pins():
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M)
    return {name.lower(): version for name, version in lines}


@pytest.fixture(scope="module")
def needed():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    items = list(project["dependencies"])
    for group in project["optional-dependencies"].values():
        items += group
    return {re.match(r"[\w-]+", item)[0].lower() for item in items}


def test_conda_and_pip_have_the_same_pins(pins, needed):
    items = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {}
    for item in items[:-1] + items[-1]["pip"]:
        found = re.match(r"([\w-]+)=*([\w.]*)", item)
        if found:
            name = found[1].lower().replace("pytorch", "torch")
            conda[name] = found[2]
    assert {name: conda.get(name) for name in needed} == {name: pins[name] for name in needed}


def test_every_dependency_of_conda_has_a_reason():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = [line for line in lines if re.match(r"\s+- \w", line) and not line.rstrip().endswith((":", "forge"))]
    assert entries
    assert all("#" in line for line in entries), "every dependency needs a comment with its reason"


def test_a_folder_named_as_the_package_does_not_hide_it(tmp_path):
    """A clone has the name fustal, and people work in the folder around it."""
    (tmp_path / "fustal").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import fustal.data.names; print(fustal.data.names.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stderr == "", "install again: pip install --editable ."
    assert done.stdout.strip().endswith("names.py")
