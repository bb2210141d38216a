"""Every figure has names of axes and an alt text, on small and on empty input."""

import base64
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot, rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from fustal import viz
from fustal.data.features import VideoGrid
from fustal.evaluation.diagnosis import KINDS
from fustal.viz.common import DescribedFigure

RNG = np.random.default_rng(0)
NONE = np.zeros(0)


def _segments(count):
    start = 50 * RNG.random(count)
    labels = RNG.choice(["sitting", "walking"], count)
    return pd.DataFrame({"start": start, "end": start + 5, "label": labels, "score": RNG.random(count)})


def _log(count):
    return pd.DataFrame({"step": np.arange(count), "loss": RNG.random(count), "mil": RNG.random(count)})


def _table(stages, columns=("precision", "recall")):
    return pd.DataFrame(RNG.random((len(stages), len(columns))), index=list(stages), columns=list(columns))


def _dataset(count):
    videos = pd.DataFrame({"subset": ["train", "test"], "duration": [60.0, 70.0]}, index=["a", "b"])[: 2 * count]
    return SimpleNamespace(name="tiny", videos=videos, segments=_segments(count).assign(video="a"))


def _truth(count):
    return _segments(count).drop(columns="score")


def _stages(*columns):
    return pd.DataFrame(RNG.random((2, len(columns))) * 100, index=["one", "two"], columns=list(columns))


def _differences(datasets):
    rows = []
    for name in datasets:
        for title in ("no MIL", "no filter"):
            low, difference, high = np.sort(RNG.normal(size=3))
            rows.append((name, title, low, difference, high))
    return pd.DataFrame(rows, columns=["dataset", "title", "low", "difference", "high"])


def _steps(datasets):
    """Values of three seeds in two stages, and their differences."""
    values, steps = [], []
    for name in datasets:
        for title in ("generator", "student"):
            values += [(name, title, seed, RNG.random()) for seed in range(3)]
        steps += [(name, "generator", "generator", 0, 0, 0, np.nan), (name, "student", "generator", 1, 20, 40, 0.01)]
    columns = ["dataset", "title", "against", "low", "difference", "high", "p"]
    return pd.DataFrame(values, columns=["dataset", "title", "seed", "value"]), pd.DataFrame(steps, columns=columns)


def _labels(datasets):
    """Measures of labels, three values of each."""
    rows = []
    for name in datasets:
        for stage in ("proposals", "pseudo labels"):
            for measure in ("precision", "recall"):
                rows += [(name, stage, measure, RNG.random()) for _ in range(3)]
    return pd.DataFrame(rows, columns=["dataset", "stage", "measure", "value"])


def _curve(count):
    ranks = np.arange(count)
    return pd.DataFrame({"precision": 1 / (1 + ranks), "recall": (1 + ranks) / max(count, 1)})


FIGURES = {
    "training_curves": (lambda: (_log(30),), lambda: (_log(0),)),
    "activation": (
        lambda: (RNG.random(20), RNG.random(20), np.arange(20.0), [0.1, 0.5], _segments(4), _truth(2)),
        lambda: (NONE, NONE, NONE, [], _segments(0), _truth(0)),
    ),
    "timeline": (
        lambda: ({"truth": _truth(3), "student": _segments(5), "none": _segments(0)}, 60.0),
        lambda: ({}, 60.0),
    ),
    "iou_matrix": (
        lambda: (_segments(5)[["start", "end"]].to_numpy(), RNG.random(5)),
        lambda: (np.zeros((0, 2)), NONE),
    ),
    "score_histogram": (
        lambda: ({"paper": (RNG.random(40), RNG.random(40) > 0.5), "none": (NONE, NONE > 0)}, 0.2),
        lambda: ({}, 0.2),
    ),
    "surviving_runs": (
        lambda: (RNG.random(20), np.arange(20.0), _segments(4).assign(threshold=0.5, kept=np.arange(4) > 1)),
        lambda: (NONE, NONE, _segments(0).assign(threshold=NONE, kept=NONE > 0)),
    ),
    "duration_weights": (
        lambda: (1 + RNG.random(20), np.array([1.5]), 0.4, 0.2, 0.25, "run"),
        lambda: (NONE, NONE, 0.4, 0.2, 0.25, "run"),
    ),
    "border_change": (
        lambda: (np.arange(5.0), np.array([0.0, 0.1, 0.4, 0.9, 1.0]), 1.0, 2.2, 1),
        lambda: (NONE, NONE, 1.0, 2.2, -1),
    ),
    "stacked": (lambda: ({"truth": _truth(3), "labels": _segments(5), "none": _segments(0)},), lambda: ({},)),
    "share_curves": (lambda: ({"agreement": {0.3: 0.5, 0.4: 0.6}, "none": {}}, 0.4), lambda: ({}, 0.4)),
    "rule_quality": (lambda: (_table(["thresholds", "best"]),), lambda: (_table([]),)),
    "selection_scatter": (
        lambda: (RNG.random(40), RNG.random(40), RNG.random(40) > 0.5, 0.2, 0.4),
        lambda: (NONE, NONE, NONE, 0.2, 0.4),
    ),
    "quality_bars": (lambda: (_table(["generator", "selected"]),), lambda: (_table([]),)),
    "target_assignment": (
        lambda: (np.arange(6.0), np.array([0, 0, 0, 0, 1, 1]), np.array([-1, -1, 0, -1, -1, 1]), np.eye(2)[::-1]),
        lambda: (NONE, NONE, NONE, np.zeros((0, 2))),
    ),
    "pyramid": (lambda: ([0.0, 4.0], [4.0, np.inf], "stem", ["classes"]), lambda: (NONE, NONE, "", [])),
    "trident": (
        lambda: (np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0]), 10.0, 0.5),
        lambda: (NONE, NONE, 1.0, 0.5),
    ),
    "ema_curve": (
        lambda: (pd.Series([1.0, 3.0], index=[1, 2]), pd.Series([1.0, 2.0], index=[1, 2])),
        lambda: (pd.Series(dtype=float), pd.Series(dtype=float)),
    ),
    "memory": (lambda: (pd.DataFrame({"a": RNG.random(9), "b": RNG.random(9)}),), lambda: (pd.DataFrame(),)),
    "average_precision": (lambda: (_stages("0.1", "0.5", "0.1:0.5"),), lambda: (pd.DataFrame(),)),
    "class_ap": (lambda: (_table(["sitting", "walking"], ["generator", "student"]),), lambda: (pd.DataFrame(),)),
    "precision_recall": (lambda: ({"a": _curve(30), "b": _curve(3)},), lambda: ({"a": _curve(0)},)),
    "threshold_runs": (
        lambda: (np.arange(3.0), np.arange(3.0), _segments(2).assign(threshold=0.5)),
        lambda: (NONE, NONE, _segments(0).assign(threshold=0.5)),
    ),
    "class_balance": (lambda: (_dataset(5),), lambda: (_dataset(0),)),
    "differences": (lambda: (_differences(["a", "b"]),), lambda: (_differences([]),)),
    "mining": (lambda: (RNG.random(9), {"easy action": np.arange(9) > 6}), lambda: (NONE, {})),
    "embeddings": (lambda: ({"before": {"a": RNG.random((4, 3)), "b": RNG.random((5, 3))}},), lambda: ({},)),
    "error_kinds": (lambda: (_table(["generator", "student"], [*KINDS, "missed"]),), lambda: (_table([]),)),
    "judged": (lambda: (_segments(2), _truth(2), ["right", "wrong"]), lambda: (_segments(0), _truth(0), [])),
    "length_ap": (lambda: (_table(["generator", "student"], ["0–2 s", "2–9 s"]),), lambda: (_table([], ()),)),
    "snippet_windows": (lambda: (VideoGrid(25.0, 16, 16),), lambda: (VideoGrid(25.0, 16, 16), 0)),
    "overlap": (lambda: ([((0, 4), (1, 4)), ((0, 4), (5, 6))], [0.75, 0.0]), lambda: ([], [])),
    "durations": (lambda: (_dataset(5),), lambda: (_dataset(0),)),
    "features": (lambda: (RNG.random((20, 70)), np.arange(20.0), _truth(2)), lambda: (NONE[:, None], NONE, _truth(0))),
    "hands": (
        lambda: (RNG.random((50, 26, 3)), 20.0, {"truth": _truth(2), "found": _truth(1)}),
        lambda: (np.zeros((0, 26, 3)), 20.0, {"truth": _truth(0)}),
    ),
    "label_quality": (lambda: (_labels(["a", "b"]),), lambda: (_labels([]),)),
    "stage_steps": (lambda: _steps(["a", "b"]), lambda: _steps([])),
    "resampled": (lambda: ({"one": RNG.random(9), "two": RNG.random(9)},), lambda: ({},)),
    "class_curves": (
        lambda: ({"a": RNG.random(20)}, np.arange(20.0), _truth(2).assign(score=0.5), _truth(2)),
        lambda: ({}, np.arange(0.0), _truth(0).assign(score=0.5), _truth(0)),
    ),
    "prior_shares": (
        lambda: ({"paper": (RNG.random(50), RNG.random(50) > 0.5)},),
        lambda: ({"paper": (np.zeros(0), np.zeros(0, bool))},),
    ),
    "label_stages": (
        lambda: (pd.DataFrame({0.5: [40.0]}, index=["teacher"]), pd.DataFrame({"truth": [3]}, index=["a"])),
        lambda: (pd.DataFrame(), pd.DataFrame()),
    ),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("size", ["small", "empty"])
def test_figure_is_labelled_and_described(name, size, tmp_path):
    small, empty = FIGURES[name]
    figure = getattr(viz, name)(*(small if size == "small" else empty)())
    viz.save(figure, tmp_path / "figure.png")

    assert len(figure.alt_text) > 20
    named = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert named[-1].get_xlabel()
    assert named[0].get_ylabel()
    words = []
    for axis in figure.axes:
        words += [text.get_text() for text in axis.texts]
    assert any("nothing to show" in word for word in words) == (size == "empty")
    assert not pyplot.get_fignums()


def test_every_figure_is_tested():
    made = {
        name
        for name, item in vars(viz).items()
        if getattr(item, "__annotations__", {}).get("return") is DescribedFigure
    }
    assert made == set(FIGURES) | {"overview", "frames"}, "these two have no axes"


def test_the_overview_shows_every_stage():
    shown = " ".join(text.get_text() for text in viz.overview().axes[0].texts)
    for word in ("generator", "filter", "student", "teacher", "evaluation"):
        assert word in shown
        assert word in viz.overview().alt_text or word == "evaluation"


def test_alt_texts_give_the_numbers_of_the_figure():
    scores, true = np.array([0.1, 0.1, 0.9, 0.9]), np.array([True, False, True, True])
    assert "0.2 lie 1 true and 1 false ones" in viz.score_histogram({"paper": (scores, true)}, 0.2).alt_text
    kept = viz.selection_scatter(scores, np.array([1, 1, 1, 0.4]), true, 0.9, 0.4).alt_text
    assert "Of 3 true positives 1 are kept, of 1 false ones 0" in kept


def test_small_differences_can_be_seen_beside_large_ones():
    table = pd.DataFrame({"dataset": "a", "title": ["small", "large"], "difference": [-1.0, 60.0], "low": [-2.0, 55.0]})
    table = table.assign(high=[0.0, 65.0], p=[0.2, 0.01])
    (axis,) = viz.differences(table).axes
    zero, one, sixty = axis.transData.transform([(0, 0), (1, 0), (60, 0)])[:, 0]
    assert (one - zero) / (sixty - zero) > 0.15
    assert axis.collections[-1].get_facecolors().tolist()[0] == [1, 1, 1, 1], "an open dot: not significant"


def test_stacked_segments_do_not_hide_each_other():
    segments = pd.DataFrame({"start": [0.0, 1.0, 5.0], "end": [9.0, 4.0, 8.0], "label": "run"})
    bars = viz.stacked({"proposals": segments}).axes[0].patches
    assert [(bar.get_x(), bar.get_y() + bar.get_height() / 2) for bar in bars] == [(0, 0), (1, 1), (5, 1)]


def test_trident_puts_boundaries_at_the_expected_bins():
    figure = viz.trident(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0]), 10.0, 0.5)
    # Expected bins 1.5 to the left and 2 to the right of 10 s, half a second each.
    assert "start at 9.25 s and the end at 11.00 s" in figure.alt_text
    bars = [bar.get_x() + bar.get_width() / 2 for bar in figure.axes[0].patches]
    assert bars == pytest.approx([9, 9.5, 10, 10, 10.5, 11])


def test_the_area_below_one_curve_is_its_average_precision():
    curve = pd.DataFrame({"precision": [1.0, 0.5, 2 / 3], "recall": [0.5, 0.5, 1.0]})
    (axis,) = viz.precision_recall({"Jump": curve}).axes
    outline = axis.collections[0].get_paths()[0].vertices
    x, y = outline.T
    assert abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2 == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert [text.get_text() for text in axis.texts] == ["1", "2", "3"]
    assert "Jump ends at recall 1.00 with precision 0.67" in viz.precision_recall({"Jump": curve}).alt_text


NAMES = [
    *(r"$\frac{$", "100 $ or 50 $", "$x$", "_under score_", " two  blanks ", "日本語", "😀", "\u202eabc", "مرحبا"),
    *("two\nlines", "\x1b[31mred", "\x00", "%d {0}", "\\alpha^{", "", "x" * 300),
]


def _named(name):
    """One figure of each kind that shows names of classes or videos."""
    rows = pd.DataFrame({"video": "a", "label": name, "start": [1.0], "end": [2.0], "score": [0.5]})
    data = _dataset(1)
    data.name, data.segments = name, rows
    return {
        "timeline": viz.timeline({"truth": rows}),
        "hands": viz.hands(np.zeros((50, 26, 3)), 20.0, {"truth": rows}),
        "class_ap": viz.class_ap(pd.DataFrame({"student": [50.0]}, index=[name])),
        "class_balance": viz.class_balance(data),
        "durations": viz.durations(data),
        "differences": viz.differences(_differences([name])),
        "label_quality": viz.label_quality(_labels([name])),
        "stage_steps": viz.stage_steps(*_steps([name])),
        "resampled": viz.resampled({name: np.arange(3.0)}),
    }


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_drawn_as_they_are(name, tmp_path):
    for kind, figure in _named(name).items():
        viz.save(figure, tmp_path / f"{kind}.png")
        viz.as_source(figure, bbox_inches="tight")
        texts = figure.findobj(Text)
        assert not any(text.get_parse_math() for text in texts)
        if kind in ("timeline", "hands", "class_ap", "class_balance"):
            assert viz.common.drawn(name) in [text.get_text() for text in texts], kind


def test_the_setting_for_formulas_is_kept():
    with rc_context({"text.parse_math": True}):
        viz.as_source(_named("$")["timeline"])
        assert Figure().text(0, 0, "$x$").get_parse_math()


def test_the_legend_of_a_timeline_of_many_classes_is_cut():
    labels = [f"class {i} with a long name" for i in range(200)]
    rows = pd.DataFrame({"label": labels, "start": np.arange(200.0), "end": np.arange(200.0) + 1})
    figure = viz.timeline({"truth": rows})
    viz.as_source(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == labels[:2]
    assert names[-1] == f"and {200 - len(names) + 1} more"
    assert figure.axes[0].get_xlim() == (0, 200)


@pytest.mark.parametrize("length", [1, 2])
def test_features_of_few_snippets_are_drawn(length):
    figure = viz.features(RNG.random((length, 3)), np.arange(float(length)) + 0.5, _truth(0))
    viz.as_source(figure)
    assert figure.axes[0].get_xlim() == (0, length)


def test_a_hand_is_drawn_at_its_times_and_paler_outside_of_segments():
    joints = np.zeros((100, 26, 3))
    joints[:, 12, 1] = 1
    joints[60:, 10, 1] = 1.5  # the index finger is stretched from 3 s on
    truth = pd.DataFrame({"label": ["ONE"], "start": [3.0], "end": [4.0]})
    figure = viz.hands(joints, 20.0, {"truth": truth}, np.array([1.0, 3.5]))
    assert "A hand at 2 times of 5 s; below, segments. truth: ONE 3.0 to 4.0 s." in figure.alt_text
    index = [line for line in figure.axes[0].lines if line.get_color() == viz.common.BLUE and len(line.get_xdata()) > 1]
    assert [line.get_xdata()[-1] for line in index] == [1.0, 3.5]
    assert index[0].get_ydata()[-1] == 0 < index[1].get_ydata()[-1]
    assert index[0].get_alpha() < index[1].get_alpha() == 1
    assert figure.axes[1].get_xlim() == (0, 5)


def test_embeddings_of_one_dimension_are_drawn():
    kinds = {name: RNG.random((1, 1)) for name in "abcd"}
    viz.as_source(viz.embeddings({"before": kinds}))


def test_show_displays_an_image_with_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr(viz.common, "display", lambda data, raw: shown.append(data))
    figure = viz.precision_recall({"a": _curve(1)})
    figure.alt_text = 'Say "a" < b'
    viz.show(figure)
    alt, source = re.fullmatch(
        r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', shown[0]["text/html"]
    ).groups()
    assert alt == "Say &quot;a&quot; &lt; b"
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert shown[0]["text/plain"] == figure.alt_text


def test_save_keeps_the_alt_text(tmp_path):
    figure = viz.training_curves(_log(3))
    viz.save(figure, tmp_path / "new" / "loss.png")
    with Image.open(tmp_path / "new" / "loss.png") as image:
        assert image.text["Description"] == figure.alt_text
