"""The chain of notebooks, run headlessly by papermill."""

import logging
import os
import sys
import time
from collections.abc import Callable

import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from fustal import ROOT, InputError
from fustal.annotations import load_dataset
from fustal.fetch import ensure
from fustal.params import Params
from fustal.runs import CHAIN, OUTPUTS, Stage, is_done


class StageError(RuntimeError):
    """A notebook failed. The message names it, the error, and the notebook that shows where."""


def run_chain(params: Params, *, force: bool = False, say: Callable[[str], None] = print) -> None:
    """Runs the five notebooks into `outputs/<run>/`, without those that are done for exactly these inputs.

    Args:
        params: of the run.
        force: run also what is done.
        say: takes lines of progress.

    Raises:
        StageError: the first notebook that failed.
        InputError: the first notebook that refused its input.
    """
    ensure(params.dataset)
    dataset = load_dataset(params.dataset)
    for number, stage in enumerate(CHAIN.values(), 1):
        title = f"{number}/{len(CHAIN)} {stage.notebook.removesuffix('.ipynb')}"
        if not force and is_done(params, stage.name, dataset):
            say(f"{title}: already done")
            continue
        say(f"{title} ...")
        started = time.monotonic()
        run_notebook(stage, params)
        say(f"{title}: {time.monotonic() - started:.0f} s")


def run_notebook(stage: Stage, params: Params) -> None:
    """Executes one notebook; it appears under its name in the run's folder when it has run to its end."""
    folder = OUTPUTS / params.run / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / stage.notebook.replace(".ipynb", ".partial.ipynb")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # papermill warns of parameters that a notebook does not declare; ours take them all and check them themselves
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            _literal(ROOT / "notebooks" / stage.notebook),
            _literal(partial),
            params.of(Params),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            config=Config(KernelManager={"transport": "ipc"}),  # no ports, and nobody else listens
            extra_arguments=["--log-level=CRITICAL"],
            cwd=str(ROOT / "notebooks"),
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(error.evalue) from None
        reason = " ".join(str(error.evalue).split())
        raise StageError(f"{stage.notebook}: {error.ename}: {reason} (see {partial})") from None
    partial.rename(folder / stage.notebook)


def _literal(path: os.PathLike) -> str:
    """A path that papermill does not read as a template."""
    return str(path).replace("{", "{{").replace("}", "}}")
