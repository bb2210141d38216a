"""What the user names: presets, data-set cards, sweeps, runs. Where each lies, which kind of YAML file a file is.

Nothing slow is imported here, so that a wrong name is answered at once.
"""

import contextlib
import difflib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fustal import ROOT
from fustal.data.files import read_yaml
from fustal.exceptions import InputError

OUTPUTS = Path(os.environ.get("FUSTAL_OUTPUTS", ROOT / "outputs"))
"""Where run folders live: `outputs/`, or the folder in $FUSTAL_OUTPUTS."""

STAGES = ("generator", "selection", "student", "distilled", "evaluation")
"""The stages of a run, in their order: each has a folder of this name in the run's."""

MOST = 12
"""Names that a message lists at most."""


class Kind(NamedTuple):
    """A kind of YAML file.

    Attributes:
        title: what a message calls it.
        missing: what a message calls one that is not there.
        entries: that no other kind has; one that ends in "_" stands for all that begin so.
        folder: where the repository's own are.
        file: its name in a folder of somebody's own data.
        command: what it is for.
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
    """What there is instead of a name that is not there, near names first: the end of a message.

    Args:
        given: what was typed.
        known: names; or names and how each is shown.

    >>> among("studnt", ["generator", "student"])
    "(did you mean 'student'? there are student, generator)"
    >>> among("x", [])
    '(there are none)'
    """
    texts = dict(known) if isinstance(known, Mapping) else {name: name for name in known}
    near = sorted((name for name in texts if given and given in name), key=len)[:3]
    near += difflib.get_close_matches(given, texts, n=3, cutoff=0.6)
    ordered = [texts[name] for name in dict.fromkeys([*near, *texts])]
    guess = f"did you mean {ordered[0]!r}? " if near else ""
    more = f" and {len(ordered) - MOST} more" if len(ordered) > MOST else ""
    return f"({guess}there are {', '.join(ordered[:MOST]) or 'none'}{more})"


def find(kind: str, given: str | Path) -> Path:
    """The YAML file that is meant: its path, or that of a folder which holds one; of a card also its name in `params/`.

    Args:
        kind: one of `KINDS`.
        given: what was typed.

    Raises:
        InputError: there is none; the message names near ones.
    """
    wanted, path = KINDS[kind], Path(given)
    own = wanted.folder / f"{given}.yaml"
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
    """Reads a YAML file of some kind.

    Args:
        kind: one of `KINDS`.
        path: of the file.
        known: all entries that this kind can have.

    Raises:
        InputError: it cannot be read, or is of another kind.
    """
    values = read_yaml(path)
    if not values.keys() & set(known):
        for other in KINDS.values():
            if other != KINDS[kind] and any(_tells(name, other) for name in values):
                wanted = KINDS[kind]
                raise InputError(f"{path}: this is {other.title}; {wanted.title} is wanted: {other.command} {path}")
    return values


def _tells(entry: str, kind: Kind) -> bool:
    beginnings = tuple(name for name in kind.entries if name.endswith("_"))
    return entry in kind.entries or entry.startswith(beginnings)


def find_card(card: str | Path) -> Path:
    """The path of a data-set card, given its name in `params/datasets` or a path; in a notebook see `folder_of`."""
    given = Path(beside(str(card), folder_of("dataset", str(card))))
    try:
        return find("card", given).resolve()
    except InputError as error:
        if not in_notebook():
            raise
        raise InputError(f"{error}: give a card's whole path, or the preset to papermill by -f") from None


def beside(card: str, folder: Path) -> str:
    """A card that is named in a file of a folder, or on a command line: a path is relative to that folder.

    >>> beside("demo", Path("/data")), beside("card.yaml", Path("/data"))
    ('demo', '/data/card.yaml')
    """
    path = folder / card
    is_path = Path(card).suffix in (".yaml", ".yml") or os.path.isfile(path) or os.path.isfile(path / "card.yaml")
    named = os.path.isfile(KINDS["card"].folder / f"{card}.yaml")
    return str(path.resolve()) if is_path and not named else card


def find_run(given: str | Path, holds: str = "*/*.json") -> Path:
    """The folder of a run.

    Args:
        given: its name below `outputs/`, its folder, or a file of one of its stages.
        holds: what the runs that a message lists have, as a pattern.

    Raises:
        InputError: there is no such run; the message lists those that there are, near names first.
    """
    path = Path(given)
    places = [OUTPUTS / path, path]
    if path.parts[:1] in (("outputs",), (OUTPUTS.name,)):
        places.append(OUTPUTS.joinpath(*path.parts[1:]))
    places += [place.parents[1] for place in places if os.path.isfile(place)]
    for place in places:
        if any(os.path.isdir(place / stage) for stage in STAGES):
            return place.absolute()
    if path.parts and os.path.isdir(OUTPUTS / path):  # one that has not come to its first stage
        return OUTPUTS / path
    files = [file for depth in ("*", "*/*") for file in OUTPUTS.glob(f"{depth}/{holds}")]
    folders = {file.parents[1] for file in files if file.parent.name in STAGES}
    names = sorted(folder.relative_to(OUTPUTS).as_posix() for folder in folders)
    raise InputError(f"{OUTPUTS / path}: no such run {among(path.name, names)}")


def short(path: Path) -> str:
    """A path relative to where the user is, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    return "ipykernel" in sys.modules


def folder_of(name: str, value: str) -> Path:
    """The folder that a path given as a parameter is relative to: papermill's parameter file's, or where the user is.

    `papermill … -f my/params.yaml` passes on what the file says and not where it lies. But a notebook's process is
    papermill's child, and papermill's command line names the file.

    Args:
        name: of the parameter.
        value: it has.
    """
    if in_notebook() and not Path(value).is_absolute():
        for file in _parameter_files(name):
            if _said(file, name) == value:
                return file.parent
    return Path.cwd()


def _parameter_files(name: str) -> Iterator[Path]:
    """The files that papermill was given by `-f`, the last first; none where another option gives the parameter."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            words = process.cmdline()
            start = next((i for i, word in enumerate(words) if Path(word).stem == "papermill"), len(words))
            options = list(zip(words[start:], words[start + 1 :], strict=False))
            if any(flag in ("-p", "-r", "--parameters", "--parameters_raw") and text == name for flag, text in options):
                return
            files = [text for flag, text in options if flag in ("-f", "--parameters_file")]
            files += [word.partition("=")[2] for word in words[start:] if word.startswith("--parameters_file=")]
            # papermill is in another folder while a notebook runs, if it was given --cwd
            places = [process.cwd(), process.environ().get("PWD", "")] if files else []
            for file in reversed(files):
                yield from (Path(place, file).resolve() for place in places if os.path.isfile(Path(place, file)))


def _said(file: Path, name: str) -> Any:
    """What a parameter file says of a parameter; nothing where it cannot be read."""
    try:
        return read_yaml(file).get(name)
    except InputError:
        return None
