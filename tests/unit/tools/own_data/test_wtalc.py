"""W-TALC's layout: valid files are read, others are errors of one line, and no code in a pickle runs."""

import json
import os
import pickle
import struct

import numpy as np
import pytest

from fustal.exceptions import InputError
from fustal.tools.own_data.wtalc import convert, is_wtalc

VIDEOS = ["video_validation_0000051", "video_validation_0000052", "video_test_0000004"]
SUBSET = ["validation", "validation", "test"]
LABELS = [["Billiards", "Billiards", "Diving"], [], ["Diving"]]  # of each segment
SEGMENTS = [[[67.5, 75.9], [85.9, 90.6], [100.0, 101.5]], [], [[1.0, 4.25]]]
LABELS_ALL = [["Billiards"], ["Diving", "Diving"], ["Diving", "Billiards"]]  # of each video
DURATION = [110.0, 33.3, 20.0]


def objects(values):
    """A one-dimensional array of objects."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def features(lengths=(20, 12, 9), dim=6, dtype=np.float32):
    random = np.random.default_rng(0)
    return [random.normal(size=(length, dim)).astype(dtype) for length in lengths]


class Python2(pickle._Pickler):
    """Writes texts and bytes as Python 2 did its strings, which had no encoding."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = dispatch[str] = save_string


def save_as_python2(path, values):
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (len(values),)}
        np.lib.format.write_array_header_1_0(file, header)
        Python2(file, protocol=2).dump(objects(values))
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def folder(tmp_path):
    """A folder in W-TALC's layout, three videos."""
    root = tmp_path / "data"
    notes = root / "Thumos14reduced-Annotations"
    notes.mkdir(parents=True)
    np.save(root / "Thumos14reduced-I3D-JOINTFeatures.npy", objects(features()))
    np.save(notes / "videoname.npy", np.array(VIDEOS, dtype="S"))
    np.save(notes / "subset.npy", np.array(SUBSET, dtype="S"))
    np.save(notes / "classlist.npy", np.array(["Billiards", "Diving"], dtype="S"))
    np.save(notes / "duration.npy", np.array(DURATION))
    np.save(notes / "extracted_fps.npy", np.full(3, 10.0))
    for name, values in (("labels", LABELS), ("labels_all", LABELS_ALL), ("segments", SEGMENTS)):
        np.save(notes / f"{name}.npy", objects(values))
    return root


@pytest.fixture
def notes(folder):
    return folder / "Thumos14reduced-Annotations"


def refused(folder, *, trust=True):
    """The message by which a folder is refused; no file is left of the attempt."""
    out = folder.parent / "out"
    with pytest.raises(InputError) as error:
        convert(folder, out, trust=trust)
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return str(error.value)


def annotations(out):
    return json.loads((out / "gt.json").read_text())["database"]


def check(out):
    """Checks that a converted folder has the content of the fixture."""
    database = annotations(out)
    assert list(database) == VIDEOS
    first, second, third = database.values()
    assert (first["subset"], second["subset"], third["subset"]) == ("train", "train", "test")
    assert [entry["duration"] for entry in database.values()] == DURATION
    assert first["annotations"] == [
        {"label": "Billiards", "segment": [67.5, 75.9]},
        {"label": "Billiards", "segment": [85.9, 90.6]},
        {"label": "Diving", "segment": [100.0, 101.5]},
    ]
    assert second["annotations"] == [{"label": "Diving"}]
    assert third["annotations"] == [{"label": "Diving", "segment": [1.0, 4.25]}, {"label": "Billiards"}]
    for video, array in zip(VIDEOS, features(), strict=True):
        written = np.load(out / "features" / f"{video}.npy", allow_pickle=False)
        assert written.dtype == np.float32
        np.testing.assert_array_equal(written, array)


def test_a_folder_is_converted(folder, tmp_path, capsys):
    assert is_wtalc(folder)
    assert not is_wtalc(tmp_path)
    assert convert(folder, tmp_path / "new" / "out", trust=True) == ("Thumos14reduced", 2, 1)
    check(tmp_path / "new" / "out")
    assert "JOINTFeatures.npy: is read whole into memory, 1.40kB" in capsys.readouterr().err


def test_annotations_may_lie_beside_the_features(folder, notes, tmp_path):
    for path in notes.iterdir():
        path.rename(folder / path.name)
    notes.rmdir()
    convert(folder, tmp_path / "out", trust=True)
    check(tmp_path / "out")


def test_files_of_python_2_are_read(folder, notes, tmp_path):
    save_as_python2(folder / "Thumos14reduced-I3D-JOINTFeatures.npy", features())
    for name, values in (("labels", LABELS), ("labels_all", LABELS_ALL), ("segments", SEGMENTS)):
        save_as_python2(notes / f"{name}.npy", values)
    save_as_python2(notes / "videoname.npy", VIDEOS)
    convert(folder, tmp_path / "out", trust=True)
    check(tmp_path / "out")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_and_kind_of_array_is_read(folder, tmp_path, protocol):
    array = features(dtype=np.float16)
    values = [np.asfortranarray(array[0]), array[1].astype(">f2"), array[2]]
    path = folder / "Thumos14reduced-I3D-JOINTFeatures.npy"
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (3,)}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(objects(values), file, protocol=protocol)
    convert(folder, tmp_path / "out", trust=True)
    for video, expected in zip(VIDEOS, array, strict=True):
        written = np.load(tmp_path / "out" / "features" / f"{video}.npy")
        assert written.dtype == np.float16
        np.testing.assert_array_equal(written, expected)


def test_plain_arrays_need_no_trust(folder, notes, tmp_path):
    """Where all videos have as many snippets and labels, nothing is a pickle."""
    np.save(folder / "Thumos14reduced-I3D-JOINTFeatures.npy", np.stack(features((7, 7, 7), dtype=np.float64)))
    np.save(notes / "labels.npy", np.array([["Diving", "Diving"]] * 3))
    np.save(notes / "labels_all.npy", np.array(["Diving"] * 3))
    np.save(notes / "segments.npy", np.array([[[1, 2], [3, 4]]] * 3))
    convert(folder, tmp_path / "out")
    both = [{"label": "Diving", "segment": [1.0, 2.0]}, {"label": "Diving", "segment": [3.0, 4.0]}]
    assert annotations(tmp_path / "out")["video_test_0000004"]["annotations"] == both
    assert np.load(tmp_path / "out" / "features" / "video_test_0000004.npy").dtype == np.float32


def test_names_in_lists_may_be_numpy_strings(folder, notes, tmp_path):
    np.save(notes / "labels_all.npy", objects([[np.str_("Diving")], [np.bytes_(b"Diving")], np.array(["Billiards"])]))
    convert(folder, tmp_path / "out", trust=True)
    assert annotations(tmp_path / "out")[VIDEOS[1]]["annotations"] == [{"label": "Diving"}]


def test_without_segments_there_are_labels_only(folder, notes, tmp_path):
    for name in ("segments", "labels", "duration", "classlist"):
        (notes / f"{name}.npy").unlink()
    convert(folder, tmp_path / "out", trust=True)
    assert annotations(tmp_path / "out")[VIDEOS[1]] == {"subset": "train", "annotations": [{"label": "Diving"}]}


def test_segments_may_belong_to_the_labels_of_the_video(folder, notes, tmp_path):
    (notes / "labels.npy").unlink()
    np.save(notes / "labels_all.npy", objects(LABELS))
    convert(folder, tmp_path / "out", trust=True)
    assert annotations(tmp_path / "out")[VIDEOS[2]]["annotations"] == [{"label": "Diving", "segment": [1.0, 4.25]}]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_pickle_is_not_read_without_trust(folder):
    line = refused(folder, trust=False)
    assert (
        "labels.npy: is a pickle, which can run code when it is read; --trust reads only numbers, names, lists" in line
    )


def test_an_existing_folder_is_not_replaced(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: already exists"):
        convert(folder, tmp_path / "out", trust=True)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "labels",
            [["Diving"], [], ["Diving"]],
            "video 'video_validation_0000051': 3 segments and 1 labels of segments",
        ),
        ("labels", LABELS[:2], "labels.npy: 2 entries, but videoname.npy has 3"),
        ("labels", [["Billiards"] * 3, [], [7]], "video 'video_test_0000004': 7 is not a name"),
        ("labels_all", [["Diving"], ["Swimming"], []], "class 'Swimming' is not in classlist.npy"),
        ("labels_all", [["Diving"], 7, []], "video 'video_validation_0000052': 'int' object is not iterable"),
        ("segments", [SEGMENTS[0], [], [[1.0]]], "segment [1.0] is not [start, end]"),
        ("segments", [SEGMENTS[0], [], [[1.0, np.nan]]], "nan is not a finite number"),
        ("segments", [SEGMENTS[0], [], [["a", "b"]]], "video 'video_test_0000004'"),
        ("duration", [1.0, None, 2.0], "video 'video_validation_0000052'"),
        ("duration", [1.0, [], 2.0], "video 'video_validation_0000052'"),
        ("subset", ["validation", "practice", "test"], "video 'video_validation_0000052': unknown subset 'practice'"),
        ("subset", ["validation"] * 3, "the subsets are validation; there must be two: validation and test, training"),
        ("subset", ["validation", 3, "test"], "subset.npy: 3 is not a name"),
        ("videoname", ["a", "b", "a"], "video 'a' appears twice, or cannot name a file"),
        ("videoname", ["a", "b", "../../c"], "video '../../c' appears twice, or cannot name a file"),
        ("videoname", ["a", "b", b"\xff"], "videoname.npy: 'utf-8' codec can't decode"),
        ("../Thumos14reduced-I3D-JOINTFeatures", features()[:2], "2 entries, but videoname.npy has 3"),
        ("../Thumos14reduced-I3D-JOINTFeatures", [1, 2, 3], "int64 of shape (), not real numbers of shape (T, D)"),
        (
            "../Thumos14reduced-I3D-JOINTFeatures",
            [*features()[:2], np.zeros((4, 5), np.float32)],
            "video 'video_test_0000004': float32 of shape (4, 5), not real numbers of shape (T, 6)",
        ),
        ("../Thumos14reduced-I3D-JOINTFeatures", features((3, 0, 2)), "float32 of shape (0, 6), not real numbers"),
    ],
)
def test_entries_that_do_not_fit_are_refused(folder, notes, name, values, message):
    np.save(notes / f"{name}.npy", objects(values))
    assert message in refused(folder)


@pytest.mark.parametrize("missing", ["videoname", "subset"])
def test_a_missing_list_is_reported(folder, notes, missing):
    (notes / f"{missing}.npy").unlink()
    assert f"{missing}.npy: no such file" in refused(folder)


def test_missing_labels_are_reported(folder, notes):
    (notes / "labels.npy").unlink()
    (notes / "labels_all.npy").unlink()
    assert "holds neither labels.npy nor labels_all.npy" in refused(folder)


def test_one_file_of_features_is_needed(folder):
    features = folder / "Thumos14reduced-I3D-JOINTFeatures.npy"
    (folder / "Other-I3D-JOINTFeatures.npy").write_bytes(features.read_bytes())
    assert "holds Other-I3D-JOINTFeatures.npy, Thumos14reduced-I3D-JOINTFeatures.npy: keep one" in refused(folder)
    features.unlink()
    (folder / "Other-I3D-JOINTFeatures.npy").unlink()
    assert "holds no *-I3D-JOINTFeatures.npy" in refused(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", ["labels", "../Thumos14reduced-I3D-JOINTFeatures"])
def test_a_truncated_file_is_reported(folder, notes, name, share):
    path = notes / f"{name}.npy"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path.name}: cannot be read: " in refused(folder)


# --- hostile files ----------------------------------------------------------------------------------------------------


class Call:
    """Makes a pickle call something when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def save_pickle(path, content):
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (3,)})
        file.write(content)


def test_nothing_in_a_pickle_runs(folder, notes, tmp_path):
    harm = tmp_path / "data" / "harm"
    np.save(notes / "labels.npy", objects([["Diving"], [], Call(os.system, f"touch {harm}")]))
    assert "labels.npy: cannot be read: it refers to posix.system" in refused(folder)
    assert not harm.exists()
    np.load(notes / "labels.npy", allow_pickle=True)  # numpy runs it
    assert harm.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([Call(eval, "__import__('os').mkdir('harm')")]),
        pickle.dumps([Call(exec, "import os; os.mkdir('harm')")]),
        pickle.dumps(objects([[], [], Call(os.mkdir, "harm")])),
        pickle.dumps(Call(np.load, "other.npy")),
        b"cos\nmkdir\n(Vharm\ntR.",
        b"(Vharm\nios\nmkdir\n.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nV__subclasses__\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dtype\x93.",
    ],
)
def test_only_data_are_built(folder, notes, monkeypatch, content):
    monkeypatch.chdir(folder)
    save_pickle(notes / "labels.npy", content)
    assert "cannot be read: it refers to " in refused(folder)
    assert not (folder / "harm").exists()


def array_pickle(kind_state, raw, name=b"O8"):
    """A pickle of an array of objects, with a type of the state `kind_state` and the content `raw`."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x03\x85cnumpy\ndtype\n(U"
        + bytes([len(name)])
        + name
        + b"K\x00K\x01tR"
        + kind_state
        + b"b\x89"
        + raw
        + b"tb."
    )


FLAGS = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ct"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_pickle(FLAGS % 0, b"U\x18" + b"\x41" * 24), "not a list"),  # bytes that would be taken for addresses
        (array_pickle(FLAGS % 63, b"](K\x01K\x02e"), "not a list"),  # two objects where three are announced
        (array_pickle(FLAGS % 0, b"U\x18" + b"\x41" * 24, b"V8"), "holds arrays of 'V8'"),
        (array_pickle(FLAGS % 0, b"U\x04" + b"\x41" * 4, b"f8"), "cannot be read: "),  # less than was announced
        (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00rottR.", "holds text in 'rot'"),
        (b"\x80\x02}.", "holds {}, not a list"),
        (b"\x80\x02](h\x00h\x00h\x00e.", "cannot be read: "),
        (b"\x80\x02]q\x00(h\x00h\x00h\x00e.", "cannot be read: "),  # a list that holds itself
        (b"Pabc\n.", "cannot be read: "),
        (b"", "cannot be read: "),
    ],
)
def test_forged_pickles_are_refused(folder, notes, content, message):
    save_pickle(notes / "labels.npy", content)
    assert message in refused(folder)


def test_a_valid_pickle_of_that_form_is_read(folder, notes, tmp_path):
    diving = b"U\x06Divinga"
    save_pickle(
        notes / "labels.npy", array_pickle(FLAGS % 63, b"](" + b"(l" + 3 * diving + b"(l" + b"(l" + diving + b"e")
    )
    convert(folder, tmp_path / "out", trust=True)
    labels = []
    for entry in annotations(tmp_path / "out").values():
        labels.append([item["label"] for item in entry["annotations"]])
    assert labels == [["Diving", "Diving", "Diving", "Billiards"], ["Diving"], ["Diving", "Billiards"]]
