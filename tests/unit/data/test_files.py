"""Files are written completely or not at all; JSON and YAML are checked when they are read."""

import bz2
import codecs
import gc
import gzip
import hashlib
import json
import lzma
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fustal import ROOT
from fustal.data import writing
from fustal.data.files import digest, read_json, read_yaml, shown
from fustal.data.writing import (
    LOCK,
    MADE,
    UNFINISHED,
    atomic,
    atomic_folder,
    check_apart,
    overlap,
    recover,
    remove_unfinished,
    write_json,
)
from fustal.exceptions import InputError


def _tree(folder):
    """Every file below a folder with its content, temporary ones included."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt", "libraries may choose a format by the ending"
        assert not target.exists()
    assert _tree(tmp_path) == {"new/a.txt": "whole"}


def test_a_file_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert _tree(tmp_path) == {"a.txt": "new"}


def _make(folder, name, **options):
    """Makes a folder that holds one file."""
    with atomic_folder(folder, **options) as temporary:
        temporary.mkdir()
        (temporary / name).write_text(name)


def test_a_folder_that_fustal_made_is_replaced(tmp_path):
    _make(tmp_path / "data", "old", again=True)
    _make(tmp_path / "data", "new", again=True)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"new", MADE}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _make_deep_link(data):
    (data / "deep").mkdir()
    (data / "deep" / "link").symlink_to("/")


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    _make(tmp_path / "data", "new")
    assert _tree(tmp_path) == {"data/new": "new"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: (data / "mine").write_text("x"), "'mine' was not made by fustal"),
        (lambda data: (data / "old").write_text("corrected"), "'old' has changed since fustal made it"),
        (lambda data: (data / MADE).unlink(), "holds 'old', which fustal did not make"),
        (lambda data: (data / MADE).write_text("{}"), "holds 'old', which fustal did not make"),
        (lambda data: (data / MADE).write_bytes(bytes(99)), "holds 'old', which fustal did not make"),
        (_make_deep_link, "'deep/link' was not made"),
        (lambda data: os.mkfifo(data / "pipe"), "'pipe' was not made by fustal"),
    ],
)
def test_files_of_the_user_in_a_folder_are_never_lost(tmp_path, change, message):
    _make(tmp_path / "data", "old", again=True)
    change(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        _make(tmp_path / "data", "new", again=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_added_while_a_folder_is_replaced_is_not_lost(tmp_path):
    _make(tmp_path / "data", "old", again=True)

    def replace():
        with atomic_folder(tmp_path / "data") as temporary:
            temporary.mkdir()
            (tmp_path / "data" / "mine").write_text("mine")

    with pytest.raises(InputError, match="'mine' was not made"):
        replace()
    assert (tmp_path / "data" / "mine").read_text() == "mine"
    assert (tmp_path / "data" / "old").read_text() == "old"


@pytest.mark.parametrize("kind", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_a_file_never_replaces_anything_but_a_file(tmp_path, kind):
    kind(tmp_path / "there")
    with pytest.raises(InputError, match="a file never replaces one"):
        write_json({}, tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not (tmp_path / "there").is_file()


def test_a_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(InputError, match="is a file, and a folder never replaces one"):
        _make(tmp_path / "data", "new", again=True)
    assert _tree(tmp_path) == {"data": "mine"}


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "link.json").symlink_to("a.json")
    write_json({"new": 1}, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "a.json") == {"new": 1}


def test_a_replaced_file_keeps_its_mode(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json").chmod(0o640)
    write_json({"new": 1}, tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["a.txt/b.txt", "n" * 300, "zero\0byte"])
def test_an_impossible_path_is_an_error_of_one_line(tmp_path, name):
    (tmp_path / "a.txt").write_text("a file")
    with pytest.raises(InputError, match="cannot be written: ") as error:
        write_json({}, f"{tmp_path}/{name}")
    assert "\n" not in str(error.value)


KILLED = """
import os, signal, sys
from pathlib import Path
from fustal.data import writing

path, moment = Path(sys.argv[1]), sys.argv[2]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
rename, replace = Path.rename, os.replace

def between(self, target):
    rename(self, target)
    kill()

def after(source, target):
    replace(source, target)
    kill()

if moment == "between the renames":
    Path.rename = between
if moment == "after the renames":
    os.replace = after
with writing.atomic_folder(path, again=True) as temporary:
    temporary.mkdir()
    (temporary / "new").write_text("new")
    if moment == "while it is made":
        kill()
"""


@pytest.mark.parametrize(
    ("moment", "kept"), [("while it is made", "old"), ("between the renames", "new"), ("after the renames", "new")]
)
def test_a_killed_replacement_of_a_folder_is_completed_by_the_next_call(tmp_path, moment, kept, capsys):
    _make(tmp_path / "data", "old", again=True)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "data", moment], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    recover(tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {kept, MADE}
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "no hidden folder stays"
    assert "a killed process" in capsys.readouterr().err
    _make(tmp_path / "data", "newer", again=True)


def test_without_a_new_version_the_old_folder_is_restored(tmp_path):
    left = tmp_path / f".data{UNFINISHED}abc"
    (left / "replaced").mkdir(parents=True)
    (left / LOCK).touch()
    recover(tmp_path / "data")
    assert (tmp_path / "data").is_dir()
    assert not left.exists()


def test_the_folder_of_a_running_process_is_not_changed(tmp_path):
    with atomic_folder(tmp_path / "data") as temporary:
        temporary.mkdir()
        recover(tmp_path / "data")
        remove_unfinished(tmp_path)
        assert temporary.is_dir()


def test_only_unfinished_folders_of_fustal_are_removed(tmp_path):
    kept = [tmp_path / ".a.json.fustal-mine", tmp_path / ".ipynb_checkpoints", tmp_path / f".b{UNFINISHED}notes"]
    for folder in kept:
        folder.mkdir()
        (folder / "mine").write_text("mine")
    left = tmp_path / "deep" / f".c{UNFINISHED}x"
    left.mkdir(parents=True)
    (left / LOCK).touch()
    remove_unfinished(tmp_path)
    recover(tmp_path / "a.json")
    assert all((folder / "mine").exists() for folder in kept)
    assert not left.exists()


def test_everything_is_flushed_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    replace = os.replace

    def note_and_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "replace", note_and_replace)
    write_json({}, tmp_path / "new" / "a.json")
    assert events == [tmp_path.name, "a.json", "rename", "new"]
    events.clear()
    _make(tmp_path / "data", "file")
    assert events == ["file", "data", "rename", tmp_path.name]


def test_long_names_with_the_same_beginning_are_distinguished(tmp_path):
    one = tmp_path / ("a" * 55 + "1")
    other = tmp_path / ("a" * 55 + "2")
    _make(one, "mine", again=True)
    left = tmp_path / f"{writing._prefix(one)}x"
    left.mkdir()
    (left / LOCK).touch()
    one.rename(left / "replaced")
    recover(other)
    assert not other.exists()
    recover(one)
    assert (one / "mine").exists()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_between_the_renames_restores_the_old_folder(tmp_path, monkeypatch, error):
    _make(tmp_path / "data", "old", again=True)

    def fail(*names):
        raise error

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(error):
        _make(tmp_path / "data", "new", again=True)
    assert (tmp_path / "data" / "old").exists()


def test_a_file_that_is_no_lock_is_not_emptied(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with (
        pytest.raises(InputError, match="is not a lock, as it is not empty"),
        writing.held(tmp_path / ".lock", tmp_path),
    ):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


def test_a_command_does_not_write_to_its_input_nor_into_a_stage(tmp_path):
    (tmp_path / "in.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to("in.csv")
    with pytest.raises(InputError, match="is also read"):
        writing.check_output(tmp_path / "link.csv", tmp_path / "in.csv")
    (tmp_path / "started.json").write_text("{}")
    with pytest.raises(InputError, match="lies in the folder of a run's stage"):
        writing.check_output(tmp_path / "stage.json")


def test_folders_overlap_by_path_and_by_link(tmp_path):
    root, source = tmp_path / "data", tmp_path / "download"
    for folder in (root, source / "deep"):
        folder.mkdir(parents=True)
    assert overlap(source, root) is None
    assert overlap(root, root) == root
    assert overlap(tmp_path, root) == tmp_path
    assert overlap(root, root / "not there yet") == root
    (source / "deep" / "link").symlink_to(root)
    assert overlap(source, root) == source / "deep" / "link"
    (source / "deep" / "link").unlink()
    (root / "file").write_text("x")
    (source / "deep" / "file").symlink_to(root / "file")
    assert overlap(source, root) == source / "deep" / "file"
    (tmp_path / "also").symlink_to(root)
    assert overlap(tmp_path / "also", root) == tmp_path / "also"


def _break_off(path, error):
    """Writes a part of a file, or of a folder, and fails."""
    if path.is_dir():
        with atomic_folder(path) as temporary:
            temporary.mkdir()
            (temporary / "half.txt").write_text("half")
            raise error
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise error


def test_an_input_is_not_written_to(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("a.json")
    for out in ("a.json", "link.json", "../" + tmp_path.name + "/a.json"):
        with pytest.raises(InputError, match=r"is also read, as .*a\.json, and would be replaced: give another name"):
            check_apart(tmp_path / out, tmp_path / "b.json", tmp_path / "a.json")
    check_apart(tmp_path / "b.json", tmp_path / "a.json", tmp_path / "b.json")  # neither is there


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_changes_nothing(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    _make(tmp_path / "data", "old", again=True)
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
def test_values_that_json_cannot_hold_are_not_written(tmp_path, value):
    write_json({"old": 1}, tmp_path / "a.json")
    with pytest.raises((ValueError, TypeError)):
        write_json(value, tmp_path / "a.json")
    assert _tree(tmp_path) == {"a.json": json.dumps({"old": 1}, indent=1) + "\n"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": "\xff"}', "is not UTF-8 but perhaps Latin-1 (byte 7 is 0xff): save it as UTF-8"),
        ('{"ä": 1}'.encode("utf-16-le"), "holds zero bytes"),
        (codecs.BOM_UTF16_LE + b"{", "begins as UTF-16 and is not"),
        (bytes(500), "holds zero bytes"),
        (gzip.compress(b"{}", mtime=0), "is compressed by gzip: unpack it first"),
        (lzma.compress(b"{}"), "is compressed by xz: unpack it first"),
        (bz2.compress(b"{}"), "is compressed by bzip2: unpack it first"),
        (b'{"a": 1, "b": ":", "a": 2}', "'a' appears twice"),
        (b'{"a": [{"c": 1, "c": 1}]}', "'c' appears twice"),
        (b'{"a": [[], [[{"b": {"c": 1, "c": 1}}]]], "d": {}}', "'c' appears twice"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1, 2]", "must hold a JSON object, not a list"),
        (b"3", "must hold a JSON object, not a int"),
    ],
)
def test_wrong_json_is_an_error_of_one_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: {message}") or message in str(error.value)
    assert "a.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    (tmp_path / "b.json").write_text("[")
    for was_on in (True, False):
        try:
            if was_on:
                gc.enable()
            else:
                gc.disable()
            read_json(tmp_path / "a.json")
            with pytest.raises(InputError):
                read_json(tmp_path / "b.json")
            assert gc.isenabled() == was_on
        finally:
            gc.enable()


def test_missing_json_and_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read: it is a folder"):
        read_json(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_by_its_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"Übung": ":"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"Übung": ":"}


@pytest.mark.parametrize("reader", [read_json, read_yaml, digest])
def test_pipes_and_devices_are_not_opened(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero")):
        with pytest.raises(InputError, match="it is a device, a pipe or a socket"):
            reader(path)


def test_keys_that_appear_twice_take_no_longer_than_others(tmp_path):
    names = ", ".join(f'"{i}": 1' for i in range(100_000))
    (tmp_path / "a.json").write_text(f'{{{names}, "99999": 2}}')
    start = time.process_time()
    with pytest.raises(InputError, match="'99999' appears twice"):
        read_json(tmp_path / "a.json")
    assert time.process_time() - start < 5, "the time must be linear in the number of keys"


def test_a_message_shows_no_more_than_an_excerpt():
    for value in ("x\n\x1b" * 1000, ["x" * 1000] * 1000, {"k": "x" * 1000}, 10**4000):
        assert len(shown(value)) <= 80
        assert shown(value).isprintable()
    assert shown("short") == "'short'"


def test_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * (1 << 20) + b"y")
    assert digest(tmp_path / "a") == hashlib.sha256(b"x" * (1 << 20) + b"y").hexdigest()
    (tmp_path / "c").write_bytes(b"z")
    assert digest(tmp_path / "a", tmp_path / "c") != digest(tmp_path / "c", tmp_path / "a"), "the order matters"
