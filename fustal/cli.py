"""The command line of fustal.

`fustal run · sweep · collect · fetch · init · validate · evaluate · results · ablations · export · report · localize`

Exit status: 0 done, 1 the work failed, 2 the call or its input was wrong.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from fustal import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """FuSTAL: pseudo labels for weakly-supervised temporal action localization, stage by stage."""


@app.command()
def run(
    preset: Annotated[Path, typer.Argument(help="parameter file, e.g. params/demo.yaml")],
    seed: Annotated[list[int] | None, typer.Option(help="seed; several make a run each, <run>-seed<k>")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, replaces a parameter")] = None,
    force: Annotated[bool, typer.Option("--force", help="run again what is already done")] = False,
    stage: Annotated[str | None, typer.Option(help="only this one: generator, selection, student, ...")] = None,
) -> None:
    """Run the chain of notebooks 01 to 05 into outputs/<run>/."""
    from fustal.batch import run_chain
    from fustal.params import Params, located
    from fustal.runs import CHAIN, OUTPUTS

    if stage not in (None, *CHAIN):
        raise InputError(f"--stage {stage}: no such stage (there are {', '.join(CHAIN)})")

    changes = located(dict(_assignment(text) for text in set_ or []), Path.cwd())
    base = Params.read(preset, **changes)
    if not seed:
        chosen = [base]
    else:
        chosen = [Params.read(preset, **changes | {"seed": k, "run": f"{base.run}-seed{k}"}) for k in seed]
    for params in chosen:
        typer.echo(f"{params.run}: {params.dataset}, seed {params.seed}, recipe {params.recipe}")
        try:
            run_chain(params, stages=[stage] if stage else list(CHAIN), force=force, say=typer.echo)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
            raise typer.Exit(130) from None
        if not stage:
            typer.echo(f"results: {_shown(OUTPUTS / params.run)}/")
    evaluated = [params.run for params in chosen if (OUTPUTS / params.run / "evaluation" / "metrics.json").exists()]
    if evaluated and not stage:
        results(evaluated)


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
    from fustal.runs import OUTPUTS

    try:
        from fustal.cluster import run_sweep
    except ModuleNotFoundError as error:
        raise InputError(f"sweeps need dask: pip install 'fustal[dask]' ({error})") from None

    if scheduler and workers:
        raise InputError("--workers: a scheduler has its own workers")
    folder = f"{outputs or OUTPUTS}/{file.stem}"
    failures = run_sweep(file, folder, address=scheduler, workers=workers, dry_run=dry_run, say=typer.echo)
    for line in failures:
        typer.echo(f"failed: {line}", err=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def collect(
    sweeps: Annotated[list[str], typer.Argument(help="sweeps below outputs/, or their folders or URLs")],
    out: Annotated[Path | None, typer.Option(help="a .csv or .parquet file; else the first one's results.csv")] = None,
) -> None:
    """Gather the metrics of all jobs of sweeps in one table with their parameters, versions and hardware."""
    from fustal.results import collect_sweeps, write_table
    from fustal.runs import OUTPUTS

    folders = [str(OUTPUTS / sweep) if (OUTPUTS / sweep).is_dir() else sweep for sweep in sweeps]
    frame = collect_sweeps(folders)
    file = write_table(frame, out or Path("." if "://" in folders[0] else folders[0]) / "results.csv")
    jobs = frame.groupby(["sweep", "run"]).ngroups
    typer.echo(f"{', '.join(sweeps)}: {jobs} jobs, {len(frame)} rows in {_shown(file)}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="demo, sbhar, thumos14-simulated, thumos14, activitynet13")],
    source: Annotated[Path | None, typer.Option("--from", help="folder that already holds the original files")] = None,
) -> None:
    """Download (or take from a folder) and prepare a data set."""
    from fustal.fetch import fetch as fetch_

    try:
        typer.echo(f"{name}: ready in {_shown(fetch_(name, source))}")
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on with what has come", err=True)
        raise typer.Exit(130) from None


@app.command(name="init")
def init_(
    folder: Annotated[Path, typer.Argument(help="holds features (.npy) and annotations (.json or .csv)")],
    fps: Annotated[
        float | None, typer.Option(min=1e-3, help="frames per second that the features were made at")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="frames from one snippet to the next")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="frames that a snippet sees; else the stride")] = None,
    name: Annotated[str | None, typer.Option(help="of data set and run; else the folder's")] = None,
    annotations: Annotated[Path | None, typer.Option(help="which file, where there are several")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="read the pickles of W-TALC's layout")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a card and a preset that are there")] = False,
) -> None:
    """Write a data-set card and a preset for a folder of your own, by looking at it."""
    from fustal.init import Given, init

    given = Given(fps, stride, window)
    for line in init(folder, name=name, given=given, annotations=annotations, trust=trust, force=force):
        typer.echo(line)


@app.command()
def validate(card: Annotated[str, typer.Argument(help="data-set card: a path, or a name in params/datasets")]) -> None:
    """List every problem of a data set with its mend, and what is only odd; exit status 2 when there is a problem."""
    from fustal.validation import problems_of, show, summary

    dataset, problems = problems_of(card)
    wrong = sum(not problem.warning for problem in problems)
    if problems:
        show(problems, dataset.root)
    odd = len(problems) - wrong
    counts = f"{wrong or 'no'} problem{'s' * (wrong != 1)}, {odd or 'no'} warning{'s' * (odd != 1)}"
    typer.echo(f"{card}: {summary(dataset)}; {counts}")
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
    from fustal.evaluate import evaluate as evaluate_
    from fustal.params import tiou_grid
    from fustal.writing import check_apart, write_json

    if json_out:
        check_apart(json_out, detections, annotations)
    try:
        tious = tiou_grid(tiou)
    except ValueError as error:
        raise InputError(f"--tiou: {error}") from None
    found = evaluate_(detections, annotations, tious, subset, known_only=known_only)
    for note in found.notes:
        typer.echo(note, err=True)
    counts = f"{found.videos} videos, {len(found.truth)} segments"
    typer.echo(f"{detections}, {len(found.found)} detections, on {annotations}, subset {found.subset}: {counts}")
    for line in found.lines(per_class=per_class):
        typer.echo(line)
    if json_out:
        write_json(found.record(), json_out)


@app.command()
def results(
    runs: Annotated[list[str], typer.Argument(help="runs below outputs/, or metrics.json files")],
    readme: Annotated[Path | None, typer.Option(help="write the table between the markers of this file")] = None,
) -> None:
    """Print the table of results of some runs: mean ± std over seeds, from their metrics.json files."""
    from fustal.results import collect, insert, table

    text = table(collect(runs))
    typer.echo(text)
    if readme:
        insert(text, readme)


@app.command()
def ablations(
    table: Annotated[Path, typer.Argument(help="what fustal collect wrote of params/sweeps/ablation.yaml")],
    measure: Annotated[str, typer.Option(help="which is compared")] = "0.1:0.7",
    readme: Annotated[Path | None, typer.Option(help="write the tables between the markers of this file")] = None,
) -> None:
    """Print what each stage and each option is worth, paired by seed."""
    from fustal.ablation import markdown, read_table
    from fustal.results import insert

    text = markdown(read_table(table), measure)
    typer.echo(text)
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
    from fustal.export import export as export_

    typer.echo(f"{export_(source, out, to, min_score, top)}: {_shown(out)}")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="a run below outputs/, finished or not")],
    out: Annotated[Path | None, typer.Option(help="an .html file; else outputs/<run>/report.html")] = None,
) -> None:
    """Write one page of HTML, with all figures in it, that shows a run."""
    from fustal.report import report as report_

    typer.echo(f"{run}: {_shown(report_(run, out))}")


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
    from fustal.localize import localize_files

    for line in localize_files(run, features, out, plot, fps, min_score, device):
        typer.echo(line)


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be name=value")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return name.strip(), value


def _shown(path: Path) -> str:
    """A path relative to where the user is, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> None:
    """Entry point: one readable line for each error, and the right exit status."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        wrong_input = isinstance(error, InputError)
        line = str(error) if wrong_input else f"{type(error).__name__}: {error}"
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2 if wrong_input else 1)


if __name__ == "__main__":
    main()
