"""Networks that turn windows of video frames into features: torchvision's, one's own, and one without weights.

A backbone has two parts. Its transform prepares one frame, once, however many windows contain it. Its network reads
windows of such frames and returns the pooled features before the classifier.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fustal.data.files import one_line, open_regular, shown
from fustal.exceptions import InputError
from fustal.video import needed
from fustal.video.motion import Motion, small_frame

CLASSIFIERS = {"s3d": "classifier", "r3d_18": "fc", "mvit_v2_s": "head", "swin3d_t": "head"}
"""torchvision's networks for video -> the name of their last layer, which is left out."""


@dataclass(frozen=True)
class Backbone:
    """A network for features.

    Attributes:
        transform: one frame, uint8 (3, H, W) -> float32 (C, h, w).
        network: windows of transformed frames (B, C, window, h, w) -> features (B, D).
        weights: the file from which its weights were read; None: it has none of its own.
    """

    transform: Callable[[Tensor], Tensor]
    network: nn.Module
    weights: Path | None = None


def load_backbone(name: str, weights: Path | None = None) -> Backbone:
    """Makes a backbone, in evaluation mode on the CPU.

    Args:
        name: one of `CLASSIFIERS`, or `motion`; or `module:function`, or `module.function`, of a function without
            arguments that returns a transform and a network as in `Backbone`. The module is one that Python can import,
            or lies in the current folder.
        weights: a file of weights, .safetensors or of `torch.save`; None: of torchvision's networks those trained on
            Kinetics-400, which torchvision downloads once.

    Raises:
        InputError: no such backbone, or its weights cannot be had or do not fit.
    """
    if name in CLASSIFIERS:
        return _torchvision(name, weights)
    if name == "motion":
        if weights:
            raise InputError(f"--weights {weights}: backbone {name} has no weights to read")
        return _ready((small_frame, Motion()), None)
    if "." not in name and ":" not in name:
        known = [*CLASSIFIERS, "motion"]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, and your own as module:function"
        raise InputError(f"--backbone {shown(name)}: is unknown ({hint})")
    transform, network = _own(name)
    if weights:
        _put(read_weights(weights), network, name, weights)
    return _ready((transform, network), weights)


def _ready(parts: tuple[Callable[[Tensor], Tensor], nn.Module], weights: Path | None) -> Backbone:
    transform, network = parts
    return Backbone(transform, network.eval().requires_grad_(False), weights)


def _torchvision(name: str, weights: Path | None) -> Backbone:
    models = torchvision().models
    published = models.get_model_weights(name).DEFAULT
    file = weights or _downloaded(name, published.url)
    network = models.get_model(name, weights=None)
    last = CLASSIFIERS[name]
    setattr(network, last, nn.Identity())
    # Fine-tuned networks have other classes: their classifiers are not used either
    values = {key: value for key, value in read_weights(file).items() if not key.startswith(f"{last}.")}
    _put(values, network, name, file)
    preset = published.transforms()
    return _ready((lambda frame: preset(frame[None])[:, 0], network), file)


def torchvision() -> ModuleType:
    """Imports torchvision, also one that was built for another build of PyTorch.

    A torchvision for GPUs beside a PyTorch for CPUs cannot load its compiled operators, and its import fails at the
    first of two that it expects. The networks for video use none: with declarations of both, the import succeeds.
    """
    try:
        return needed("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for operator in ("nms", "qnms"):
        form = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{operator}", form)
    return needed("torchvision")


def _downloaded(name: str, url: str) -> Path:
    """The file of published weights in PyTorch's cache; it is downloaded if it is not there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if file.exists():
        return file
    checksum = file.stem.rpartition("-")[2]  # published names end in the beginning of their SHA-256
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), checksum)
    except (OSError, RuntimeError) as error:
        what = f"the weights of {name} cannot be downloaded ({one_line(error)})"
        raise InputError(f"{what}: download {url} elsewhere, and give it as --weights FILE") from None
    return file


def read_weights(file: Path) -> dict[str, Tensor]:
    """Reads arrays by name. No code in the file is run.

    Raises:
        InputError: the file cannot be read, or it holds something else.
    """
    open_regular(file).close()
    try:
        if file.suffix == ".safetensors":
            values = load_file(file)
        else:
            values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise any exception, some without a message
        what = f"{type(error).__name__} {one_line(error)[:200]}".strip()
        if what.startswith("UnpicklingError"):  # its message advises to load the file in a way that runs its code
            what = "is broken, or holds more than arrays by name"
        raise InputError(f"{file}: cannot be read as weights: {what}") from None
    if not isinstance(values, dict) or not all(_is_named_array(*item) for item in values.items()):
        raise InputError(f"{file}: must hold arrays by name, a network's state_dict()")
    return values


def _is_named_array(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _put(values: dict[str, Tensor], network: nn.Module, name: str, file: Path) -> None:
    """Loads weights into a network.

    Raises:
        InputError: an array is missing, unknown or of another shape or kind.
    """
    own = network.state_dict()
    for key in own:
        if key not in values:
            raise InputError(f"{file}: does not fit {name}: it has no {shown(key)}")
        if own[key].shape != values[key].shape:
            shapes = f"{tuple(values[key].shape)}, not {tuple(own[key].shape)}"
            raise InputError(f"{file}: does not fit {name}: {shown(key)} has the shape {shapes}")
        if own[key].is_floating_point() and not values[key].is_floating_point():
            raise InputError(f"{file}: does not fit {name}: {shown(key)} is of {values[key].dtype}")
    unknown = sorted(values.keys() - own.keys())
    if unknown:
        raise InputError(f"{file}: does not fit {name}, which has no {shown(unknown[0])}")
    network.load_state_dict(values)


def _own(name: str) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
    """Transform and network of a function that is given by its dotted name."""
    module, _, function = name.rpartition(":" if ":" in name else ".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made = getattr(import_module(module), function)()
    except Exception as error:  # code of the user can raise any exception
        raise InputError(f"--backbone {name}: {type(error).__name__}: {one_line(error)}") from None
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]) or not isinstance(made[1], nn.Module):
        raise InputError(f"--backbone {name}: must return a transform and a network, not {shown(made)}")
    return made
