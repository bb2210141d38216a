"""Every parameter of every stage: one flat, frozen, validated model, read from YAML or from a notebook's namespace.

The fields are grouped by the notebook that uses them; `Params` is their sum. Defaults that are sizes (widths, steps,
epochs) are the demo's; all others are the paper's or those of docs/method.md section 9, which says how they differ.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fustal.data.files import explain, shown, validated
from fustal.data.names import beside, find, folder_of, read_as
from fustal.exceptions import InputError


def _field(default: Any, description: str, **limits: Any) -> Any:
    return Field(default=default, description=description, **limits)


class SharedParams(BaseModel):
    """Parameters of every notebook."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    run: str = _field("demo", "name of the run, its folder below outputs/", pattern=r"^[\w][\w.-]*$", max_length=100)
    dataset: str = _field("demo", "data-set card: a name in params/datasets, or a path to a YAML file")
    seed: int = _field(0, "seed of everything random", ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = _field("auto", "where the networks run")
    threads: int = _field(1, "CPU threads of PyTorch, 0: every core; the last bits depend on it", ge=0, le=4096)
    precision: Literal["float32", "bfloat16"] = _field(
        "float32", "arithmetic of the networks; bfloat16 where the hardware has it"
    )
    recipe: Literal["published", "corrected"] = _field(
        "corrected", "the behaviour of the released code, or with its errors corrected"
    )
    video_score: Literal["auto", "softmax", "sigmoid"] = _field(
        "auto", "softmax: the classes of a video compete; auto: by the labels"
    )
    score_ratios: str = _field("5,10,20,40,80,160", "the top T // r snippets make a class's video score: three r each")
    label_rule: Literal["thresholds", "best"] = _field(
        "best", "labels: what passes gamma and eta, or the best of each class in a video"
    )
    held_out: float = _field(
        0.0, "share of the training videos that take the test videos' place, to choose parameters", ge=0, lt=1
    )


class GeneratorParams(BaseModel):
    """Notebook 01: the classification-based generator and its proposals (docs/method.md section 2)."""

    generator_snippets: int = _field(100, "snippets sampled from a video, T", ge=8, le=100_000)
    generator_dim: int = _field(128, "width of the embeddings", ge=1, le=32_768)
    generator_dropout: float = _field(0.7, "dropout before the class activation sequence", ge=0, lt=1)
    generator_contrast: Literal["none", "in-video", "cross-video"] = _field("cross-video", "which contrastive terms")
    contrast_weight: float = _field(0.01, "weight of the contrast in the loss", ge=0, le=1e6)
    cross_video_weight: float = _field(0.2, "weight of the mean cross-video term in the contrast", ge=0, le=1e6)
    contrast_temperature: float = _field(0.07, "temperature of InfoNCE", gt=0, le=1e6)
    easy_ratio: int = _field(5, "T // easy_ratio snippets are easy", ge=1, le=1_000_000)
    hard_ratio: int = _field(20, "T // hard_ratio snippets are hard", ge=1, le=1_000_000)
    erosion_small: int = _field(3, "snippets, m: size of the smaller erosion and dilation", ge=1, le=100_000)
    erosion_large: int = _field(6, "snippets, M: size of the larger erosion and dilation", ge=2, le=100_000)
    mining_dropout: float = _field(0.6, "dropout on the actionness while mining easy snippets", ge=0, lt=1)
    generator_steps: int = _field(300, "training steps", ge=1, le=10_000_000)
    generator_batch: int = _field(16, "videos per step", ge=1, le=10_000)
    generator_lr: float = _field(5e-4, "learning rate of Adam", gt=0, le=1e3)
    generator_weight_decay: float = _field(5e-4, "weight decay of Adam", ge=0, le=1e3)
    class_threshold: float = _field(0.2, "classes with at least this video score get proposals", ge=0, le=1)
    upscale: int = _field(24, "positions per snippet after interpolation", ge=1, le=1000)
    cas_thresholds: str = _field("0:0.025:0.225", "thresholds on the CAS, first:step:last")
    actionness_thresholds: str = _field("0.1:0.025:0.9", "thresholds on the actionness, first:step:last")
    oic_flank: float = _field(0.25, "length of a flank as a share of the run", ge=0, le=1e3)
    oic_video_weight: float = _field(0.2, "weight of the video score in a proposal's score", ge=0, le=1e6)
    proposal_nms: float = _field(0.5, "tIoU of the hard NMS of proposals", gt=0, le=1)


class SelectionParams(BaseModel):
    """Notebook 02: the prior-based filter (docs/method.md section 3)."""

    proposals_file: str = _field("", "another method's proposals instead of the generator's: ActivityNet result file")
    label_share: float = _field(
        0.0, "best: minimum confidence, as a share of the class's highest in the video; 0: by agreement", ge=0, le=1
    )
    label_prior: float = _field(
        0.25, "best: power of the IoU score, when one of overlapping labels is kept", ge=0, le=9
    )
    duration_prior: float = _field(
        0.25, "best: power of the weight of a duration, by how typical it is of the class; 0: no effect", ge=0, le=9
    )
    label_borders: Literal["auto", "curve", "features"] = _field(
        "auto", "best: borders where the curve has them, or where features change"
    )
    iou_score_min: float = _field(0.2, "gamma, minimum IoU score of a pseudo label", ge=0, le=1e9)
    confidence_min: float = _field(0.4, "eta, a pseudo label's confidence exceeds it", ge=-1e9, le=1e9)
    iou_score_kind: Literal["paper", "class-aware"] = _field(
        "class-aware", "over all proposals, or those of the class by confidence"
    )


class StudentParams(BaseModel):
    """Notebook 03: the regression-based student (docs/method.md section 4)."""

    pseudo_labels_file: str = _field("", "another method's labels instead of all before: ActivityNet result file")
    student_dim: int = _field(64, "channels of backbone and heads, a multiple of 16", ge=16, le=5120, multiple_of=16)
    student_mlp: int = _field(96, "channels inside an SGP block's MLP", ge=1, le=8192)
    student_levels: int = _field(6, "levels of the pyramid, each half as long as the one before", ge=1, le=16)
    student_stem: int = _field(2, "SGP blocks before the pyramid", ge=0, le=20)
    sgp_window: int = _field(1, "w, odd: kernel of the narrow convolutions of an SGP block", ge=1, le=64)
    sgp_factor: float = _field(5.0, "k, w' = (w + 1) k is the wide kernel", ge=1, le=100)
    sgp_init_std: float = _field(
        0.1, "standard deviation of the depthwise weights at the start; released: 0", ge=0, le=1e3
    )
    student_bins: int = _field(16, "bins of the Trident head beside the one at the point itself", ge=1, le=1024)
    student_drop_path: float = _field(0.1, "probability of dropping a residual path in the pyramid", ge=0, lt=1)
    max_snippets: int = _field(384, "length of a training sequence; longer videos are cropped", ge=16, le=100_000)
    crop_min: float = _field(0.9, "minimum share of a sequence that the random crop keeps", gt=0, le=1)
    input_noise: float = _field(5e-4, "standard deviation of the noise added to the features", ge=0, le=1e6)
    center_radius: float = _field(1.5, "strides around a segment's centre in which points are positive", gt=0, le=1e6)
    label_weights: Literal["equal", "confidence"] = _field(
        "confidence", "loss weight of a label: 1, or its confidence over the best one's"
    )
    mil_weight: float = _field(1.0, "weight of the video-level (MIL) loss", ge=0, le=1e6)
    mil_dropout: float = _field(0.7, "dropout on the class logits of the MIL loss", ge=0, lt=1)
    student_epochs: int = _field(12, "epochs on the pseudo labels", ge=1, le=100_000)
    student_batch: int = _field(4, "videos per step", ge=1, le=10_000)
    student_lr: float = _field(1e-3, "learning rate of AdamW", gt=0, le=1e3)
    student_weight_decay: float = _field(0.05, "weight decay of AdamW", ge=0, le=1e3)
    ema_memory: float = _field(
        0.1, "time constant of the average of the weights, as a share of the student's steps", gt=0, le=10
    )
    watched_videos: int = _field(
        10, "training videos on which mAP is measured after each epoch, for the curve", ge=0, le=1_000_000
    )
    pre_nms_score: float = _field(0.001, "a detection has a higher class score", ge=0, le=1)
    pre_nms_topk: int = _field(2000, "detections per level that go on to NMS", ge=1, le=1_000_000)
    min_duration_snippets: float = _field(0.05, "snippets, a detection is longer", ge=0, le=100_000)
    soft_nms_sigma: float = _field(0.5, "width of the Gaussian of soft-NMS", gt=0, le=1e6)
    soft_nms_score: float = _field(0.001, "minimum score after soft-NMS", ge=0, le=1)
    max_detections: int = _field(200, "detections kept per video", ge=1, le=1_000_000)
    class_agnostic_nms: bool = _field(False, "soft-NMS over all classes at once, with voting")
    voting_tiou: float = _field(0.7, "tIoU of the voting after class-agnostic NMS", ge=0, le=1)
    upper_bound_epochs: int = _field(
        15, "epochs of a student on the true segments, the upper bound; 0: none", ge=0, le=100_000
    )


class DistillationParams(BaseModel):
    """Notebook 04: the EMA teacher labels the videos once more (docs/method.md section 5)."""

    distill_epochs: int = _field(6, "epochs on the teacher's labels", ge=1, le=100_000)
    distill_rounds: int = _field(2, "best: how many times all videos are labelled again", ge=1, le=1000)
    relabel_confidence: float = _field(0.4, "eta', a teacher's detection above it becomes a label", ge=0, le=1)
    relabel: bool = _field(True, "the teacher's labels replace the pseudo labels; false: continue on those")


class EvaluationParams(BaseModel):
    """Notebook 05: mean average precision (docs/method.md section 6)."""

    detections_file: str = _field("", "another method's detections instead of all before: ActivityNet result file")
    tious: str = _field("0.1:0.1:0.7", "tIoU thresholds, first:step:last")


STAGE_PARAMS: dict[str, type[BaseModel]] = {
    "generator": GeneratorParams,
    "selection": SelectionParams,
    "student": StudentParams,
    "distilled": DistillationParams,
    "evaluation": EvaluationParams,
}
"""Stage -> the parameters that its notebook declares, in the order in which the stages run."""


class Params(EvaluationParams, DistillationParams, StudentParams, SelectionParams, GeneratorParams, SharedParams):
    """All parameters of a run. Unknown names, wrong types and values out of range are refused.

    >>> Params(seed=3).seed
    3
    >>> Params(sead=3)
    Traceback (most recent call last):
        ...
    fustal.exceptions.InputError: unknown parameter 'sead' (did you mean 'seed'?)
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = [explain(item, Params, "parameter") for item in error.errors()]
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise InputError("; ".join(wrong[:3]) + more) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Params":
        """A copy with some parameters replaced, which are validated; pydantic's own does not validate them.

        Args:
            update: name -> value.
            deep: without effect, as no value can change.

        Raises:
            InputError: a parameter that is unknown, mistyped or out of range.

        >>> Params().model_copy(update={"seed": 3}).seed
        3
        """
        return type(self)(**self.of(type(self)) | dict(update or {}))

    copy = model_copy  # type: ignore[assignment]  # pydantic's older one does not validate

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> "Params":
        """The same as `Params(**values)`: pydantic's own does not validate."""
        return cls(**values)

    @field_validator("*", mode="before")
    @classmethod
    def _accept_yaml_numbers(cls, value: Any, info: Any) -> Any:
        """YAML reads `1e-3` as a string and `1` as an integer: both are fine where a real number is wanted."""
        if cls.model_fields[info.field_name].annotation is float and not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError, OverflowError):
                return value
        return value

    @field_validator("cas_thresholds", "actionness_thresholds")
    @classmethod
    def _is_grid(cls, value: str) -> str:
        parse_grid(value)
        return value

    @field_validator("tious")
    @classmethod
    def _is_tiou_grid(cls, value: str) -> str:
        parse_tiou_grid(value)
        return value

    @field_validator("score_ratios")
    @classmethod
    def _is_ratios(cls, value: str) -> str:
        parse_ratios(value)
        return value

    @field_validator("sgp_window")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, so that a kernel has a middle, unlike {value}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        if self.erosion_large <= self.erosion_small:
            raise ValueError(f"erosion_large ({self.erosion_large}) must exceed erosion_small ({self.erosion_small})")
        return self

    @classmethod
    def read(cls, path: str | Path, **overrides: Any) -> "Params":
        """Reads a flat YAML file of parameters.

        Args:
            path: the file, or a folder with a `params.yaml`. Paths in it are relative to its folder.
            **overrides: parameters that replace the file's.

        Raises:
            InputError: no such file, not a flat mapping, or a parameter that is unknown, mistyped or out of range.
        """
        path = find("preset", path)
        values = read_as("preset", path, cls.model_fields)
        return validated(cls, located(values, path.parent) | overrides, path)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> "Params":
        """The parameters of a running notebook: those it defines, over those of the stage before it.

        Args:
            namespace: the notebook's `globals()`. Names that papermill injected are checked as well: papermill itself
                only warns of unknown ones. For the folder that paths are relative to see `fustal.data.names.folder_of`.
            inherited: parameters recorded by the stage before this one, for all that the notebook does not define.
        """
        values = dict(inherited or {}) | {name: namespace[name] for name in cls.model_fields if name in namespace}
        injected = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
        for statement in ast.parse("\n".join(injected)).body:
            for target in getattr(statement, "targets", []):
                values.setdefault(target.id, namespace.get(target.id))
        for name in PATHS:
            value = values.get(name)
            if name in namespace and isinstance(value, str):
                values |= located({name: value}, folder_of(name, value))
        return cls(**values)

    def of(self, *groups: type[BaseModel]) -> dict[str, Any]:
        """Name -> value of the parameters of some groups, in their order of declaration."""
        values = {}
        for group in groups:
            for name in group.model_fields:
                values[name] = getattr(self, name)
        return values

    @property
    def corrected(self) -> bool:
        """Whether the errors of the released code are corrected (docs/method.md section 7)."""
        return self.recipe == "corrected"


PATHS = ("dataset", *(name for name in Params.model_fields if name.endswith("_file")))
"""Parameters that are paths, or can be."""


def located(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Parameters whose paths, of a card or of another method's files, are relative to a folder, as absolute paths.

    >>> located({"dataset": "card.yaml", "proposals_file": "theirs.json", "seed": 1}, Path("/data"))
    {'dataset': '/data/card.yaml', 'proposals_file': '/data/theirs.json', 'seed': 1}
    """
    found = dict(values)
    for name in PATHS:
        value = values.get(name)
        if isinstance(value, str) and value:
            found[name] = beside(value, folder) if name == "dataset" else str((folder / value).resolve())
    return found


LIMITS = {"ge": "", "gt": "above ", "le": "to ", "lt": "to below "}
"""Limit of a pydantic field -> the words before its value."""


def form(name: str) -> str:
    """The values that a parameter may have, in words.

    >>> form("student_dim"), form("held_out"), form("device")
    ('whole number, 16 to 5120, a multiple of 16', 'number, 0 to below 1', 'auto, cpu or cuda')
    """
    field = Params.model_fields[name]
    kind = field.annotation
    choices = get_args(kind)
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if kind is bool:
        return "true or false"
    if kind is str:
        return "text"
    style = "g" if kind is float else "d"
    span = []
    step = ""
    for key, word in LIMITS.items():
        for limit in field.metadata:
            if hasattr(limit, key):
                span.append(f"{word}{getattr(limit, key):{style}}")
    for limit in field.metadata:
        if hasattr(limit, "multiple_of"):
            step = f", a multiple of {limit.multiple_of}"
    name_of_kind = "number" if kind is float else "whole number"
    return f"{name_of_kind}, {' '.join(span)}{step}"


def parse_grid(text: str) -> np.ndarray:
    """Evenly spaced values from `first:step:last`, both ends included; or values, with commas between them.

    >>> parse_grid("0.1:0.1:0.3").tolist(), parse_grid("0.5").tolist(), parse_grid("0.3,0.7").tolist()
    ([0.1, 0.2, 0.3], [0.5], [0.3, 0.7])
    """
    try:
        parts = [float(part) for part in text.split(":" if ":" in text else ",")]
        if ":" not in text and np.isfinite(parts).all():
            return np.unique(parts)
        first, step, last = parts
    except ValueError:
        raise ValueError(f"{shown(text)} is not first:step:last, nor values such as 0.5 or 0.3,0.5") from None
    if not (step > 0 and first <= last < first + 1000 * step):
        raise ValueError(f"{text!r}: the step must be positive, last not before first, and the steps below 1000")
    return np.round(first + step * np.arange(int(np.floor((last - first) / step + 1e-6)) + 1), 6)


def parse_ratios(text: str) -> list[int]:
    """Rising whole numbers from 1 on, with commas between them.

    >>> parse_ratios("5,10,20")
    [5, 10, 20]
    """
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{shown(text)} is not a list of whole numbers such as 5 or 5,10,20") from None
    for value in values:
        if not 1 <= value <= 1_000_000:
            raise ValueError(f"{shown(text)}: a ratio is 1 to 1000000, unlike {value}")
    if values != sorted(set(values)):
        raise ValueError(f"{shown(text)}: each ratio must be larger than the one before it")
    return values


def parse_tiou_grid(text: str) -> np.ndarray:
    """A grid of tIoU thresholds.

    >>> parse_tiou_grid("0.5:0.25:1").tolist()
    [0.5, 0.75, 1.0]
    """
    values = parse_grid(text)
    for value in values[~((values > 0) & (values <= 1))]:
        raise ValueError(f"{shown(text)}: a tIoU threshold lies above 0 and is at most 1, unlike {value:g}")
    return values
