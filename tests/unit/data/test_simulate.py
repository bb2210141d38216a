"""Simulated features, and the random annotations of the demo."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fustal.data.annotations import read_annotations
from fustal.data.cards import Grid
from fustal.data.demo import DEMO_CLASSES, invent
from fustal.data.simulate import RATE, Look, latent, make_prototypes, observe, simulate, write_annotations

GRIDS = {
    "generator": Grid(
        pattern="g/{subset}/{modality}/{video}.npy", modalities=["rgb", "flow"], fps=25, stride=16, window=16
    ),
    "student": Grid(pattern="s/{modality}/{video}.npy", modalities=["rgb", "flow"], fps=25, stride=4, window=16),
}
DISTURBANCES = ("motion", "strength", "scene", "background", "burst", "style", "noise", "ends", "blur", "disagreement")
SILENT = dataclasses.replace(Look(), **dict.fromkeys(DISTURBANCES, 0.0))


def frames(segments, duration=20.0, video="v"):
    videos = pd.DataFrame({"subset": "train", "duration": duration, "fps": 25.0}, index=pd.Index([video], name="video"))
    rows = [(video, label, start, end) for label, start, end in segments]
    return videos, pd.DataFrame(rows, columns=["video", "label", "start", "end"])


def signal_of(segments, look, duration=20.0, dim=64):
    prototypes = make_prototypes(["A", "B"], dim, look, seed=0)
    table = frames(segments)[1]
    return latent(duration, table, prototypes, look, np.random.default_rng(1)), prototypes


def read_all(root):
    return {str(path.relative_to(root)): np.load(path) for path in sorted(root.rglob("*.npy"))}


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    videos, segments = invent(train=2, test=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate(videos, segments, tmp_path / name, GRIDS, dim=4, seed=seed)
    first = read_all(tmp_path / "a")
    again = read_all(tmp_path / "b")
    other = read_all(tmp_path / "c")
    assert len(first) == 3 * 2 * 2
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not any(np.array_equal(first[key], other[key]) for key in first)


def test_a_video_does_not_depend_on_the_others_nor_on_their_order(tmp_path):
    videos, segments = invent(train=6, test=0)
    simulate(videos, segments, tmp_path / "all", GRIDS, dim=4, seed=0)
    few = videos.iloc[[3, 1]]
    simulate(few, segments[segments.video.isin(few.index)], tmp_path / "few", GRIDS, dim=4, seed=0)
    whole, part = read_all(tmp_path / "all"), read_all(tmp_path / "few")
    assert len(part) == 2 * 2 * 2
    assert all(np.array_equal(whole[key], part[key]) for key in part)


def test_files_lie_on_their_grid(tmp_path):
    videos, segments = frames([("A", 3, 6)], duration=20.0)
    simulate(videos, segments, tmp_path, GRIDS, dim=4, seed=0)
    generator = np.load(tmp_path / "g/train/flow/v.npy")
    student = np.load(tmp_path / "s/rgb/v.npy")
    assert generator.dtype == student.dtype == np.float16
    assert generator.shape == (31, 4)  # 500 frames hold 31 windows of 16
    assert student.shape == (122, 4)  # the last starts at frame 484
    assert np.isfinite(generator).all()
    assert (generator >= 0).all()


def test_both_grids_see_the_same_signal():
    signal, _ = signal_of([("A", 3, 9)], Look())
    generator = observe(signal, GRIDS["generator"], 20.0, Look())
    student = observe(signal, GRIDS["student"], 20.0, Look())
    np.testing.assert_allclose(student[::4][: len(generator)], generator)  # windows that start at the same frame


def test_a_window_is_the_mean_of_the_signal_under_it():
    signal = np.arange(round(20 * RATE), dtype=float)[:, None] / RATE  # the time itself: a ramp
    centres = observe(signal, GRIDS["student"], 20.0, SILENT)[:, 0]
    expected = (np.arange(len(centres)) * 4 + 8) / 25 - 0.5 / RATE
    np.testing.assert_allclose(centres, expected, atol=1e-9)


def test_an_action_shows_its_core_inside_its_segment_and_nowhere_else():
    signal, prototypes = signal_of([("A", 6.0, 12.0)], SILENT)
    times = (np.arange(len(signal)) + 0.5) / RATE
    inside = (times >= 6) & (times <= 12)
    likeness = signal @ prototypes.core["A"] / 64
    assert likeness[inside].max() > 0.95
    assert likeness[~inside].max() == 0
    assert 6 + SILENT.core_place * 6 - 0.1 < times[likeness.argmax()] < 12 - SILENT.core_place * 6 + 0.1


def test_the_spread_sets_how_different_cores_are():
    actions = [("A", 10.0 * n, 10.0 * n + 8) for n in range(40)]
    widths = {}
    for spread in (0.0, 0.4):
        signal, prototypes = signal_of(actions, dataclasses.replace(SILENT, core_spread=spread), duration=400.0)
        # The core is visible within one standard deviation of its peak.
        visible = signal @ prototypes.core["A"] / 64 > np.exp(-0.5)
        widths[spread] = visible.reshape(40, -1).sum(axis=1) / RATE / 8 / 2
    assert widths[0.0] == pytest.approx(SILENT.core_width, abs=0.02)
    assert widths[0.4].std() > 5 * widths[0.0].std()


def test_annotators_disagree_about_starts_and_ends():
    actions = [("A", 10.0 * n, 10.0 * n + 5) for n in range(40)]
    look = dataclasses.replace(SILENT, core=0.0, motion=1.0, disagreement=0.1)
    signal, prototypes = signal_of(actions, look, duration=400.0)
    shown = (signal @ prototypes.motion / 64 > 0.5).reshape(40, -1).sum(axis=1) / RATE
    assert shown.mean() == pytest.approx(5, abs=0.4)
    assert shown.std() == pytest.approx(0.1 * 5 * np.sqrt(2), rel=0.4)


def test_a_scene_is_present_before_and_after_its_action():
    look = dataclasses.replace(SILENT, core=0.0, scene=1.0, scene_share=0.0, linger=2.0)
    signal, prototypes = signal_of([("A", 90.0, 100.0)], look, duration=200.0)
    times = (np.arange(len(signal)) + 0.5) / RATE
    present = signal @ prototypes.scene["A"] / 64 > 0.5
    assert present[(times > 90) & (times < 100)].all()
    assert 10 < present.sum() / RATE < 30  # it begins before the action and ends after it
    assert not present[(times < 70) | (times > 120)].any()


def test_starts_and_ends_look_different():
    signal, prototypes = signal_of([("A", 5.0, 15.0)], dataclasses.replace(SILENT, core=0.0, ends=1.0))
    times = (np.arange(len(signal)) + 0.5) / RATE
    for kind, near in ((prototypes.start, 5.0), (prototypes.end, 15.0)):
        assert abs(times[(signal @ kind["A"]).argmax()] - near) < 0.2


@pytest.mark.parametrize("constant", ["scene", "burst"])
def test_scenes_and_bursts_appear_outside_actions(constant):
    look = dataclasses.replace(SILENT, burst_rate=20.0, **{constant: 1.0})
    signal, prototypes = signal_of([("A", 0.0, 2.0)], look)
    kind = prototypes.scene if constant == "scene" else prototypes.core
    outside = signal[round(3 * RATE) :]
    assert (outside @ kind["A"]).max() / 64 > 0.9
    assert np.abs(outside @ kind["B"]).max() / 64 < 0.5  # no pattern of a class that the video does not have


def test_noise_is_correlated_in_time():
    signal, _ = signal_of([], dataclasses.replace(SILENT, noise=1.0), duration=100.0)
    power = (signal**2).mean()
    near = (signal[1:] * signal[:-1]).mean() / power
    far = (signal[25:] * signal[:-25]).mean() / power
    assert near > 0.8
    assert abs(far) < 0.1


def test_a_video_without_segments_and_one_shorter_than_a_window(tmp_path):
    videos = pd.concat([frames([], video="empty")[0], frames([], 0.3, "short")[0]])
    segments = frames([("A", 0.1, 0.2)], video="short")[1]
    simulate(videos, segments, tmp_path, GRIDS, dim=3, seed=0)
    assert np.load(tmp_path / "g/train/rgb/short.npy").shape == (1, 3)
    assert np.load(tmp_path / "g/train/rgb/empty.npy").shape == (31, 3)
    assert all(np.isfinite(array).all() for array in read_all(tmp_path).values())


def test_random_annotations_are_valid():
    videos, segments = invent()
    assert (videos.subset == "train").sum() == 80
    assert (videos.subset == "test").sum() == 60
    assert videos.duration.between(40, 90).all()
    assert set(segments.label) == set(DEMO_CLASSES)
    assert (segments.end > segments.start).all()
    assert (segments.end < segments.video.map(videos.duration)).all()
    assert set(segments.video) == set(videos.index)
    assert set(segments.groupby("video").label.nunique()) == {1, 2}
    following = segments.groupby("video").start.shift(-1)
    assert (following.dropna() > segments.end[following.notna()]).all()


def test_classes_have_durations_of_their_own():
    _, segments = invent(train=100, test=0)
    median = (segments.end - segments.start).groupby(segments.label).median()
    np.testing.assert_allclose(median, median.index.map(DEMO_CLASSES), rtol=0.15)


def test_annotations_are_read_back(tmp_path):
    videos, segments = invent(train=3, test=2)
    write_annotations(videos, segments, tmp_path / "gt.json")
    again, table = read_annotations(tmp_path / "gt.json")
    pd.testing.assert_frame_equal(again, videos)
    pd.testing.assert_frame_equal(table, segments)
