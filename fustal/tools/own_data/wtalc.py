"""Converts W-TALC's layout, in which older weakly-supervised work shares its features, into this project's.

A folder holds `<Name>-I3D-JOINTFeatures.npy`, an array (T, 2048) for each video, and, beside it or in
`<Name>-Annotations/`, lists in the same order of the videos: `videoname.npy`, `subset.npy`, `labels.npy` (the class of
each segment), `segments.npy` (s), `labels_all.npy` (the classes of each video), `duration.npy` (s), and `classlist.npy`
of the classes. Videos are at 25 fps, 16 frames a snippet without overlap; `extracted_fps.npy` contains other numbers,
which are wrong. Sources: README and issues 9, 11 and 13 of github.com/sujoyp/wtalc-pytorch, README of
github.com/RenHuan1999/CVPR2023_P-MIL.

Most of these files are pickles, which can run code while they are read. Here they are read by `_Reader`, which builds
numbers, names, lists and arrays only, and neither imports nor calls anything that a file names.
"""

import math
import pickle
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from fustal.data.files import one_line, open_regular, shown
from fustal.data.values import can_name_a_file
from fustal.data.writing import atomic_folder, write_json
from fustal.exceptions import InputError

FPS = 25
"""Frames per second of the videos."""

STRIDE = 16
"""Frames from one snippet to the next, which is also the window."""

FEATURES = "-I3D-JOINTFeatures.npy"
"""How the name of the file of features ends."""

SUBSETS = (("validation", "test"), ("training", "validation"), ("train", "test"), ("train", "val"))
"""Names of the training and the test subset: THUMOS'14, ActivityNet, others."""


class Converted(NamedTuple):
    """The result of a conversion: name of the data set, number of training and of test videos."""

    name: str
    train: int
    test: int


def is_wtalc(folder: Path) -> bool:
    """Whether a folder has W-TALC's layout.

    >>> is_wtalc(Path("no such folder"))
    False
    """
    return any(path.is_file() for path in folder.glob(f"*{FEATURES}"))


def convert(folder: Path, out: Path, *, trust: bool = False) -> Converted:
    """Converts a folder in W-TALC's layout into one feature file for each video and ActivityNet-style annotations.

    The file of features is a pickle, which cannot be read in parts: it takes as much memory as the file is long.

    Args:
        folder: holds `<Name>-I3D-JOINTFeatures.npy`.
        out: a new folder: `features/{video}.npy`, float16 or float32 (T, D), snippets of `STRIDE` frames at `FPS`, and
            `gt.json`, with the subsets train and test. A class that a video has without any segment becomes an
            annotation without a segment.
        trust: read pickles; without it they are refused.

    Returns:
        Name of the data set, number of training and of test videos.

    Raises:
        InputError: a file is missing, broken, a pickle, or does not fit the others; the message names file and video.
    """
    if out.exists():
        raise InputError(f"{out}: already exists")
    features = _only([path for path in folder.glob(f"*{FEATURES}") if path.is_file()], folder)
    name = features.name.removesuffix(FEATURES)
    beside = folder / f"{name}-Annotations"
    database = _database(beside if beside.is_dir() else folder, trust)
    with atomic_folder(out) as made:
        (made / "features").mkdir(parents=True)
        write_json({"version": name, "database": database}, made / "gt.json")
        _write_features(features, list(database), made / "features", trust)
    subsets = [entry["subset"] for entry in database.values()]
    return Converted(name, subsets.count("train"), subsets.count("test"))


def _only(found: list[Path], folder: Path) -> Path:
    if not found:
        raise InputError(f"{folder}: holds no *{FEATURES}")
    if len(found) > 1:
        raise InputError(f"{folder}: holds {', '.join(sorted(path.name for path in found))}: keep one")
    return found[0]


# --- annotations ------------------------------------------------------------------------------------------------------


def _database(folder: Path, trust: bool) -> dict[str, dict[str, Any]]:
    """Video -> subset, duration, annotations, in the order of the features."""
    columns = _columns(folder, trust)
    videos = columns.pop("videoname")
    subsets = _subsets(columns.pop("subset"), videos, folder / "subset.npy")
    file = folder / "classlist.npy"
    classes = set(_read_names(file, trust)) if file.exists() else None
    database: dict[str, dict[str, Any]] = {}
    for i, video in enumerate(videos):
        row = {column: values[i] for column, values in columns.items()}
        try:
            entry = _entry(row, classes)
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"{folder}: video {video!r}: {error}") from None
        database[video] = {"subset": subsets[i]} | entry
    return database


def _columns(folder: Path, trust: bool) -> dict[str, list[Any]]:
    """The lists of annotations by their names, each with an entry for each video."""
    columns: dict[str, list[Any]] = {}
    for column in ("videoname", "subset"):
        columns[column] = _read_names(folder / f"{column}.npy", trust)
    for column in ("labels", "labels_all", "segments", "duration"):
        if (folder / f"{column}.npy").exists():
            columns[column] = _read_list(folder / f"{column}.npy", trust)
    if "labels" not in columns and "labels_all" not in columns:
        raise InputError(f"{folder}: holds neither labels.npy nor labels_all.npy")
    for column, values in columns.items():
        _check_count(folder / f"{column}.npy", values, columns["videoname"])
    for video, count in Counter(columns["videoname"]).items():
        if count > 1 or not can_name_a_file(video):
            raise InputError(f"{folder / 'videoname.npy'}: video {shown(video)} appears twice, or cannot name a file")
    return columns


def _check_count(path: Path, values: list[Any], videos: list[str]) -> None:
    if len(values) != len(videos):
        raise InputError(f"{path}: {len(values)} entries, but videoname.npy has {len(videos)}")


def _subsets(found: list[str], videos: list[str], path: Path) -> list[str]:
    """Translates the names of subsets to train and test.

    Args:
        found: subset of each video, as the data set names it.
        videos: their names, for the message.
        path: of the list, for the message.
    """
    known: set[str] = set()
    for pair in SUBSETS:
        known.update(pair)
        if set(found) == set(pair):
            return ["train" if subset == pair[0] else "test" for subset in found]
    for video, subset in zip(videos, found, strict=True):
        if subset not in known:
            raise InputError(f"{path}: video {video!r}: unknown subset {shown(subset)}")
    pairs = ", ".join(f"{train} and {test}" for train, test in SUBSETS)
    raise InputError(f"{path}: the subsets are {', '.join(sorted(set(found)))}; there must be two: {pairs}")


def _entry(row: dict[str, Any], known: set[str] | None) -> dict[str, Any]:
    """Duration and annotations of one video: its segments, then its classes that have no segment.

    Args:
        row: the video's entry in each list.
        known: all classes; None: any.

    Raises:
        TypeError: a value has a wrong type.
        ValueError: a value is wrong.
    """
    # Without labels.npy, the segments belong to the labels of the video.
    labels = _names(row.get("labels", row.get("labels_all")))
    segments = [_segment(segment) for segment in row.get("segments", [])]
    if segments and len(segments) != len(labels):
        raise ValueError(f"{len(segments)} segments and {len(labels)} labels of segments")
    classes = list(dict.fromkeys(labels + _names(row.get("labels_all", []))))
    for label in classes:
        if known is not None and label not in known:
            raise ValueError(f"class {label!r} is not in classlist.npy")
    annotations: list[dict[str, Any]] = []
    for label, segment in zip(labels, segments, strict=False):  # there may be no segments at all
        annotations.append({"label": label, "segment": segment})
    for label in classes:
        if not segments or label not in labels:
            annotations.append({"label": label})
    duration = {"duration": _finite(np.ravel(row["duration"])[0])} if "duration" in row else {}
    return duration | {"annotations": annotations}


def _names(value: Any) -> list[str]:
    """One name or several, as a list."""
    if isinstance(value, (bytes, str)):
        return [_text(value)]
    return [_text(item) for item in value]


def _text(value: Any) -> str:
    """A name, which may be bytes, as Python 2 wrote them."""
    if not isinstance(value, (bytes, str)):
        raise TypeError(f"{shown(value)} is not a name")
    return str(value, "utf-8") if isinstance(value, bytes) else str(value)


def _segment(value: Any) -> list[float]:
    if len(value) != 2:
        raise ValueError(f"segment {shown(value)} is not [start, end]")
    return [_finite(time) for time in value]


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return float(value)


# --- features ---------------------------------------------------------------------------------------------------------


def _write_features(path: Path, videos: list[str], folder: Path, trust: bool) -> None:
    """Writes one file for each video.

    Args:
        path: file of features.
        videos: names in its order.
        folder: where to write.
        trust: read a pickle.
    """
    arrays = _read_list(path, trust)
    _check_count(path, arrays, videos)
    width = None
    for i, video in enumerate(videos):
        array = np.asarray(arrays[i])
        arrays[i] = None  # frees its memory as soon as it is written
        width = _check_features(array, width, path, video)
        kind = np.float16 if array.dtype.itemsize == 2 else np.float32
        np.save(folder / f"{video}.npy", array.astype(kind, copy=False))


def _check_features(array: np.ndarray, width: int | None, path: Path, video: str) -> int:
    """Returns D of features (T, D), which must be `width` if that is known."""
    is_wide = array.ndim == 2 and (width is None or array.shape[1] == width)
    if not is_wide or array.dtype.kind != "f" or not array.size:
        form = f"real numbers of shape (T, {width or 'D'})"
        raise InputError(f"{path}: video {video!r}: {array.dtype} of shape {array.shape}, not {form}")
    return array.shape[1]


# --- files ------------------------------------------------------------------------------------------------------------


def _read_names(path: Path, trust: bool) -> list[str]:
    try:
        return _names(_read_list(path, trust))
    except (TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None


def _read_list(path: Path, trust: bool) -> list[Any]:
    """The entries of a `.npy` file: numbers or names, or lists or arrays of them.

    Raises:
        InputError: it is a pickle and pickles are not trusted, it cannot be read, or it does not fit into memory.
    """
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy warns of headers that Python 2 wrote
            if not _is_pickle(file):
                return list(np.load(path, mmap_mode="r", allow_pickle=False))
            if not trust:
                what = "only numbers, names, lists and arrays of them"
                raise InputError(f"{path}: is a pickle, which can run code when it is read; --trust reads {what}")
            if path.name.endswith(FEATURES):
                print(f"{path.name}: is read whole into memory, {_size(path)}", file=sys.stderr)
            return _unpickled(file)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory ({_size(path)})") from None
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(f"{path}: cannot be read: {one_line(error) or type(error).__name__}") from None


def _unpickled(file: BinaryIO) -> list[Any]:
    entries = _plain(_Reader(file, encoding="bytes").load())
    if not isinstance(entries, list):
        raise pickle.UnpicklingError(f"holds {shown(entries)}, not a list")
    return entries


def _size(path: Path) -> str:
    return tqdm.format_sizeof(path.stat().st_size, "B")


def _is_pickle(file: BinaryIO) -> bool:
    """Whether a `.npy` file holds objects. Reads the header, so that the content comes next in the file."""
    if np.lib.format.read_magic(file) == (1, 0):
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        _, _, dtype = np.lib.format.read_array_header_2_0(file)
    return dtype.hasobject


class _Kind:
    """The type of an array's numbers in a pickle. It takes the place of `numpy.dtype`."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        self.name = _text(name)
        self.order = "="
        if not re.fullmatch(r"[biufSUO]\d+", self.name):
            raise pickle.UnpicklingError(f"holds arrays of {shown(self.name)}")

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])
        if self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"holds numbers in the order {shown(self.order)}")

    def numbers(self, raw: bytes) -> np.ndarray:
        """The numbers, or names, stored in bytes; they are not copied."""
        return np.frombuffer(raw, np.dtype(self.order + self.name))


class _Array:
    """An array in a pickle. It takes the place of `numpy.ndarray`; `content` is an array of numbers, or a list."""

    content: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, raw = state
        if kind.name[0] != "O":
            self.content = kind.numbers(raw).reshape(shape, order="F" if by_columns else "C")
        elif isinstance(raw, list) and tuple(shape) == (len(raw),):
            self.content = raw
        else:
            raise pickle.UnpicklingError(f"holds an array of objects of shape {shape}, not a list")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them for Python 2. It takes the place of `codecs.encode`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"holds text in {shown(encoding)}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Reads a pickle. It can call the functions and classes listed here only."""

    known = {  # noqa: RUF012 - never changed
        "numpy ndarray": _Array,
        "numpy dtype": _Kind,
        "numpy.core.multiarray _reconstruct": lambda *_: _Array(),
        "numpy.core.multiarray scalar": lambda kind, raw: kind.numbers(raw)[0],
        "_codecs encode": _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module.replace('numpy._core', 'numpy.core')} {name}"
        if wanted not in self.known:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed in data; nothing was run")
        return self.known[wanted]


def _plain(value: Any) -> Any:
    """A value that was read, with arrays of objects turned into lists."""
    content = value.content if isinstance(value, _Array) else value
    if isinstance(content, (list, tuple)):
        return [_plain(item) for item in content]
    return content
