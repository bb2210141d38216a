"""Invalid files of every kind: the command ends with status 2 and one line that names file, video and value, and no
file is written or lost.

A case is a name, a function that breaks a valid data set, and a part of the message.
"""

import gzip
import io
import json
import os
import pickle
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from fustal.params import Params
from fustal.runs import batch, stage
from fustal.tools.cli import main

CARD = {
    "name": "small",
    "root": "data",
    "annotations": "gt.json",
    "grids": {"generator": {"pattern": "{modality}/{video}.npy", "modalities": ["rgb", "flow"]}},
}
CARD["grids"]["generator"] |= {"fps": 25, "stride": 16, "window": 16}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A valid data set of six videos, a card, parameters, a sweep, detections; outputs of runs would be here, too."""
    database = {}
    for i in range(6):
        subset = "train" if i < 4 else "test"
        annotations = [{"label": "Run" if i % 2 else "Sit", "segment": [1, 4.5]}]
        database[f"v{i}"] = {"subset": subset, "duration": 20, "annotations": annotations}
    for video in database:
        for modality, width in (("rgb", 3), ("flow", 2)):
            path = tmp_path / "data" / modality / f"{video}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.ones((31, width), np.float32))
    write_json(tmp_path / "data" / "gt.json", {"database": database})
    write_yaml(tmp_path / "card.yaml", CARD)
    write_yaml(tmp_path / "preset.yaml", {"run": "small", "dataset": str(tmp_path / "card.yaml")})
    write_yaml(tmp_path / "sweep.yaml", {"base": "preset.yaml", "seeds": [0, 1]})
    found = {"v4": [{"label": "Sit", "score": 0.5, "segment": [1, 4]}]}
    write_json(tmp_path / "found.json", {"results": found})
    for module in (stage, batch):
        monkeypatch.setattr(module, "OUTPUTS", tmp_path / "outputs")
    return tmp_path


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_yaml(path, value):
    path.write_text(yaml.safe_dump(value))


def state(folder):
    """Everything in a folder: files by content, links by target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
    return found


def call(folder, monkeypatch, capsys, *arguments):
    """Calls a command: exit status and lines of both streams; fails if a file was written or lost."""
    before = state(folder)
    monkeypatch.setattr(sys, "argv", ["fustal", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert state(folder) == before, "no file is written or lost"
    return stop.value.code or 0, out.splitlines(), err.splitlines()


def contains(line, message):
    """Whether a line contains a message; in a table the video has its own column."""
    found = re.fullmatch(r"(?:video ('.*?'): )?(.*)", message)
    video, what = found.groups()
    return message in line or (what in line and f"  {str(video)[:70]}" in line)


# --- feature files: `fustal validate` ---------------------------------------------------------------------------------


def features(array, video="v2", modality="rgb"):
    return lambda folder: np.save(folder / "data" / modality / f"{video}.npy", array)


def content(data, video="v2"):
    return lambda folder: (folder / "data" / "rgb" / f"{video}.npy").write_bytes(data)


def replaced(make, name="data/rgb/v2.npy"):
    """Replaces a file by something else with the same name."""

    def broken(folder):
        (folder / name).unlink()
        make(folder / name)

    return broken


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, np.ones((31, 3), np.float32))
    return buffer.getvalue()


def bad_value(value):
    array = np.ones((31, 3), np.float32)
    array[7, 1] = value
    return array


FEATURES = {
    "missing": (lambda folder: (folder / "data/rgb/v2.npy").unlink(), "no such feature file"),
    "empty file": (content(b""), "is not a readable .npy file"),
    "truncated header": (content(b"\x93NUMPY\x01"), "is not a readable .npy file"),
    "truncated numbers": (content(saved(np.ones((31, 3), np.float32))[:-40]), "is not a readable .npy file"),
    "header of a billion snippets, no numbers": (
        content(saved(np.ones((0, 3), np.float32)).replace(b"(0, 3), }        ", b"(1000000000, 3), }")),
        "is not a readable .npy file",
    ),
    "not numpy": (content(b"snippet,value\n1,2\n"), "is not a readable .npy file"),
    "an archive": (content(archive()), "must be float16 or float32 of shape (T, D), not an archive"),
    "a pickle": (content(pickle.dumps([1.0])), "is not a readable .npy file"),
    "an object array": (features(np.array([[1, None]], object)), "is not a readable .npy file"),
    "float64": (features(np.ones((31, 3))), "not float64 of shape (31, 3)"),
    "integers": (features(np.ones((31, 3), np.int16)), "not int16"),
    "complex": (features(np.ones((31, 3), np.complex64)), "not complex64"),
    "text": (features(np.full((31, 3), "a")), "not <U1"),
    "one dimension": (features(np.ones(31, np.float32)), "of shape (31,)"),
    "three dimensions": (features(np.ones((1, 31, 3), np.float32)), "of shape (1, 31, 3)"),
    "no snippet": (features(np.ones((0, 3), np.float32)), "has no snippets: shape (0, 3)"),
    "no number": (features(np.ones((31, 0), np.float32)), "has no snippets: shape (31, 0)"),
    "NaN": (features(bad_value(np.nan)), "video 'v2': NaN or infinity in snippet 7"),
    "infinity": (features(bad_value(-np.inf)), "video 'v2': NaN or infinity in snippet 7"),
    "other width": (features(np.ones((31, 4), np.float32)), "video 'v2': 6 numbers a snippet where others have 5"),
    "other length than the other modality": (
        features(np.ones((30, 3), np.float32)),
        "video 'v2': modalities differ in length: rgb 30, flow 31",
    ),
    "transposed": (features(np.ones((3, 31), np.float32)), "video 'v2': modalities differ in length: rgb 3, flow 31"),
    "modality missing": (lambda folder: (folder / "data/flow/v2.npy").unlink(), "no such feature file"),
    "a folder": (replaced(Path.mkdir), "is no regular file"),
    "numbers too large": (features(bad_value(1e20)), "video 'v2': numbers up to 1e+20: too large to compute with"),
    "a pipe": (replaced(os.mkfifo), "is no regular file"),
    "a link to itself": (replaced(lambda path: path.symlink_to(path)), "is not a readable .npy file"),
    "a link to nothing": (replaced(lambda path: path.symlink_to("nothing.npy")), "no such feature file"),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features(case, folder, monkeypatch, capsys):
    broken, message = FEATURES[case]
    broken(folder)
    status, out, err = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    assert (status, err) == (2, [])
    assert len(out) == 3, "the head of the table, one line, and the summary"
    assert "v2.npy " in out[1]
    assert contains(out[1], message)
    assert out[2].endswith("; 1 problem, no warnings")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_file(folder, monkeypatch, capsys):
    (folder / "data/rgb/v2.npy").chmod(0)
    status, out, _ = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    assert status == 2
    assert "is not a readable .npy file: [Errno 13]" in out[1]


@pytest.mark.parametrize("count", [1, 3_000_000])
def test_one_snippet_and_millions_are_features(count, folder, monkeypatch, capsys):
    for modality in ("rgb", "flow"):
        features(np.ones((count, 1), np.float16), "v2", modality)(folder)
        for video in ("v0", "v1", "v3", "v4", "v5"):
            features(np.ones((5, 1), np.float16), video, modality)(folder)
    status, _, _ = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    assert status == 0


# --- annotations: `fustal validate`, and the same message from `fustal run` -------------------------------------------


def gt(text):
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "data" / "gt.json").write_bytes(data)


def entry(video="v2", **changes):
    """Changes values in the entry of a video."""

    def broken(folder):
        path = folder / "data" / "gt.json"
        value = json.loads(path.read_text())
        given = value["database"][video] | changes
        value["database"][video] = {k: v for k, v in given.items() if v is not ...}
        write_json(path, value)

    return broken


def segment(value, label="Sit"):
    return entry(annotations=[{"label": label, "segment": value}])


def renamed(name):
    """Gives video v2 another name."""

    def broken(folder):
        path = folder / "data" / "gt.json"
        write_json(path, json.loads(path.read_text().replace('"v2"', json.dumps(name))))

    return broken


def only(*videos):
    def broken(folder):
        path = folder / "data" / "gt.json"
        database = json.loads(path.read_text())["database"]
        write_json(path, {"database": {video: database[video] for video in videos}})

    return broken


def split(data):
    def broken(folder):
        (folder / "data" / "train.txt").write_bytes(data)
        write_yaml(folder / "card.yaml", CARD | {"train_split": "train.txt"})

    return broken


IMPOSSIBLE = "video 'v2': annotation 0: "
NAME = "the name of a video must be usable as the name of a file"
ANNOTATIONS = {
    "missing": (lambda folder: (folder / "data/gt.json").unlink(), "gt.json: no such file"),
    "a folder": (replaced(Path.mkdir, "data/gt.json"), "gt.json: cannot be read: it is a folder"),
    "empty": (gt(""), "gt.json: cannot be read as JSON"),
    "broken": (gt('{"database": {"v0"'), "gt.json: cannot be read as JSON"),
    "not UTF-8": (gt(b'{"database": {"\xff\xfe": {}}}'), "gt.json: is not UTF-8 but perhaps Latin-1"),
    "UTF-16": (gt('{"database": {}}'.encode("utf-16")), "gt.json: has no 'database' object"),
    "UTF-16 without a mark": (gt('{"database": {}}'.encode("utf-16-le")), "gt.json: holds zero bytes"),
    "a class with an escape sequence": (segment([1, 2], "\033[31mRun"), IMPOSSIBLE + "'\\x1b[31mRun' holds control"),
    "a class with a bell": (segment([1, 2], "Run\a"), IMPOSSIBLE + "'Run\\x07' holds control"),
    "a decimal comma": (segment(["1,5", 2]), IMPOSSIBLE + "'1,5' is not a finite number: write a point"),
    "deeply nested": (gt('{"database": ' + "[" * 200_000), "gt.json: cannot be read as JSON"),
    "a key twice": (gt('{"database": {"v0": {"subset": "train"}, "v0": {"subset": "test"}}}'), "'v0' appears twice"),
    "NaN": (gt('{"database": {"v0": {"subset": "train", "duration": NaN}}}'), "NaN is not a number"),
    "a number of 5000 digits": (gt('{"database": {"v0": {"duration": ' + "9" * 5000 + "}}}"), "cannot be read as JSON"),
    "a list": (gt("[]"), "must hold a JSON object, not a list"),
    "no database": (gt("{}"), "has no 'database' object"),
    "an empty database": (gt('{"database": {}}'), "has no 'database' object"),
    "a database that is a list": (gt('{"database": [1]}'), "has no 'database' object"),
    "no subset": (entry(subset=...), "video 'v2': 'subset' is missing"),
    "a subset that is no text": (entry(subset=["train"]), "video 'v2': ['train'] is not a name"),
    "an entry that is no object": (gt('{"database": {"v2": [1, 2]}}'), "video 'v2': [1, 2] is not an object"),
    "a duration below zero": (entry(duration=-20), "video 'v2': duration -20 is not positive"),
    "a duration of zero": (entry(duration=0), "video 'v2': duration 0 is not positive"),
    "a duration in words": (entry(duration="long"), "video 'v2': duration 'long' is not a finite number"),
    "a duration that is true": (entry(duration=True), "video 'v2': duration True is not a finite number"),
    "an endless duration": (entry(duration="inf"), "video 'v2': duration 'inf' is not a finite number"),
    "a duration beyond numbers": (entry(duration=10**400), "video 'v2': duration 1000000"),
    "an fps below zero": (entry(fps=-25), "video 'v2': fps -25 is not positive"),
    "annotations that are no list": (entry(annotations=7), "video 'v2': 7 is not a list"),
    "an annotation that is no object": (entry(annotations=["Run"]), "video 'v2': 'Run' is not an object"),
    "no label": (entry(annotations=[{"segment": [1, 2]}]), IMPOSSIBLE + "'label' is missing"),
    "an empty label": (segment([1, 2], ""), IMPOSSIBLE + "'' is not a name"),
    "a label that is no text": (segment([1, 2], {"a": 1}), IMPOSSIBLE + "{'a': 1} is not a name"),
    "below zero": (segment([-1, 1]), IMPOSSIBLE + "segment [-1, 1] must have 0 <= start < end"),
    "in words": (segment(["one", 2]), IMPOSSIBLE + "'one' is not a finite number"),
    "not a number": (segment(["nan", 2]), IMPOSSIBLE + "'nan' is not a finite number"),
    "null": (segment([None, 2]), IMPOSSIBLE + "None is not a finite number"),
    "one number": (segment([1]), IMPOSSIBLE + "segment [1] is not [start, end]"),
    "three numbers": (segment([1, 2, 3]), IMPOSSIBLE + "segment [1, 2, 3] is not [start, end]"),
    "a long one": (segment(["x" * 999, 1]), IMPOSSIBLE + "'xxx"),
    "one video only": (only("v0"), "no video of subset 'test' (there are ['train'])"),
    "no training video": (only("v4", "v5"), "no video of subset 'train' (there are ['test'])"),
    "a name that is a path": (renamed("../../v2"), f"video '../../v2': {NAME}"),
    "a name with a slash": (renamed("a/v2"), f"video 'a/v2': {NAME}"),
    "a name with a backslash": (renamed("a\\v2"), f"video 'a\\\\v2': {NAME}"),
    "no name": (renamed(""), f"video '': {NAME}"),
    "dots": (renamed(".."), f"video '..': {NAME}"),
    "a name with NUL": (renamed("v\0002"), f"video 'v\\x002': {NAME}"),
    "a name of two lines": (renamed("v\n2"), f"video 'v\\n2': {NAME}"),
    "half a letter": (renamed("\ud800"), f"video '\\ud800': {NAME}"),
    "a name of 300 letters": (renamed("v" * 300), NAME),
    "a split that is missing": (
        lambda folder: write_yaml(folder / "card.yaml", CARD | {"train_split": "train.txt"}),
        "train.txt: no such split file",
    ),
    "a split not UTF-8": (split(b"v0\n\xff\n"), "train.txt: is not UTF-8"),
    "a split with an unknown video": (split(b"v0\nv1\nv9\n"), "video 'v9': is not in subset 'train'"),
    "a split with a test video": (split(b"v0\nv1\nv4\n"), "video 'v4': is not in subset 'train'"),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotations(case, folder, monkeypatch, capsys):
    broken, message = ANNOTATIONS[case]
    broken(folder)
    status, out, err = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    assert status == 2
    lines = [line for line in out + err if contains(line, message)]
    assert len(lines) == 1
    status, _, err = call(folder, monkeypatch, capsys, "run", folder / "preset.yaml")
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith("error: ")
    assert message in err[0]
    assert len(err[0]) < 600


def every_label(folder):
    for name in ("v0", "v1", "v2", "v3"):
        entry(name, annotations=[{"label": label, "segment": [1, 2]} for label in ("Run", "Sit")])(folder)


def nine_snippets(folder):
    for modality, width in (("rgb", 3), ("flow", 2)):
        features(np.ones((9, width), np.float32), "v2", modality)(folder)


SKIPPED = "video 'v2': segments that do not end after they begin: 1, the first "
SUSPICIOUS = {
    "a reversed segment": (segment([4, 1]), SKIPPED + "[4, 1]"),
    "a segment of no length": (segment([2, 2]), SKIPPED + "[2, 2]"),
    "beyond the duration": (segment([3, 99]), "video 'v2': segment [3.0, 99.0] ends after the video (20.0 s)"),
    "a training video without a label": (entry(annotations=[]), "video 'v2': a training video without a label"),
    "no fps where the card takes it from there": (
        lambda folder: write_yaml(
            folder / "card.yaml",
            CARD | {"grids": {"generator": CARD["grids"]["generator"] | {"fps": "annotation"}}},
        ),
        "6 videos ('v0', 'v1', 'v2', ...): has no fps, and the card takes it from there",
        "error",
    ),
    "a label of no training video": (
        lambda folder: entry(annotations=[{"label": "Fly", "segment": [1, 2]}], subset="test")(folder),
        "class 'Fly' has no training video",
    ),
    "no positive video of a class": (only("v0", "v2", "v4", "v5"), "class 'Run' has no training video"),
    "every label everywhere": (every_label, "every training video has every label"),
    "features shorter than the video": (nine_snippets, "video 'v2': 9 snippets end at 5.8 s, and the video at 20 s"),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_validate_finds_more(case, folder, monkeypatch, capsys):
    broken, message, *kind = SUSPICIOUS[case]
    broken(folder)
    status, out, err = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    is_error = kind == ["error"]
    assert (status, err) == (2 if is_error else 0, [])
    (line,) = [line for line in out if contains(line, message)]
    assert line.startswith("error " if is_error else "warning ")


@pytest.mark.parametrize("name", ["a video", "Fußball – 100 %", "视频 1", "{video}", "{0}", "%s", "~", "v2.npy", "-rf"])
def test_unusual_names_are_valid(name, folder, monkeypatch, capsys):
    renamed(name)(folder)
    for modality in ("rgb", "flow"):
        (folder / "data" / modality / "v2.npy").rename(folder / "data" / modality / f"{name}.npy")
    status, out, _ = call(folder, monkeypatch, capsys, "validate", folder / "card.yaml")
    assert status == 0, out


# --- YAML: cards, parameters, sweeps ----------------------------------------------------------------------------------


def text(name, data):
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def card(**changes):
    return lambda folder: write_yaml(folder / "card.yaml", CARD | changes)


def grid(**changes):
    return card(grids={"generator": CARD["grids"]["generator"] | changes})


def preset(**changes):
    def broken(folder):
        path = folder / "preset.yaml"
        write_yaml(path, yaml.safe_load(path.read_text()) | changes)

    return broken


BOMB = "a: &a [1, 1]\n" + "\n".join(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]" for a, b in pairwise("abcdefghijkl"))
YAML = {
    "card: missing": (lambda folder: (folder / "card.yaml").unlink(), "card.yaml: no such data-set card"),
    "card: empty": (text("card.yaml", ""), "card.yaml: name: Field required"),
    "card: a list": (text("card.yaml", "- 1"), "card.yaml: must be lines of 'name: value'"),
    "card: broken": (text("card.yaml", "name: ["), "card.yaml: cannot be read as YAML"),
    "card: not UTF-8": (text("card.yaml", b"name: \xff"), "card.yaml: is not UTF-8 but perhaps Latin-1"),
    "card: a bomb": (text("card.yaml", BOMB), "card.yaml: cannot be read as YAML: *a: aliases are not allowed"),
    "card: a key twice": (
        text("card.yaml", "name: a\nname: b"),
        "card.yaml: cannot be read as YAML: 'name' appears twice",
    ),
    "card: code": (text("card.yaml", "name: !!python/object/apply:os.getcwd []"), "could not determine a constructor"),
    "card: an unknown entry": (
        card(anotations="gt.json"),
        "card.yaml: unknown entry 'anotations' (did you mean 'annotations'?)",
    ),
    "card: a name that is a path": (card(name="../small"), "card.yaml: name: "),
    "card: no grid": (card(grids={}), "card.yaml: grids: "),
    "card: an unknown stage": (card(grids={"teacher": CARD["grids"]["generator"]}), "card.yaml: grids.teacher"),
    "card: no frames": (grid(fps=0), "card.yaml: grids.generator.fps"),
    "card: fps in words": (grid(fps="fast"), "card.yaml: grids.generator.fps"),
    "card: endless fps": (grid(fps=float("inf")), "card.yaml: grids.generator.fps"),
    "card: a stride of zero": (grid(stride=0), "card.yaml: grids.generator.stride"),
    "card: one file for all videos": (grid(pattern="all.npy"), "must hold {video}"),
    "card: an unknown field": (grid(pattern="{video}{split}.npy"), "must hold {video}"),
    "card: an attribute": (grid(pattern="{video}{video.__class__}.npy"), "must hold {video}"),
    "card: half a field": (grid(pattern="{video"), "card.yaml: grids.generator.pattern"),
    "parameters: missing": (lambda folder: (folder / "preset.yaml").unlink(), "preset.yaml: no such parameter file"),
    "parameters: a folder": (replaced(Path.mkdir, "preset.yaml"), "preset.yaml: is a folder without params.yaml"),
    "parameters: a list": (text("preset.yaml", "- 1"), "preset.yaml: must be lines of 'name: value'"),
    "parameters: a number as name": (text("preset.yaml", "1: 2"), "preset.yaml: must be lines of 'name: value'"),
    "parameters: a list as name": (text("preset.yaml", "[1]: 2"), "preset.yaml: cannot be read as YAML"),
    "parameters: broken": (text("preset.yaml", "seed: {"), "preset.yaml: cannot be read as YAML"),
    "parameters: control characters": (text("preset.yaml", "run: \x07"), "preset.yaml: cannot be read as YAML"),
    "parameters: deeply nested": (text("preset.yaml", "a: " + "[" * 50_000), "preset.yaml: cannot be read as YAML"),
    "parameters: a bomb": (text("preset.yaml", BOMB), "preset.yaml: cannot be read as YAML: *a: aliases"),
    "parameters: one twice": (text("preset.yaml", "seed: 1\nseed: 2"), "'seed' appears twice"),
    "parameters: a day that is none": (text("preset.yaml", "run: 2024-13-45"), "preset.yaml: cannot be read as YAML"),
    "parameters: unknown": (preset(sead=1), "unknown parameter 'sead' (did you mean 'seed'?)"),
    "parameters: text for a number": (preset(seed="one"), "seed: Input should be a valid integer, not 'one'"),
    "parameters: a part of a number": (preset(student_epochs=1.5), "student_epochs: "),
    "parameters: truth for a number": (preset(seed=True), "seed: "),
    "parameters: a number for truth": (preset(relabel=1), "relabel: "),
    "parameters: a list for a number": (preset(student_lr=[1.0] * 500), "student_lr: "),
    "parameters: null": (preset(student_lr=None), "student_lr: "),
    "parameters: NaN": (preset(student_lr=float("nan")), "student_lr: "),
    "parameters: infinity": (preset(student_lr=float("inf")), "student_lr: "),
    "parameters: below the range": (preset(student_lr=-1.0e-3), "student_lr: Input should be greater than 0"),
    "parameters: above the range": (preset(ema_memory=0.0), "ema_memory: Input should be greater than 0"),
    "parameters: a seed too large": (preset(seed=2**31), "seed: "),
    "parameters: an unknown choice": (preset(recipe="fixed"), "recipe: Input should be 'published' or 'corrected'"),
    "parameters: thresholds in words": (preset(tious="half"), "tious: 'half' is not first:step:last"),
    "parameters: a step of zero": (preset(tious="0:0:1"), "tious: '0:0:1': the step must be positive"),
    "parameters: endless thresholds": (preset(tious="0:0.1:inf"), "tious: "),
    "parameters: too many thresholds": (preset(tious="0:1e-12:1"), "tious: "),
    "parameters: two that do not fit": (preset(erosion_large=2), "erosion_large (2) must exceed erosion_small (3)"),
    "parameters: an unknown data set": (preset(dataset="nothing"), "nothing: no such data-set card"),
    "run: a path": (preset(run="../elsewhere"), "run: "),
    "run: with a slash": (preset(run="a/b"), "run: "),
    "run: absolute": (preset(run="/tmp/x"), "run: "),
    "run: a template": (preset(run="{run}"), "run: "),
    "run: with a space": (preset(run="my run"), "run: "),
    "run: empty": (preset(run=""), "run: "),
    "run: hidden": (preset(run=".git"), "run: "),
    "run: two lines": (preset(run="a\n"), "run: "),
    "run: of 300 letters": (preset(run="a" * 300), "run: "),
    "sweep: missing": (lambda folder: (folder / "sweep.yaml").unlink(), "sweep.yaml: no such sweep file"),
    "sweep: an unknown entry": (text("sweep.yaml", "base: preset.yaml\nseed: [1]"), "sweep.yaml: unknown entry 'seed'"),
    "sweep: no seeds": (text("sweep.yaml", "base: preset.yaml\nseeds: []"), "sweep.yaml: seeds: "),
    "sweep: an unknown parameter": (text("sweep.yaml", "base: preset.yaml\ngrid: {sead: [1]}"), "parameter 'sead'"),
    "sweep: an unknown preset": (text("sweep.yaml", "base: nothing.yaml"), "nothing.yaml: no such parameter file"),
    "sweep: a bomb": (text("sweep.yaml", BOMB), "sweep.yaml: cannot be read as YAML: *a: aliases"),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(case, folder, monkeypatch, capsys):
    broken, message = YAML[case]
    broken(folder)
    commands = {"card": "validate card.yaml", "sweep": "sweep sweep.yaml --dry-run"}
    command = commands.get(case.split(":")[0], "run preset.yaml")
    words = [folder / word if word.endswith(".yaml") else word for word in command.split()]
    status, out, err = call(folder, monkeypatch, capsys, *words)
    assert (status, len(out) <= 1, len(err)) == (2, True, 1), out + err
    assert message in err[0]
    assert len(err[0]) < 600


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_numbers_in_several_notations(number, folder):
    text("preset.yaml", f"student_lr: {number}")(folder)
    assert Params.read(folder / "preset.yaml").student_lr == 0.001


# --- detections: `fustal evaluate` ------------------------------------------------------------------------------------


def found(*items):
    return lambda folder: write_json(folder / "found.json", {"results": {"v4": list(items)}})


def detection(**changes):
    item = {"label": "Sit", "score": 0.5, "segment": [1, 4]} | changes
    return found({key: value for key, value in item.items() if value is not ...})


RESULT = '{"results": {"v4": [{"label": "Sit", "score": %s, "segment": [1, 4]}]}}'
DETECTIONS = {
    "missing": (lambda folder: (folder / "found.json").unlink(), "no such file"),
    "no results": (lambda folder: write_json(folder / "found.json", {"v4": []}), "has no 'results' object"),
    "results that are a list": (lambda folder: write_json(folder / "found.json", {"results": []}), "has no 'results'"),
    "a video twice": (text("found.json", '{"results": {"v4": [], "v4": []}}'), "'v4' appears twice"),
    "no list": (lambda folder: write_json(folder / "found.json", {"results": {"v4": {}}}), "'v4': {} is not a list"),
    "no object": (found("Sit"), "video 'v4': 'Sit' is not an object"),
    "no score": (detection(score=...), "video 'v4': 'score' is missing"),
    "a score in words": (detection(score="high"), "video 'v4': 'high' is not a finite number"),
    "a score that is NaN": (text("found.json", '{"results": {"v4": [{"score": NaN}]}}'), "NaN is not a number"),
    "an endless score": (detection(score="inf"), "video 'v4': 'inf' is not a finite number"),
    "no label": (detection(label=...), "video 'v4': 'label' is missing"),
    "a label that is true": (detection(label=True), "video 'v4': True is not a name"),
    "half a segment": (detection(segment=[4]), "video 'v4': segment [4] is not [start, end]"),
    "no numbers": (detection(segment=[]), "video 'v4': segment [] is not [start, end]"),
    "no segment": (detection(segment=...), "video 'v4': 'segment' is missing"),
    "a segment that is text": (detection(segment="12"), "video 'v4': segment '12' is not [start, end]"),
    "a segment with null": (detection(segment=[None, 2]), "video 'v4': None is not a finite number"),
    "a segment with true": (detection(segment=[True, 2]), "video 'v4': True is not a finite number"),
    "a score that is true": (detection(score=True), "video 'v4': True is not a finite number"),
    "a score beyond numbers": (detection(score=10**400), "video 'v4': 1000000"),
    "an endless number": (text("found.json", RESULT % "1e999"), "video 'v4': inf is not a finite number"),
    "a score of text that is NaN": (detection(score="nan"), "video 'v4': 'nan' is not a finite number"),
    "an empty label": (detection(label=""), "video 'v4': '' is not a name"),
    "half a letter": (text("found.json", RESULT.replace("Sit", "\\ud800") % "1"), "'\\ud800' is not a name"),
    "a video without a name": (lambda folder: write_json(folder / "found.json", {"results": {"": []}}), "'' is not a"),
    "null for no detections": (lambda folder: write_json(folder / "found.json", {"results": {"v4": None}}), "None is"),
    "annotations": (lambda folder: write_json(folder / "found.json", {"database": {}}), "object: it holds annotations"),
    "a list": (lambda folder: write_json(folder / "found.json", []), "must hold a JSON object, not a list"),
    "packed by gzip": (text("found.json", gzip.compress(b"{}")), "is compressed by gzip: unpack it first"),
    "packed by zip": (text("found.json", b"PK\x03\x04" + bytes(40)), "is compressed by zip: unpack it first"),
    "empty": (text("found.json", ""), "cannot be read as JSON"),
}


@pytest.mark.parametrize("case", DETECTIONS)
def test_detections(case, folder, monkeypatch, capsys):
    broken, message = DETECTIONS[case]
    broken(folder)
    out_file = folder / "metrics.json"
    words = ["evaluate", folder / "found.json", folder / "data" / "gt.json", "--json", out_file]
    status, out, err = call(folder, monkeypatch, capsys, *words)
    assert (status, out, len(err)) == (2, [], 1), err
    assert "found.json: " in err[0]
    assert message in err[0]


def test_there_are_at_least_160_cases():
    assert sum(map(len, (FEATURES, ANNOTATIONS, SUSPICIOUS, YAML, DETECTIONS))) >= 160
