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
from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.data.files import one_line
from fustal.data.names import OUTPUTS
from fustal.data.writing import Busy, check_target, held, publish
from fustal.engine.steps import telling
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
    say: Callable[[str], None] = print,
    bar: bool = True,
) -> None:
    """Runs the five notebooks into `outputs/<run>/`, without those that are done for exactly these inputs.

    Two processes never work on the same run: the second waits for the first.

    Args:
        params: of the run.
        stages: which notebooks, by the name of their stage.
        outputs: the folder above the run's, if another one than `OUTPUTS`.
        force: run also what is done.
        kept: stages that must be done already.
        say: takes lines of progress.
        bar: show a bar over the cells of a notebook, on a terminal.

    Raises:
        StageError: the first notebook that failed.
        InputError: the first notebook that refused its input, or a stage that must be done and is not.
    """
    outputs = (outputs or OUTPUTS).resolve()
    ensure(params.dataset)
    dataset = load_dataset(params.dataset)
    data, needed = data_key(dataset), stages_of(params, dataset)
    for name in kept:
        if name in needed and not is_done(params, name, data, outputs):
            what = "is not done with these parameters, inputs and code: run it first"
            raise InputError(f"{outputs / params.run / name}: {what}")
    with _alone(outputs / params.run, say):
        for number, stage in enumerate(CHAIN.values(), 1):
            if stage.name not in stages:
                continue
            title = f"{number}/{len(CHAIN)} {stage.notebook.removesuffix('.ipynb')}"
            if stage.name not in needed:
                say(f"{title}: nothing to do: {why_not(stage, params)}")
                continue
            if not force and is_done(params, stage.name, data, outputs):
                _finish_notebook(stage, outputs / params.run / "notebooks")
                say(f"{title}: already done")
                continue
            say(f"{title} ...")
            started = time.monotonic()
            shows_bar = bar and sys.stderr.isatty()
            with contextlib.nullcontext() if shows_bar else telling(say, title):
                warned = run_notebook(stage, params, outputs, bar=shows_bar)
            for line in warned:
                say(f"    {line}")
            say(f"{title}: {time.monotonic() - started:.0f} s")


def _finish_notebook(stage: Stage, folder: Path) -> None:
    """Gives an executed notebook its name, if the process was killed between its stage's end and that."""
    partial = _partial(stage, folder)
    if partial.is_file() and not (folder / stage.notebook).exists():
        publish(partial, folder / stage.notebook)


def _partial(stage: Stage, folder: Path) -> Path:
    return folder / stage.notebook.replace(".ipynb", ".partial.ipynb")


@contextlib.contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a run's folder, which a process loses when it ends, however it ends."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock", folder, patience=0))
        except Busy:
            say(f"{folder}: another process works on this run: waiting for it")
            stack.enter_context(held(folder / ".lock", folder))
        yield


def run_notebook(stage: Stage, params: Params, outputs: Path, *, bar: bool = False) -> list[str]:
    """Executes one notebook; it appears under its name in the run's folder when it has run to its end.

    Exercises and their solutions stay as they are, by their tag `skip-execution`, which papermill itself knows. Its
    process takes the folder of runs from the environment, and ends when this one does. As papermill changes the
    working directory meanwhile, a process executes one notebook at a time.

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
    os.environ.setdefault("FUSTAL_STATIC", "1")  # nobody is there to move a slider
    # papermill warns of parameters that a notebook does not declare; ours take them all and check them themselves
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="fustal-", dir=_short_folder()) as sockets:  # no ports, no other listeners
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
                f"{stage.notebook}: its process was killed, perhaps for want of memory; the same command goes on from "
                "its last checkpoint"
            ) from None
    publish(partial, folder / stage.notebook)
    printed = [output for cell in executed.cells for output in cell.get("outputs", [])]
    lines = "".join(output.text for output in printed if output.get("name") == "stdout").splitlines()
    return [line for line in lines if line.startswith("warning: ")]


LONGEST_SOCKET = 103
"""Bytes of the path of a Unix socket, on any system."""


def _short_folder() -> str | None:
    """Where sockets go: None, the usual place, or another one where the path would be longer than systems allow."""
    usual = Path(tempfile.gettempdir()) / "fustal-12345678" / "kernel-5"
    return "/tmp" if len(os.fsencode(usual)) > LONGEST_SOCKET else None


def _literal(path: os.PathLike) -> str:
    """A path that papermill does not read as a template."""
    return str(path).replace("{", "{{").replace("}", "}}")
