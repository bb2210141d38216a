"""Malicious files: nothing in them is executed, and no name in them becomes a path."""

import ast
import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from fustal import ROOT
from fustal.data.features import open_features
from fustal.data.files import read_json, read_yaml
from fustal.data.results import read_results
from fustal.engine.checkpoint import load_module, read_state
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.tools.sweeps.plan import read_sweep


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def features(path, harm):
    np.save(path, np.array([harm, harm], dtype=object))
    open_features(path)


def pickled_features(path, harm):
    path.write_bytes(pickle.dumps(harm))
    open_features(path)


def archived_features(path, harm):
    with path.open("wb") as file:
        np.savez(file, a=np.array([harm], dtype=object))
    open_features(path)


def weights(path, harm):
    torch.save({"weight": harm}, path)
    load_module(nn.Linear(1, 1), path)


def checkpoint(path, harm):
    torch.save({"weight": harm}, path)
    model = nn.Linear(1, 1)
    read_state(path).restore({"model": model}, torch.optim.SGD(model.parameters()))


def annotations(path, harm):
    path.write_bytes(pickle.dumps(harm))
    read_json(path)


def tagged(harm):
    return f"run: !!python/object/apply:builtins.open ['{harm.target}', 'w']"


def a_card(path, harm):
    path.write_text(tagged(harm))
    read_yaml(path)


def parameters(path, harm):
    path.write_text(tagged(harm))
    Params.read(path)


def a_sweep(path, harm):
    path.write_text(tagged(harm))
    read_sweep(path)


@pytest.mark.parametrize(
    "opened",
    [features, pickled_features, archived_features, weights, checkpoint, annotations, a_card, parameters, a_sweep],
)
def test_nothing_is_executed(opened, tmp_path):
    harm = Harm(tmp_path / "harmed")
    with pytest.raises(InputError) as error:
        opened(tmp_path / "file", harm)
    assert "\n" not in str(error.value)
    assert not harm.target.exists()


def test_the_files_are_harmful_to_unsafe_readers(tmp_path):
    harm = Harm(tmp_path / "harmed")
    pickle.loads(pickle.dumps(harm)).close()
    assert harm.target.exists()
    harm.target.unlink()
    yaml.unsafe_load(tagged(harm))["run"].close()
    assert harm.target.exists()


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "..", "a/../../evil"])
def test_results_cannot_name_other_videos(name, tmp_path):
    item = {"label": "Run", "score": 1, "segment": [0, 1]}
    (tmp_path / "r.json").write_text(json.dumps({"results": {name: [item]}}))
    with pytest.raises(InputError, match="is not in the data set"):
        read_results(tmp_path / "r.json", ["video"], ["Run"])


UNSAFE_MODULES = {"pickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {
    "torch.load",
    "eval",
    "exec",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pickle.load",
    "pickle.loads",
}


def test_the_package_has_no_way_to_unpickle_or_evaluate():
    """No import of pickle, no `torch.load` but of weights only, no `eval` or `exec`, numpy without `allow_pickle`.

    Except in `wtalc`: its own unpickler calls only a fixed list of functions, see `own_data/test_wtalc.py`.
    """
    for path in sorted((ROOT / "fustal").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                allowed = {"pickle"} if path.name == "wtalc.py" else set()
                assert not UNSAFE_MODULES & names - allowed, path
            if isinstance(node, ast.Call):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                only_weights = options.get("weights_only") == "True"
                assert only_weights or ast.unparse(node.func) not in UNSAFE_CALLS, path
                assert options.get("allow_pickle", "False") == "False", path
