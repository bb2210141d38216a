"""SHREC 2022: sequences of a hand's joints are read from two layouts and described by features."""

import numpy as np
import pytest

from fustal.data.cards import Grid
from fustal.data.files import read_json
from fustal.data.writing import write_json
from fustal.exceptions import InputError
from fustal.tools.sources.shrec22 import FPS, JOINTS, build, describe, fill, read_sequences

GRIDS = {
    "generator": Grid(pattern="features/generator/{video}.npy", fps=FPS, stride=8, window=8),
    "student": Grid(pattern="features/student/{subset}/{video}.npy", fps=FPS, stride=4, window=8),
}
NAMES = ["shrec22_test_001", "shrec22_test_012", "shrec22_training_001", "shrec22_training_002"]


def make_hand():
    """An open hand (26, 3) that points to +z, y upwards: wrist, palm, thumb, then four fingers side by side."""
    hand = [(0, 0, 0), (0, 0, 0.05)]
    for step in range(4):
        hand.append((-0.03 - 0.01 * step, 0, 0.03 + 0.02 * step))
    for finger in range(4):
        for z in (0.02, 0.08, 0.12, 0.145, 0.16):
            hand.append((-0.02 + 0.02 * finger, 0, z))
    return np.array(hand)


def make_joints(frames, seed=0):
    """(frames, 26, 3) float16: a hand that waves and bends its fingers, with a little noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / FPS
    joints = make_hand() + rng.normal(0, 0.001, (frames, JOINTS, 3)) + [0.1, -0.2, 0.4]
    joints[:, :, 0] += 0.1 * np.sin(2 * np.pi * times)[:, None]
    joints[:, [10, 15, 20, 25], 1] -= 0.03 * (1 + np.sin(times))[:, None]
    return joints.astype(np.float16)


def write_npz_form(folder, sequences):
    folder.mkdir(parents=True)
    flat = {name: joints.reshape(len(joints), -1) for name, joints in sequences.items()}
    np.savez(folder / "shrec22_float16.npz", **flat)
    annotations = [{"label": "ONE", "segment": [1.0, 2.05]}, {"label": "WAVE", "segment": [2.5, 3.0]}]
    database = {name: {"subset": name.split("_")[1], "annotations": annotations} for name in sequences}
    write_json({"database": database}, folder / "gt.json")


def write_public_form(folder, sequences):
    """The same as `write_npz_form`, as text; real files end their lines with a semicolon, but not all of them."""
    lines = {"training_set": "", "test_set": ""}
    for name, joints in sequences.items():
        _, subset, number = name.split("_")
        place = folder / "SHREC" / f"{subset}_set"
        place.mkdir(parents=True, exist_ok=True)
        rows = []
        for frame, values in enumerate(joints.reshape(len(joints), -1)):
            rows.append(";".join([str(frame), f"{frame / FPS + 0.003:.3f}", *(f"{value:.8f}" for value in values), ""]))
        (place / f"{int(number)}.txt").write_text("\n".join(rows))
        lines[place.name] += f"{int(number)};ONE;20;40;WAVE;50;59{';' if number == '001' else ''}\n"
    for subset, text in lines.items():
        (folder / "SHREC" / subset / "annotations.txt").write_text(text)


@pytest.fixture(scope="module")
def sequences():
    return {name: make_joints(100 + 7 * index, index) for index, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def built(tmp_path_factory, sequences):
    folder = tmp_path_factory.mktemp("shrec22")
    write_npz_form(folder / "source", sequences)
    build([folder / "source"], folder / "root", GRIDS)
    return folder / "root"


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.npy")}


@pytest.mark.parametrize(("stride", "window"), [(8, 8), (4, 8), (3, 5)])
def test_every_snippet_centred_in_the_sequence_is_described(stride, window):
    joints = make_joints(90)
    features = describe(joints, stride, window)
    assert len(features) == len(range(window // 2, len(joints), stride))
    assert np.isfinite(features).all()


def test_features_depend_on_the_centre_of_the_snippet_and_not_on_the_grid():
    joints = make_joints(90)
    np.testing.assert_array_equal(describe(joints, 8, 8), describe(joints, 4, 8)[::2])


def test_size_place_and_heading_of_the_hand_do_not_matter():
    joints = make_joints(90).astype(float)
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    moved = 1.3 * (joints @ turn) + [3.0, 1.0, -2.0]
    np.testing.assert_allclose(describe(moved, 8, 8), describe(joints, 8, 8), atol=1e-4)


def test_features_show_fingers_that_bend_and_a_hand_that_tilts():
    still = np.repeat(make_hand()[None], 60, axis=0)
    bent = still.copy()
    bent[30:, [8, 9, 10], 1:] = [-0.03, 0.07]
    tilted = still.copy()
    tilted[30:] = tilted[30:] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    for joints in (bent, tilted):
        first, last = describe(joints, 8, 8)[[0, -1]]
        assert np.abs(last - first).max() > 0.5
    assert np.abs(np.diff(describe(still, 8, 8), axis=0)).max() < 1e-5


def test_frames_without_a_hand_are_interpolated_or_take_the_nearest():
    joints = np.ones((7, JOINTS, 3), np.float16) * np.array([0, 1, 2, 0, 4, 5, 0], np.float16)[:, None, None]
    joints[5, 3, 1] = np.nan
    assert fill(joints)[:, 0, 0].tolist() == [1, 1, 2, 3, 4, 4, 4]
    assert np.isfinite(fill(joints)).all()


@pytest.mark.parametrize("joints", [np.zeros((30, JOINTS, 3)), np.ones((5, JOINTS, 3)), make_joints(1), make_joints(3)])
def test_features_of_no_hand_and_of_a_short_sequence_are_finite(joints):
    assert np.isfinite(describe(joints, 8, 8)).all()


def test_both_layouts_give_the_same_data_set(tmp_path, sequences, built):
    write_public_form(tmp_path / "public", sequences)
    build([tmp_path / "public"], tmp_path / "root", GRIDS)
    assert read_json(tmp_path / "root" / "gt.json") == read_json(built / "gt.json")
    assert files(tmp_path / "root") == files(built)
    assert len(files(built)) == 3 * len(NAMES)


def test_times_of_frames_are_those_of_their_rows(tmp_path, sequences):
    write_public_form(tmp_path, sequences)
    path = tmp_path / "SHREC/training_set/1.txt"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(f"{int(row.partition(';')[0]) + 10};{row.partition(';')[2]}" for row in rows))
    training = read_sequences(tmp_path)[2]
    assert training.annotations[0] == {"label": "ONE", "segment": [0.5, 1.55]}


def test_the_fixed_annotations_of_the_test_set_replace_those_beside_it(tmp_path, sequences):
    write_public_form(tmp_path, sequences)
    (tmp_path / "test_annotations_fixed.txt").write_text("1;TWO;3;9;\n12;\n")
    first, second, *training = read_sequences(tmp_path)
    assert first.annotations == [{"label": "TWO", "segment": [0.15, 0.5]}]
    assert second.annotations == []
    assert training[0].annotations[0]["label"] == "ONE"


def test_text_files_are_found_in_several_folders(tmp_path, sequences):
    write_public_form(tmp_path / "one", sequences)
    (tmp_path / "two").mkdir()
    (tmp_path / "one/SHREC/test_set").rename(tmp_path / "two/test_set")
    assert [sequence.name for sequence in read_sequences(tmp_path / "one", tmp_path / "two")] == NAMES


def test_built_files_agree_with_the_annotations(built, sequences):
    database = read_json(built / "gt.json")["database"]
    assert list(database) == NAMES
    for video, entry in database.items():
        generator = np.load(built / f"features/generator/{video}.npy")
        student = np.load(built / f"features/student/{entry['subset']}/{video}.npy")
        joints = np.load(built / f"joints/{video}.npy")
        assert generator.dtype == student.dtype == joints.dtype == np.float16
        assert joints.shape == (round(entry["duration"] * FPS), JOINTS, 3)
        assert len(generator) == len(range(4, len(joints), 8))
        assert len(student) == len(range(4, len(joints), 4))
        assert generator.shape[1] == student.shape[1]


def test_features_are_standardised_with_the_training_sequences_only(built, tmp_path, sequences):
    train = np.concatenate([np.load(built / f"features/generator/{name}.npy") for name in NAMES[2:]]).astype(float)
    assert np.abs(train).max() <= 5
    assert np.abs(np.median(train, axis=0)).max() < 2
    other = sequences | {name: make_joints(200, 7)[:, ::-1] for name in NAMES[:2]}
    write_npz_form(tmp_path / "source", other)
    build([tmp_path / "source"], tmp_path / "root", GRIDS)
    name = f"features/generator/{NAMES[2]}.npy"
    assert (tmp_path / "root" / name).read_bytes() == (built / name).read_bytes()


ROW = ";".join(["0", "0.0", *["0.5"] * 78])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("training_set/1.txt", f"{ROW};7\n", r"training_set/1\.txt: line 1: 81 columns, not 80"),
        ("training_set/1.txt", f"{ROW}\n\n1;0.05\n", r"1\.txt: line 3: 2 columns, not 80"),
        ("training_set/1.txt", f"{ROW[:-3]}left;\n", r"1\.txt: line 1: 'left' is no number"),
        ("training_set/1.txt", f"x{ROW}\n", r"1\.txt: line 1: 'x0' is no whole number"),
        ("training_set/1.txt", f"{ROW}\n{ROW}\n", r"1\.txt: line 2: frame 0 does not come after frame 0"),
        ("training_set/1.txt", "\n", r"1\.txt: has no frames"),
        ("training_set/1.txt", "PK\x03\x04", r"1\.txt: is compressed by zip"),
        ("training_set/annotations.txt", "1;ONE;20\n2;\n", r"annotations\.txt: line 1: 2 values after the sequence's"),
        ("training_set/annotations.txt", "1;ONE;20;x\n2;\n", r"annotations\.txt: line 1: 'x' is no whole number"),
        ("training_set/annotations.txt", "1;ONE;20;-4\n2;\n", r"annotations\.txt: line 1: '-4' is no whole number"),
        ("training_set/annotations.txt", "1;;20;40\n2;\n", r"annotations\.txt: line 1: a segment has no label"),
        ("training_set/annotations.txt", "1;ONE;9;8\n2;\n", r"line 1: ONE ends at frame 8, before its first frame 9"),
        ("training_set/annotations.txt", "1;\n1;\n", r"annotations\.txt: line 2: sequence 1 is there twice"),
        ("training_set/annotations.txt", "1;\n2;\n3;\n", r"annotations\.txt: sequence 3 has no file 3\.txt"),
        (
            "training_set/annotations.txt",
            "1;\n",
            r"annotations\.txt: has no line for sequence 2, .*training_set/2\.txt",
        ),
        (
            "test_set/annotations.txt",
            "1;ONE;20;40\n12;WAVE;50;107\n",
            r"sequence 12: WAVE is from frame 50 to 107, but .*test_set/12\.txt has no frame 107",
        ),
    ],
)
def test_a_malformed_text_file_is_one_line(tmp_path, sequences, file, text, message):
    write_public_form(tmp_path, sequences)
    (tmp_path / "SHREC" / file).write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_sequences(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_sequences_or_annotations_is_named(tmp_path, sequences):
    with pytest.raises(InputError, match=r"neither shrec22_float16\.npz nor the text files of training_set"):
        read_sequences(tmp_path)
    write_public_form(tmp_path, sequences)
    (tmp_path / "SHREC/test_set/annotations.txt").unlink()
    with pytest.raises(InputError, match=r"segments of test_set are missing: .* or test_annotations_fixed\.txt"):
        read_sequences(tmp_path)


def test_missing_sequences_and_files_are_named(tmp_path, sequences):
    write_npz_form(tmp_path / "npz", sequences)
    np.savez(tmp_path / "npz" / "shrec22_float16.npz", shrec22_test_001=np.zeros((10, 78), np.float16))
    with pytest.raises(InputError, match=r"shrec22_float16\.npz.*shrec22_test_012"):
        read_sequences(tmp_path / "npz")
    write_npz_form(tmp_path / "tests", {name: sequences[name] for name in NAMES[:2]})
    with pytest.raises(InputError, match="tests: has no training sequence"):
        read_sequences(tmp_path / "tests")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut off"])
def test_a_broken_archive_is_named(tmp_path, sequences, content):
    write_npz_form(tmp_path / "npz", sequences)
    (tmp_path / "npz" / "shrec22_float16.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"shrec22_float16\.npz"):
        read_sequences(tmp_path / "npz")


def test_the_real_sequences_have_the_official_split(shared):
    sequences = read_sequences(shared / "shrec22")
    subsets = [sequence.subset for sequence in sequences]
    assert (subsets.count("training"), subsets.count("test")) == (144, 144)
    segments = [annotation for sequence in sequences for annotation in sequence.annotations]
    assert len(segments) == 1152
    assert len({annotation["label"] for annotation in segments}) == 16
    # The order of the joints: in a finger, the distances of neighbours hardly change, as bones connect them.
    joints = fill(sequences[0].joints)
    for root in (2, 6, 11, 16, 21):
        chain = joints[:, root : root + (4 if root == 2 else 5)]
        bones = np.linalg.norm(np.diff(chain, axis=1), axis=2)
        assert (bones.std(axis=0) < 0.006).all()
