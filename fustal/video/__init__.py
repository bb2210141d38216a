"""From a video file to features on the grids of a data set: decoding, networks, extraction. Needs the extra `video`.

Nothing outside this package imports PyAV or torchvision, and nothing here does before it is used.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType

from fustal.exceptions import InputError


def needed(name: str) -> ModuleType:
    """Imports a module of PyAV or torchvision.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"videos need PyAV and torchvision: pip install 'fustal[video]' ({error})") from None


def is_installed() -> bool:
    """Whether the extra is installed, for what is also useful without it. Nothing is imported."""
    return find_spec("av") is not None
