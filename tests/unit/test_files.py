"""Files that appear whole or not at all, and JSON without NaN."""

import hashlib
import json
import math

import pytest

from fustal import InputError
from fustal.files import atomic, digest, read_json, write_json


def _tree(folder):
    """Every file below a folder with its content, temporary ones included."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt", "writers that look at the ending must work"
        assert not target.exists()
    assert _tree(tmp_path) == {"new/a.txt": "whole"}


def test_a_file_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert _tree(tmp_path) == {"a.txt": "new"}


def test_a_folder_is_replaced_and_nothing_of_the_old_one_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.txt").write_text("old")
    with atomic(tmp_path / "data") as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
    assert _tree(tmp_path) == {"data/new.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _break_off(path, error):
    """Writes half of a file, or of a folder, and fails."""
    with atomic(path) as temporary:
        if path.is_dir():
            temporary.mkdir()
        (temporary / "half.txt" if path.is_dir() else temporary).write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_changes_nothing(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.txt").write_text("old")
    before = _tree(tmp_path)
    for name in ("a.txt", "data"):
        with pytest.raises(error):
            _break_off(tmp_path / name, error)
    assert _tree(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "data"]


def test_a_block_that_writes_nothing_keeps_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
    assert _tree(tmp_path) == {"a.txt": "old"}


def test_json_survives_a_round_trip(tmp_path):
    value = {"name": "Übung", "numbers": [1, 2.5, None], "nested": {"yes": True}}
    write_json(value, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text().endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [math.nan]}, object()])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    write_json({"old": 1}, tmp_path / "a.json")
    with pytest.raises((ValueError, TypeError)):
        write_json(value, tmp_path / "a.json")
    assert _tree(tmp_path) == {"a.json": json.dumps({"old": 1}, indent=1) + "\n"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1, 2]", "must hold a JSON object, not a list"),
        (b"3", "must hold a JSON object, not a int"),
    ],
)
def test_wrong_json_is_an_error_of_one_line(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: {says}") or says in str(error.value)
    assert "a.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_json_to_read(tmp_path):
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(tmp_path)


def test_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * (1 << 20) + b"y")
    assert digest(tmp_path / "a") == hashlib.sha256(b"x" * (1 << 20) + b"y").hexdigest()
    (tmp_path / "c").write_bytes(b"z")
    assert digest(tmp_path / "a", tmp_path / "c") != digest(tmp_path / "c", tmp_path / "a"), "the order matters"
