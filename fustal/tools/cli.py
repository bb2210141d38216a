"""The command line of fustal.

`fustal run · params · sweep · collect · fetch · init · validate · evaluate · results · ablations · export · report ·
localize`

Exit status: 0 done, 1 the work failed, 2 the call or its input was wrong.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fustal.data import names
from fustal.data.files import printable
from fustal.data.names import STAGES, among, find, find_card, short
from fustal.exceptions import InputError

# What is slow to import, as PyTorch is, a command imports when the call is known to be right.

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _say(text: str, err: bool = False) -> None:
    """Prints what may come from data: all output but help goes through here."""
    typer.echo(printable(text), err=err)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        _say(f"fustal {version('fustal')}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """FuSTAL: pseudo labels for weakly-supervised temporal action localization, stage by stage."""


@app.command()
def run(
    preset: Annotated[Path, typer.Argument(help="parameter file, e.g. params/demo.yaml, or a folder with params.yaml")],
    seed: Annotated[list[int] | None, typer.Option(help="seed; several make a run each, <run>-seed<k>")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, replaces a parameter")] = None,
    force: Annotated[bool, typer.Option("--force", help="run again what is already done")] = False,
    stage: Annotated[str | None, typer.Option(help=f"only this one: {', '.join(STAGES)}")] = None,
    from_stage: Annotated[
        str | None, typer.Option(help="this one and all after it; what comes before must be done")
    ] = None,
) -> None:
    """Run the chain of notebooks 01 to 05 into outputs/<run>/."""
    stages = _stages(stage, from_stage)
    base, changes = _read_preset(preset, set_)
    chosen = [base]
    if seed:
        from fustal.params import Params

        own = {k: {"seed": k, "run": f"{base.run}-seed{k}"} for k in seed}
        chosen = [Params.read(preset, **changes | own) for own in own.values()]
    _check_paths(base)

    from fustal.runs.batch import run_chain

    kept = {"kept": STAGES[: STAGES.index(from_stage)]} if from_stage else {}
    for params in chosen:
        _say(f"{params.run}: {params.dataset}, seed {params.seed}, recipe {params.recipe}")
        try:
            run_chain(params, stages=stages, force=force, report=_say, **kept)
        except KeyboardInterrupt:
            _say("stopped; the same command goes on from the last checkpoint", err=True)
            raise typer.Exit(130) from None
        if not stage:
            _say(f"results: {short(names.OUTPUTS / params.run)}/")
    runs = [params.run for params in chosen]
    evaluated = [run for run in runs if (names.OUTPUTS / run / "evaluation" / "metrics.json").exists()]
    if evaluated and not stage:
        results(evaluated)


def _check_paths(params: Any) -> None:
    """Refuses at once what a stage would only refuse later: a card or another method's file that is not there."""
    from fustal.params import PATHS

    find_card(params.dataset)
    for name in PATHS:
        value = getattr(params, name)
        if name != "dataset" and value and not Path(value).is_file():
            raise InputError(f"{name}: {value}: no such file")


def _stages(only: str | None, first: str | None) -> list[str]:
    """The stages that --stage or --from-stage asks for."""
    if only and first:
        raise InputError("--stage and --from-stage: give one of them")
    for option, name in (("--stage", only), ("--from-stage", first)):
        if name is not None and name not in STAGES:
            raise InputError(f"{option} {name}: no such stage {among(name, STAGES)}")
    return [only] if only else list(STAGES[STAGES.index(first or STAGES[0]) :])


@app.command(name="params")
def params_(
    preset: Annotated[
        Path | None, typer.Argument(help="parameter file, or a folder with params.yaml; else the defaults")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, as for fustal run")] = None,
) -> None:
    """List every parameter: value, what it may be, meaning; * where a preset differs from the default."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fustal.params import STAGES as GROUPS
    from fustal.params import Params, SharedParams, form

    params = _read_preset(preset, set_)[0] if preset else Params(**_changes(set_))
    differs = {name for name, field in Params.model_fields.items() if getattr(params, name) != field.default}
    console = Console(width=None if sys.stdout.isatty() else 2000, color_system=None, highlight=False)
    for group in (SharedParams, *GROUPS.values()):
        table = Table("", "parameter", "value", "what it may be", "meaning", box=None, pad_edge=False)
        for column in table.columns:
            column.overflow = "fold"
        for name, field in group.model_fields.items():
            default = f"; default {_plain(field.default)}" if name in differs else ""
            cells = ("*" if name in differs else "", name, _plain(getattr(params, name)), form(name))
            table.add_row(*map(Text, cells), Text(f"{field.description}{default}"))
        with console.capture() as captured:
            console.print(table)
        _say(group.__doc__.partition(" (")[0].partition("\n")[0])
        _say("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
    _say(f"{len(differs)} of {len(Params.model_fields)} differ from the default{' (*)' if differs else ''}")


def _plain(value: Any) -> str:
    """A value as a preset has it."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=9999).removesuffix("...\n").strip()


def _read_preset(preset: Path, texts: list[str] | None) -> tuple[Any, dict[str, Any]]:
    """The parameters that a preset and --set give; and those of --set alone."""
    from fustal.params import Params

    changes = _changes(texts)
    return Params.read(preset, **changes), changes


def _changes(texts: list[str] | None) -> dict[str, Any]:
    """What --set says; a path is relative to where the user is."""
    from fustal.params import located

    return located(dict(_assignment(text) for text in texts or []), Path.cwd())


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="sweep file, e.g. params/sweeps/demo.yaml")],
    scheduler: Annotated[str | None, typer.Option(help="address of a dask scheduler, e.g. tcp://host:8786")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="of a cluster on this machine")] = None,
    outputs: Annotated[
        str | None, typer.Option(help="folder or URL for the sweep's folder, instead of outputs/")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell what would run")] = False,
) -> None:
    """Run a chain for each combination of parameters and seeds; what is done is not run again."""
    file = find("sweep", file)
    try:
        from fustal.tools.sweeps.cluster import run_sweep
    except ModuleNotFoundError as error:
        raise InputError(f"sweeps need dask: pip install 'fustal[dask]' ({error})") from None

    if scheduler and workers:
        raise InputError("--workers: a scheduler has its own workers")
    folder = f"{outputs or names.OUTPUTS}/{file.stem}"
    failures = run_sweep(file, folder, address=scheduler, workers=workers, dry_run=dry_run, say=_say)
    for line in failures:
        _say(f"failed: {line}", err=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def collect(
    sweeps: Annotated[list[str], typer.Argument(help="sweeps below outputs/, or their folders or URLs")],
    out: Annotated[Path | None, typer.Option(help="a .csv or .parquet file; else the first one's results.csv")] = None,
) -> None:
    """Gather the metrics of all jobs of sweeps in one table with their parameters, versions and hardware."""
    from fustal.tools.sweeps.tables import collect_sweeps, write_table

    folders = [_sweep_folder(sweep) for sweep in sweeps]
    frame = collect_sweeps(folders)
    file = write_table(frame, out or Path("." if "://" in folders[0] else folders[0]) / "results.csv")
    jobs = frame.groupby(["sweep", "run"]).ngroups
    _say(f"{', '.join(sweeps)}: {jobs} jobs, {len(frame)} rows in {short(file)}")


def _sweep_folder(given: str) -> str:
    """The folder or URL of a sweep, from its name below outputs/, or as it is."""
    path = Path(given)
    below = names.OUTPUTS.joinpath(*path.parts[1:]) if path.parts[:1] == ("outputs",) else names.OUTPUTS / path
    if "://" in given or (path.is_dir() and not below.is_dir()):
        return given
    if not below.is_dir():
        known = sorted({file.parts[-4] for file in names.OUTPUTS.glob("*/*/*/stage.json")})
        raise InputError(f"{names.OUTPUTS / path}: no such sweep {among(path.name, known)}")
    return str(below)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="demo, sbhar, thumos14-simulated, thumos14, activitynet13")],
    source: Annotated[Path | None, typer.Option("--from", help="folder that already holds the original files")] = None,
) -> None:
    """Download (or take from a folder) and prepare a data set."""
    from fustal.tools.sources.fetch import fetch as fetch_

    try:
        _say(f"{name}: ready in {short(fetch_(name, source))}")
    except KeyboardInterrupt:
        _say("stopped; the same command goes on with what has come", err=True)
        raise typer.Exit(130) from None


@app.command(name="init")
def init_(
    folder: Annotated[Path, typer.Argument(help="holds features (.npy) and annotations (.json or .csv)")],
    fps: Annotated[
        float | None, typer.Option(min=1e-3, max=1e6, help="frames per second that the features were made at")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="frames from one snippet to the next")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="frames that a snippet sees; else the stride")
    ] = None,
    name: Annotated[str | None, typer.Option(help="of data set and run; else the folder's")] = None,
    annotations: Annotated[Path | None, typer.Option(help="which file, where there are several")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="read the pickles of W-TALC's layout")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a card and a preset that are there")] = False,
) -> None:
    """Write a data-set card and a preset for a folder of your own, by looking at it."""
    from fustal.tools.own_data.init import Given, init

    given = Given(fps, stride, window)
    for line in init(folder, name=name, given=given, annotations=annotations, trust=trust, force=force):
        _say(line)


@app.command()
def validate(
    card: Annotated[
        str, typer.Argument(help="data-set card: a path, a folder with card.yaml, or a name in params/datasets")
    ],
) -> None:
    """List every problem of a data set with its fix, and what is only odd; exit status 2 when there is a problem."""
    from fustal.tools.own_data.validation import problems_of, show, summary

    dataset, problems = problems_of(card)
    wrong = sum(not problem.warning for problem in problems)
    if problems:
        show(problems, dataset.root)
    odd = len(problems) - wrong
    counts = f"{wrong or 'no'} problem{'s' * (wrong != 1)}, {odd or 'no'} warning{'s' * (odd != 1)}"
    _say(f"{card}: {summary(dataset)}; {counts}")
    raise typer.Exit(2 if wrong else 0)


@app.command()
def evaluate(
    detections: Annotated[Path, typer.Argument(help="ActivityNet result JSON, or a CSV of fustal export")],
    annotations: Annotated[Path, typer.Argument(help="ActivityNet-style annotation JSON, or CSV")],
    subset: Annotated[str | None, typer.Option(help="of the annotations; else test, or the only one")] = None,
    tiou: Annotated[str, typer.Option(help="tIoU thresholds, first:step:last or values: 0.3,0.5")] = "0.1:0.1:0.7",
    known_only: Annotated[
        bool, typer.Option("--known-only", help="leave out videos that are not in the subset; else they count as false")
    ] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="also print the AP of each class")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Print mAP per tIoU and its averages."""
    from fustal.data.writing import check_output, write_json
    from fustal.params import parse_tiou_grid
    from fustal.tools.evaluate import evaluate as evaluate_

    if json_out:
        check_output(json_out, detections, annotations)
    try:
        tious = parse_tiou_grid(tiou)
    except ValueError as error:
        raise InputError(f"--tiou: {error}") from None
    found = evaluate_(detections, annotations, tious, subset, known_only=known_only)
    for note in found.notes:
        _say(note, err=True)
    counts = f"{found.videos} videos, {len(found.truth)} segments"
    _say(f"{detections}, {len(found.found)} detections, on {annotations}, subset {found.subset}: {counts}")
    for line in found.lines(per_class=per_class):
        _say(line)
    if json_out:
        write_json(found.record(), json_out)


@app.command()
def results(
    runs: Annotated[list[str], typer.Argument(help="runs below outputs/, their folders, or metrics.json files")],
    readme: Annotated[Path | None, typer.Option(help="write the table between the markers of this file")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="average precision of each class instead")] = False,
) -> None:
    """Print the table of results of some runs: mean ± std over seeds, from their metrics.json files."""
    from fustal.tools.sweeps.tables import changed_since, class_table, collect, insert, table

    for line in changed_since(runs):
        _say(line, err=True)
    text = class_table(runs) if per_class else table(collect(runs))
    _say(text)
    if readme:
        insert(text, readme)


@app.command()
def ablations(
    table: Annotated[Path, typer.Argument(help="what fustal collect wrote of params/sweeps/ablation.yaml")],
    measure: Annotated[str, typer.Option(help="which is compared")] = "0.1:0.7",
    readme: Annotated[Path | None, typer.Option(help="write the tables between the markers of this file")] = None,
) -> None:
    """Print what each stage and each option is worth, paired by seed."""
    from fustal.tools.sweeps.ablation import markdown, read_table
    from fustal.tools.sweeps.tables import insert

    text = markdown(read_table(table), measure)
    _say(text)
    if readme:
        insert(text, readme, "ablations")


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="ActivityNet result JSON, or a run below outputs/: its last detections")
    ],
    out: Annotated[Path, typer.Argument(help="a .json or .csv file; for subtitles a folder")],
    to: Annotated[str | None, typer.Option(help="activitynet, csv, srt or vtt; else by OUT's ending")] = None,
    min_score: Annotated[float | None, typer.Option(help="least score; of subtitles 0.2 if not given")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="only so many of each video, the best")] = None,
) -> None:
    """Write results for other programs: ActivityNet's evaluation, a table, or subtitles to play over the videos."""
    from fustal.tools.export import export as export_

    _say(f"{export_(source, out, to, min_score, top)}: {short(out)}")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="a run below outputs/, finished or not")],
    out: Annotated[Path | None, typer.Option(help="an .html or .htm file; else outputs/<run>/report.html")] = None,
) -> None:
    """Write one page of HTML, with all figures in it, that shows a run."""
    from fustal.tools.report import report as report_

    _say(f"{run}: {short(report_(run, out))}")


@app.command()
def localize(
    run: Annotated[str, typer.Argument(help="a run below outputs/ whose distilled stage has finished")],
    features: Annotated[
        list[str], typer.Argument(help=".npy files (T, D), a video each; 'DIR/{modality}/*.npy' where they are apart")
    ],
    out: Annotated[Path | None, typer.Option(help="a .json or .csv file, which gets all detections")] = None,
    plot: Annotated[Path | None, typer.Option(help="a folder, which gets a timeline of each video")] = None,
    fps: Annotated[float | None, typer.Option(help="frames per second, where the run's card does not say")] = None,
    min_score: Annotated[float | None, typer.Option(help="least score; else 0.2, and none in files")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; else as the run")] = None,
) -> None:
    """Localise actions in new videos with a trained run, from features like those that it was trained on."""
    from fustal.tools.localize import localize_files

    for line in localize_files(run, features, out, plot, fps, min_score, device):
        _say(line)


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be name=value")
    try:
        return name.strip(), yaml.safe_load(value)
    except Exception:  # a value that its tag does not fit can raise anything
        return name.strip(), value


OF_A_PATH = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of the system by which a path that was given cannot be used; others, such as a full disk, are of the work."""


def main() -> None:
    """Entry point: one readable line for each error, and the right exit status."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        wrong_call = hasattr(error, "format_message")  # an unknown command or option, a missing argument
        if isinstance(error, OSError) and error.errno in OF_A_PATH and error.filename:
            error = InputError(f"{str(error.filename)[:120]}: {error.strerror}")
        wrong_input = wrong_call or isinstance(error, InputError)
        line = _of_a_call(error) if wrong_call else str(error) if wrong_input else f"{type(error).__name__}: {error}"
        if line:
            print("error: " + printable(line).replace("\n", "\\n"), file=sys.stderr)
        sys.exit(2 if wrong_input else 1)


def _of_a_call(error: Any) -> str:
    """What is wrong with a call, and where help is; empty where the help has been printed."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if message and context else message


if __name__ == "__main__":
    main()
