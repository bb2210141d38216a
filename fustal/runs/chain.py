"""The chain of stages: which notebook reads and writes which files, and which stages a run has."""

from dataclasses import dataclass
from pathlib import Path

from fustal.data.cards import Dataset, hold_out
from fustal.params import DistillationParams, GeneratorParams, Params, SelectionParams, SharedParams, StudentParams

PROPOSALS_TRAIN = "generator/proposals_train.json"
OPINIONS = ("generator/opinion_1.json", "generator/opinion_2.json")
"""Proposals for the training videos by each of two generators alone; their agreement chooses `label_share`."""

PSEUDO_LABELS = "selection/pseudo_labels.json"

DETECTIONS = {
    "generator": "generator/proposals_test.json",
    "student": "student/detections_test.json",
    "student_ema": "student/detections_test_ema.json",
    "distilled": "distilled/detections_test.json",
}
"""System -> its detections of the test videos, below the folder of a run."""

UPPER_BOUND = "student/upper_bound/detections_test.json"
"""Detections of the student that learns from the true segments; only with `upper_bound_epochs`."""

LABELS = {
    "proposals": PROPOSALS_TRAIN,
    "pseudo labels": PSEUDO_LABELS,
    "teacher": "distilled/labels_before.json",
    "distilled": "distilled/labels_train.json",
}
"""Stage -> its labels of the training videos, below the folder of a run."""

STUDENT_WEIGHTS = ("student/model.safetensors", "student/ema.safetensors", "student/optimizer.safetensors")


@dataclass(frozen=True)
class Stage:
    """A step of the chain.

    Attributes:
        name: of the stage and of its folder in the run's.
        notebook: that computes it.
        inputs: files that it reads, below the folder of the run.
        outputs: files that it writes.
        params: groups of the parameters that its result depends on.
    """

    name: str
    notebook: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[type, ...]


_STAGES = (
    Stage(
        "generator",
        "01_generator_training.ipynb",
        (),
        ("generator/model.safetensors", PROPOSALS_TRAIN, *OPINIONS, DETECTIONS["generator"]),
        (SharedParams, GeneratorParams),
    ),
    Stage(
        "selection",
        "02_proposal_filtering.ipynb",
        (PROPOSALS_TRAIN, *OPINIONS),
        (PSEUDO_LABELS,),
        (SharedParams, SelectionParams),
    ),
    Stage(
        "student",
        "03_student_training.ipynb",
        (PSEUDO_LABELS,),
        (*STUDENT_WEIGHTS, DETECTIONS["student"], DETECTIONS["student_ema"]),
        (SharedParams, StudentParams),
    ),
    Stage(
        "distilled",
        "04_ema_distillation.ipynb",
        (PSEUDO_LABELS, *STUDENT_WEIGHTS),
        (
            "distilled/model.safetensors",
            "distilled/ema.safetensors",
            LABELS["teacher"],
            LABELS["distilled"],
            DETECTIONS["distilled"],
        ),
        (SharedParams, SelectionParams, StudentParams, DistillationParams),
    ),
    Stage(
        "evaluation",
        "05_evaluation.ipynb",
        (
            PROPOSALS_TRAIN,
            DETECTIONS["generator"],
            PSEUDO_LABELS,
            DETECTIONS["student"],
            DETECTIONS["student_ema"],
            LABELS["teacher"],
            LABELS["distilled"],
            DETECTIONS["distilled"],
        ),
        ("evaluation/metrics.json",),
        (Params,),  # metrics.json records them all
    ),
)

CHAIN = {stage.name: stage for stage in _STAGES}
"""The stages by name, in their order."""

FOREIGN = {
    "proposals_file": PROPOSALS_TRAIN,
    "pseudo_labels_file": PSEUDO_LABELS,
    "detections_file": DETECTIONS["distilled"],
}
"""Parameter -> the file of the chain that another method's file replaces. The stages up to it do not run then."""


def foreign(params: Params) -> dict[str, Path]:
    """Another method's files, by the name of the file of the chain that they replace."""
    files = {}
    for name, file in FOREIGN.items():
        value = getattr(params, name)
        if value:
            files[file] = Path(value)
    return files


def _made(params: Params) -> list[str]:
    """The stages that no file of another method replaces."""
    names = list(CHAIN)
    first = 0
    for file in foreign(params):
        replaced = names.index(Path(file).parts[0])
        first = max(first, replaced + 1)
    return names[first:]


def stages_of(params: Params, dataset: Dataset) -> list[str]:
    """The stages that a run has: not those that another method's file replaces, nor an evaluation without any truth."""
    stages = _made(params)
    if hold_out(dataset, params.held_out).segments_of("test").empty:
        stages.remove("evaluation")
    return stages


def inputs_of(stage: Stage, params: Params, folder: Path) -> dict[str, Path]:
    """Paths of the files that a stage reads, by their name in the chain: in the run's folder, or another method's."""
    stages = _made(params)
    given = foreign(params)
    paths = {}
    for name in stage.inputs:
        if name in given:
            paths[name] = given[name]
        elif Path(name).parts[0] in stages:
            paths[name] = folder / name
    return paths


def why_not(stage: Stage, params: Params) -> str:
    """The reason why a run does not have a stage."""
    given = [f"{name} = {getattr(params, name)!r}" for name in FOREIGN if getattr(params, name)]
    if given and stage.name != "evaluation":
        return given[-1]
    return "no test video has true segments"
