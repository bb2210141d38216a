"""Draws a page as `fustal localize --page` writes it: `python -m docs.page` makes `docs/page.png`.

Needs the extras `video` and `browser`, and Chromium. The video is rendered, and its detections are invented from the
known times: the picture shows the page, and no result. `python -m docs.page FOLDER` keeps the video and the page there.
"""

import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from fustal import ROOT
from fustal.tools.page import write_page

TARGET = ROOT / "docs" / "page.png"
SIZE = 640, 360
RATE = 25
DURATION = 24.0
ACTIONS = [("Wave", 2.0, 5.0), ("Jump", 7.0, 9.0), ("Crouch", 11.0, 14.0), ("Wave", 15.5, 18.0), ("Jump", 20.0, 22.0)]
"""What the figure does, from when to when (s)."""

COLOURS = 256
"""Of the picture, so that its file is small."""


def main(folder: Path) -> None:
    """Renders the video, writes its page, and takes a picture of it."""
    from playwright.sync_api import sync_playwright

    video = folder / "figure.webm"
    render(video)
    page = folder / "figure.html"
    truth, found = segments()
    tracks = {"truth": truth, "detections": found}
    write_page(page, video, tracks, DURATION, title="figure", about="A rendered video with invented detections.")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 800}, color_scheme="light")
        tab.goto(page.as_uri())
        show(tab, 16.6)
        tab.screenshot(path=folder / "page.png", full_page=True)
        browser.close()
    picture = Image.open(folder / "page.png").convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


def show(tab: object, time: float) -> None:
    """Moves the video of an open page to a time (s), and waits until it is drawn there."""
    tab.evaluate(
        """async time => {
            const video = document.querySelector("video");
            const sought = new Promise(done => video.addEventListener("seeked", done, {once: true}));
            video.currentTime = time;
            await sought;
        }""",
        time,
    )
    tab.wait_for_function("() => document.querySelector('video').readyState === 4")
    tab.wait_for_timeout(1000)  # captions and controls are drawn a little later


def segments() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The true segments, and detections near to them, some of them wrong."""
    truth = pd.DataFrame(ACTIONS, columns=["label", "start", "end"])
    random = np.random.default_rng(0)
    rows = []
    for action, start, end in ACTIONS:
        for score in (random.uniform(0.55, 0.95), random.uniform(0.1, 0.4)):
            shift = random.normal(0, 0.15 if score > 0.5 else 0.6, 2)
            rows.append((action, score, start + shift[0], end + shift[1]))
    for action in ("Turn", "Crouch", "Wave"):
        start = random.uniform(0, DURATION - 3)
        rows.append((action, random.uniform(0.05, 0.35), start, start + random.uniform(0.5, 2)))
    return truth, pd.DataFrame(rows, columns=["label", "score", "start", "end"])


def render(path: Path) -> None:
    """Renders the video of a figure that does `ACTIONS` between houses.

    Args:
        path: .webm or .mp4.
    """
    import av

    background = street()
    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"deadline": "realtime", "cpu-used": "8", "g": "50"}
        for number in range(round(DURATION * RATE)):
            picture = background.copy()
            draw_figure(ImageDraw.Draw(picture), number / RATE)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def street() -> Image.Image:
    """The background: houses with windows under the sky."""
    picture = Image.new("RGB", SIZE, "#cfe3ee")
    draw = ImageDraw.Draw(picture)
    random = np.random.default_rng(3)
    left = 0
    while left < SIZE[0]:
        width, height = random.integers(70, 130), random.integers(110, 210)
        grey = int(random.integers(130, 190))
        draw.rectangle((left, 290 - height, left + width, 290), fill=(grey, grey - 12, grey - 25))
        for x in range(left + 12, left + width - 18, 26):
            for y in range(300 - height, 262, 32):
                draw.rectangle((x, y, x + 11, y + 16), fill="#5d6f7c")
        left += width
    draw.rectangle((0, 290, *SIZE), fill="#8b8f8a")
    return picture


def draw_figure(draw: ImageDraw.ImageDraw, time: float) -> None:
    """Draws the figure at a time (s)."""
    action, done = next(((name, time - start) for name, start, end in ACTIONS if start <= time < end), ("", 0.0))
    x = SIZE[0] * (0.5 + 0.3 * math.sin(time / 4))
    bend = 0.5 - 0.5 * math.cos(2.1 * done) if action == "Crouch" else 0.0
    up = 60 * abs(math.sin(math.pi * done)) if action == "Jump" else 0.0
    ground = 330 - up
    hip = ground - 75 + 35 * bend
    neck = hip - 75 + 10 * bend
    step = 14 * math.sin(6 * time) if not action else 0.0
    limb = {"fill": "#1f2a44", "width": 10, "joint": "curve"}
    for side in (-1, 1):
        foot = x + side * 18 + side * step
        knee = x + side * (14 + 26 * bend) + side * step / 2
        draw.line([(x, hip), (knee, (hip + ground) / 2), (foot, ground)], **limb)
        hand = x + side * 38, neck + 55
        elbow = x + side * 30, neck + 30
        if action == "Jump":
            elbow, hand = (x + side * 32, neck - 8), (x + side * 48, neck - 38)
        elif action == "Wave" and side > 0:
            elbow, hand = (x + 34, neck + 2), (x + 44 + 20 * math.sin(9 * done), neck - 42)
        draw.line([(x, neck + 6), elbow, hand], **limb)
    draw.line([(x, neck), (x, hip)], fill="#b5452c", width=20)
    draw.ellipse((x - 18, neck - 40, x + 18, neck - 4), fill="#e8b796", outline="#1f2a44", width=3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
