"""Features of videos: each on its own times, each frame prepared once, resumed file by file, and never mixed."""

import json
import re
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fustal.data.cards import load_dataset
from fustal.data.extraction import Extraction, find_videos
from fustal.data.features import FeatureStore
from fustal.exceptions import InputError
from fustal.video import extract as extract_module
from fustal.video.backbones import Backbone
from fustal.video.extract import Extractor, check_folder, check_same, extract, make_extractor
from fustal.video.rendered import write_video

pytest.importorskip("av", reason="pip install '.[video]'")


def gray(levels):
    return [np.full((48, 64, 3), level, np.uint8) for level in levels]


class Grays(nn.Module):
    """The gray of each frame of a window."""

    def forward(self, clips):
        return clips.mean(dim=(1, 3, 4))


def grays(stride=4, window=8, batch=3, transform=None, fps=25):
    made = Extraction(backbone="grays", weights=None, weights_file=None, fps=fps, stride=stride, window=window)
    transform = transform or (lambda frame: frame.float())
    return Extractor(Backbone(transform, Grays()), made, torch.device("cpu"), batch)


def frames(count):
    return [np.full((2, 2, 3), i, np.uint8) for i in range(count)]


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("count", [8, 9, 15, 16, 41])
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_snippet_i_sees_the_frames_from_i_times_the_stride_on(count, stride, batch):
    found = grays(stride, batch=batch).features(frames(count), {stride, 8})
    for step in {stride, 8}:
        starts = range(0, count - 8 + 1, step)
        expected = [list(range(start, start + 8)) for start in starts]
        assert found[step].dtype == np.float16
        np.testing.assert_array_equal(found[step], expected)


def test_a_video_shorter_than_a_window_has_one_snippet_with_its_last_frame_repeated():
    found = grays().features(frames(3), {4, 8})
    for step in (4, 8):
        np.testing.assert_array_equal(found[step], [[0, 1, 2, 2, 2, 2, 2, 2]])


def test_each_picture_is_prepared_once_and_memory_does_not_grow_with_the_video():
    """Counts the prepared frames that exist at a time: those of a window, and none of the past."""
    pictures, tensors, most = set(), set(), {"pictures": 0, "tensors": 0}
    prepared = 0

    def watch(value, living, name):
        living.add(id(value))
        weakref.finalize(value, living.discard, id(value))
        most[name] = max(most[name], len(living))
        return value

    def many():
        for i in range(300):
            picture = watch(np.full((2, 2, 3), i % 250, np.uint8), pictures, "pictures")
            yield picture
            yield picture  # shown twice

    def transform(frame):
        nonlocal prepared
        prepared += 1
        return watch(frame.float(), tensors, "tensors")

    found = grays(stride=1, batch=4, transform=transform).features(many(), {1, 8})
    assert prepared == 300
    assert len(found[1]) == 600 - 8 + 1
    assert most["pictures"] <= 3
    assert most["tensors"] <= 8 // 2 + 2


def test_features_that_are_not_finite_in_float16_are_refused():
    with pytest.raises(InputError, match="backbone grays: its features are not finite numbers in float16"):
        grays(transform=lambda frame: frame.float() * 1e6).features(frames(9)[1:], {8})


class Failing(nn.Module):
    """Returns what a function makes of the features, from the second batch on."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.calls = 0

    def forward(self, clips):
        self.calls += 1
        features = clips.mean(dim=(1, 3, 4))
        return self.change(features) if self.calls > 1 else features


def fail(features):
    raise RuntimeError("not\nenough")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fail, "RuntimeError: not enough"),
        (lambda features: features * float("nan"), "its features are not finite numbers in float16"),
        (lambda features: features[:1], r"returns features of shape \(1, 8\), not \(3, 8\)"),
        (lambda features: features[:, :5], r"returns features of shape \(3, 5\), not \(3, 8\)"),
        (lambda features: features[..., None], r"returns features of shape \(3, 8, 1\), not \(3, 8\)"),
        (lambda features: (features,), "AttributeError: 'tuple' object"),
    ],
)
def test_an_error_of_a_backbone_names_the_video(tmp_path, change, message):
    write_video(tmp_path / "v.mp4", gray(range(20, 120)), 25)
    extractor = replace(grays(), backbone=Backbone(lambda frame: frame.float(), Failing(change)), dim=8)
    lines, wrong = extract([str(tmp_path / "v.mp4")], tmp_path / "data", extractor)
    assert lines[0].startswith("0 of 1 videos extracted, 0 were there")
    assert len(wrong) == 1
    assert re.match(re.escape(f"{tmp_path}/v.mp4: backbone grays: ") + message, wrong[0])
    assert not (tmp_path / "data").exists()


def test_a_transform_that_does_not_take_a_size_names_the_video(tmp_path):
    def transform(frame):
        raise ValueError(f"no {tuple(frame.shape)}")

    write_video(tmp_path / "v.mp4", gray(range(20, 60)), 25)
    with pytest.raises(InputError, match=r"v\.mp4: backbone grays: ValueError: no \(3, 48, 64\)"):
        grays(transform=transform).extract(tmp_path / "v.mp4", {4})


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    """Three videos in three containers."""
    folder = tmp_path / "clips"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i, (ending, codec) in enumerate([("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")]):
        pictures = random.integers(0, 256, (50 + 10 * i, 48, 64, 3), np.uint8)
        write_video(folder / f"v{i}.{ending}", pictures, 25, codec)
    return folder


SMALL = ("--backbone", "motion", "--window", 8, "--stride", 4, "--device", "cpu")


def test_from_videos_to_a_card(fustal, clips, tmp_path):
    out = tmp_path / "data"
    status, printed, errors = fustal("extract", clips, "--out", out, *SMALL)
    assert (status, errors) == (0, "")
    assert printed.splitlines()[0] == f"3 of 3 videos extracted, 0 were there: {out}"
    assert f"next: write {out}/labels.csv with the columns video (no ending) and label" in printed
    (out / "labels.csv").write_text("video,label,start,end\nv0,a,0.1,0.9\nv1,b,0.2,1\nv2,a,1,2\n")
    status, printed, errors = fustal("init", out)
    assert (status, errors) == (0, "")
    dataset = load_dataset(out / "card.yaml")
    assert [(grid.fps, grid.stride, grid.window) for grid in dataset.grids.values()] == [(25, 8, 8), (25, 4, 8)]
    for stage, stride in (("generator", 8), ("student", 4)):
        store = FeatureStore(dataset, stage)
        for i in range(3):
            assert store.length(f"v{i}") == (50 + 10 * i - 8) // stride + 1
    record = json.loads((out / "extraction.json").read_text())
    assert record["backbone"] == "motion"
    assert record["versions"]["torch"] == torch.__version__
    assert fustal("validate", out)[0] == 0


def test_with_the_window_as_stride_one_set_of_features_serves_both(fustal, clips, tmp_path):
    out = tmp_path / "data"
    assert fustal("extract", clips, "--out", out, *SMALL[:4], "--stride", 8)[0] == 0
    assert not (out / "features" / "student").exists()
    (out / "labels.csv").write_text("video,label\nv0,a\nv1,b\nv2,a\n")
    assert fustal("init", out)[0] == 0
    assert load_dataset(out / "card.yaml").grids["student"].stride == 8


def test_init_on_a_folder_of_videos_tells_to_extract_first(fustal, clips):
    (clips / "labels.csv").write_text("video,label\nv0,a\n")
    status, _, errors = fustal("init", clips)
    assert status == 2
    assert errors == (
        f"error: {clips}: holds videos such as v0.mp4, and no features: make them first: "
        f"fustal extract {clips} --out {clips}\n"
    )


def test_init_refuses_features_beside_those_of_the_record(fustal, clips, tmp_path):
    out = tmp_path / "data"
    fustal("extract", clips, "--out", out, *SMALL)
    (out / "labels.csv").write_text("video,label\nv0,a\nv1,b\nv2,a\n")
    for i in range(3):
        (out / "features" / "student" / f"v{i}.npy").rename(out / f"v{i}.npy")
    status, _, errors = fustal("init", out)
    assert status == 2
    assert "extraction.json tells of features/generator/{video}.npy, features/student/{video}.npy" in errors


def test_a_second_call_makes_only_what_is_missing(fustal, clips, tmp_path):
    out = tmp_path / "data"
    fustal("extract", clips, "--out", out, *SMALL)
    files = sorted(out.rglob("*.npy"))
    assert len(files) == 6
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    lost = out / "features" / "student" / "v1.npy"
    lost.unlink()
    status, printed, _ = fustal("extract", clips, "--out", out, *SMALL)
    assert (status, printed) == (
        0,
        f"1 of 3 videos extracted, 2 were there: {out}\nnext: {printed.partition('next: ')[2]}",
    )
    for file, (content, time) in before.items():
        assert file.read_bytes() == content, "a second extraction gives the same bits"
        assert (file.stat().st_mtime_ns == time) == (file.stem != "v1")


def test_another_file_with_the_name_of_an_extracted_video_is_refused(fustal, clips, tmp_path):
    out = tmp_path / "data"
    fustal("extract", clips / "v0.mp4", "--out", out, *SMALL)
    features = out / "features" / "generator" / "v0.npy"
    before = features.read_bytes()
    other = tmp_path / "other" / "v0.mp4"
    other.parent.mkdir()
    write_video(other, gray(range(20, 120)), 25)
    sizes = [(path / "v0.mp4").stat().st_size for path in (clips, other.parent)]
    status, printed, errors = fustal("extract", other, "--out", out, *SMALL)
    assert status == 2
    assert printed.splitlines()[0] == f"0 of 1 videos extracted, 0 were there: {out}"
    what = f"has {sizes[1]} bytes, and its features were made of a file of {sizes[0]}"
    assert errors == f"error: {other}: {what}: remove {features} to make them again, or give another --out\n"
    assert features.read_bytes() == before
    features.unlink()
    assert fustal("extract", other, "--out", out, *SMALL)[0] == 0
    assert fustal("extract", other, "--out", out, *SMALL)[0] == 0, "now they are its own"


def test_two_processes_with_different_settings_do_not_mix_their_features(clips, tmp_path):
    """The other one begins after this one has found the folder empty."""
    out = tmp_path / "data"

    def transform(frame):
        if not out.exists():
            extract([str(clips / "v1.mkv")], out, make_extractor("motion", None, 25, 2, 8, "cpu"))
        return frame.float()

    with pytest.raises(
        InputError, match="the features were made with --backbone motion, not grays: give another --out"
    ):
        extract([str(clips)], out, grays(transform=transform))
    assert sorted(file.stem for file in out.rglob("*.npy")) == ["v1", "v1"]


def test_a_full_disk_names_the_file_that_could_not_be_written(fustal, clips, tmp_path, monkeypatch):
    def full(path, features):
        raise OSError("5312 requested and 1936 written")

    monkeypatch.setattr(extract_module.np, "save", full)
    status, _, errors = fustal("extract", clips, "--out", tmp_path / "data", *SMALL)
    assert status == 2
    file = tmp_path / "data" / "features" / "generator" / "v0.npy"
    assert errors == f"error: {file}: cannot be written: 5312 requested and 1936 written\n"
    assert not list((tmp_path / "data").rglob("*.npy"))


@pytest.mark.parametrize("name", ["", "features", "features/student"])
def test_a_file_in_the_place_of_a_folder_is_named_before_the_work(clips, tmp_path, name):
    place = tmp_path / "data" / name if name else tmp_path / "data"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(InputError, match=f"{re.escape(str(place))}: is a file: give another --out"):
        check_folder(tmp_path / "data", grays().made)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (("--stride", 2), "--stride 4, not 2"),
        (("--window", 16), "--window 8, not 16"),
        (("--fps", 12.5), "--fps 25, not 12.5"),
        (("--backbone", "othernets:other"), "--backbone motion, not othernets:other"),
    ],
)
def test_a_changed_setting_is_refused(fustal, clips, tmp_path, monkeypatch, options, change):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = "from fustal.video.motion import Motion, small_frame\n\ndef other():\n    return small_frame, Motion()\n"
    (tmp_path / "othernets.py").write_text(text)
    out = tmp_path / "data"
    fustal("extract", clips / "v0.mp4", "--out", out, *SMALL)
    status, _, errors = fustal("extract", clips, "--out", out, *SMALL, *options)
    assert status == 2
    assert errors == f"error: {out}/extraction.json: the features were made with {change}: give another --out\n"
    assert not list(out.rglob("v1.npy"))


def test_other_weights_are_refused():
    made = grays().made
    other = made.model_copy(update={"weights": "ab" * 32, "weights_file": "x.pth"})
    with pytest.raises(
        InputError, match=r"run 'a': the features were made with --weights none, not abababababab: give"
    ):
        check_same(made, other, "run 'a'", "give the file of the former ones")
    check_same(other, other.model_copy(update={"weights_file": "moved.pth"}), "run 'a'", "")


def test_features_of_another_program_are_never_replaced(fustal, clips, tmp_path):
    file = tmp_path / "data" / "features" / "student" / "v0.npy"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"theirs")
    status, _, errors = fustal("extract", clips, "--out", tmp_path / "data", *SMALL)
    assert status == 2
    assert errors.startswith(f"error: {file}: was not made by fustal extract")
    assert file.read_bytes() == b"theirs"


def test_a_broken_video_is_named_and_the_others_are_extracted(fustal, clips, tmp_path):
    out = tmp_path / "data"
    content = (clips / "v1.mkv").read_bytes()
    (clips / "v1.mkv").write_bytes(content[: len(content) // 2])
    status, printed, errors = fustal("extract", clips, "--out", out, *SMALL)
    assert status == 2
    assert f"2 of 3 videos extracted, 0 were there: {out}" in printed
    lines = errors.splitlines()
    assert lines[-1].startswith(f"error: {clips}/v1.mkv: is cut off or damaged")
    assert sorted(file.stem for file in out.rglob("*.npy")) == ["v0", "v0", "v2", "v2"]
    assert [file for file in out.rglob("*") if ".fustal-" in file.name] == []


def test_nothing_is_left_half_written_by_an_interruption(clips, tmp_path, monkeypatch):
    """The second file of a video is never written: the next call makes both again."""
    extractor = make_extractor("motion", None, 25, 4, 8, "cpu")
    out = tmp_path / "data"
    written = []

    def interrupted(path, features):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        original(path, features)

    original = np.save
    monkeypatch.setattr(extract_module.np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract([str(clips)], out, extractor)
    monkeypatch.setattr(extract_module.np, "save", original)
    assert [file.name for file in out.rglob("*.npy")] == ["v0.npy"]
    lines, wrong = extract([str(clips)], out, extractor)
    assert (lines[0], wrong) == (f"3 of 3 videos extracted, 0 were there: {out}", [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("clips/v0.mp4", "other/v0.mp4"), "other/v0.mp4: video 'v0' is given twice, also as clips/v0.mp4"),
        (("clips/v9.mp4",), "clips/v9.mp4: no such file"),
        (("other",), "other: holds no video"),
    ],
)
def test_videos_that_cannot_be_told_apart_or_are_missing(clips, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    if "other" not in given:
        (tmp_path / "other" / "v0.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        find_videos(given)


def test_the_same_file_twice_is_one_video(clips):
    found = find_videos([str(clips), str(clips / "v0.mp4")])
    assert sorted(found) == ["v0", "v1", "v2"]


def test_a_stride_longer_than_the_window_is_refused(fustal, clips, tmp_path):
    status, _, errors = fustal("extract", clips, "--out", tmp_path / "data", "--backbone", "motion", "--stride", 17)
    assert status == 2
    assert errors == "error: --stride 17: is longer than the window, 16 frames: frames between would be lost\n"
    assert not (tmp_path / "data").exists()


def test_without_the_extra_one_line_names_it(fustal, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, errors = fustal("extract", clips, "--out", tmp_path / "data", *SMALL)
    assert status == 2
    assert errors.startswith("error: videos need PyAV and torchvision: pip install 'fustal[video]'")
    assert len(errors.splitlines()) == 1
