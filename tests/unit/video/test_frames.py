"""Frames of rendered videos at given times: those that a player shows."""

import numpy as np
import pytest

from fustal.exceptions import InputError
from fustal.video.frames import HEIGHT, frames_at
from tests import films
from tests.films import SPEED, film_of, left_of

av = pytest.importorskip("av", reason="pip install '.[video]'")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("v.mp4", "libx264"), ("v.webm", "libvpx"), ("v.mkv", "libx264"), ("v.ts", "libx264"), ("v.avi", "mpeg4")],
)
def test_the_frame_that_is_shown_at_a_time(tmp_path, name, codec):
    film_of(tmp_path / name, codec=codec)
    times = [3.5, 0.0, 1.0, 1.019, 3.98, 2.45]  # in any order; a frame lasts 0.04 s
    frames = frames_at(tmp_path / name, times)
    shown = [np.floor(time * 25 + 1e-6) / 25 for time in times]
    assert [frame.shape for frame in frames] == 6 * [(90, 160, 3)]
    assert [left_of(frame) for frame in frames] == pytest.approx([SPEED * time for time in shown], abs=1.5)


def test_times_outside_of_the_video(tmp_path):
    film_of(tmp_path / "v.mp4")
    first, last = frames_at(tmp_path / "v.mp4", [-5.0, 99.0])
    assert left_of(first) == 0
    assert left_of(last) == pytest.approx(SPEED * 3.96, abs=1.5)


def test_large_frames_become_small(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "HEIGHT", 400)
    film_of(tmp_path / "v.mp4", seconds=0.2)
    (frame,) = frames_at(tmp_path / "v.mp4", [0.0])
    assert frame.shape == (HEIGHT, round(160 * HEIGHT / 400), 3)


def test_files_without_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, message in (
        ("sound.mp4", "has no video stream, only audio"),
        ("text.mp4", "is cut off, or is no video"),
        ("empty.mp4", "is empty"),
        ("missing.mp4", "no such file"),
        (".", "it is a folder"),
    ):
        with pytest.raises(InputError, match=message) as error:
            frames_at(tmp_path / name, [0.0])
        assert "\n" not in str(error.value)


def test_a_video_that_was_cut_off(tmp_path):
    film_of(tmp_path / "v.mkv")
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    first, last = frames_at(tmp_path / "cut.mkv", [0.0, 3.9])
    assert left_of(first) == 0
    assert 0 < left_of(last) < SPEED * 3, "the last frame that there is"


@pytest.mark.parametrize(("degrees", "row", "column"), [(0, 0, 0), (90, -1, 0), (180, -1, -1), (-90, 0, -1)])
def test_a_rotated_video_is_turned_upright(tmp_path, degrees, row, column):
    """The bright corner, upper left in the file, is where Chromium shows it."""
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.set_display_rotation(degrees)
        picture = np.full((96, 160, 3), 20, np.uint8)
        picture[:30, :30] = 240
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    (frame,) = frames_at(tmp_path / "v.mp4", [0.0])
    assert frame.shape == ((96, 160, 3) if degrees in (0, 180) else (HEIGHT, 72, 3))
    corners = {(r, c): int(frame[r, c, 0]) for r in (0, -1) for c in (0, -1)}
    assert max(corners, key=corners.get) == (row, column)
