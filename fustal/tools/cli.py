"""FuSTAL: pseudo labels for weakly-supervised temporal action localization, stage by stage.

Exit status: 0 done, 1 the work failed, 2 the call or its input was wrong.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from fustal.data import names
from fustal.data.files import printable
from fustal.data.names import STAGES, among, find, short
from fustal.exceptions import InputError

# Each command imports what it needs: `fustal --help` and wrong calls do not wait for slow imports such as PyTorch.

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

STOPPED = 130
"""Exit status after Ctrl-C, as of shells: 128 + SIGINT."""


def _say(text: str, err: bool = False) -> None:
    """Prints a text that may come from data. All output but help is printed here, control characters escaped."""
    typer.echo(printable(text), err=err)


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        _say(f"fustal {version('fustal')}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Options of all commands. `main` reads `--debug` from the arguments, as an error can occur before this call."""


@app.command()
def run(
    preset: Annotated[Path, typer.Argument(help="parameter file, e.g. params/demo.yaml, or a folder with params.yaml")],
    seed: Annotated[
        list[int] | None, typer.Option(help="seed; may be repeated: a run for each seed, named <run>-seed<k>")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, replaces a parameter; may be repeated")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="run stages again that are already done")] = False,
    stage: Annotated[str | None, typer.Option(help=f"run only this stage: {', '.join(STAGES)}")] = None,
    from_stage: Annotated[
        str | None, typer.Option(help="run this stage and all after it; the stages before it must be done")
    ] = None,
) -> None:
    """Run the chain of notebooks 01 to 05 into outputs/<run>/."""
    from fustal.tools.presets import runs_of, stages_to_run

    stages, kept = stages_to_run(stage, from_stage)
    runs = runs_of(preset, set_, seed)

    from fustal.runs.batch import run_chain  # imported late: it is slow, and the call is checked by now

    evaluated = []
    for params in runs:
        _say(f"{params.run}: {params.dataset}, seed {params.seed}, recipe {params.recipe}")
        try:
            run_chain(params, stages=stages, force=force, kept=kept, report=_say)
        except KeyboardInterrupt:
            _say("stopped; the same command continues from the last checkpoint, if there is one", err=True)
            raise typer.Exit(STOPPED) from None
        if not stage:
            _say(f"results: {short(names.OUTPUTS / params.run)}/")
            if (names.OUTPUTS / params.run / "evaluation" / "metrics.json").exists():
                evaluated.append(params.run)
    if evaluated:
        results(evaluated)


@app.command(name="params")
def params_(
    preset: Annotated[
        Path | None, typer.Argument(help="parameter file, or a folder with params.yaml; without it: the defaults")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, as for fustal run")] = None,
) -> None:
    """List every parameter with its value, allowed values and meaning; * marks values that differ from the default."""
    from fustal.tools.presets import parameter_lines, read_preset

    for line in parameter_lines(read_preset(preset, set_)):
        _say(line)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="sweep file, e.g. params/sweeps/demo.yaml")],
    scheduler: Annotated[str | None, typer.Option(help="address of a dask scheduler, e.g. tcp://host:8786")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="number of workers of a cluster on this machine")] = None,
    outputs: Annotated[
        str | None, typer.Option(help="folder or URL in which the sweep's folder is made; default: outputs/")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would run")] = False,
) -> None:
    """Run a chain for each combination of parameters and seeds; jobs that are done are not run again."""
    file = find("sweep", file)
    try:
        from fustal.tools.sweeps.cluster import run_sweep
    except ModuleNotFoundError as error:
        raise InputError(f"sweeps need dask: pip install 'fustal[dask]' ({error})") from None

    if scheduler and workers:
        raise InputError("--workers: a scheduler has its own workers")
    folder = f"{outputs or names.OUTPUTS}/{file.stem}"
    failures = run_sweep(file, folder, address=scheduler, workers=workers, dry_run=dry_run, report=_say)
    for line in failures:
        _say(f"failed: {line}", err=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def collect(
    sweeps: Annotated[list[str], typer.Argument(help="sweeps below outputs/, or their folders or URLs")],
    out: Annotated[
        Path | None, typer.Option(help="a .csv or .parquet file; default: results.csv in the first sweep's folder")
    ] = None,
) -> None:
    """Collect the metrics of all jobs of sweeps in one table with their parameters, versions and hardware."""
    from fustal.tools.sweeps.tables import collect_sweeps, write_table

    folders = [_sweep_folder(sweep) for sweep in sweeps]
    frame = collect_sweeps(folders)
    first = "." if "://" in folders[0] else folders[0]
    file = write_table(frame, out or Path(first) / "results.csv")
    jobs = frame.groupby(["sweep", "run"]).ngroups
    _say(f"{', '.join(sweeps)}: {jobs} jobs, {len(frame)} rows in {short(file)}")


def _sweep_folder(given: str) -> str:
    """The folder or URL of a sweep, from its name below outputs/, its folder or its URL."""
    from fustal.runs.identity import RECORD

    if "://" in given:
        return given
    path = Path(given)
    parts = path.parts[1:] if path.parts[:1] == ("outputs",) else path.parts
    below = names.OUTPUTS.joinpath(*parts)
    if below.is_dir():
        return str(below)
    if path.is_dir():
        return given
    sweeps = {file.parts[-4] for file in names.OUTPUTS.glob(f"*/*/*/{RECORD}")}  # sweep/job/stage/record
    raise InputError(f"{names.OUTPUTS / path}: no such sweep {among(path.name, sorted(sweeps))}")


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="demo, rendered, sbhar, shrec22, thumos14-simulated, thumos14, activitynet13")
    ],
    source: Annotated[Path | None, typer.Option("--from", help="folder that already holds the original files")] = None,
) -> None:
    """Download a data set, or take it from a folder, and prepare it."""
    from fustal.tools.sources.fetch import fetch as fetch_

    try:
        _say(f"{name}: ready in {short(fetch_(name, source))}")
    except KeyboardInterrupt:
        _say("stopped; the same command continues with the files that are already downloaded", err=True)
        raise typer.Exit(STOPPED) from None


@app.command()
def extract(
    videos: Annotated[list[str], typer.Argument(help="video files, or folders with video files")],
    out: Annotated[Path, typer.Option(help="the folder of the data set, which gets the features")],
    backbone: Annotated[
        str,
        typer.Option(help="s3d, r3d_18, mvit_v2_s, swin3d_t; motion (no weights); or your module:function"),
    ] = "s3d",
    weights: Annotated[
        Path | None, typer.Option(help="file of weights; default: trained on Kinetics-400, downloaded once")
    ] = None,
    stride: Annotated[int, typer.Option(min=1, max=100_000, help="frames between the student's snippets")] = 4,
    window: Annotated[
        int, typer.Option(min=1, max=100_000, help="frames of a snippet; the generator's lie side by side")
    ] = 16,
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="frames per second at which videos are read")] = 25,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="windows that are computed together")] = 8,
) -> None:
    """Make features from video files, on the grids of both stages; what is there already is not made again."""
    from fustal.video.extract import extract as extract_
    from fustal.video.extract import make_extractor

    try:
        extractor = make_extractor(backbone, weights, fps, stride, window, device, batch)
        lines, wrong = extract_(videos, out, extractor, lambda line: _say(line, err=True))
    except KeyboardInterrupt:
        _say("stopped; the same command continues with the videos that are missing", err=True)
        raise typer.Exit(STOPPED) from None
    for line in lines:
        _say(line)
    for line in wrong:
        _say(f"error: {line}", err=True)
    raise typer.Exit(2 if wrong else 0)


@app.command(name="init")
def init_(
    folder: Annotated[Path, typer.Argument(help="folder with features (.npy) and annotations (.json or .csv)")],
    fps: Annotated[
        float | None, typer.Option(min=1e-3, max=1e6, help="frames per second at which the features were computed")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="frames from one snippet to the next")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="frames that a snippet covers; default: the stride")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the data set and of its run; default: the folder's name")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="the annotation file, if the folder holds several files")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="read the pickle files of W-TALC's layout")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing card and preset")] = False,
) -> None:
    """Inspect a folder with your own data and write a data-set card and a preset for it."""
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
    """List the problems of a data set with their fixes, and warnings; the exit status is 2 if there is a problem."""
    from fustal.tools.own_data.validation import problems_of, show, summary

    dataset, problems = problems_of(card)
    if problems:
        show(problems, dataset.root)
    errors = sum(not problem.warning for problem in problems)
    counts = f"{_count(errors, 'problem')}, {_count(len(problems) - errors, 'warning')}"
    _say(f"{card}: {summary(dataset)}; {counts}")
    raise typer.Exit(2 if errors else 0)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun if number == 1 else noun + 's'}"


@app.command()
def evaluate(
    detections: Annotated[Path, typer.Argument(help="ActivityNet result JSON, or a CSV of fustal export")],
    annotations: Annotated[Path, typer.Argument(help="ActivityNet-style annotation JSON, or CSV")],
    subset: Annotated[
        str | None, typer.Option(help="subset of the annotations; default: test, or the only one")
    ] = None,
    tiou: Annotated[str, typer.Option(help="tIoU thresholds, first:step:last or values: 0.3,0.5")] = "0.1:0.1:0.7",
    known_only: Annotated[
        bool,
        typer.Option(
            "--known-only", help="ignore detections in videos outside the subset; default: they are false positives"
        ),
    ] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="also print the AP of each class")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="also write the numbers to this file")] = None,
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
    measured = evaluate_(detections, annotations, tious, subset, known_only=known_only)
    for note in measured.notes:
        _say(note, err=True)
    counts = f"{measured.videos} videos, {len(measured.truth)} segments"
    _say(f"{detections}, {len(measured.found)} detections, on {annotations}, subset {measured.subset}: {counts}")
    for line in measured.lines(per_class=per_class):
        _say(line)
    if json_out:
        write_json(measured.record(), json_out)


@app.command()
def results(
    runs: Annotated[list[str], typer.Argument(help="runs below outputs/, their folders, or metrics.json files")],
    readme: Annotated[Path | None, typer.Option(help="write the table between the markers of this file")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="average precision of each class instead")] = False,
    resample: Annotated[
        int | None,
        typer.Option(
            min=100, max=10_000, help="draw the test videos so many times: intervals over them and over seeds"
        ),
    ] = None,
) -> None:
    """Print the table of results of some runs: mean ± std over seeds, from their metrics.json files."""
    from fustal.tools.sweeps.tables import changed_since, class_table, collect, insert, table

    for line in changed_since(runs):
        _say(line, err=True)
    text = class_table(runs) if per_class else table(collect(runs))
    if resample:
        from fustal.tools.sweeps.resample import resampled_table

        text += f"\n\n{resampled_table(runs, resample)}"
    _say(text)
    if readme:
        insert(text, readme)


@app.command()
def ablations(
    table: Annotated[
        Path,
        typer.Argument(help="the table that fustal collect wrote for claims.yaml and ablation.yaml in params/sweeps"),
    ],
    measure: Annotated[str, typer.Option(help="the measure to compare")] = "0.1:0.7",
    readme: Annotated[Path | None, typer.Option(help="write the tables between the markers of this file")] = None,
) -> None:
    """Print the effect of each stage and each option, paired by seed."""
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
    to: Annotated[
        str | None, typer.Option(help="activitynet, csv, srt or vtt; default: by the file extension of OUT")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="minimum score; default for subtitles: 0.2")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="maximum number of detections per video, best first")] = None,
) -> None:
    """Write results for other programs: ActivityNet's evaluation, a table, or subtitles for video players."""
    from fustal.tools.export import export as export_

    _say(f"{export_(source, out, to, min_score, top)}: {short(out)}")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="a run below outputs/, finished or not")],
    out: Annotated[Path | None, typer.Option(help="an .html or .htm file; default: outputs/<run>/report.html")] = None,
) -> None:
    """Write one HTML page that shows a run, with all figures in it."""
    from fustal.tools.report import report as report_

    _say(f"{run}: {short(report_(run, out))}")


@app.command()
def localize(
    run: Annotated[str, typer.Argument(help="a run below outputs/ whose distilled stage has finished")],
    features: Annotated[
        list[str],
        typer.Argument(
            help="videos, if the run's features are of fustal extract; or .npy files (T, D), one per video; "
            "'DIR/{modality}/*.npy' for one file per modality"
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="a .json or .csv file for all detections")] = None,
    plot: Annotated[Path | None, typer.Option(help="a folder for a timeline of each video")] = None,
    page: Annotated[
        Path | None, typer.Option(help="an .html file: one video over its detections, to be played")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="the video of the features, shown by --page and by --plot")] = None,
    fps: Annotated[float | None, typer.Option(help="frames per second, if the run's card does not name them")] = None,
    min_score: Annotated[
        float | None, typer.Option(help="minimum score; default: 0.2, in files all detections")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: the run's")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="for videos: the file of weights, if it is no longer where it was")
    ] = None,
) -> None:
    """Localise actions in new videos with a trained run, from videos or from features like those of its training."""
    from fustal.tools.localize import localize_files
    from fustal.tools.localize_output import Output

    output = Output(out, plot, min_score, page, video)
    for line in localize_files(run, features, output, fps, device, weights):
        _say(line)


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
"""System errors of a path that the user gave (exit status 2). Others, such as a full disk, are failures of the work."""


def main() -> None:
    """Entry point: one readable line for each error, and the exit status."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        line, status = _explained(error)
        if line:
            print("error: " + printable(line).replace("\n", "\\n"), file=sys.stderr)
        sys.exit(status)


def _explained(error: Exception) -> tuple[str, int]:
    """The line for an error, empty where help has been printed already, and the exit status."""
    if hasattr(error, "format_message"):  # typer's own: an unknown command or option, a missing argument
        line = error.format_message()
        context = getattr(error, "ctx", None)
        return f"{line} (see {context.command_path} --help)" if line and context else line, 2
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, OSError) and error.errno in OF_A_PATH and error.filename:
        return f"{str(error.filename)[:120]}: {error.strerror}", 2
    return f"{type(error).__name__}: {error}", 1


if __name__ == "__main__":
    main()
