"""Figures with controls, and the static figures that replace them."""

import pandas as pd
import pytest

from fustal import viz
from fustal.viz import common, interactive


@pytest.fixture
def shown(monkeypatch):
    displayed = []
    for module in (common, interactive):
        monkeypatch.setattr(module, "display", lambda bundle, raw: displayed.append(bundle))
    monkeypatch.delenv("FUSTAL_STATIC", raising=False)
    return displayed


def draw(share=0.5, video="a"):
    figure = viz.ema_curve(pd.Series([share]), pd.Series([share]))
    figure.alt_text = f"{video} {share}"
    return figure


def test_the_controls_change_the_figure(shown, monkeypatch):
    boxes = []

    def keep_parts(parts):
        boxes.extend(parts)
        return interactive.widgets.Box(parts)

    monkeypatch.setattr(interactive.widgets, "VBox", keep_parts)
    viz.explore(draw, share=[0.25, 0.5, 1.0], video=["a", "b"])
    (bundle,) = shown
    controls, picture = boxes
    assert 'alt="a 0.5"' in picture.value
    slider, picker = controls.children
    assert (slider.value, picker.value) == (0.5, "a")
    slider.value = 1.0
    picker.value = "b"
    assert 'alt="b 1.0"' in picture.value
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert 'alt="a 0.5"' in bundle["text/html"], "for pages that have no controls"


def test_static_figures_have_no_controls(shown, monkeypatch):
    monkeypatch.setenv("FUSTAL_STATIC", "1")
    viz.explore(draw, share=[0.5])
    assert set(shown[0]) == {"text/html", "text/plain"}
    assert shown[0]["text/plain"] == "a 0.5"
