"""Parameters that `fustal init` derives: near to those chosen by hand, and valid for any number of videos."""

import numpy as np
import pytest
import yaml

from fustal import ROOT
from fustal.params import Params
from fustal.tools.own_data.sizes import Known, preset_text, sizes


def known(videos, *, seconds=60.0, stride=0.64, classes=5, most_actions=0, segments=False, spread=0.4):
    """Facts about a data set with random lengths of videos."""
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(np.log(seconds / stride), spread, max(videos, 2)))
    lengths = lengths.astype(int)
    return Known(videos, classes, seconds, lengths, 2 * lengths, most_actions, segments)


def derived(*args, **options):
    return Params(**{name: value for name, value, _ in sizes(known(*args, **options))})


@pytest.mark.parametrize("videos", [1, 2, 5, 40, 400, 4000, 40_000])
@pytest.mark.parametrize("seconds", [1.0, 60.0, 4300.0])
def test_valid_for_any_number_of_videos_of_any_length(videos, seconds):
    params = derived(videos, seconds=seconds)
    steps = -(-videos // params.student_batch)
    both = steps * (params.student_epochs + params.distill_epochs)
    assert params.generator_batch <= videos
    assert 8 <= params.student_epochs <= 60
    memory = 1 / (1 - params.ema_decay)  # steps that count in the average
    assert memory <= 0.5 * both or params.ema_decay == 0.9
    assert 200 <= params.generator_steps <= 6000
    assert params.generator_snippets // params.easy_ratio >= 4
    assert params.max_snippets % 32 == 0


def test_more_videos_take_fewer_epochs_and_more_steps():
    few, many = derived(40), derived(4000)
    assert few.student_epochs > many.student_epochs
    assert few.generator_steps < many.generator_steps
    assert few.student_batch < many.student_batch
    assert few.ema_decay < many.ema_decay


@pytest.mark.parametrize(
    ("preset", "videos", "seconds", "stride"),
    [("demo", 80, 67.0, 0.64), ("sbhar", 272, 60.0, 0.5), ("thumos14-simulated", 200, 160.0, 0.64)],
)
def test_derived_sizes_are_near_those_chosen_by_hand(preset, videos, seconds, stride):
    """Within a factor of 2.5: the presets were tuned for their data, and the rules use sizes only."""
    chosen, found = Params.read(ROOT / "params" / f"{preset}.yaml"), derived(videos, seconds=seconds, stride=stride)
    names = ["generator_batch", "generator_steps", "student_batch", "student_epochs", "distill_epochs", "easy_ratio"]
    for name in names:
        assert 0.4 <= getattr(found, name) / getattr(chosen, name) <= 2.5, name
    if preset != "demo":  # its average is that of an epoch and a half
        assert (1 - found.ema_decay) / (1 - chosen.ema_decay) == pytest.approx(1, abs=0.3)


def test_the_top_snippets_of_a_long_video_are_less_than_a_fifth():
    params = derived(40, seconds=72 * 60.0)
    assert 72 * 60 / params.easy_ratio <= 60
    assert params.hard_ratio == 4 * params.easy_ratio
    assert derived(40, seconds=60.0).easy_ratio == Params().easy_ratio


def test_detections_are_kept_for_all_actions():
    assert derived(40, most_actions=1297).max_detections >= 2 * 1297
    assert derived(40, most_actions=3).max_detections >= 200


def test_every_value_has_its_reason():
    text = preset_text('"mine"', known(40))
    assert yaml.safe_load(text)["watched_videos"] == 0
    lines = text.splitlines()
    for number, line in enumerate(lines[3:], 3):
        assert line.startswith("#") or lines[number - 1].startswith("#"), line
    Params(**yaml.safe_load(text))
