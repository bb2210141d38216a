"""Figures with controls, so that a reader can change their arguments."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from fustal.viz.common import DescribedFigure, as_html, show


def explore(draw: Callable[..., DescribedFigure], **choices: Sequence[Any]) -> None:
    """Shows a figure with controls, or without them if `FUSTAL_STATIC` is set, as in runs by papermill.

    A page that cannot show controls, such as a notebook on GitHub or in print, shows the first figure.

    Args:
        draw: makes the figure; its arguments are the names of the controls, and their defaults give the first figure.
        **choices: name of a control -> its values: numbers become a slider, other values a drop-down list.
    """
    arguments = inspect.signature(draw).parameters
    first = {name: arguments[name].default for name in choices}
    figure = draw(**first)
    if os.environ.get("FUSTAL_STATIC"):
        show(figure)
        return
    picture = widgets.HTML(as_html(figure))
    controls = {name: _control(name, values, first[name]) for name, values in choices.items()}

    def redraw(_: object) -> None:
        values = {name: control.value for name, control in controls.items()}
        picture.value = as_html(draw(**values))

    for control in controls.values():
        control.observe(redraw, "value")
    box = widgets.VBox([widgets.HBox(list(controls.values())), picture])
    # The notebook stores the picture as well, for pages without controls.
    bundle = {**box._repr_mimebundle_(), "text/html": picture.value, "text/plain": figure.alt_text}
    display(bundle, raw=True)


def _control(name: str, values: Sequence[Any], first: Any) -> widgets.Widget:
    """A slider for numbers, else a drop-down list."""
    numbers = all(isinstance(value, int | float) for value in values)
    kind = widgets.SelectionSlider if numbers else widgets.Dropdown
    return kind(options=list(values), value=first, description=name.replace("_", " "))
