"""environment.yml gives conda users what constraints.txt gives pip."""

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
    wanted = project["dependencies"] + [item for group in project["optional-dependencies"].values() for item in group]
    return {re.match(r"[\w-]+", item)[0].lower() for item in wanted}


def test_conda_and_pip_have_the_same_pins(pins, needed):
    conda, items = {}, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    for item in items[:-1] + items[-1]["pip"]:
        if found := re.match(r"([\w-]+)=*([\w.]*)", item):
            conda[found[1].lower()] = found[2]
    conda = {name.replace("pytorch", "torch"): version for name, version in conda.items()}
    assert {name: conda.get(name) for name in needed} == {name: pins[name] for name in needed}


def test_every_dependency_of_conda_has_a_reason():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = [line for line in lines if re.match(r"\s+- \w", line) and not line.rstrip().endswith((":", "forge"))]
    assert entries
    assert all("#" in line for line in entries), "a reason beside every dependency"


def test_a_folder_named_as_the_package_does_not_hide_it(tmp_path):
    """A clone is called fustal by nature, and people work in the folder that holds it."""
    (tmp_path / "fustal").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import fustal.data.names; print(fustal.data.names.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stderr == "", "install again: pip install --editable ."
    assert done.stdout.strip().endswith("names.py")
