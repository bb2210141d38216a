"""The public names of the package, which are imported when they are first used."""

import subprocess
import sys

import pytest

import fustal
from fustal import FeatureStore, Params, load_dataset, open_stage, viz
from fustal.data import cards, features
from fustal.runs import stage


def test_public_names_are_those_of_their_modules():
    assert FeatureStore is features.FeatureStore
    assert Params is sys.modules["fustal.params"].Params
    assert load_dataset is cards.load_dataset
    assert open_stage is stage.open_stage
    assert viz is sys.modules["fustal.viz"]
    assert sorted(fustal.__all__) == ["FeatureStore", "Params", "load_dataset", "open_stage", "viz"]


def test_the_package_alone_imports_neither_torch_nor_pandas():
    program = "import sys, fustal; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'fustal' has no attribute 'load_datasets'"):
        fustal.load_datasets  # noqa: B018
    with pytest.raises(ImportError, match="load_datasets"):
        from fustal import load_datasets  # noqa: F401
