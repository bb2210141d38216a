"""The chain of stages: which notebook reads and writes which files, and what a run has of them."""

from dataclasses import dataclass
from pathlib import Path

from fustal.data.cards import Dataset, hold_out
from fustal.params import STAGES, Params, SharedParams, StudentParams


@dataclass(frozen=True)
class Stage:
    """A step of the chain: its notebook, the files it reads and writes below the run's folder, its parameters."""

    name: str
    notebook: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[type, ...]


CHAIN = {
    stage.name: stage
    for stage in (
        Stage(
            "generator",
            "01_generator_training.ipynb",
            (),
            ("generator/model.safetensors", "generator/proposals_train.json", "generator/proposals_test.json"),
            (SharedParams, STAGES["generator"]),
        ),
        Stage(
            "selection",
            "02_proposal_filtering.ipynb",
            ("generator/proposals_train.json",),
            ("selection/pseudo_labels.json",),
            (SharedParams, STAGES["selection"]),
        ),
        Stage(
            "student",
            "03_student_training.ipynb",
            ("selection/pseudo_labels.json",),
            (
                "student/model.safetensors",
                "student/ema.safetensors",
                "student/optimizer.safetensors",
                "student/detections_test.json",
                "student/detections_test_ema.json",
            ),
            (SharedParams, StudentParams),
        ),
        Stage(
            "distilled",
            "04_ema_distillation.ipynb",
            (
                "selection/pseudo_labels.json",
                "student/model.safetensors",
                "student/ema.safetensors",
                "student/optimizer.safetensors",
            ),
            (
                "distilled/model.safetensors",
                "distilled/ema.safetensors",
                "distilled/labels_before.json",
                "distilled/labels_train.json",
                "distilled/detections_test.json",
            ),
            (SharedParams, StudentParams, STAGES["distilled"]),
        ),
        Stage(
            "evaluation",
            "05_evaluation.ipynb",
            (
                "generator/proposals_train.json",
                "generator/proposals_test.json",
                "selection/pseudo_labels.json",
                "student/detections_test.json",
                "student/detections_test_ema.json",
                "distilled/labels_before.json",
                "distilled/labels_train.json",
                "distilled/detections_test.json",
            ),
            ("evaluation/metrics.json",),
            (Params,),  # metrics.json records them all
        ),
    )
}
"""The stages by name, in their order."""


FOREIGN = {
    "proposals_file": "generator/proposals_train.json",
    "pseudo_labels_file": "selection/pseudo_labels.json",
    "detections_file": "distilled/detections_test.json",
}
"""Parameter -> the file of the chain in whose place it puts another method's. What leads there does not run then."""


def foreign(params: Params) -> dict[str, Path]:
    """Another method's files, by the name of the file of the chain that they stand for."""
    return {file: Path(value) for name, file in FOREIGN.items() if (value := getattr(params, name))}


def _made(params: Params) -> list[str]:
    """The stages that no file of another method stands for."""
    given = [list(CHAIN).index(Path(file).parts[0]) for file in foreign(params)]
    return list(CHAIN)[max(given, default=-1) + 1 :]


def stages_of(params: Params, dataset: Dataset) -> list[str]:
    """The stages that a run has: not those that another method's file stands for, nor an evaluation against nothing."""
    stages = _made(params)
    return stages[:-1] if hold_out(dataset, params.held_out).segments_of("test").empty else stages


def inputs_of(stage: Stage, params: Params, folder: Path) -> dict[str, Path]:
    """Where the files lie that a stage reads, by their name in the chain: in the run's folder, or another method's."""
    stages, given = _made(params), foreign(params)
    made = {name: folder / name for name in stage.inputs if Path(name).parts[0] in stages}
    return made | {name: path for name, path in given.items() if name in stage.inputs}


def why_not(stage: Stage, params: Params) -> str:
    """Why a run does not have a stage."""
    given = [f"{name} = {getattr(params, name)!r}" for name in FOREIGN if getattr(params, name)]
    return given[-1] if given and stage.name != "evaluation" else "no test video has true segments"
