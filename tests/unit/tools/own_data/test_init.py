"""`fustal init`: the card for each layout of a folder, and errors of one line for folders that are not clear."""

import json
import os
import shutil
from itertools import product

import numpy as np
import pytest
import yaml

from fustal.data.cards import load_dataset
from fustal.data.features import FeatureStore
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.tools.own_data.init import Given, init
from fustal.tools.own_data.validation import problems_of

TRAIN, TEST = [f"train_{i}" for i in range(8)], [f"test_{i}" for i in range(4)]
STEP = 0.64  # seconds: 16 frames at 25 fps


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "own data"
    folder.mkdir()
    return folder


def length(video, step=STEP):
    """Snippets of a video; not all are equally long."""
    return round((40 + 3 * (sum(video.encode()) % 11)) * STEP / step)


def save(folder, videos, form="{}.npy", step=STEP, dim=3):
    folder.mkdir(parents=True, exist_ok=True)
    for video in videos:
        np.save(folder / form.format(video), np.ones((length(video, step), dim), np.float32))


def annotate(path, subsets, *, duration=True, fps=None, unlabelled=()):
    """Writes annotations as JSON; `subsets`: subset -> videos."""
    database = {}
    for subset, videos in subsets.items():
        for i, video in enumerate(videos):
            labels = [{"label": "AB"[i % 2], "segment": ["1.0", "4.5"]}]
            entry = {"subset": subset, "annotations": [] if video in unlabelled else labels}
            if duration:
                entry["duration"] = length(video) * STEP
            if fps:
                entry["fps"] = fps
            database[video] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1", "database": database}))


def table(root, lines, head="video,label"):
    (root / "labels.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def card_of(root):
    return yaml.safe_load((root / "card.yaml").read_text(encoding="utf-8"))


def checked(root):
    """The data set of the card; `fustal validate` finds no problem in it, so each feature file was found."""
    dataset, problems = problems_of(str(root / "card.yaml"))
    assert problems == []
    assert Params.read(root / "params.yaml").dataset == str((root / "card.yaml").resolve())
    return dataset


def grid_of(card, stage="generator"):
    grid = card["grids"][stage]
    return grid["pattern"], grid["modalities"], grid["fps"], grid["stride"], grid["window"]


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_flat_folder(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    lines = init(root)
    reason = "softmax, by the labels: a labelled training video has 1.00 classes on average, and 0 % have none"
    assert f"video score: {reason}" in lines
    assert f'# {reason}\nvideo_score: "auto"\n' in (root / "params.yaml").read_text()
    assert grid_of(card_of(root)) == ("{video}.npy", [], 25, 16, 16)
    dataset = checked(root)
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN, TEST)
    assert lines[-2:] == [f"  fustal validate '{root}/card.yaml'", f"  fustal run '{root}/params.yaml'"]
    assert Params.read(root / "params.yaml").run == "own_data"


def test_cola_has_folders_of_subsets_and_modalities(root):
    for side, videos in (("train", TRAIN), ("test", TEST)):
        for modality in ("flow", "rgb"):
            save(root / "features" / side / modality, videos)
        (root / f"split_{side}.txt").write_text("\n".join(videos[:-1]) + "\n")
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    init(root)
    card = card_of(root)
    assert grid_of(card)[:2] == ("features/{subset}/{modality}/{video}.npy", ["rgb", "flow"])
    assert (card["train_split"], card["test_split"]) == ("split_train.txt", "split_test.txt")
    assert not (root / "train.txt").exists()
    assert checked(root).split("test") == TEST[:-1]


def test_actionformer_has_validation_and_test_and_fps(root):
    save(root / "i3d_features", TRAIN + TEST)
    annotate(root / "annotations" / "thumos14.json", {"Validation": TRAIN, "Test": TEST}, fps=30.0)
    init(root)
    card = card_of(root)
    assert grid_of(card) == ("i3d_features/{video}.npy", [], "annotation", 19, 19)
    assert (card["train_subset"], card["test_subset"]) == ("Validation", "Test")
    assert FeatureStore(checked(root), "student").grid_of(TEST[0]).fps == 30


def test_activitynet_tests_on_validation_what_has_features(root):
    testing = ["secret_1", "secret_2"]
    save(root / "features", TRAIN[1:] + TEST + testing, "v_{}.npy")
    subsets = {"training": TRAIN, "validation": TEST, "testing": testing}
    annotate(root / "activity_net.v1-3.min.json", subsets, unlabelled=testing)
    lines = init(root)
    card = card_of(root)
    assert grid_of(card)[0] == "features/v_{video}.npy"
    assert (card["train_subset"], card["test_subset"]) == ("training", "validation")
    dataset = checked(root)
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN[1:], TEST)
    assert "note: 1 annotated videos have no features: left out (train_0)" in lines


def test_training_validation_and_labelled_test_tests_on_test(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN[:6], "val": TRAIN[6:], "test": TEST})
    init(root)
    assert card_of(root)["test_subset"] == "test"


def test_of_two_grids_the_shorter_is_the_generators(root):
    save(root / "dense", TRAIN + TEST, step=STEP / 4, dim=5)
    save(root / "sparse", TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    init(root)
    card = card_of(root)
    assert grid_of(card) == ("sparse/{video}.npy", [], 25, 16, 16)
    assert grid_of(card, "student") == ("dense/{video}.npy", [], 25, 4, 4)
    checked(root)


def test_a_given_stride_is_that_of_the_shorter_grid(root):
    save(root / "dense", TRAIN + TEST, step=STEP / 4)
    save(root / "sparse", TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST}, duration=False)
    init(root, given=Given(fps=30, stride=8, window=9))
    assert grid_of(card_of(root))[2:] == (30, 8, 9)
    assert grid_of(card_of(root), "student")[2:] == (30, 2, 9)


def test_modalities_in_the_names_of_files(root):
    for modality in ("rgb", "audio", "flow"):
        save(root / "f", TRAIN + TEST, f"{{}}-{modality}.npy")
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    init(root)
    assert grid_of(card_of(root))[:2] == ("f/{video}-{modality}.npy", ["rgb", "flow", "audio"])
    checked(root)


def test_names_that_contain_other_names(root):
    videos = [str(i) for i in range(1, 31)]
    save(root, videos, "clip{}.npy")
    annotate(root / "gt.json", {"train": videos[:20], "test": videos[20:29]})
    lines = init(root)
    assert grid_of(card_of(root))[0] == "clip{video}.npy"
    assert checked(root).split("test") == videos[20:29]
    assert "note: 1 feature files belong to no annotated video: left out (30)" in lines


def test_new_videos_whose_names_contain_annotated_ones(root):
    known, new = ["v1", "v2", "v3"], [f"v{i}" for i in range(10, 40)]
    save(root, known + new)
    table(root, [f"{video},A" for video in known])
    init(root, given=Given(fps=25, stride=16))
    assert grid_of(card_of(root))[0] == "{video}.npy"
    assert checked(root).split("test") == new


def test_braces_blanks_and_other_letters_in_folders_and_names(root):
    videos = [f"Größe {i} {{x}}" for i in range(10)]
    for modality in ("{a}", "日本"):
        save(root / "my {video} features" / modality, videos)
    table(root, [f"{video},A,{length(video) * STEP}" for video in videos], "video,label,duration")
    init(root)
    pattern, modalities, *_ = grid_of(card_of(root))
    assert (pattern, modalities) == ("my {{video}} features/{modality}/{video}.npy", ["{a}", "日本"])
    checked(root)


def test_links_to_folders_are_followed_and_hidden_files_are_not(root, tmp_path):
    save(tmp_path / "elsewhere", TRAIN + TEST)
    save(root / ".cache", TRAIN + TEST)
    (root / "features").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    init(root)
    assert grid_of(card_of(root))[0] == "features/{video}.npy"


def test_wtalc_is_converted(root):
    names = np.array(TRAIN + TEST, dtype="S")
    features = np.stack([np.ones((20, 4), np.float32)] * len(names))
    np.save(root / "Own-I3D-JOINTFeatures.npy", features)
    np.save(root / "videoname.npy", names)
    np.save(root / "subset.npy", np.array(["validation"] * len(TRAIN) + ["test"] * len(TEST), dtype="S"))
    np.save(root / "labels_all.npy", np.array([["A"], ["B"]] * (len(names) // 2), dtype="S"))
    init(root)
    card = card_of(root)
    assert (card["root"], grid_of(card)) == ("converted", ("features/{video}.npy", [], 25, 16, 16))
    assert checked(root).split("train") == TRAIN
    init(root, force=True)


def test_wtalc_with_pickles_needs_the_option_trust(root):
    for name in ("Own-I3D-JOINTFeatures", "videoname", "subset", "labels"):
        np.save(root / f"{name}.npy", np.array([None, {}], dtype=object))
    with pytest.raises(InputError, match="--trust"):
        init(root)
    assert not (root / "converted").exists()


# --- the split --------------------------------------------------------------------------------------------------------


def test_a_table_without_subsets_every_fifth_is_tested(root):
    save(root, TRAIN)
    table(root, [f"{video},A,{length(video) * STEP}" for video in TRAIN], "video,label,duration")
    lines = init(root)
    dataset = checked(root)
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (6, 2)
    assert any("one person or scene should be in one part" in line for line in lines)
    before = dataset.split("test")
    init(root, force=True)
    assert checked(root).split("test") == before, "the lists that init wrote are read like others"


def test_videos_listed_without_a_label_are_background(root):
    save(root, TRAIN)
    table(root, [f"{v},{'A' if v != TRAIN[0] else ''},{length(v) * STEP}" for v in TRAIN], "video,label,duration")
    lines = init(root)
    assert len(load_dataset(root / "card.yaml").split("test")) == 2
    assert any("1 training videos are listed without a label" in line for line in lines)


def test_videos_that_the_annotations_do_not_list_are_tested(root):
    save(root, [*TRAIN, "new_1", "new_2"])
    (root / "mean.txt").write_text("no list of videos\n")
    np.save(root / "average.npy", np.ones(3, np.float32))  # no features: of another shape
    table(root, [f"{video},A" for video in TRAIN])
    init(root, given=Given(fps=30, stride=30))
    dataset, _ = problems_of(str(root / "card.yaml"))
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN, ["new_1", "new_2"])
    assert grid_of(card_of(root))[2:] == (30, 30, 30)


def test_folders_split_where_annotations_do_not(root):
    save(root / "train", TRAIN)
    save(root / "test", TEST)
    table(root, [f"{video},A" for video in TRAIN])
    init(root, given=Given(fps=25, stride=16))
    assert grid_of(card_of(root))[0] == "{subset}/{video}.npy"
    dataset = load_dataset(root / "card.yaml")
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN, TEST)


# --- lists of videos --------------------------------------------------------------------------------------------------


def with_lists(root, train, test, names=("split_train.txt", "split_test.txt")):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"all": TRAIN + TEST})
    for name, content in zip(names, (train, test), strict=True):
        write_list(root / name, content)


def write_list(path, content):
    """Writes a list of videos: bytes, or lines."""
    if not isinstance(content, bytes):
        content = "".join(f"{line}\n" for line in content).encode()
    path.write_bytes(content)


def test_lists_with_unknown_names_are_used_and_the_names_are_reported(root):
    with_lists(root, ["lost_1", "lost_2", "lost_3", "lost_4", *TRAIN[1:]], [*TEST, "video_test_0001292"])
    lines = init(root)
    assert "split: 7 training and 4 test videos, by the lists split_train.txt and split_test.txt" in lines
    what = "4 of 11 names are not in the annotations and are left out: 'lost_1', 'lost_2', 'lost_3', ..."
    assert f"note: split_train.txt: {what}" in lines
    assert any("split_test.txt: 1 of 5 names" in line and "'video_test_0001292'" in line for line in lines)
    dataset = checked(root)
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN[1:], TEST)
    assert (root / "split_test.txt").read_text().splitlines() == [*TEST, "video_test_0001292"], "unchanged"
    init(root, force=True)
    assert checked(root).split("train") == TRAIN[1:], "by the lists that init wrote, which take precedence"


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "test.txt"),
        ("Train_List.txt", "my-testing-set.lst"),
        ("trainlist01.txt", "testlist01.txt"),
        ("TrainSplit.txt", "TestSplit.txt"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_several_formats(root, names, encoding):
    train = "# mine\r\n" + "".join(f" {video}.npy\r\n" for video in TRAIN)
    test = "\n\n".join(f"videos/{video}.mp4" for video in TEST)
    with_lists(root, train.encode(encoding), test.encode(encoding), names)
    lines = init(root)
    assert f"split: 8 training and 4 test videos, by the lists {names[0]} and {names[1]}" in lines
    dataset = checked(root)
    assert (dataset.split("train"), dataset.split("test")) == (TRAIN, TEST)


@pytest.mark.parametrize("name", ["splits.json", "test.csv", "train", "my_split.pkl", "a/b/TrainSet.mat"])
def test_files_that_seem_to_define_a_split_and_are_not_read_are_refused(root, name):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"all": TRAIN + TEST})
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("{}")
    with pytest.raises(InputError, match="seems to define training and test videos, but is not read"):
        init(root)
    assert not (root / "card.yaml").exists()


def test_a_video_with_a_wrong_entry_does_not_become_a_test_video(root):
    save(root, TRAIN)
    table(root, [f"{video},A,{'46s' if video == TRAIN[0] else 46}" for video in TRAIN], head="video,label,duration")
    with pytest.raises(InputError, match=r"labels\.csv: video 'train_0': duration '46s' is not a finite number"):
        init(root)
    assert not (root / "card.yaml").exists()


def test_a_list_may_name_test_videos_that_are_not_annotated(root):
    with_lists(root, TRAIN, [f"features/{video}.npy 7" for video in ("new_1", "new_2")])
    save(root, ["new_1", "new_2"])
    init(root)
    dataset, problems = problems_of(str(root / "card.yaml"))
    assert dataset.split("test") == ["new_1", "new_2"]
    assert not [problem for problem in problems if not problem.warning]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.txt": TRAIN}, r"train\.txt: lists videos, but no file lists the test videos"),
        ({"test.txt": TEST}, r"test\.txt: lists videos, but no file lists the training videos"),
        ({"train.txt": TRAIN, "test.txt": ["a", "b"]}, r"test\.txt: .* none of its 2 lines names a video .*'a'"),
        ({"train.txt": [], "test.txt": TEST}, r"train\.txt: .* none of its 0 lines names a video"),
        ({"train.txt": b"Gr\xfc\xdfe\n", "test.txt": TEST}, r"train\.txt: is not UTF-8 but perhaps Latin-1"),
        ({"train1.txt": TRAIN, "train2.txt": TRAIN[1:], "test.txt": TEST}, r"\(train1\.txt, train2\.txt\): keep one"),
        ({"train.txt": ["a/v.mp4", "b/v.mp4"], "test.txt": TEST}, "stand for the same video, 'v'"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(root, lists, message):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"all": TRAIN + TEST})
    for name, content in lists.items():
        write_list(root / name, content)
    with pytest.raises(InputError, match=message) as error:
        init(root)
    assert "\n" not in str(error.value)
    assert not (root / "card.yaml").exists()


def test_lists_that_overlap_are_reported(root):
    with_lists(root, TRAIN, [*TRAIN[:4], *TEST])
    (line,) = [line for line in init(root) if line.startswith("error: ")]
    assert line.startswith("error: 4 videos ('train_0', 'train_1', 'train_2', ...): is in training and in test")


def test_lists_across_subsets_are_refused(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN[::2], "val": TRAIN[1::2], "test": TEST})
    for name, videos in (("train.txt", TRAIN), ("test.txt", TEST)):
        (root / name).write_text("\n".join(videos))
    with pytest.raises(InputError, match=r"train\.txt: names videos of the subsets \['train', 'val'\]"):
        init(root)


# --- other files in the folder ----------------------------------------------------------------------------------------


def test_pipes_and_devices_are_ignored(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    for name in ("a.csv", "b.json", "notes.txt", "train.txt", "train_0_copy.npy"):
        os.mkfifo(root / name)
    (root / "zero.json").symlink_to("/dev/zero")
    (root / "null.csv").symlink_to("/dev/null")
    init(root)
    checked(root)


def test_arrays_of_three_dimensions_beside_the_features_are_other_data(root):
    save(root / "features", TRAIN + TEST)
    (root / "joints").mkdir()
    for video in TRAIN + TEST:
        np.save(root / "joints" / f"{video}.npy", np.ones((500, 26, 3), np.float16))
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    init(root, given=Given(fps=25, stride=16))
    assert grid_of(card_of(root))[0] == "features/{video}.npy"
    checked(root)
    shutil.rmtree(root / "features")
    with pytest.raises(InputError, match=r"must be .* of shape \(T, D\), not float16 of shape \(500, 26, 3\)"):
        init(root, given=Given(fps=25, stride=16), force=True)


def test_a_copy_is_no_modality(root):
    random = np.random.default_rng(0)
    for video in TRAIN:
        for folder in ("features", "backup"):
            (root / folder).mkdir(exist_ok=True)
        np.save(root / "features" / f"{video}.npy", random.standard_normal((length(video), 3)).astype(np.float32))
        shutil.copy(root / "features" / f"{video}.npy", root / "backup")
    table(root, [f"{video},A,{length(video) * STEP}" for video in TRAIN], "video,label,duration")
    with pytest.raises(InputError, match=r"hold the same numbers: keep one"):
        init(root)


@pytest.mark.parametrize("name", ["LABELS.CSV", "labels.tsv"])
def test_a_table_in_the_format_of_excel(root, name):
    save(root, TRAIN)
    lines = ["sep=;", "Video;Label;Duration;"]
    lines += [f"{v};{'AB'[i % 2]};{length(v) * STEP};" for i, v in enumerate(TRAIN)]
    (root / name).write_bytes("\r\n".join(lines).encode("utf-16"))
    init(root)
    assert card_of(root)["annotations"] == name
    assert checked(root).classes == ["A", "B"]


def test_numbers_as_labels(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    text = (root / "gt.json").read_text()
    (root / "gt.json").write_text(text.replace('"A"', "0").replace('"B"', "1"))
    (line,) = [line for line in init(root) if "labels are numbers" in line]
    assert line.startswith("error: labels are numbers (0, 1), and no list of classes gives their names: write")
    (root / "classes.txt").write_text("Run\nSit\n")
    lines = init(root, force=True)
    assert "12 videos, 2 classes (Run, Sit), 12 segments" in lines[0]
    assert checked(root).classes == ["Run", "Sit"]


def test_ambiguous_is_left_out_and_reported(root):
    save(root, TRAIN)
    rows = [f"{v},{'AB'[i % 2]},{length(v) * STEP}" for i, v in enumerate(TRAIN)]
    table(root, [*rows, f"{TRAIN[0]},AMBIGUOUS,"], "video,label,duration")
    lines = init(root)
    assert card_of(root)["ignored_labels"] == ["AMBIGUOUS"]
    assert "note: ignored_labels: 1 annotation of 'AMBIGUOUS' left out" in lines
    dataset, (problem,) = problems_of(str(root / "card.yaml"))
    assert dataset.classes == ["A", "B"]
    assert problem.warning


def test_frames_as_seconds_are_reported_without_durations(root):
    save(root, TRAIN)
    table(root, [f"{v},{'AB'[i % 2]},100,{16 * length(v) - 50}" for i, v in enumerate(TRAIN)], "video,label,start,end")
    lines = init(root, given=Given(fps=25, stride=16))
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert "far outside their videos" in line
    assert "times look like frames: divide them" in line


# --- the grid and the sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "fps", "stride"),
    [(0.64, 25, 16), (8 / 30, 30, 8), (0.5, 1000, 500), (0.32 * 1.01, 25, 8)],
)
def test_a_likely_frame_rate(root, step, fps, stride):
    save(root, TRAIN)
    table(root, [f"{video},A,{length(video) * step}" for video in TRAIN], "video,label,duration")
    init(root)
    assert grid_of(card_of(root))[2:4] == (fps, stride)


def test_a_given_frame_rate_takes_precedence_over_annotated_ones(root):
    save(root, TRAIN)
    table(root, [f"{v},A,{length(v) * 0.5},30" for v in TRAIN], "video,label,duration,fps")
    init(root, given=Given(fps=50))
    assert grid_of(card_of(root))[2:] == (50, 25, 25)


def test_features_of_one_length_are_reported(root):
    for i, video in enumerate(TRAIN):
        np.save(root / f"{video}.npy", np.ones((100, 3), np.float32))
        table(root, [f"{v},A,{10 + 20 * i}" for i, v in enumerate(TRAIN)], "video,label,duration")
    assert any("stretched features fit no grid" in line for line in init(root))
    table(root, [f"{v},A,{100 + i}" for i, v in enumerate(TRAIN)], "video,label,duration")
    assert not any("fit no grid" in line for line in init(root, force=True))


def test_videos_of_nearly_one_length(root):
    lengths = {f"v{i:02}": 100 - max(0, 3 - i) for i in range(40)}
    for video, count in lengths.items():
        np.save(root / f"{video}.npy", np.ones((count, 3), np.float32))
    table(root, [f"{video},A,{0.5 * count}" for video, count in lengths.items()], "video,label,duration")
    lines = init(root, given=Given(fps=50))
    assert grid_of(card_of(root))[2:4] == (50, 25)
    assert any("it cannot be determined: too few durations" in line for line in lines)


def test_sizes_follow_from_the_lengths(root):
    for i, video in enumerate(TRAIN):
        np.save(root / f"{video}.npy", np.ones((900 if i else 10, 1), np.float16))
    table(root, [f"{video},{label}" for video, label in product(TRAIN, range(101))])
    init(root, given=Given(fps=25, stride=16))
    params = Params.read(root / "params.yaml")
    assert (params.generator_snippets, params.max_snippets, params.tious) == (750, 928, "0.5:0.05:0.95")
    assert (params.watched_videos, params.upper_bound_epochs) == (0, 0), "there are no segments"
    assert params.video_score == "auto"
    table(root, [f"{v},A,1,2" for v in TRAIN], "video,label,start,end")
    init(root, given=Given(fps=25, stride=16), force=True)
    params = Params.read(root / "params.yaml")
    assert params.tious == Params().tious
    assert params.upper_bound_epochs == params.student_epochs + params.distill_epochs


def test_long_videos_and_many_actions(root):
    for i, video in enumerate(TRAIN):
        np.save(root / f"{video}.npy", np.ones((2500 if i < 3 else 40, 1), np.float16))
    actions = [f"{TRAIN[0]},{'AB'[i % 2]},{i},{i + 0.9}" for i in range(1297)]
    table(root, [*actions, *(f"{v},B,1,2" for v in TRAIN[1:])], "video,label,start,end")
    lines = init(root, given=Given(fps=25, stride=16))
    assert any("3 videos have more than 750 snippets" in line for line in lines)
    assert any("3 videos have more than 2304 snippets" in line for line in lines)
    assert Params.read(root / "params.yaml").max_detections == 2600
    _, problems = problems_of(str(root / "card.yaml"))
    assert not any("max_detections" in problem.what for problem in problems)
    preset = (root / "params.yaml").read_text().replace("max_detections: 2600", "max_detections: 200")
    (root / "params.yaml").write_text(preset)
    _, problems = problems_of(str(root / "card.yaml"))
    (problem,) = [problem for problem in problems if "max_detections" in problem.what]
    assert (problem.video, problem.warning) == (TRAIN[0], True)
    assert problem.what == "1297 actions, but max_detections keeps 200 detections"


@pytest.mark.parametrize(("seconds", "coarse"), [(0.6, True), (4.0, False)])
def test_features_that_are_too_coarse_for_the_actions_are_reported(root, seconds, coarse):
    save(root, TRAIN)
    actions = []
    for i, video in enumerate(TRAIN):
        for start in (2, 9):
            actions.append(f"{video},{'AB'[i % 2]},{start},{start + seconds},{length(video) * STEP}")
    table(root, actions, "video,label,start,end,duration")
    lines = init(root)
    window = "16 of 16 actions are shorter than the window of a snippet, 0.64 s"
    stride = "half of the actions last at most 0.6 s, which are 0.94 snippets"
    for what in (window, stride):
        assert any(line.startswith(f"note: {what}") for line in lines) == coarse


# --- errors of one line, and nothing is written -----------------------------------------------------------------------


def _no_durations(root):
    save(root, TRAIN)
    table(root, [f"{video},A" for video in TRAIN])


def _two_annotations(root):
    save(root, TRAIN)
    table(root, ["train_1,A"])
    annotate(root / "a" / "gt.json", {"train": TRAIN})


def _broken_annotations(root):
    (root / "gt.json").write_text("{")


def _no_features(root):
    table(root, ["train_1,A"])


def _other_names(root):
    save(root, TEST)
    table(root, ["train_1,A"])


def _float64(root):
    np.save(root / "train_1.npy", np.ones((9, 3)))
    table(root, ["train_1,A"])


def _class_folders(root):
    save(root / "A", TRAIN[:4])
    save(root / "B", TRAIN[4:])
    table(root, [f"{video},A" for video in TRAIN])


def _validation_folder(root):
    save(root / "val", TRAIN)
    save(root / "test", TEST)
    annotate(root / "gt.json", {"validation": TRAIN, "test": TEST})


def _two_kinds(root):
    save(root / "i3d", TRAIN, "{}.npy")
    save(root / "tsp", TRAIN, "{}_v.npy")
    table(root, [f"{video},A" for video in TRAIN])


def _no_common_video(root):
    save(root / "rgb", TRAIN)
    save(root / "flow", TRAIN[:4])
    save(root / "audio", TRAIN[4:])
    table(root, [f"{video},A" for video in TRAIN])


def _no_common_annotated_video(root):
    save(root / "rgb", [TRAIN[0], "new_1"])
    save(root / "flow", [TRAIN[1], "new_1"])
    table(root, [f"{video},A,20" for video in TRAIN], "video,label,duration")


def _strange_subsets(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"fold 1": TRAIN, "fold 2": TEST})


def _nothing_labelled(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST}, unlabelled=TRAIN)


def _one_video(root):
    save(root, TRAIN[:1])
    table(root, ["train_0,A,12"], "video,label,duration")


def _names_with_endings(root):
    save(root, TRAIN)
    table(root, [f"{video}.mp4,A,20" for video in TRAIN], "video,label,duration")


def _other_columns(root):
    save(root, TRAIN)
    (root / "extraction.json").write_text("{}")
    table(root, [f"{video},A" for video in TRAIN], "file,class")


def _text_in_the_way(root):
    save(root, TRAIN)
    table(root, [f"{video},A,20" for video in TRAIN], "video,label,duration")
    (root / "train.txt").write_text("something else\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "holds no annotations: write a CSV with columns video and label"),
        (_no_durations, "--fps F and --stride S"),
        (_two_annotations, r"labels\.csv, a/gt\.json.*--annotations FILE"),
        (_broken_annotations, r"no annotations.*gt\.json: cannot be read as JSON"),
        (_no_features, r"holds no \.npy file"),
        (_other_names, r"test_0\.npy and 'train_1'.*rename the files"),
        (_names_with_endings, "leave out the endings of the videos"),
        (_other_columns, r"labels\.csv: its columns are file, class"),
        (_float64, r"train_1\.npy.*float64.*array.astype"),
        (_class_folders, r"of different videos in several places \(A/\{video\}\.npy, B/\{video\}\.npy\)"),
        (_validation_folder, "holds folders test, val: name them train and test"),
        (_two_kinds, r"of the same length in several places \(i3d/\{video\}\.npy, tsp/\{video\}_v\.npy\)"),
        (_no_common_video, r"of different videos in several places \(rgb/\{video\}\.npy, "),
        (_no_common_annotated_video, "no annotated video has features on all grids"),
        (_strange_subsets, "fold 1, fold 2: name them train and test"),
        (_nothing_labelled, "no training video has a label"),
        (_one_video, "no training video has features"),
        (_text_in_the_way, r"train\.txt: .* none of its 1 lines names a video \(such as 'something else'\)"),
    ],
)
def test_ambiguous_folders_are_refused_and_nothing_is_written(root, make, message):
    make(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        init(root)
    assert "\n" not in str(error.value)
    assert sorted(root.rglob("*")) == before


def test_no_folder_and_a_bad_name(root):
    with pytest.raises(InputError, match="no such folder"):
        init(root / "missing")
    save(root, TRAIN)
    table(root, [f"{video},A,20" for video in TRAIN], "video,label,duration")
    with pytest.raises(InputError, match=r"name: .*'a b' \(--name NAME\)"):
        init(root, name="a b")
    assert not (root / "card.yaml").exists()
    assert not (root / "train.txt").exists()


def test_existing_files_are_replaced_only_by_force(root):
    save(root, TRAIN + TEST)
    annotate(root / "gt.json", {"train": TRAIN, "test": TEST})
    (root / "params.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"params\.yaml: already exists"):
        init(root)
    assert (root / "params.yaml").read_text() == "mine"
    assert not (root / "card.yaml").exists()
    init(root, force=True, name="other")
    assert Params.read(root / "params.yaml").run == "other"


def test_chosen_annotations_may_lie_elsewhere(root, tmp_path):
    save(root, TRAIN + TEST)
    annotate(tmp_path / "gt.json", {"train": TRAIN, "test": TEST})
    init(root, annotations=tmp_path / "gt.json")
    assert card_of(root)["annotations"] == str((tmp_path / "gt.json").resolve())
    checked(root)
