"""The page of a video in a real browser: it plays, a click seeks, the slider hides, keys work, nothing leaves the disk.

Skipped without Chromium, Playwright or PyAV; `make test` installs them where it is permitted.
"""

import shutil
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from fustal.tools import page
from fustal.tools.page import write_page
from fustal.video.rendered import write_video
from tests.films import film_of

pytest.importorskip("av", reason="pip install '.[video]'")
pytestmark = pytest.mark.usefixtures("browser")  # without it, nothing here is started

DURATION = 10.0
FOUND = pd.DataFrame(
    [("Run", 0.9, 1.0, 3.0), ("Jump", 0.5, 4.0, 5.0), ("Run", 0.3, 4.5, 6.0), ("Jump", 0.1, 8.0, 9.0)],
    columns=["label", "score", "start", "end"],
)
TRUTH = pd.DataFrame([("Run", 1.2, 3.1)], columns=["label", "start", "end"])
HARMFUL = "</script><img src=x onerror=document.title='harm'>"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with a video in three forms."""
    folder = tmp_path_factory.mktemp("films")
    for name, codec in (("v.webm", "libvpx-vp9"), ("v.mp4", "libx264"), ("v.mkv", "libx264")):
        film_of(folder / name, seconds=DURATION, codec=codec)
    return folder


@pytest.fixture
def opened(browser, tmp_path):
    """Writes a page and opens it from the disk. At the end it has had no error and has asked for nothing else."""
    tabs = []
    problems = []

    def open_(video, tracks=None, duration=DURATION, width=1280, expected=(), **options):
        path = tmp_path / "page.html"
        options = {"title": "film"} | options
        write_page(
            path, video, {"truth": TRUTH, "detections": FOUND} if tracks is None else tracks, duration, **options
        )
        tab = browser.new_page(viewport={"width": width, "height": 900})
        allowed = [path.as_uri(), *expected]
        tab.on("request", lambda one: one.url.startswith("data:") or one.url in allowed or problems.append(one.url))
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(path.as_uri())
        tabs.append(tab)
        return tab

    yield open_
    for tab in tabs:
        tab.close()
    assert not problems


def time_of(tab):
    return tab.evaluate("player.currentTime")


def until(tab, condition):
    """Waits for a condition. It is a function, because the page forbids to evaluate text."""
    tab.wait_for_function(f"() => {condition}")


def wait_for_video(tab):
    until(tab, "document.querySelector('video').readyState >= 2 && cues.length")


def click(tab, lane, part):
    """Clicks on a time line, given the start of its description, at a part of its width."""
    place = tab.locator(f'[role="img"][aria-label^="{lane}"]')
    box = place.bounding_box()
    place.click(position={"x": part * box["width"], "y": box["height"] / 2})


def shown(tab):
    """The labels and starts of the bars of detections that can be seen."""
    found = tab.locator(".bar[data-score]:visible").evaluate_all(
        "all => all.map(one => [one.title, one.dataset.start])"
    )
    return sorted((title.split(",")[0], float(start)) for title, start in found)


def set_slider(tab, value):
    tab.locator("#score").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }", value
    )


def captions(tab):
    return tab.evaluate("[...document.querySelector('video').textTracks[0].activeCues].map(cue => cue.text)")


@pytest.mark.parametrize("name", ["v.webm", "v.mp4", "v.mkv"])
def test_a_click_on_a_time_line_seeks(opened, films, name):
    tab = opened(films / name)
    wait_for_video(tab)
    assert tab.evaluate("document.querySelector('video').duration") == pytest.approx(DURATION, abs=0.05)
    for part in (0.3, 0.95, 0.02):
        click(tab, "Run, truth", part)
        assert time_of(tab) == pytest.approx(DURATION * part, abs=0.05)
        until(tab, "!document.querySelector('video').seeking")
        head = tab.locator("#head").bounding_box()
        lanes = tab.locator("#heads").bounding_box()
        assert (head["x"] - lanes["x"]) / lanes["width"] == pytest.approx(part, abs=0.005)
    click(tab, "Jump, detections", 0.47)
    tab.wait_for_timeout(500)
    assert captions(tab) == ["Jump 50 %", "Run 30 %"]
    assert tab.locator(".bar.now").count() == 2


def test_the_play_head_follows_the_video(opened, films):
    tab = opened(films / "v.webm")
    wait_for_video(tab)
    tab.evaluate("document.querySelector('video').play()")
    until(tab, "player.currentTime > 0.5")
    place = tab.locator("#head").evaluate("head => [parseFloat(head.style.left), player.currentTime]")
    assert place[0] / 100 * DURATION == pytest.approx(place[1], abs=0.3)


def test_the_slider_hides_detections(opened, films):
    tab = opened(films / "v.webm", min_score=0.2)
    wait_for_video(tab)
    assert shown(tab) == [("Jump", 4), ("Run", 1), ("Run", 4.5)]
    assert tab.locator("#value").inner_text() == "0.20"
    assert tab.locator("#count").inner_text() == "3 of 4 detections"
    set_slider(tab, 0.6)
    assert shown(tab) == [("Run", 1)]
    assert tab.locator("#count").inner_text() == "1 of 4 detections"
    assert tab.locator("li button:visible").count() == 1
    assert tab.locator(".name:visible").all_inner_texts() == ["Run"], "no line for a class without a bar"
    assert tab.locator(".bar.true:visible").count() == 1, "true segments have no score"
    click(tab, "Run, truth", 0.47)
    tab.wait_for_timeout(500)
    assert captions(tab) == []
    set_slider(tab, 0)
    assert len(shown(tab)) == 4
    assert tab.evaluate("video.textTracks[0].cues.length") == 3, "no caption of a lower score than at first"
    tab.wait_for_timeout(500)
    assert captions(tab) == ["Jump 50 %", "Run 30 %"]
    set_slider(tab, 1)
    assert tab.locator("#none").is_visible()


def test_space_plays_after_a_click_on_a_button(opened, films):
    tab = opened(films / "v.webm")
    wait_for_video(tab)
    for button in (tab.locator("li button").nth(1), tab.locator("#more")):
        button.click()
        tab.keyboard.press(" ")
        until(tab, "!player.paused")
        tab.keyboard.press(" ")
        until(tab, "player.paused")
    tab.keyboard.press("End")
    assert time_of(tab) == pytest.approx(DURATION, abs=0.1)
    tab.keyboard.press("Home")
    assert time_of(tab) == 0


def test_captions_that_begin_together_follow_the_slider(opened, films):
    """Browsers sort them by their ends, the longest first; times that differ by less than 1 ms are equal to them."""
    together = pd.DataFrame(
        [("Long", 0.9, 1.0, 3.0), ("Short", 0.3, 1.0, 2.0), ("Middle", 0.6, 1.0002, 2.5)],
        columns=["label", "score", "start", "end"],
    )
    tab = opened(films / "v.webm", {"detections": together, "truth": TRUTH}, min_score=0)
    wait_for_video(tab)
    set_slider(tab, 0.5)
    click(tab, "Run, truth", 0.15)
    tab.wait_for_timeout(500)
    assert sorted(captions(tab)) == ["Long 90 %", "Middle 60 %"]
    assert [label for label, _ in shown(tab)] == ["Long", "Middle"]


@pytest.mark.parametrize(("name", "codec"), [("v.webm", "libvpx-vp9"), ("v.mp4", "libx264")])
def test_a_video_whose_time_stamps_do_not_begin_at_0(opened, tmp_path, name, codec):
    """From 5 s on: gray, and white from 2 to 4 s after the beginning."""
    pictures = [np.full((48, 64, 3), 250 if 50 <= k < 100 else 60, np.uint8) for k in range(150)]
    write_video(tmp_path / name, pictures, 25, codec, range(125, 275), Fraction(1, 25))
    white = pd.DataFrame([("White", 0.9, 2.0, 4.0)], columns=["label", "score", "start", "end"])
    tab = opened(tmp_path / name, {"detections": white}, duration=6.0)
    wait_for_video(tab)
    for time, level, texts in ((1.5, 60, []), (2.5, 250, ["White 90 %"]), (4.5, 60, [])):
        click(tab, "White, detections", time / 6)
        until(tab, "!video.seeking")
        tab.wait_for_timeout(500)
        seen = tab.evaluate(
            """() => {
                const canvas = document.createElement("canvas").getContext("2d");
                canvas.drawImage(video, 0, 0, 8, 8);
                return [now(), canvas.getImageData(4, 4, 1, 1).data[0]];
            }"""
        )
        assert seen == [pytest.approx(time, abs=0.05), pytest.approx(level, abs=4)]
        assert captions(tab) == texts
        assert tab.locator("#head span").inner_text() == f"0:0{seen[0]:.1f}"
    tab.keyboard.press("p")
    assert tab.evaluate("now()") == pytest.approx(2, abs=0.01)
    assert tab.evaluate("duration") == pytest.approx(6, abs=0.05)


def test_keys(opened, films):
    tab = opened(films / "v.webm", min_score=0.2)
    wait_for_video(tab)
    press = tab.keyboard.press
    press("n")
    assert time_of(tab) == pytest.approx(1, abs=0.01)
    press("n")
    press("n")
    assert time_of(tab) == pytest.approx(4.5, abs=0.01)
    assert " ".join(tab.locator("#said").inner_text().split()) == "Run 30 % 0:04.5 – 0:06.0"
    press("n")
    assert time_of(tab) == pytest.approx(4.5, abs=0.01), "the score of the last one is too low"
    press("p")
    assert time_of(tab) == pytest.approx(4, abs=0.01)
    press("ArrowRight")
    press("ArrowRight")
    press("ArrowLeft")
    press("Shift+ArrowLeft")
    assert time_of(tab) == pytest.approx(4.9, abs=0.01)
    press(" ")
    until(tab, "!player.paused && player.currentTime > 5")
    press(" ")
    assert tab.evaluate("player.paused")
    before = time_of(tab)
    tab.locator("#score").focus()
    press("ArrowRight")
    assert tab.locator("#value").inner_text() == "0.21", "arrows move the slider that has the focus"
    assert time_of(tab) == before
    tab.locator("video").focus()
    press("ArrowRight")
    assert time_of(tab) == pytest.approx(before + 1, abs=0.01), "not by the video's own keys as well"


def test_every_control_has_a_name_and_can_be_reached(opened, films):
    tab = opened(films / "v.webm", min_score=0)
    wait_for_video(tab)
    tab.evaluate("document.querySelector('video').controls = false")  # their number is the browser's
    reached = []
    for _ in range(8):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                """() => {
                    const one = document.activeElement;
                    const name = one.ariaLabel ?? one.labels?.[0]?.textContent ?? "";
                    return [(name || one.innerText).trim().split("\\n")[0], getComputedStyle(one).outlineStyle];
                }"""
            )
        )
    names = [
        "Run",
        "Jump",
        "Run",
        "Jump",
        "Minimum score",
        "Zoom out",
        "Zoom in",
        "Time lines: a click goes to its time",
    ]
    assert reached == [[name, "solid"] for name in names], "in this order, each with a visible focus"


def test_zoom(opened, films):
    tab = opened(films / "v.webm")
    wait_for_video(tab)
    width = tab.locator("#heads").bounding_box()["width"]
    for _ in range(3):
        tab.keyboard.press("+")
    assert tab.locator("#heads").bounding_box()["width"] == pytest.approx(8 * width, abs=2)
    tab.evaluate("seek(7)")
    tab.evaluate("lines.scrollLeft = 0")
    tab.keyboard.press("Shift+ArrowRight")
    head = tab.locator("#head").bounding_box()
    lines = tab.locator("#lines").bounding_box()
    assert lines["x"] < head["x"] < lines["x"] + lines["width"], "the play head can be seen"
    name = tab.locator(".name").first.bounding_box()
    assert name["x"] == pytest.approx(lines["x"], abs=1), "the names stay"
    cut = tab.locator("#ticks").evaluate("ticks => parseFloat(getComputedStyle(ticks).clipPath.split(' ').at(-1))")
    assert cut == tab.evaluate("lines.scrollLeft") > 0, "no tick is drawn over the names"
    for _ in range(5):
        tab.keyboard.press("-")
    assert tab.locator("#heads").bounding_box()["width"] == pytest.approx(width, abs=1)


def test_a_video_beside_the_page(opened, films, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EMBEDDED", 100)
    film = tmp_path / "a b#1.mp4"
    shutil.copy(films / "v.mp4", film)
    tab = opened(film, expected=[film.as_uri()])
    wait_for_video(tab)
    click(tab, "Run, truth", 0.6)
    assert time_of(tab) == pytest.approx(6, abs=0.05)
    assert tab.get_by_text("keep both together").is_visible()


def test_a_video_longer_than_its_features(opened, films):
    tab = opened(films / "v.webm", duration=8.0)
    wait_for_video(tab)
    click(tab, "Run, truth", 0.95)
    assert time_of(tab) == pytest.approx(9.5, abs=0.1)


@pytest.mark.parametrize("content", [None, b"no film"])
def test_a_clock_takes_the_place_of_a_video_that_is_not_there(opened, tmp_path, content):
    film = None
    if content:
        film = tmp_path / "broken.mp4"
        film.write_bytes(content)
    tab = opened(film)
    play = tab.get_by_role("button", name="Play")
    play.wait_for()
    click(tab, "Run, truth", 0.2)
    assert time_of(tab) == pytest.approx(2, abs=0.05)
    assert tab.locator("#now").inner_text() == "Run"
    play.click()
    until(tab, "player.currentTime > 2.4")
    head = tab.locator("#head").evaluate("head => parseFloat(head.style.left)")
    assert 23 < head < 40
    tab.keyboard.press("ArrowRight")
    tab.get_by_role("button", name="Pause").click()
    assert tab.evaluate("player.paused")
    assert tab.locator("#time").inner_text() == tab.evaluate("clock(player.currentTime)")
    tab.evaluate("seek(9.9)")
    tab.keyboard.press("Tab")
    tab.locator("#score").focus()
    tab.keyboard.press(" ")
    until(tab, "player.paused && player.currentTime === 10")


def test_names_are_only_text(opened, films):
    harmful = FOUND.assign(label=HARMFUL)
    tab = opened(films / "v.webm", {HARMFUL: harmful}, title=HARMFUL, about=HARMFUL)
    wait_for_video(tab)
    click(tab, "</script>", 0.2)
    tab.wait_for_timeout(500)
    assert tab.title() == f"{HARMFUL} · FuSTAL"
    assert tab.locator("img").count() == 0
    assert tab.locator("h1").inner_text() == HARMFUL


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("tracks", [{}, {"detections": FOUND[:0]}, {"detections": FOUND}, {"truth": TRUTH}])
def test_other_tracks_and_a_small_screen(opened, tracks, width):
    tab = opened(None, tracks, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for lane in tab.locator(".lane:visible").all():
        assert lane.bounding_box()["width"] > 0.7 * (width - 300)
    tab.locator(".axis .lane").click()
    assert time_of(tab) == pytest.approx(5, abs=0.05)


def test_an_hour_with_thousands_of_detections(opened):
    count = 3000
    many = pd.DataFrame({"label": ["Run", "Jump"] * (count // 2), "score": [k / count for k in range(count)]})
    many = many.assign(start=[1.2 * k for k in range(count)], end=[1.2 * k + 1 for k in range(count)])
    tab = opened(None, {"detections": many}, duration=3600.0, min_score=0.5)
    assert tab.locator("#count").inner_text() == "1500 of 3000 detections"
    labels = tab.locator(".tick").all_inner_texts()
    assert labels[:2] == ["0:00", "5:00"]
    tab.keyboard.press("n")
    assert time_of(tab) == 1800
    milliseconds = tab.evaluate("() => { const begun = performance.now(); draw(); return performance.now() - begun }")
    assert milliseconds < 100, "for a frame"
