"""SBHAR: recordings are read from two layouts, cut into windows, and described by features."""

import numpy as np
import pytest

from fustal.data.cards import Grid
from fustal.data.files import read_json
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.tools.sources.sbhar import FPS, Recording, build, cut, describe, read_recordings

NAMES = ["exp01_user01", "exp02_user07"]
GRIDS = {
    "generator": Grid(pattern="features/generator/{video}.npy", fps=FPS, stride=25, window=25),
    "student": Grid(pattern="features/student/{subset}/{video}.npy", fps=FPS, stride=10, window=30),
}


def make_signal(seconds, seed=0):
    """A phone at rest, then carried by a walker, then lying on its side."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * FPS)) / FPS
    signal = rng.normal(0, 0.01, (len(times), 6))
    walking = (times >= seconds / 3) & (times < 2 * seconds / 3)
    signal[:, 0] += np.where(times < 2 * seconds / 3, 1.0, 0.0) + 0.4 * walking * np.sin(2 * np.pi * 2.2 * times)
    signal[:, 1] += np.where(times >= 2 * seconds / 3, 1.0, 0.0)
    return signal.round(4)


def write_npz_form(folder, signals):
    folder.mkdir(parents=True)
    np.savez(folder / "sbhar_float16.npz", **{name: signal.astype(np.float16) for name, signal in signals.items()})
    database = {
        name: {"subset": subset, "annotations": [{"label": "WALKING", "segment": [30.0, 60.4]}]}
        for name, subset in zip(signals, ["train", "test"], strict=True)
    }
    write_json({"database": database}, folder / "gt.json")


def write_public_form(folder, signals):
    raw = folder / "HAPT" / "RawData"
    raw.mkdir(parents=True)
    (raw.parent / "Train").mkdir()
    (raw.parent / "Train" / "subject_id_train.txt").write_text("1\n1\n3\n")
    (raw.parent / "activity_labels.txt").write_text("1 WALKING \n2 SITTING\n")
    (raw / "labels.txt").write_text("1 1 1 1501 3020\n2 7 1 1501 3020\n")
    for name, signal in signals.items():
        rounded = signal.astype(np.float16)
        np.savetxt(raw / f"acc_{name}.txt", rounded[:, :3], fmt="%.8f")
        np.savetxt(raw / f"gyro_{name}.txt", rounded[:, 3:], fmt="%.8f")


@pytest.fixture(scope="module")
def signals():
    return {NAMES[0]: make_signal(85, seed=0), NAMES[1]: make_signal(64, seed=1)}


@pytest.fixture(scope="module")
def built(tmp_path_factory, signals):
    folder = tmp_path_factory.mktemp("sbhar")
    write_npz_form(folder / "source", signals)
    build(folder / "source", folder / "root", GRIDS)
    return folder / "root"


def test_segments_are_clipped_to_windows_and_slivers_are_dropped():
    segments = [[0.0, 30.0], [40.0, 60.4], [60.4, 60.7], [70.0, 121.0]]
    recording = Recording("r", "test", np.zeros((125 * FPS, 6)), [{"label": "A", "segment": s} for s in segments])
    windows = cut(recording)
    assert list(windows) == ["r_w00", "r_w01"]  # the last 5 s are too short
    assert [a["segment"] for a in windows["r_w00"]["annotations"]] == [[0.0, 30.0], [40.0, 60.0]]
    # the 0.4 s that the border leaves is dropped, the 0.3 s that was annotated is kept
    assert [a["segment"] for a in windows["r_w01"]["annotations"]] == [[0.4, 0.7], [10.0, 60.0]]
    assert windows["r_w01"]["start"] == 60.0
    assert windows["r_w01"]["subset"] == "test"


@pytest.mark.parametrize("seconds", [0, 19.98])
def test_a_recording_too_short_for_a_window_gives_none(seconds):
    walking = [{"label": "A", "segment": [0.0, seconds]}]
    assert cut(Recording("r", "train", np.zeros((round(seconds * FPS), 6)), walking)) == {}


def test_a_window_without_a_segment_is_left_out():
    assert cut(Recording("r", "train", np.zeros((60 * FPS, 6)), [])) == {}


@pytest.mark.parametrize(("stride", "window"), [(25, 25), (10, 30)])
def test_every_snippet_centred_in_the_recording_is_described(stride, window):
    signal = make_signal(30)
    features = describe(signal, stride, window)
    assert len(features) == len(range(window // 2, len(signal), stride))
    assert np.isfinite(features).all()


def test_features_of_a_signal_at_rest_and_of_one_snippet_are_finite():
    assert np.isfinite(describe(np.zeros((40, 6)), 25, 25)).all()
    assert np.isfinite(describe(np.ones((26, 6)), 25, 25)).all()


def test_features_depend_on_the_centre_of_the_snippet_and_not_on_the_grid():
    signal = make_signal(30)
    # Both slices have their centres at the samples 37, 62, ...
    np.testing.assert_array_equal(describe(signal, 25, 25)[1:11], describe(signal, 5, 15)[6:56:5])


def test_features_separate_activities():
    spans = [slice(4, 36), slice(44, 76), slice(84, 116)]  # at rest, walking, lying; away from the changes
    known = describe(make_signal(60, 1), 25, 25)
    other = describe(make_signal(60, 2), 25, 25)
    centres = np.stack([known[span].mean(0) for span in spans]) / known.std(0)
    for index, span in enumerate(spans):
        distances = np.linalg.norm(other[span][:, None] / known.std(0) - centres, axis=2)
        assert (distances.argmin(1) == index).mean() > 0.9


def test_both_layouts_give_the_same_recordings(tmp_path, signals):
    write_npz_form(tmp_path / "npz", signals)
    write_public_form(tmp_path / "public", signals)
    ours, public = read_recordings(tmp_path / "npz"), read_recordings(tmp_path / "public")
    assert [(r.name, r.subset, r.annotations) for r in ours] == [(r.name, r.subset, r.annotations) for r in public]
    assert [r.subset for r in ours] == ["train", "test"]
    for one, other in zip(ours, public, strict=True):
        np.testing.assert_allclose(one.signal, other.signal, atol=1e-7)


def test_built_files_agree_with_the_annotations(built):
    database = read_json(built / "gt.json")["database"]
    assert list(database) == ["exp01_user01_w00", "exp02_user07_w00"]  # the rest of a recording is too short or empty
    for video, entry in database.items():
        generator = np.load(built / f"features/generator/{video}.npy")
        student = np.load(built / f"features/student/{entry['subset']}/{video}.npy")
        assert generator.dtype == student.dtype == np.float16
        assert len(generator) == 120
        assert len(student) == 299  # the snippet after the last would be centred beyond 60 s
        assert generator.shape[1] == student.shape[1]


def test_features_are_standardised_with_the_training_recordings_only(built, tmp_path, signals):
    train = np.load(built / "features/generator/exp01_user01_w00.npy")
    assert np.abs(train).max() <= 5
    other = {NAMES[0]: signals[NAMES[0]], NAMES[1]: 3 * signals[NAMES[1]] + 1}
    write_npz_form(tmp_path / "source", other)
    build(tmp_path / "source", tmp_path / "root", GRIDS)
    np.testing.assert_array_equal(np.load(tmp_path / "root/features/generator/exp01_user01_w00.npy"), train)


def test_features_are_computed_before_cutting(tmp_path, signals):
    longer = {name: np.concatenate([signal, make_signal(60, 5)]) for name, signal in signals.items()}
    write_npz_form(tmp_path / "source", longer)
    recording = read_recordings(tmp_path / "source")[0]
    recording.annotations.append({"label": "SITTING", "segment": [70.0, 100.0]})
    entry = {"subset": recording.subset, "annotations": recording.annotations}
    write_json({"database": {recording.name: entry}}, tmp_path / "source" / "gt.json")
    build(tmp_path / "source", tmp_path / "root", GRIDS)
    whole = describe(recording.signal, 25, 25)
    expected = ((whole - whole.mean(0)) / (whole.std(0) + 1e-6)).clip(-5, 5)[120:240]
    second = np.load(tmp_path / "root/features/generator/exp01_user01_w01.npy")
    np.testing.assert_allclose(second, expected, atol=0.01)


def test_a_folder_without_recordings_is_named(tmp_path):
    with pytest.raises(InputError, match=r"neither sbhar_float16\.npz nor a folder RawData"):
        read_recordings(tmp_path)


def test_missing_recordings_and_files_are_named(tmp_path, signals):
    write_npz_form(tmp_path / "npz", signals)
    np.savez(tmp_path / "npz" / "sbhar_float16.npz", exp01_user01=np.zeros((10, 6), np.float16))
    with pytest.raises(InputError, match=r"sbhar_float16\.npz.*exp02_user07"):
        read_recordings(tmp_path / "npz")
    write_public_form(tmp_path / "public", signals)
    (tmp_path / "public/HAPT/RawData/gyro_exp02_user07.txt").unlink()
    with pytest.raises(InputError, match=r"gyro_exp02_user07\.txt: no such file"):
        read_recordings(tmp_path / "public")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut off"])
def test_a_broken_archive_is_named(tmp_path, signals, content):
    write_npz_form(tmp_path / "npz", signals)
    (tmp_path / "npz" / "sbhar_float16.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"sbhar_float16\.npz"):
        read_recordings(tmp_path / "npz")


def test_sensors_of_different_length_are_refused(tmp_path, signals):
    write_public_form(tmp_path, signals)
    np.savetxt(tmp_path / "HAPT/RawData/acc_exp01_user01.txt", np.zeros((7, 3)))
    with pytest.raises(InputError, match=r"acc_exp01_user01\.txt has 7 samples"):
        read_recordings(tmp_path)


def test_the_real_recordings_keep_their_subject_split(shared):
    recordings = read_recordings(shared / "sbhar")
    windows = {}
    users = {"train": set(), "test": set()}
    for recording in recordings:
        windows |= cut(recording)
        users[recording.subset].add(recording.name[-2:])
    assert len(recordings) == 61
    assert not users["train"] & users["test"]
    assert 300 < len(windows) < 400
    labels = []
    for window in windows.values():
        labels.append(len({annotation["label"] for annotation in window["annotations"]}))
    assert 2.5 < np.mean(labels) < 3.5
