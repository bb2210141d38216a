"""Parameters that `fustal init` derives: near to those chosen by hand, and valid for any number of videos."""

import numpy as np
import pytest
import yaml

from fustal import ROOT
from fustal.params import Params
from fustal.tools.own_data.sizes import Known, preset_text, sizes


def known(videos, *, seconds=60.0, stride=0.64, classes=5, most_actions=0, segments=False, each=1):
    """Facts about a data set with random lengths of videos; every video has `each` of the classes."""
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(np.log(seconds / stride), 0.4, max(videos, 2)))
    lengths = lengths.astype(int)
    labels = np.zeros((videos, classes), bool)
    labels[:, :each] = True
    return Known(labels, lengths, 2 * lengths, most_actions, segments)


def derived(*args, **options):
    return Params(**{name: value for name, value, _ in sizes(known(*args, **options))})


@pytest.mark.parametrize("videos", [1, 2, 5, 40, 400, 4000, 40_000])
@pytest.mark.parametrize("seconds", [1.0, 60.0, 4300.0])
def test_valid_for_any_number_of_videos_of_any_length(videos, seconds):
    params = derived(videos, seconds=seconds)
    assert params.generator_batch <= videos
    assert 8 <= params.student_epochs <= 100
    assert params.distill_epochs == pytest.approx(1.5 * params.student_epochs, abs=0.5)
    assert 300 <= params.generator_steps <= 6000
    assert params.max_snippets % 32 == 0


@pytest.mark.parametrize("videos", [12, 40, 144, 266, 600])
def test_the_student_of_a_small_data_set_has_about_as_many_steps_whatever_the_number_of_videos(videos):
    params = derived(videos)
    assert 200 <= -(-videos // params.student_batch) * params.student_epochs <= 600


def test_more_videos_take_fewer_epochs_and_more_steps():
    few, many = derived(40), derived(4000)
    assert few.student_epochs > many.student_epochs
    assert few.generator_steps < many.generator_steps
    assert few.student_batch < many.student_batch
    assert few.generator_lr == 1e-3
    assert few.generator_lr > many.generator_lr


@pytest.mark.parametrize(
    ("preset", "videos", "seconds", "stride"),
    [
        ("demo", 80, 67.0, 0.64),
        ("sbhar", 266, 60.0, 0.5),
        ("shrec22", 144, 25.0, 0.2),
        ("thumos14-simulated", 200, 160.0, 0.64),
    ],
)
def test_derived_sizes_are_near_those_chosen_by_hand(preset, videos, seconds, stride):
    """Within a factor of 2: the presets were tuned for their data, and the rules use sizes only."""
    chosen, found = Params.read(ROOT / "params" / f"{preset}.yaml"), derived(videos, seconds=seconds, stride=stride)
    names = ["generator_batch", "generator_steps", "generator_lr", "student_batch", "student_epochs"]
    if preset != "demo":  # its distillation is short, so that the whole chain takes a few minutes
        names.append("distill_epochs")
    for name in names:
        assert 0.5 <= getattr(found, name) / getattr(chosen, name) <= 2, name


@pytest.mark.parametrize(("each", "kind"), [(1, "softmax"), (2, "sigmoid"), (0, "sigmoid")])
def test_the_video_score_and_its_reason_are_written(each, kind):
    size = sizes(known(40, each=each))[0]
    assert (size.name, size.value) == ("video_score", "auto")
    assert size.why.startswith(f"{kind}, by the labels: a labelled training video has {each:.2f} classes")


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
