"""Names that the user types: presets, data-set cards, sweeps, runs. Where each lies, and the kind of a YAML file.

This module imports nothing slow: the command line reports a wrong name at once.
"""

import difflib
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fustal import ROOT
from fustal.data.files import read_yaml
from fustal.exceptions import InputError

OUTPUTS = Path(os.environ.get("FUSTAL_OUTPUTS", ROOT / "outputs"))
"""The folder of all runs: `outputs/`, or the folder in $FUSTAL_OUTPUTS."""

STAGES = ("generator", "selection", "student", "distilled", "evaluation")
"""The stages of a run in their order. The folder of a run has a folder of this name for each stage."""

MAX_LISTED = 12
"""The maximum number of names in a message."""


class Kind(NamedTuple):
    """A kind of YAML file.

    Attributes:
        title: its name in a message, with an article.
        missing: its name in a message about a missing file.
        entries: entries that no other kind has; one that ends in "_" stands for all entries that begin with it.
        folder: of the files that belong to the repository.
        file: the name of such a file in a folder of the user's own data.
        command: the command that takes such a file.
    """

    title: str
    missing: str
    entries: tuple[str, ...]
    folder: Path
    file: str
    command: str


KINDS = {
    "card": Kind(
        "a data-set card",
        "data-set card",
        ("root", "annotations", "grids"),
        ROOT / "params" / "datasets",
        "card.yaml",
        "fustal validate",
    ),
    "preset": Kind(
        "a preset",
        "parameter file",
        ("run", "dataset", "seed", "recipe", "threads", "device", "generator_", "student_", "distill_"),
        ROOT / "params",
        "params.yaml",
        "fustal run",
    ),
    "sweep": Kind(
        "a sweep",
        "sweep file",
        ("base", "seeds", "grid", "variants"),
        ROOT / "params" / "sweeps",
        "sweep.yaml",
        "fustal sweep",
    ),
}
"""The kinds of YAML files by name."""


def among(given: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """The end of a message about a name that does not exist: the names that do, similar names first.

    Args:
        given: the name that was typed.
        known: the existing names; or existing name -> its text in the message.

    >>> among("studnt", ["generator", "student"])
    "(did you mean 'student'? there are student, generator)"
    >>> among("x", [])
    '(there are none)'
    """
    texts = dict(known) if isinstance(known, Mapping) else {name: name for name in known}
    longer = [name for name in texts if given and given in name]
    similar = sorted(longer, key=len)[:3]
    similar += difflib.get_close_matches(given, texts, n=3, cutoff=0.6)
    without_repeats = dict.fromkeys([*similar, *texts])
    ordered = [texts[name] for name in without_repeats]
    guess = f"did you mean {ordered[0]!r}? " if similar else ""
    listed = ", ".join(ordered[:MAX_LISTED]) or "none"
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return f"({guess}there are {listed}{more})"


def find(kind: str, given: str | Path) -> Path:
    """Finds a YAML file by its path, by the path of its folder, or, if it is a card, by its name in `params/datasets`.

    Args:
        kind: one of `KINDS`.
        given: what was typed.

    Raises:
        InputError: there is no such file; the message lists similar names.
    """
    wanted = KINDS[kind]
    path = Path(given)
    own = wanted.folder / f"{given}.yaml"
    # os.path and not pathlib in the whole module: it is False for names that no file can have, and raises nothing
    if kind == "card" and os.path.isfile(own):
        return own
    if os.path.isdir(path):
        if os.path.isfile(path / wanted.file):
            return path / wanted.file
        raise InputError(f"{path}: is a folder without {wanted.file}")
    if os.path.isfile(path):
        return path
    if os.path.exists(path):
        raise InputError(f"{path}: is not a regular file")
    files = sorted(wanted.folder.glob("*.yaml"))
    known = {file.stem: file.stem if kind == "card" else short(file) for file in files}
    raise InputError(f"{given}: no such {wanted.missing} {among(path.stem, known)}")


def read_as(kind: str, path: Path, known: Collection[str]) -> dict[str, Any]:
    """Reads a YAML file of one kind.

    Args:
        kind: one of `KINDS`.
        path: the file.
        known: all entries that this kind can have.

    Raises:
        InputError: it cannot be read, or it is of another kind.
    """
    values = read_yaml(path)
    if values.keys() & set(known):
        return values
    wanted = KINDS[kind]
    for other in KINDS.values():
        if other != wanted and _is_of_kind(values, other):
            raise InputError(f"{path}: this is {other.title}; {wanted.title} is wanted: {other.command} {path}")
    return values


def _is_of_kind(values: Mapping[str, Any], kind: Kind) -> bool:
    """Whether a file has an entry that only this kind has."""
    beginnings = tuple(name for name in kind.entries if name.endswith("_"))
    return any(entry in kind.entries or entry.startswith(beginnings) for entry in values)


def find_card(card: str | Path) -> Path:
    """The path of a data-set card.

    Args:
        card: its name in `params/datasets`, or a path. In a notebook, the path is relative to `folder_of`.

    Raises:
        InputError: there is no such card.
    """
    given = Path(beside(str(card), folder_of("dataset", str(card))))
    try:
        return find("card", given).resolve()
    except InputError as error:
        if not in_notebook():
            raise
        raise InputError(f"{error}: give a card's whole path, or the preset to papermill by -f") from None


def beside(card: str, folder: Path) -> str:
    """A card as its name, or as an absolute path if it is a path.

    Args:
        card: as it stands in a file, or on a command line.
        folder: that of the file. A path is relative to it.

    >>> beside("demo", Path("/data")), beside("card.yaml", Path("/data"))
    ('demo', '/data/card.yaml')
    """
    path = folder / card
    if os.path.isfile(KINDS["card"].folder / f"{card}.yaml"):
        return card
    is_path = Path(card).suffix in (".yaml", ".yml") or os.path.isfile(path) or os.path.isfile(path / "card.yaml")
    return str(path.resolve()) if is_path else card


# --- runs -------------------------------------------------------------------------------------------------------------


def find_run(given: str | Path, holds: str = "*/*.json") -> Path:
    """The folder of a run.

    Args:
        given: its name below `outputs/`, its folder, or a file of one of its stages.
        holds: a pattern; a message lists only runs that have such a file.

    Raises:
        InputError: there is no such run; the message lists the existing runs, similar names first.
    """
    path = Path(given)
    places = [OUTPUTS / path, path]
    if path.parts[:1] in (("outputs",), (OUTPUTS.name,)):
        places.append(OUTPUTS.joinpath(*path.parts[1:]))
    # A file of a stage: its run is two folders above it
    places += [place.parents[1] for place in places if os.path.isfile(place)]
    for place in places:
        if any(os.path.isdir(place / stage) for stage in STAGES):
            return place.absolute()
    if path.parts and os.path.isdir(OUTPUTS / path):  # a run that has not reached its first stage
        return OUTPUTS / path
    raise InputError(f"{OUTPUTS / path}: no such run {among(path.name, _existing_runs(holds))}")


def _existing_runs(holds: str) -> list[str]:
    """The names of the runs that have a file of a pattern, those of sweeps included."""
    names = set()
    for file in [*OUTPUTS.glob(f"*/{holds}"), *OUTPUTS.glob(f"*/*/{holds}")]:
        if file.parent.name in STAGES:
            names.add(file.parents[1].relative_to(OUTPUTS).as_posix())
    return sorted(names)


def short(path: Path) -> str:
    """A path relative to the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# --- paths in a notebook ----------------------------------------------------------------------------------------------


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def folder_of(name: str, value: str) -> Path:
    """The folder to which a path in a parameter is relative: that of papermill's parameter file, or the working one.

    `papermill … -f my/params.yaml` passes the values of the file to the notebook, and not the file's path. But the
    process of the notebook is a child of papermill's process, whose command line contains the path.

    Args:
        name: of the parameter.
        value: of the parameter, a path.
    """
    if not in_notebook() or Path(value).is_absolute():
        return Path.cwd()
    for file in _parameter_files(name):
        try:
            values = read_yaml(file)
        except InputError:
            continue
        if values.get(name) == value:
            return file.parent
    return Path.cwd()


def _parameter_files(name: str) -> list[Path]:
    """The parameter files on papermill's command line, the last one first; none if another option sets the parameter.

    The files of the nearest parent process come first.
    """
    import psutil

    found: list[Path] = []
    try:
        for process in psutil.Process().parents():
            words = _words_of_papermill(process.cmdline())
            if _sets_parameter(words, name):
                break
            files = _files_on(words)
            if not files:
                continue
            # With --cwd, papermill is in another folder while a notebook runs; PWD is the folder where it was started
            places = [process.cwd(), process.environ().get("PWD", "")]
            for file in reversed(files):
                found += [Path(place, file).resolve() for place in places if os.path.isfile(Path(place, file))]
    except psutil.Error:  # a process ended meanwhile, or belongs to another user
        pass
    return found


def _words_of_papermill(words: list[str]) -> list[str]:
    """The words of a command line from "papermill" on; none if it is another command."""
    for position, word in enumerate(words):
        if Path(word).stem == "papermill":
            return words[position:]
    return []


def _sets_parameter(words: list[str], name: str) -> bool:
    """Whether papermill's options give a value to a parameter directly."""
    flags = ("-p", "-r", "--parameters", "--parameters_raw")
    return any(flag in flags and text == name for flag, text in pairwise(words))


def _files_on(words: list[str]) -> list[str]:
    """The parameter files on papermill's command line."""
    files = [text for flag, text in pairwise(words) if flag in ("-f", "--parameters_file")]
    files += [word.partition("=")[2] for word in words if word.startswith("--parameters_file=")]
    return files
