"""W-TALC's layout, in which older weakly-supervised work shares its features, turned into this project's.

A folder holds `<Name>-I3D-JOINTFeatures.npy`, an array (T, 2048) for each video, and, beside it or in
`<Name>-Annotations/`, lists in the same order of the videos: `videoname.npy`, `subset.npy`, `labels.npy` (the class of
each segment), `segments.npy` (s), `labels_all.npy` (the classes of each video), `duration.npy` (s), and `classlist.npy`
of the classes. Videos are at 25 fps, 16 frames a snippet without overlap; `extracted_fps.npy` says otherwise and is
wrong. Sources: README and issues 9, 11 and 13 of github.com/sujoyp/wtalc-pytorch, README of
github.com/RenHuan1999/CVPR2023_P-MIL.

Most of these files are pickles, which can run code while they are read. Here they are read by `_Reader`, which knows
numbers, names, lists and arrays of them, and asks neither numpy nor anything else to build what a file describes.
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

from fustal.data.annotations import can_name_a_file
from fustal.data.cards import Grid
from fustal.data.files import one_line, open_regular, shown
from fustal.data.writing import atomic_folder, write_json
from fustal.exceptions import InputError

GRID = Grid(pattern="features/{video}.npy", fps=25, stride=16, window=16)
"""Where the converted features lie and when their snippets happen: what the data set's card must say."""

FEATURES = "-I3D-JOINTFeatures.npy"
"""How the name of the file of features ends."""

SUBSETS = (("validation", "test"), ("training", "validation"), ("train", "test"), ("train", "val"))
"""What training and test videos are called: THUMOS'14, ActivityNet, others."""


class Converted(NamedTuple):
    """What came of a folder: the name of its data set, and how many training and test videos it has."""

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
    """Turns a folder in W-TALC's layout into one feature file a video and ActivityNet-style annotations.

    The file of features is a pickle, which cannot be read in parts: it takes as much memory as it is long.

    Args:
        folder: holds `<Name>-I3D-JOINTFeatures.npy`.
        out: a new folder: `features/{video}.npy`, float16 or float32 (T, D) on `GRID`, and `gt.json`, with the subsets
            train and test. A class that a video has and no segment of it becomes an annotation without a segment.
        trust: read pickles, which is refused without it.

    Raises:
        InputError: a file is missing, broken, a pickle, or does not fit the others; the message names file and video.
    """
    if out.exists():
        raise InputError(f"{out}: is there already")
    features = _only([path for path in folder.glob(f"*{FEATURES}") if path.is_file()], folder)
    name = features.name.removesuffix(FEATURES)
    beside = folder / f"{name}-Annotations"
    database = _database(beside if beside.is_dir() else folder, trust)
    with atomic_folder(out) as made:
        (made / "features").mkdir(parents=True)
        write_json({"version": name, "database": database}, made / "gt.json")
        _write_features(features, list(database), made, trust)
    subsets = [entry["subset"] for entry in database.values()]
    return Converted(name, subsets.count("train"), subsets.count("test"))


def _only(found: list[Path], folder: Path) -> Path:
    if len(found) != 1:
        what = f"holds {', '.join(sorted(path.name for path in found))}: keep one" if found else f"holds no *{FEATURES}"
        raise InputError(f"{folder}: {what}")
    return found[0]


def _database(folder: Path, trust: bool) -> dict[str, dict[str, Any]]:
    """Video -> subset, duration, annotations, in the order of the features."""
    columns = _columns(folder, trust)
    videos = columns.pop("videoname")
    subsets = _subsets(columns.pop("subset"), videos, folder / "subset.npy")
    classes = folder / "classlist.npy"
    known = set(_read_names(classes, trust)) if classes.exists() else None
    database = {}
    for i, video in enumerate(videos):
        try:
            entry = _entry({column: values[i] for column, values in columns.items()}, known)
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"{folder}: video {video!r}: {error}") from None
        database[video] = {"subset": subsets[i]} | entry
    return database


def _columns(folder: Path, trust: bool) -> dict[str, list[Any]]:
    """What the lists of annotations say of each video, by their names."""
    columns = {column: _read_names(folder / f"{column}.npy", trust) for column in ("videoname", "subset")}
    for column in ("labels", "labels_all", "segments", "duration"):
        if (folder / f"{column}.npy").exists():
            columns[column] = _read_list(folder / f"{column}.npy", trust)
    if not {"labels", "labels_all"} & set(columns):
        raise InputError(f"{folder}: holds neither labels.npy nor labels_all.npy")
    for column, values in columns.items():
        _check_count(folder / f"{column}.npy", values, columns["videoname"])
    for video, count in Counter(columns["videoname"]).items():
        if count > 1 or not can_name_a_file(video):
            raise InputError(f"{folder / 'videoname.npy'}: video {shown(video)} appears twice, or cannot name a file")
    return columns


def _check_count(path: Path, values: list[Any], videos: list[str]) -> None:
    if len(values) != len(videos):
        raise InputError(f"{path}: {len(values)} entries, where videoname.npy has {len(videos)}")


def _subsets(found: list[str], videos: list[str], path: Path) -> list[str]:
    """Train or test for each video, from what its data set calls them."""
    for pair in SUBSETS:
        if set(found) == set(pair):
            return ["train" if subset == pair[0] else "test" for subset in found]
    known = {subset for pair in SUBSETS for subset in pair}
    for video, subset in zip(videos, found, strict=True):
        if subset not in known:
            raise InputError(f"{path}: video {video!r}: unknown subset {shown(subset)}")
    pairs = ", ".join(f"{train} and {test}" for train, test in SUBSETS)
    raise InputError(f"{path}: the subsets are {', '.join(sorted(set(found)))}; there must be two: {pairs}")


def _entry(row: dict[str, Any], known: set[str] | None) -> dict[str, Any]:
    """Duration and annotations of one video: its segments, then its classes that have none."""
    labels = _names(row.get("labels", row.get("labels_all")))
    segments = [_segment(segment) for segment in row.get("segments", [])]
    if segments and len(segments) != len(labels):
        raise ValueError(f"{len(segments)} segments and {len(labels)} labels of segments")
    annotations = [{"label": label, "segment": segment} for label, segment in zip(labels, segments, strict=False)]
    classes = dict.fromkeys(labels + _names(row.get("labels_all", [])))
    if known is not None and (strange := [label for label in classes if label not in known]):
        raise ValueError(f"class {strange[0]!r} is not in classlist.npy")
    without = [{"label": label} for label in classes if not segments or label not in labels]
    duration = {"duration": _finite(np.ravel(row["duration"])[0])} if "duration" in row else {}
    return duration | {"annotations": annotations + without}


def _names(value: Any) -> list[str]:
    return [_text(value)] if isinstance(value, (bytes, str)) else [_text(item) for item in value]


def _text(value: Any) -> str:
    """A name; Python 2 wrote bytes."""
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


def _write_features(path: Path, videos: list[str], root: Path, trust: bool) -> None:
    """Writes one file a video, and forgets each array when it is written."""
    arrays = _read_list(path, trust)
    _check_count(path, arrays, videos)
    width = None
    for i, video in enumerate(videos):
        array, arrays[i] = np.asarray(arrays[i]), None
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size or array.shape[1] != (width or array.shape[1]):
            wanted = f"real numbers of shape (T, {width or 'D'})"
            raise InputError(f"{path}: video {video!r}: {array.dtype} of shape {array.shape}, not {wanted}")
        width = array.shape[1]
        kind = np.float16 if array.dtype.itemsize == 2 else np.float32
        np.save(root / GRID.pattern.format(video=video), array.astype(kind, copy=False))


def _read_names(path: Path, trust: bool) -> list[str]:
    try:
        return _names(_read_list(path, trust))
    except (TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None


def _read_list(path: Path, trust: bool) -> list[Any]:
    """The entries of a `.npy` file, numbers or names or lists or arrays of them; a pickle only if it is trusted."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's, of headers that Python 2 wrote
            if not _is_pickle(file):
                return list(np.load(path, mmap_mode="r", allow_pickle=False))
            if not trust:
                what = "only numbers, names, lists and arrays of them"
                raise InputError(f"{path}: is a pickle, which can run code when it is read; --trust reads {what}")
            if path.name.endswith(FEATURES):
                print(f"{path.name}: is read whole into memory, {_size(path)}", file=sys.stderr)
            entries = _plain(_Reader(file, encoding="bytes").load())
            if not isinstance(entries, list):
                raise pickle.UnpicklingError(f"holds {shown(entries)}, not a list")
            return entries
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory ({_size(path)})") from None
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(f"{path}: cannot be read: {one_line(error) or type(error).__name__}") from None


def _size(path: Path) -> str:
    return tqdm.format_sizeof(path.stat().st_size, "B")


def _is_pickle(file: BinaryIO) -> bool:
    """Whether a `.npy` file holds objects; what follows in the file is its content."""
    one = np.lib.format.read_magic(file) == (1, 0)
    header = np.lib.format.read_array_header_1_0(file) if one else np.lib.format.read_array_header_2_0(file)
    return header[2].hasobject


class _Kind:
    """What a pickle says of an array's numbers, in the place of `numpy.dtype`."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        self.name, self.order = _text(name), "="
        if not re.fullmatch(r"[biufSUO]\d+", self.name):
            raise pickle.UnpicklingError(f"holds arrays of {shown(self.name)}")

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])
        if self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"holds numbers in the order {shown(self.order)}")

    def numbers(self, raw: bytes) -> np.ndarray:
        """The numbers (or names) in some bytes, without a copy."""
        return np.frombuffer(raw, np.dtype(self.order + self.name))


class _Array:
    """An array in a pickle, in the place of `numpy.ndarray`: `content` is an array of numbers, or a list."""

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
    """Bytes as Python 3 writes them for Python 2, in the place of `codecs.encode`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"holds text in {shown(encoding)}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Reads a pickle, and calls nothing for it but what stands here."""

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
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which data have no use for; nothing was run")
        return self.known[wanted]


def _plain(value: Any) -> Any:
    """What was read, with lists in the place of arrays of objects."""
    content = value.content if isinstance(value, _Array) else value
    return [_plain(item) for item in content] if isinstance(content, (list, tuple)) else content
