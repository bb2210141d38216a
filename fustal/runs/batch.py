"""The chain of notebooks, run headlessly by papermill."""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from fustal import ROOT
from fustal.data.cards import Dataset, load_dataset
from fustal.data.demo import ensure
from fustal.data.features import FeatureStore
from fustal.data.files import one_line
from fustal.data.names import OUTPUTS
from fustal.data.writing import Busy, check_target, held, publish
from fustal.engine.steps import reporting
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, Stage, stages_of, why_not
from fustal.runs.identity import data_key
from fustal.runs.stage import is_done


class StageError(RuntimeError):
    """A notebook failed. The message names it, the error, and the notebook that shows where."""


def run_chain(
    params: Params,
    *,
    stages: Sequence[str] = tuple(CHAIN),
    outputs: Path | None = None,
    force: bool = False,
    kept: Sequence[str] = (),
    report: Callable[[str], None] = print,
    bar: bool = True,
) -> None:
    """Runs the five notebooks into `outputs/<run>/`, and skips those that are done for exactly these inputs.

    Two processes never work on the same run: the second waits for the first.

    Args:
        params: of the run.
        stages: names of the stages whose notebooks are run.
        outputs: the folder above the run's, if another one than `OUTPUTS`.
        force: run also stages that are done.
        kept: stages that must be done already.
        report: takes lines of progress.
        bar: show a bar over the cells of a notebook, on a terminal.

    Raises:
        StageError: the first notebook that failed.
        InputError: the first notebook that refused its input, or a stage that must be done and is not.
    """
    outputs = (outputs or OUTPUTS).resolve()
    ensure(params.dataset)
    dataset = load_dataset(params.dataset)
    data = data_key(dataset)
    needed = stages_of(params, dataset)
    for name in kept:
        if name in needed and not is_done(params, name, data, outputs):
            what = "is not done with these parameters, inputs and code: run it first"
            raise InputError(f"{outputs / params.run / name}: {what}")
    _check_features(dataset, [name for name in needed if name in stages])
    with _alone(outputs / params.run, report):
        for number, stage in enumerate(CHAIN.values(), 1):
            if stage.name not in stages:
                continue
            title = f"{number}/{len(CHAIN)} {stage.notebook.removesuffix('.ipynb')}"
            if stage.name not in needed:
                report(f"{title}: nothing to do: {why_not(stage, params)}")
                continue
            if not force and is_done(params, stage.name, data, outputs):
                _finish_notebook(stage, outputs / params.run / "notebooks")
                report(f"{title}: already done")
                continue
            report(f"{title} ...")
            started = time.monotonic()
            shows_bar = bar and sys.stderr.isatty()
            with contextlib.nullcontext() if shows_bar else reporting(report, title):
                warned = run_notebook(stage, params, outputs, bar=shows_bar)
            for line in warned:
                report(f"    {line}")
            report(f"{title}: {time.monotonic() - started:.0f} s")


def _check_features(dataset: Dataset, stages: Sequence[str]) -> None:
    """Raises an InputError, before the first stage begins, if a file that one of them reads is missing or cut off."""
    for grid in dataset.grids:
        if grid in stages:  # a grid has the name of the first stage that reads it
            store = FeatureStore(dataset, grid)
            for video in dataset.videos.index:
                store.length(video)


def _finish_notebook(stage: Stage, folder: Path) -> None:
    """Gives an executed notebook its name, if the process was killed between the end of the stage and that."""
    partial = _partial(stage, folder)
    if partial.is_file() and not (folder / stage.notebook).exists():
        publish(partial, folder / stage.notebook)


def _partial(stage: Stage, folder: Path) -> Path:
    return folder / stage.notebook.replace(".ipynb", ".partial.ipynb")


@contextlib.contextmanager
def _alone(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a run's folder. A process loses it when it ends, also when it is killed."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock", folder, patience=0))
        except Busy:
            report(f"{folder}: another process works on this run: waiting for it")
            stack.enter_context(held(folder / ".lock", folder))
        yield


def run_notebook(stage: Stage, params: Params, outputs: Path, *, bar: bool = False) -> list[str]:
    """Executes one notebook; it appears under its name in the run's folder when it has run to its end.

    Exercises and their solutions are not executed: papermill skips cells with their tag `skip-execution`. The process
    of the notebook takes the folder of runs from the environment, and ends when this one does. As papermill changes
    the working directory meanwhile, a process executes one notebook at a time.

    Returns:
        Lines that the notebook printed as warnings.
    """
    folder = outputs / params.run / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    partial = _partial(stage, folder)
    for path in (partial, folder / stage.notebook):
        check_target(path)
        if path.is_symlink():
            raise InputError(f"{path}: is a link, and what it leads to would be replaced: move it away")
    os.environ["FUSTAL_OUTPUTS"] = str(outputs)
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("FUSTAL_STATIC", "1")  # figures without sliders
    # papermill warns of parameters that a notebook does not declare; ours take all of them and check them
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="fustal-", dir=_short_folder()) as sockets:
        try:
            executed = papermill.execute_notebook(
                _literal(ROOT / "notebooks" / stage.notebook),
                _literal(partial),
                params.of(Params),
                kernel_name="python3",
                progress_bar=bar,
                config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
                extra_arguments=["--log-level=CRITICAL"],
                cwd=str(ROOT / "notebooks"),
            )
        except PapermillExecutionError as error:
            if error.ename == InputError.__name__:
                raise InputError(error.evalue) from None
            reason = f"{error.ename}: {one_line(error.evalue)}"
            raise StageError(f"{stage.notebook}: {reason} (see {partial})") from None
        except DeadKernelError:
            raise StageError(
                f"{stage.notebook}: its process was killed, perhaps because memory ran out; the same command "
                "continues from its last checkpoint"
            ) from None
    publish(partial, folder / stage.notebook)
    printed = ""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                printed += output.text
    return [line for line in printed.splitlines() if line.startswith("warning: ")]


LONGEST_SOCKET = 103
"""Maximum number of bytes of the path of a Unix socket, on any system."""


def _short_folder() -> str | None:
    """The folder for sockets: None is the usual one, another one is taken where the path would be too long."""
    usual = Path(tempfile.gettempdir()) / "fustal-12345678" / "kernel-5"
    return "/tmp" if len(os.fsencode(usual)) > LONGEST_SOCKET else None


def _literal(path: os.PathLike) -> str:
    """A path with its braces doubled: papermill reads a path as a template."""
    return str(path).replace("{", "{{").replace("}", "}}")
