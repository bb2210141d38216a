"""Figures that a reader can change: a control for each of their arguments, where there is somebody to move it."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from fustal.viz.common import as_html, show


def explore(draw: Callable[..., Figure], **choices: Sequence[Any]) -> None:
    """Shows a figure with controls; without them where `FUSTAL_STATIC` is set, as papermill's runs have it.

    What cannot show controls, a page on GitHub or a printed notebook, shows the figure as it is at first.

    Args:
        draw: makes the figure; called with the name and value of each control, and at first with its own defaults.
        **choices: name of a control -> its values: numbers become a slider, anything else a list to pick from.
    """
    first = {name: inspect.signature(draw).parameters[name].default for name in choices}
    figure = draw(**first)
    if os.environ.get("FUSTAL_STATIC"):
        show(figure)
        return
    picture = widgets.HTML(as_html(figure))
    controls = {name: _control(name, values, first[name]) for name, values in choices.items()}

    def redraw(_: object) -> None:
        picture.value = as_html(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, "value")
    live = widgets.VBox([widgets.HBox(list(controls.values())), picture])._repr_mimebundle_()
    display({**live, "text/html": picture.value, "text/plain": figure.alt_text}, raw=True)


def _control(name: str, values: Sequence[Any], first: Any) -> widgets.Widget:
    numbers = all(isinstance(value, int | float) for value in values)
    kind = widgets.SelectionSlider if numbers else widgets.Dropdown
    return kind(options=list(values), value=first, description=name.replace("_", " "))
