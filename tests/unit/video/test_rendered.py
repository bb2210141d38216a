"""The rendered data set: files that play, actions at the times of the annotations, and features made by the record."""

import numpy as np
import pandas as pd
import pytest

from fustal.data.cards import Dataset, read_card
from fustal.data.extraction import read_extraction
from fustal.data.features import FeatureStore
from fustal.data.names import find_card
from fustal.exceptions import InputError
from fustal.video import rendered
from fustal.video.decode import grid_frames
from fustal.video.extract import again

pytest.importorskip("av", reason="pip install '.[video]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small data set as `fustal fetch rendered` makes it: its folder, the card, videos and segments."""
    root = tmp_path_factory.mktemp("rendered") / "data"
    card = read_card(find_card("rendered"))
    rendered.build(root, card.grids, train=4, test=2)
    return root, card


@pytest.fixture
def dataset(built):
    from fustal.data.annotations import read_annotations

    root, card = built
    videos, segments = read_annotations(root / card.annotations)
    return Dataset(
        name="rendered",
        about="",
        root=root,
        annotations=root / card.annotations,
        classes=sorted(rendered.CLASSES),
        videos=videos,
        video_labels=segments[["video", "label"]],
        segments=segments,
        grids=dict(card.grids),
    )


def test_videos_last_as_long_as_the_annotations_say(built, dataset):
    for video, duration in dataset.videos.duration.items():
        frames = list(grid_frames(built[0] / "videos" / f"{video}.mp4", rendered.FPS))
        assert len(frames) == round(duration * rendered.FPS)
        assert frames[0].shape == (*rendered.SIZE, 3)


def test_things_move_more_during_actions(built, dataset):
    """The figure's rows change more in the snippets inside actions than in those outside."""
    store = FeatureStore(dataset, "student")
    inside, outside = [], []
    for video in dataset.videos.index:
        times = store.grid_of(video).to_seconds(np.arange(store.length(video)))
        own = dataset.segments[dataset.segments.video == video]
        acting = np.zeros(len(times), bool)
        for row in own.itertuples():
            acting |= (times > row.start + 0.2) & (times < row.end - 0.2)
        change = store[video][:, :16].mean(axis=1)  # the amount of change in each band and half, see `Motion`
        inside.append(change[acting])
        outside.append(change[~acting])
    assert np.concatenate(inside).mean() > np.concatenate(outside).mean() + np.concatenate(outside).std() / 2


def test_new_videos_get_the_same_features(built, dataset):
    root, _ = built
    made = read_extraction(root)
    extractor = again(made, None, "cpu", "run 'rendered'")
    video = dataset.videos.index[0]
    features = extractor.extract(root / "videos" / f"{video}.mp4", [made.stride])[made.stride]
    np.testing.assert_array_equal(features, np.load(root / "features" / "student" / f"{video}.npy"))


def test_the_same_seed_renders_the_same_pictures(dataset):
    own = pd.DataFrame({"label": ["Jump"], "start": [0.2], "end": [1.0]})
    first, second, other = (list(rendered.draw("v", 1.2, own, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("label", rendered.CLASSES)
def test_every_action_moves_the_figure(label):
    joints = [rendered.pose(label, time, 1.0) for time in (0.0, 0.13, 0.3)]
    assert set(joints[0]) == set(rendered.STANDING)
    assert joints[1] != joints[2]


def test_a_card_with_another_grid_is_refused(built, tmp_path):
    grids = {stage: grid.model_copy(update={"fps": 25.0}) for stage, grid in built[1].grids.items()}
    with pytest.raises(InputError, match="the grids of its card must be of 15 fps"):
        rendered.build(tmp_path / "other", grids)
    assert not (tmp_path / "other").exists()
