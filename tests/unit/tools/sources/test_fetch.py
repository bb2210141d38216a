"""Fetching data sets: what is made, linked, downloaded and unpacked, and that no file of the user is lost."""

import io
import json
import multiprocessing
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import yaml

from fustal import ROOT
from fustal.data import demo as demo_module
from fustal.data.cards import load_dataset
from fustal.data.features import FeatureStore
from fustal.data.writing import LOCK, MADE, UNFINISHED
from fustal.exceptions import InputError
from fustal.tools.own_data.validation import problems_of, summary
from fustal.tools.sources import fetch
from fustal.tools.sources.archives import unpack

DATASETS = str(ROOT / "params" / "datasets")
THUMOS = {
    "video_validation_0000051": ("train", 20.0, [("Diving", ["2.0", "6.5"]), ("Diving", ["18.0", "23.0"])]),
    "video_test_0000004": ("test", 15.0, [("Diving", ["1.0", "4.0"]), ("Diving", ["15.5", "16.0"])]),
}


@pytest.fixture
def card(tmp_path):
    """Makes copies of the cards of the project whose data lie in a temporary folder."""

    def copy(card_name, **changes):
        with open(f"{DATASETS}/{card_name}.yaml") as file:
            values = yaml.safe_load(file) | {"root": f"../data/{card_name}"} | changes
        path = tmp_path / "cards" / f"{card_name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values))
        return path

    return copy


@pytest.fixture
def thumos(tmp_path):
    """A folder with the annotation files of THUMOS'14, two videos of them."""
    folder = tmp_path / "downloads"
    (folder / "annotations").mkdir(parents=True)
    gt, timing = {}, {}
    for video, (subset, duration, segments) in THUMOS.items():
        gt[video] = {"subset": subset, "annotations": [{"label": a, "segment": s} for a, s in segments]}
        timing[video] = {"subset": subset.title(), "duration": duration, "fps": 30.0, "annotations": []}
        (folder / f"split_{subset}.txt").write_text(video + "\n")
    (folder / "gt.json").write_text(json.dumps({"database": gt}))
    (folder / "annotations" / "thumos14.json").write_text(json.dumps({"database": timing}))
    return folder


@pytest.fixture
def thumos_features(thumos):
    """The folder above with features as CoLA and ActionFormer lay them out."""
    for video, (subset, duration, _) in THUMOS.items():
        for modality in ("rgb", "flow"):
            folder = thumos / "THUMOS14" / "features" / subset / modality
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{video}.npy", np.ones((int(duration * 25 / 16), 3), np.float32))
        folder = thumos / "thumos" / "i3d_features"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{video}.npy", np.ones((int(duration * 30 / 4) - 4, 6), np.float32))
    return thumos


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a test tries to download {arguments}")

    monkeypatch.setattr(fetch, "_download", refuse)


@pytest.fixture
def demo(card, monkeypatch):
    """A copy of the card of the demo that replaces the one of the repository."""
    monkeypatch.setattr(demo_module, "DEMO", card("demo"))
    return demo_module.DEMO


def entries(folder):
    """Names in a folder, without locks."""
    return [entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")]


def test_the_demo_is_made_once_and_loads(demo):
    path = demo
    demo_module.ensure(path)
    dataset = load_dataset(path)
    assert len(dataset.split("train")) == 80
    assert len(dataset.split("test")) == 60
    assert FeatureStore(dataset, "generator").dim == FeatureStore(dataset, "student").dim == 64
    made = dataset.annotations.stat().st_mtime_ns
    demo_module.ensure(path)
    assert dataset.annotations.stat().st_mtime_ns == made
    assert entries(dataset.root.parent) == ["demo"]  # nothing temporary is left


def ensure_in_a_process(path):
    demo_module.DEMO = path
    demo_module.ensure(path)
    return (path.parents[1] / "data" / "demo" / "gt.json").stat().st_ino


def test_several_processes_may_make_the_demo_at_once(card):
    path = card("demo")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(ensure_in_a_process, [path, path])
    assert one == other, "the second process uses the files of the first"
    assert len(load_dataset(path).videos) == 140
    assert entries(path.parents[1] / "data") == ["demo"]


def test_a_copy_of_the_card_of_the_demo_makes_no_data(card):
    path = card("demo")
    with pytest.raises(InputError, match=r"gt\.json: no such file: run `fustal fetch .*demo\.yaml` first"):
        demo_module.ensure(path)
    assert not (path.parents[1] / "data").exists()


def test_other_data_sets_are_not_made_but_the_command_is_named(card):
    with pytest.raises(InputError, match=r"run `fustal fetch .*sbhar\.yaml` first"):
        demo_module.ensure(card("sbhar"))


def test_a_folder_that_is_not_the_demo_is_not_changed(demo):
    path = demo
    (path.parents[1] / "data" / "demo").mkdir(parents=True)
    with pytest.raises(InputError, match=r"demo/gt\.json: no such file"):
        demo_module.ensure(path)


def test_fetching_again_replaces_fetched_files(card):
    path = card("demo")
    root = fetch.fetch(path)
    made = (root / "gt.json").stat().st_ino
    assert fetch.fetch(path) == root
    assert (root / "gt.json").stat().st_ino != made
    assert len(load_dataset(path).videos) == 140


def contents(folder):
    """Every path below a folder without locks, with the content of files and the target of links."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.suffix != ".lock":
            found[path] = path.read_bytes() if path.is_file() else None
    return found


@pytest.mark.parametrize("name", ["thumos14", "thumos14-simulated", "sbhar", "shrec22", "activitynet13"])
@pytest.mark.parametrize("where", ["downloads", "downloads/data", ".", "link", "linked from"])
def test_fetching_from_a_folder_deletes_none_of_its_files(card, thumos_features, name, where, tmp_path):
    source = tmp_path / "downloads"
    (tmp_path / "link").symlink_to(source)
    if where == "linked from":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "features").symlink_to(source)
        path, source = card(name, root=str(tmp_path / "downloads")), tmp_path / "elsewhere"
    else:
        path = card(name, root=f"../{where}")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"shares .* where the card has the data set"):
        fetch.fetch(path, source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("pattern", ["/mine/{modality}/{video}.npy", "../mine/{modality}/{video}.npy"])
def test_fetch_writes_in_the_folder_of_the_data_set_alone(card, pattern, tmp_path):
    grid = {"pattern": pattern, "modalities": ["rgb", "flow"], "fps": 25, "stride": 16, "window": 16}
    path = card("demo", grids={"generator": grid})
    before = contents(tmp_path)
    with pytest.raises(InputError, match="leads out of the folder of the data set"):
        fetch.fetch(path)
    assert contents(tmp_path) == before


def test_a_card_in_the_folder_that_it_names_is_not_deleted(card, tmp_path):
    path = card("demo", root=".")
    (path.parent / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"cards: holds 'demo\.yaml', which fustal did not make"):
        fetch.fetch(path)
    assert contents(tmp_path) == before


def test_changes_of_the_user_in_a_fetched_folder_are_not_lost(card, tmp_path):
    path = card("demo")
    root = fetch.fetch(path)
    (root / "gt.json").write_text((root / "gt.json").read_text() + " ")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"'gt\.json' has changed since fustal made it, and would be lost"):
        fetch.fetch(path)
    assert contents(tmp_path) == before


def test_a_data_set_whose_replacement_was_killed_is_found(card, capsys):
    path = card("demo")
    root = fetch.fetch(path)
    left = root.with_name(f".demo{UNFINISHED}x")
    left.mkdir()
    (left / LOCK).touch()
    root.rename(left / "replaced")
    demo_module.ensure(path)
    assert len(load_dataset(path).videos) == 140
    assert not left.exists()
    assert "a killed process" in capsys.readouterr().err


def test_a_failure_leaves_the_old_data_and_nothing_else(card, monkeypatch, tmp_path):
    path = card("demo")
    root = fetch.fetch(path)

    def fail(source, folder, grids):
        folder.mkdir()
        raise InputError("broken in the middle")

    monkeypatch.setitem(fetch.SOURCES, "demo", fail)
    with pytest.raises(InputError, match="in the middle"):
        fetch.fetch(path)
    assert (root / "gt.json").exists()
    assert entries(root.parent) == ["demo"]


def test_wrong_calls_are_errors(card, tmp_path):
    with pytest.raises(InputError, match="nothing to fetch for 'mine'"):
        fetch.fetch(card("demo", name="mine"))
    with pytest.raises(InputError, match="absent: no such folder"):
        fetch.fetch(card("sbhar"), tmp_path / "absent")
    with pytest.raises(InputError, match="takes no folder"):
        fetch.fetch(card("demo"), tmp_path / "cards")
    with pytest.raises(InputError, match="no such data-set card"):
        fetch.fetch("thumos15")


def test_without_a_folder_the_public_source_is_used(card):
    for name in ("sbhar", "thumos14-simulated", "thumos14"):
        with pytest.raises(AssertionError, match="tries to download"):
            fetch.fetch(card(name))


def test_simulated_thumos_has_clipped_segments_and_all_facts(card, thumos):
    path = card("thumos14-simulated")
    fetch.fetch(path, thumos)
    dataset = load_dataset(path)
    assert dataset.split("train") == ["video_validation_0000051"]
    assert dataset.videos.duration.tolist() == [20.0, 15.0]
    assert dataset.videos.fps.tolist() == [30.0, 30.0]
    kept = dataset.segments[["start", "end"]].to_numpy().tolist()
    assert kept == [[2.0, 6.5], [18.0, 20.0], [1.0, 4.0]]  # the one beyond the end of the video is gone
    store = FeatureStore(dataset, "generator")
    assert store["video_test_0000004"].shape == ((15 * 25 - 16) // 16 + 1, 128)


def test_real_thumos_features_are_linked_and_load(card, thumos_features):
    path = card("thumos14")
    fetch.fetch(path, thumos_features)
    dataset = load_dataset(path)
    assert len(dataset.segments) == 4  # the evaluation's segments stay as they are
    for stage, dim in (("generator", 6), ("student", 6)):
        store = FeatureStore(dataset, stage)
        assert {store[video].shape[1] for video in dataset.videos.index} == {dim}
    assert FeatureStore(dataset, "student").grid_of("video_test_0000004").fps == 30.0
    assert (dataset.root / "features").is_symlink()
    fetch.fetch(path, thumos_features)  # replacing links keeps their targets
    assert (thumos_features / "THUMOS14/features/train/rgb/video_validation_0000051.npy").exists()


def test_downloaded_features_are_moved_into_the_data_set(card, thumos_features, monkeypatch):
    def unpack(folder):
        return shutil.copytree(thumos_features, folder)

    monkeypatch.setattr(fetch, "_download_thumos_features", unpack)
    path = card("thumos14")
    root = fetch.fetch(path)
    assert len(FeatureStore(load_dataset(path), "student")["video_test_0000004"]) > 0
    assert not (root / "unpacked").exists()
    assert not (root / "features").is_symlink()


@pytest.mark.parametrize("missing", ["gt.json", "annotations/thumos14.json", "split_test.txt"])
def test_a_missing_file_is_named(card, thumos, missing):
    (thumos / missing).unlink()
    with pytest.raises(InputError, match=f"holds no {missing.split('/')[-1]}"):
        fetch.fetch(card("thumos14-simulated"), thumos)


def test_a_folder_without_features_is_an_error(card, thumos):
    with pytest.raises(InputError, match="holds no features/train/rgb"):
        fetch.fetch(card("thumos14"), thumos)


def test_a_video_without_timing_is_named(card, thumos):
    (thumos / "annotations/thumos14.json").write_text(
        '{"database": {"other": {"subset": "Test", "duration": 1, "fps": 30}}}'
    )
    with pytest.raises(InputError, match=r"thumos14\.json: has no video 'video_"):
        fetch.fetch(card("thumos14-simulated"), thumos)


def test_archives_in_archives_are_unpacked(tmp_path):
    (tmp_path / "in" / "RawData").mkdir(parents=True)
    (tmp_path / "in" / "RawData" / "labels.txt").write_text("1 1 1 1 2")
    shutil.make_archive(tmp_path / "outer" / "inner", "zip", tmp_path / "in")
    archive = shutil.make_archive(tmp_path / "public", "zip", tmp_path / "outer")
    folder = unpack(tmp_path / archive, tmp_path / "unpacked")
    assert next(folder.rglob("labels.txt")).read_text() == "1 1 1 1 2"


def test_a_web_page_in_place_of_an_archive_is_an_error(tmp_path):
    (tmp_path / "public.zip").write_text("<html>Quota exceeded</html>")
    with pytest.raises(InputError, match=r"public\.zip: cannot be unpacked, remove it and try again: "):
        unpack(tmp_path / "public.zip", tmp_path / "unpacked")


def _packed(path, form):
    """An archive with a file of random numbers."""
    with tarfile.open(path, f"w:{form}") as archive:
        content = np.random.default_rng(0).bytes(200_000)
        entry = tarfile.TarInfo("data.bin")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_archive_is_refused(tmp_path, form, damage):
    path = tmp_path / "archive"
    content = _packed(path, form)
    unpack(path, tmp_path / "whole")
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-50])
    with pytest.raises(InputError, match=r"archive: cannot be unpacked, remove it and try again: ") as error:
        unpack(path, tmp_path / "damaged")
    assert "\n" not in str(error.value)


def test_a_tar_archive_cut_between_its_files_is_refused(tmp_path):
    content = _packed(tmp_path / "archive", "")
    (tmp_path / "archive").write_bytes(content[: 512 + 200_192])
    with pytest.raises(InputError, match="it is cut off"):
        unpack(tmp_path / "archive", tmp_path / "unpacked")


@pytest.mark.parametrize("change", ["encrypted", "long name", "flipped"])
def test_a_zip_that_cannot_be_unpacked_is_an_error_of_one_line(tmp_path, change):
    path = tmp_path / "public.zip"
    name = "n" * 300 if change == "long name" else "name.txt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "content")
    content = bytearray(path.read_bytes())
    if change == "encrypted":
        content[6] |= 1  # the flag of the file, and of its entry in the directory
        content[content.index(b"PK\x01\x02") + 8] |= 1
    if change == "flipped":
        content[content.index(b"content")] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"public\.zip: cannot be unpacked, remove it and try again: ") as error:
        unpack(path, tmp_path / "unpacked")
    assert "\n" not in str(error.value)


def test_nothing_of_an_archive_lands_outside_its_folder(tmp_path):
    with tarfile.open(tmp_path / "public.tar.gz", "w:gz") as archive:
        archive.add(__file__, arcname="../escaped.py")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "public.tar.gz", tmp_path / "unpacked")
    assert not (tmp_path / "escaped.py").exists()


def test_archives_are_recognised_by_their_content(tmp_path):
    shutil.make_archive(tmp_path / "public", "gztar", DATASETS)
    (tmp_path / "public.tar.gz").rename(tmp_path / "nameless")
    assert (unpack(tmp_path / "nameless", tmp_path / "unpacked") / "demo.yaml").exists()


def test_the_real_annotations_merge(shared):
    videos, segments = fetch.merge_thumos(shared / "thumos14")
    assert len(videos) == 410
    assert len(segments) == 6318
    assert videos[["duration", "fps"]].notna().all(axis=None)


# --- ActivityNet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "training_set/"], ids=["files", "a folder of files"])
def test_shrec22_is_read_from_the_archives_of_its_page(card, tmp_path, inner):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    rng = np.random.default_rng(0)
    frames = []
    for frame in range(60):
        frames.append(";".join([str(frame), "0.0", *rng.random(78).astype(str)]))
    with zipfile.ZipFile(downloads / "training_set.zip", "w") as archive:
        archive.writestr(f"{inner}1.txt", "\n".join(frames))
        archive.writestr(f"{inner}annotations.txt", "1;ONE;10;29;WAVE;40;59;\n")
        archive.writestr("__MACOSX/training_set/._1.txt", "of another program")
    with zipfile.ZipFile(downloads / "test_set.zip", "w") as archive:
        archive.writestr("test_set/7.txt", "\n".join(frames))
    (downloads / "test_annotations_fixed.txt").write_text("7;ONE;0;19;\n")
    path = card("shrec22")
    root = fetch.fetch(path, downloads)
    dataset, problems = problems_of(path)
    assert problems == []
    assert summary(dataset) == "1 training and 1 test videos, 2 classes, 3 segments"
    assert dataset.segments[["start", "end"]].to_numpy().tolist() == [[0.0, 1.0], [0.5, 1.5], [2.0, 3.0]]
    assert len(FeatureStore(dataset, "generator")["shrec22_training_001"]) == 14
    assert sorted(entry.name for entry in root.iterdir()) == [MADE, "features", "gt.json", "joints"]
    assert sorted(entry.name for entry in downloads.iterdir()) == [
        "test_annotations_fixed.txt",
        "test_set.zip",
        "training_set.zip",
    ]


def test_without_a_folder_the_error_names_the_page_of_shrec22(card):
    path = card("shrec22")
    with pytest.raises(InputError, match=r"shrec22: give .* --from DIR.* https://univr-vips\.github\.io/Shrec22/$"):
        fetch.fetch(path)
    assert not (path.parents[1] / "data" / "shrec22").exists()


ACTIVITYNET = {  # video -> subset, duration, annotations
    "aaaaaaaaaaa": ("training", 40.0, [("Diving", [1.0, 30.0]), ("Diving", [0, 0])]),
    "bbbbbbbbbbb": ("training", 40.0, [("Diving", [0, 0])]),
    "-cccccccccc": ("training", 40.0, [("Surfing", [0.01, 40.5])]),  # ends after the video
    "ddddddddddd": ("validation", 40.0, [("Surfing", [5.0, 35.0])]),
    "eeeeeeeeeee": ("validation", 40.0, [("Diving", [5.0, 35.0])]),  # not on YouTube any more: no features
    "fffffffffff": ("testing", 40.0, []),
}


@pytest.fixture
def activitynet(tmp_path):
    """A folder with ActivityNet's annotations, and features in the folders in which they are published."""
    folder = tmp_path / "downloads"
    for video, (subset, duration, _) in ACTIVITYNET.items():
        for modality in ("rgb", "flow"):
            if not video.startswith("e"):
                path = folder / "features" / subset / modality / f"v_{video}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.ones((int(duration * 25 / 16), 4), np.float32))
    database = {}
    for video, (subset, duration, items) in ACTIVITYNET.items():
        annotations = [{"label": label, "segment": segment} for label, segment in items]
        database[video] = {"subset": subset, "duration": duration, "url": "", "annotations": annotations}
    (folder / "activity_net.v1-3.min.json").write_text(json.dumps({"database": database, "taxonomy": []}))
    return folder


def test_activitynet_is_linked_and_loads(card, activitynet, capsys):
    path = card("activitynet13")
    fetch.fetch(path, activitynet)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "activitynet13: 3 of 3 training videos can be used",
        "activitynet13: 1 of 2 validation videos can be used",
    ]
    dataset = load_dataset(path)
    assert dataset.split("train") == ["aaaaaaaaaaa", "bbbbbbbbbbb", "-cccccccccc"], "a label is enough to train on"
    assert dataset.split("test") == ["ddddddddddd"]
    assert dataset.segments[["start", "end"]].to_numpy().tolist() == [[1.0, 30.0], [0.01, 40.5], [5.0, 35.0]]
    for stage in ("generator", "student"):
        assert FeatureStore(dataset, stage)["-cccccccccc"].shape == (62, 8)
    assert (dataset.root / "features/rgb/v_ddddddddddd.npy").is_symlink()
    dataset, problems = problems_of(path)
    assert [problem for problem in problems if not problem.warning] == []
    assert summary(dataset) == "3 training and 1 test videos, 2 classes, 3 segments"


def test_features_of_both_modalities_in_one_file_need_a_card_of_their_own(card, activitynet):
    joint = activitynet / "joint"
    joint.mkdir()
    for origin in activitynet.rglob("rgb/*.npy"):
        np.save(joint / origin.name, np.ones((62, 8), np.float32))
    shutil.rmtree(activitynet / "features")
    with pytest.raises(InputError, match=r"holds no features of ActivityNet, such as rgb/v_<id>\.npy"):
        fetch.fetch(card("activitynet13"), activitynet)
    grid = {"pattern": "features/v_{video}.npy", "modalities": [], "fps": 25, "stride": 16, "window": 16}
    path = card("activitynet13", grids={"generator": grid})
    fetch.fetch(path, activitynet)
    assert FeatureStore(load_dataset(path), "student")["ddddddddddd"].shape == (62, 8)


def test_activitynets_annotations_are_downloaded_where_the_folder_has_none(card, activitynet, monkeypatch, tmp_path):
    requested = []
    shutil.move(activitynet / "activity_net.v1-3.min.json", tmp_path / "elsewhere")
    monkeypatch.setattr(fetch, "_download", lambda url, name: requested.append(url) or tmp_path / "elsewhere")
    fetch.fetch(card("activitynet13"), activitynet)
    assert requested == [fetch.ACTIVITYNET_URL]


def test_without_a_folder_the_error_names_the_features_of_activitynet(card):
    path = card("activitynet13")
    with pytest.raises(InputError, match=r"rgb/v_<id>\.npy and flow/v_<id>\.npy at any depth, from https://"):
        fetch.fetch(path)
    assert not (path.parents[1] / "data" / "activitynet13").exists()


@pytest.mark.parametrize("text", ['{"database": {"a": {}}}', '{"database": []}', '{"other": {}}'])
def test_other_annotations_than_activitynets_are_errors(card, activitynet, text):
    (activitynet / "activity_net.v1-3.min.json").write_text(text)
    with pytest.raises(InputError, match=r"activity_net\.v1-3\.min\.json: does not have the form"):
        fetch.fetch(card("activitynet13"), activitynet)
