"""Decoding and features of a video on the student's dense grid, compared with the plain way: clip by clip.

The plain way opens the video for each snippet, goes to its time, and decodes and prepares every frame of its window.
"""

import numpy as np
import pytest
import torch

from fustal.video.extract import make_extractor
from fustal.video.rendered import write_video

av = pytest.importorskip("av", reason="pip install '.[video]'")

FPS, WINDOW, STRIDE, SECONDS = 25, 16, 4, 12


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 320 × 240 pixels whose pictures move and are noisy."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    random = np.random.default_rng(0)
    wall = random.integers(0, 256, (240, 320 + FPS * SECONDS, 3), np.uint8).astype(np.float32)
    wall = (wall + np.roll(wall, 1, 0) + np.roll(wall, 1, 1)) / 3

    def pictures():
        for i in range(FPS * SECONDS):
            noise = 3 * random.standard_normal((240, 320, 1), np.float32)
            yield (wall[:, i : i + 320] + noise).clip(0, 255).astype(np.uint8)

    write_video(path, pictures(), FPS)
    return path


def plain(path, extractor):
    """Features (T, D) of a video, each window from the file."""
    rows = []
    for i in range((FPS * SECONDS - WINDOW) // STRIDE + 1):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            first = i * STRIDE / FPS
            container.seek(int(first / stream.time_base), stream=stream)
            clip = []
            for frame in container.decode(stream):
                if frame.time < first - 0.5 / FPS:
                    continue
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                clip.append(extractor.backbone.transform(picture))
                if len(clip) == WINDOW:
                    break
        rows.append(extractor.run(torch.stack(clip, dim=1)[None])[0])
    return np.stack(rows)


def test_features_of_a_video(compare, benchmark, video):
    extractor = make_extractor("motion", None, FPS, STRIDE, WINDOW, "cpu")
    found = extractor.extract(video, [STRIDE])[STRIDE]
    np.testing.assert_allclose(found, plain(video, extractor), atol=0.01)
    compare(
        "features of a video",
        "each frame is decoded once",
        lambda: extractor.extract(video, [STRIDE, WINDOW]),
        lambda: plain(video, extractor),
        note=f"{SECONDS} s of 320 × 240 at {FPS} fps, windows of {WINDOW} every {STRIDE}; here both grids",
        rounds=3,
    )
    seconds = {"here": benchmark.stats.stats.min / SECONDS, "plain": benchmark.extra_info["plain_s"] / SECONDS}
    print(f"\nseconds per second of video: {seconds['here']:.3f}, clip by clip: {seconds['plain']:.3f}")
