"""Frames by their time stamps: an event at a known time is found there, and broken files are named in one line."""

import shutil
import struct
from fractions import Fraction

import numpy as np
import pytest

from fustal.data.features import VideoGrid
from fustal.exceptions import InputError
from fustal.video import decode
from fustal.video.decode import duration, grid_frames
from fustal.video.rendered import write_video

av = pytest.importorskip("av", reason="pip install '.[video]'")

NTSC = Fraction(30000, 1001)
CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9"}


def gray(levels, size=(48, 64)):
    """Pictures of one gray each."""
    return [np.full((*size, 3), level, np.uint8) for level in levels]


def levels_of(path, fps):
    return [int(frame.mean().round()) for frame in grid_frames(path, fps)]


def irregular(count, seed=0):
    """Time stamps in ms with 10 to 90 ms between them."""
    gaps = np.random.default_rng(seed).integers(10, 91, count - 1)
    return [0, *np.cumsum(gaps).tolist()]


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", CONTAINERS)
@pytest.mark.parametrize("rate", [24, 25, NTSC, 50])
def test_at_its_own_rate_a_video_gives_each_of_its_frames_once(tmp_path, ending, rate):
    levels = [20 + 7 * i % 200 for i in range(60)]
    path = tmp_path / f"v.{ending}"
    write_video(path, gray(levels), rate, CONTAINERS[ending])
    found = levels_of(path, float(rate))
    assert len(found) == 60
    assert np.abs(np.subtract(found, levels)).max() <= 2  # the codec changes a gray by up to 2 of 255
    assert duration(path) == pytest.approx(60 / rate, abs=0.002)


@pytest.mark.parametrize("fps", [10, 15, 25, 29.97])
@pytest.mark.parametrize("ending", CONTAINERS)
@pytest.mark.parametrize("rate", [24, 25, NTSC, "variable"])
def test_an_event_lands_in_the_snippets_of_its_time(tmp_path, ending, rate, fps):
    """Light is on from one frame's time to another's. Each snippet sees the share of its window in which it is on.

    Its window is centred at `VideoGrid.to_seconds`; both ends of the light may be wrong by half a frame of the grid.
    """
    first, last, count = 31, 62, 90
    stamps = irregular(count) if rate == "variable" else [round(1000 * i / rate) for i in range(count)]
    path = tmp_path / f"v.{ending}"
    pictures = gray([230 if first <= i < last else 20 for i in range(count)])
    if rate == "variable":
        write_video(path, pictures, 25, CONTAINERS[ending], stamps, Fraction(1, 1000))
    else:
        write_video(path, pictures, rate, CONTAINERS[ending])
    begin, end = stamps[first] / 1000, stamps[last] / 1000
    light = np.array(levels_of(path, fps)) > 125
    on = np.flatnonzero(light)
    half = 0.5 / fps + 0.0015  # and a millisecond, to which containers round, and half a one of this test
    assert abs(on[0] / fps - begin) <= half
    assert abs((on[-1] + 1) / fps - end) <= half
    assert light[on[0] : on[-1] + 1].all()
    grid = VideoGrid(fps, stride=4, window=8)
    for i in range((len(light) - grid.window) // grid.stride + 1):
        seen = light[i * grid.stride : i * grid.stride + grid.window].mean()
        centre, reach = grid.to_seconds(i), grid.window / 2 / fps
        overlap = max(0.0, min(end, centre + reach) - max(begin, centre - reach))
        ends_inside = sum(abs(time - centre) < reach + half for time in (begin, end))
        assert abs(seen - overlap / (2 * reach)) <= ends_inside * half / (2 * reach) + 1e-9


def test_variable_rate_shows_the_last_frame_at_each_time(tmp_path):
    stamps = irregular(40)
    levels = [20 + 5 * i for i in range(40)]
    path = tmp_path / "v.mkv"
    write_video(path, gray(levels), 25, "libx264", stamps, Fraction(1, 1000))
    found = levels_of(path, 25)
    middles = 20 + 40 * np.arange(len(found))  # ms
    expected = np.array(levels)[np.searchsorted(stamps, middles + 1, side="right") - 1]
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_pauses_of_seconds_with_frames_in_another_order(tmp_path, ending):
    """The durations in an MP4 are those to the next frame that is decoded: 5 s for one that is shown for 40 ms."""
    stamps = np.cumsum([0] + 20 * [40] + [5000] + 20 * [40] + [900] + 17 * [40]).tolist()
    levels = [20 + 37 * i % 200 for i in range(60)]
    path = tmp_path / f"v.{ending}"
    write_video(path, gray(levels), 25, "libx264", stamps, Fraction(1, 1000))
    found = levels_of(path, 25)
    middles = 20 + 40 * np.arange(len(found))  # ms
    expected = np.array(levels)[np.searchsorted(stamps, middles + 1, side="right") - 1]
    assert len(found) == pytest.approx((stamps[-1] + 40) / 40, abs=1)
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_gives_its_frames_one_after_the_other_as_it_has_no_times_for_showing(tmp_path, codec):
    levels = [20 + 4 * i for i in range(50)]
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in gray(levels):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    found = levels_of(path, 25)
    assert len(found) == 50
    assert np.abs(np.subtract(found, levels)).max() <= 5


def test_half_and_double_rate(tmp_path):
    levels = [20 + 4 * i for i in range(50)]
    path = tmp_path / "v.mp4"
    write_video(path, gray(levels), 50)
    assert np.abs(np.subtract(levels_of(path, 25), levels[1::2])).max() <= 2
    assert np.abs(np.subtract(levels_of(path, 100), np.repeat(levels, 2))).max() <= 2


def test_time_zero_is_the_beginning_of_the_file(tmp_path):
    path = tmp_path / "v.mkv"
    write_video(path, gray(range(20, 120, 2)), 25, "libx264", [5000 + 40 * i for i in range(50)], Fraction(1, 1000))
    assert np.abs(np.subtract(levels_of(path, 25), range(20, 120, 2))).max() <= 2


def test_a_picture_shorter_than_a_frame_of_the_grid_is_still_a_video(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, gray([100]), 100)
    assert len(levels_of(path, 5)) == 1


def test_joined_recordings_follow_one_another(tmp_path):
    """Their time stamps begin again, or go on an hour later."""
    levels = [20 + 2 * i for i in range(100)]
    write_video(tmp_path / "a.ts", gray(levels), 25)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * (tmp_path / "a.ts").read_bytes())
    assert np.abs(np.subtract(levels_of(joined, 25), levels + levels)).max() <= 2
    later = [40 * i + 3_600_000 * (i >= 50) for i in range(100)]
    write_video(tmp_path / "later.ts", gray(levels), 25, "libx264", later, Fraction(1, 1000))
    assert np.abs(np.subtract(levels_of(tmp_path / "later.ts", 25), levels)).max() <= 2


def test_wrong_time_stamps_neither_stop_the_time_nor_move_the_frames_after_them(tmp_path):
    """One bit of a time stamp in an FLV file is wrong: it is 9 hours, 2 minutes or 2 seconds too late."""
    levels = [20 + 2 * i for i in range(100)]
    path = tmp_path / "v.flv"
    write_video(path, gray(levels), 25, "flv")
    content = path.read_bytes()
    tags = []
    place = 13
    while place < len(content):
        tags.append(place)
        place += 15 + int.from_bytes(content[place + 1 : place + 4], "big")
    tag = [tag for tag in tags if content[tag] == 9][30]
    for byte, bit, right in ((7, 2, 31), (4, 2, 31), (5, 8, 82)):  # the highest byte is the last
        wrong = bytearray(content)
        wrong[tag + byte] ^= bit
        path.write_bytes(wrong)
        found = levels_of(path, 25)
        assert len(found) == 100
        assert np.abs(np.subtract(found[:30], levels[:30])).max() <= 3
        assert np.abs(np.subtract(found[right:], levels[right:])).max() <= 3


@pytest.mark.parametrize("begin", [-1.0, 5.0])
def test_a_video_may_begin_at_any_time(tmp_path, begin):
    levels = [20 + 4 * i for i in range(50)]
    write_video(tmp_path / "v.mp4", gray(levels), 25)
    path = tmp_path / "v.ts"
    with (
        av.open(str(tmp_path / "v.mp4")) as source,
        av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            moved = round(begin / packet.time_base)
            packet.pts += moved
            packet.dts += moved
            packet.stream = stream
            target.mux(packet)
    assert np.abs(np.subtract(levels_of(path, 25), levels)).max() <= 2
    assert duration(path) == pytest.approx(2, abs=0.05)


# --- memory and repetition --------------------------------------------------------------------------------------------


def test_frames_that_no_time_shows_are_not_converted(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    write_video(path, gray([100] * 100), 50)
    converted = []
    original = decode.upright
    monkeypatch.setattr(decode, "upright", lambda frame: converted.append(1) or original(frame))
    assert len(levels_of(path, 10)) == 20
    assert len(converted) == 20
    converted.clear()
    frames = list(grid_frames(path, 200))
    assert len(frames) == 400
    assert len(converted) == 100, "one picture that is shown four times is converted once"
    assert frames[0] is frames[3]


def test_two_passes_are_equal_bit_for_bit(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "v.mp4"
    write_video(path, random.integers(0, 256, (30, 48, 64, 3), np.uint8), 25)
    first, second = (np.stack(list(grid_frames(path, 25))) for _ in range(2))
    assert first.std() > 20
    assert np.array_equal(first, second)


# --- unusual files ----------------------------------------------------------------------------------------------------


def quarters():
    """A picture with four grays: 40 and 90 above, 140 and 200 below."""
    picture = np.empty((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = 40, 90, 140, 200
    return picture


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), [[140, 40], [200, 90]]),  # a quarter turn clockwise
        ((-1, 0, 0, -1), [[200, 140], [90, 40]]),
        ((0, -1, 1, 0), [[90, 200], [40, 140]]),
    ],
)
def test_rotated_files_are_turned_upright(tmp_path, matrix, expected):
    path = tmp_path / "v.mp4"
    write_video(path, [quarters()] * 5, 25)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # ISO 14496-12: the matrix of the track
    a, b, c, d = (65536 * value for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frame = next(iter(grid_frames(path, 25)))
    rows, columns = frame.shape[:2]
    assert (rows, columns) == ((64, 48) if matrix[0] == 0 else (48, 64))
    corners = [[frame[5, 5, 0], frame[5, -5, 0]], [frame[-5, 5, 0], frame[-5, -5, 0]]]
    assert np.abs(np.array(corners, int) - expected).max() <= 3


def test_of_several_streams_one_is_used_and_named(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((32, 32), (128, 96)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        for i in range(10):
            for stream in streams:
                picture = np.full((stream.height, stream.width, 3), 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts = i
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    notes = []
    frames = list(grid_frames(path, 25, notes.append))
    assert len(frames) == 10
    assert notes == [f"{path}: has 2 video streams; number 0 is used"]
    assert frames[0].shape == (32, 32, 3)


def test_a_cover_is_no_second_video(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 200, 200, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for stream, count in ((cover, 1), (film, 10)):
            for i in range(count):
                picture = np.full((stream.height, stream.width, 3), 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    notes = []
    frames = list(grid_frames(path, 25, notes.append))
    assert (len(frames), frames[0].shape, notes) == (10, (48, 64, 3), [])


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def faststart(path, count=100):
    """A file whose header comes first, so that a part of it can be read."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "10"}
        random = np.random.default_rng(0)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (48, 64, 3), np.uint8))
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def header_lost(path):
    write_video(path, gray([100] * 50), 25)
    cut(path, 0.5)


def rest_lost(path):
    faststart(path)
    cut(path, 0.6)


def matroska_lost(path):
    shutil.copy(_matroska(path.with_name("whole.mkv")), path)
    cut(path, 0.6)


def _matroska(path):
    random = np.random.default_rng(0)
    write_video(path, random.integers(0, 256, (100, 48, 64, 3), np.uint8), 25)
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("v.m4a", sound, "has no video stream, only audio"),
        ("v.mp4", lambda path: path.write_bytes(b""), "is empty"),
        ("v.mp4", lambda path: path.write_text("no video\n" * 100), "is cut off, or is no video"),
        ("v.mp4", header_lost, "is cut off, or is no video"),
        ("v.mp4", rest_lost, r"is cut off or damaged: its frames end at [\d.]+ s, and its header tells 4.00 s"),
        ("v.mkv", matroska_lost, r"is cut off or damaged: its frames end at [\d.]+ s, and its header tells 4.00 s"),
        ("v.mp4", lambda path: None, "no such file"),
        ("v.mp4", lambda path: path.mkdir(), "it is a folder"),
    ],
)
def test_files_that_are_no_whole_video_are_named_in_one_line(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        list(grid_frames(path, 25, lambda line: None))
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line


def test_broken_frames_in_the_middle_keep_the_times_of_the_others(tmp_path):
    path = tmp_path / "v.mp4"
    faststart(path)
    whole = list(grid_frames(path, 25))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = b"\xff" * 1500
    path.write_bytes(content)
    notes = []
    frames = list(grid_frames(path, 25, notes.append))
    assert len(frames) == len(whole) == 100
    assert len(notes) == 1
    assert "broken frames" in notes[0]
    same = [np.array_equal(one, other) for one, other in zip(frames, whole, strict=True)]
    assert all(same[:30]), "before the damage nothing changes"
    assert all(same[-20:]), "after the next key frame nothing does either"
    assert not all(same)
