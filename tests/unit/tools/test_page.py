"""The page of a video: what it contains, and that no name becomes markup. `tests/browser` tries it in a browser."""

import base64
import hashlib
import html
import os
import re

import pandas as pd
import pytest

from fustal.exceptions import InputError
from fustal.tools import page
from fustal.tools.page import clock, write_page
from tests.html_page import Page

FOUND = pd.DataFrame(
    [("Run", 0.1, 2.0, 4.0), ("Jump", 0.934, 6.0, 8.5), ("Run", 0.6, 1.0, 3.0)],
    columns=["label", "score", "start", "end"],
)
TRUTH = pd.DataFrame([("Run", 1.0, 3.5), ("Swim", 9.0, 10.0)], columns=["label", "start", "end"])
HARMFUL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onclick='alert(3)",
    "</style></script><b>",
    "{{ 7 * 7 }}",
    "a --> b\n\n1\n00:00:00.000 --> 00:00:09.000\nthere",
    "&lt;&amp;",
    "red; } * { display: none",
]


@pytest.fixture
def written(tmp_path):
    """Writes a page with a video of a few bytes, and returns it parsed; None: without a video."""

    def write(tracks, content=b"no pictures", name="v.webm", **options):
        video = None
        if content is not None:
            video = tmp_path / name
            video.write_bytes(content)
        options = {"duration": 12.0, "title": "v"} | options
        write_page(tmp_path / "page.html", video, tracks, **options)
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


def style(element):
    """The custom properties of an element, as numbers where they are numbers."""
    pairs = (entry.split(":") for entry in element["style"].split(";"))
    values = {name.strip().removeprefix("--"): value.strip() for name, value in pairs}
    return {name: float(value) if re.fullmatch(r"[\d.]+", value) else value for name, value in values.items()}


def bars(parsed):
    return [element for element in parsed.all("i") if element["class"].startswith("bar")]


# --- what is on the page ----------------------------------------------------------------------------------------------


def test_time_lines_of_each_class_and_track(written):
    parsed = written({"truth": TRUTH, "detections": FOUND})
    lanes = [element["aria-label"] for element in parsed.all("div") if element.get("role") == "img"]
    assert lanes == [
        "Run, truth: 0:01.0 – 0:03.5",
        "Run, detections: 2",
        "Swim, truth: 0:09.0 – 0:10.0",
        "Jump, detections: 1",
    ], "true classes first, then by the best score; no empty time lines"
    found = [style(bar) for bar in bars(parsed)]
    assert [(bar["start"], bar["end"]) for bar in found] == [(1, 3.5), (1, 3), (2, 4), (9, 10), (6, 8.5)]
    assert [bar["height"] for bar in found] == pytest.approx([1, 0.72, 0.37, 1, 0.9538])
    assert ["data-score" in bar for bar in bars(parsed)] == [False, True, True, False, True]
    assert bars(parsed)[-1]["title"] == "Jump, 0:06.0 – 0:08.5, 93 %"


def test_the_list_in_the_order_of_time_as_the_captions(written):
    parsed = written({"truth": TRUTH, "detections": FOUND, "student": FOUND.assign(score=0.5)})
    items = [" ".join(element["text"].split()) for element in parsed.all("li")]
    assert items == ["Run 60 % 0:01.0 – 0:03.0", "Run 10 % 0:02.0 – 0:04.0", "Jump 93 % 0:06.0 – 0:08.5"]
    (track,) = parsed.all("track")
    captions = base64.b64decode(track["src"].removeprefix("data:text/vtt;base64,")).decode()
    assert captions.startswith("WEBVTT\n\n1\n00:00:01.000 --> 00:00:03.000\nRun 60 %\n\n2\n")
    assert re.findall(r"^\w+ \d+ %$", captions, re.M) == ["Run 60 %", "Run 10 %", "Jump 93 %"]


def test_the_slider_begins_at_the_minimum_score_and_covers_all_scores(written):
    parsed = written({"detections": FOUND.assign(score=[-0.5, 3, 1])}, min_score=0.3)
    (slider,) = parsed.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("-0.5", "3.0", "0.3")


def test_classes_have_different_colours_or_patterns_everywhere(written):
    labels = [f"class {k:02d}" for k in range(24)]
    many = pd.DataFrame({"label": labels, "score": 0.5, "start": 1.0, "end": 2.0})
    parsed = written({"detections": many})
    looks = [(style(bar)["colour"], bar["data-pattern"]) for bar in bars(parsed)]
    assert len(set(looks)) == 24
    chips = [(style(chip)["colour"], chip["data-pattern"]) for chip in parsed.all("i") if chip["class"] == "chip"]
    assert chips == looks + looks, "those of the list, and those of the names"
    assert "#000000" not in dict(looks), "black is the colour of true segments"


def test_without_detections(written):
    parsed = written({"detections": FOUND[:0]})
    assert not bars(parsed)
    assert not parsed.all("li")
    assert "There are no detections." in parsed.text
    (slider,) = parsed.all("input")
    assert (slider["min"], slider["max"]) == ("0.0", "1.0")


def test_only_true_segments(written):
    parsed = written({"truth": TRUTH})
    assert len(bars(parsed)) == 2
    assert not parsed.all("li")


def test_without_a_video_there_is_a_clock(written):
    parsed = written({"detections": FOUND}, content=None)
    assert not parsed.all("video")
    (place,) = (element for element in parsed.all("div") if element.get("id") == "clock")
    assert "hidden" not in place
    parsed = written({"detections": FOUND})
    (place,) = (element for element in parsed.all("div") if element.get("id") == "clock")
    assert "hidden" in place, "the video is shown"


def test_hours_of_video(written):
    late = pd.DataFrame({"label": ["Run"], "score": [0.5], "start": [36_000.04], "end": [36_061.5]})
    parsed = written({"detections": late}, duration=40_000.0)
    assert "10:00:00.0 – 10:01:01.5" in parsed.text
    assert (
        style(next(element for element in parsed.all("div") if "inner" in element.get("class", "")))["duration"] == 4e4
    )


def test_times_as_players_show_them():
    assert [clock(time) for time in (0, 59.94, 59.96, 3599.99, -0.5)] == [
        "0:00.0",
        "0:59.9",
        "1:00.0",
        "1:00:00.0",
        "-0:00.5",
    ]


# --- the video --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("v.webm", "webm"), ("v.mp4", "mp4"), ("v.MKV", "mp4")])
def test_a_small_video_is_in_the_page(written, name, kind):
    content = bytes(range(256))
    (video,) = written({"detections": FOUND}, content=content, name=name).all("video")
    head, data = video["src"].split(",")
    assert head == f"data:video/{kind};base64"
    assert base64.b64decode(data) == content


def test_a_large_video_is_read_beside_the_page_which_says_so(written, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EMBEDDED", 9)
    (tmp_path / "videos").mkdir()
    parsed = written({"detections": FOUND}, content=9 * b"x", name="v.mp4")
    assert parsed.all("video")[0]["src"].startswith("data:")
    parsed = written({"detections": FOUND}, content=10 * b"x", name="videos/a b#1?%.mp4")
    assert parsed.all("video")[0]["src"] == "videos/a%20b%231%3F%25.mp4"
    assert "It is read from the file a b#1?%.mp4: keep both together." in parsed.text
    text = write_page(tmp_path / "page.html", tmp_path / "videos/a b#1?%.mp4", {}, 9.0, title="v")
    assert text == "which reads the video from videos/a b#1?%.mp4: keep both together"


def test_a_large_video_whose_name_is_no_utf_8(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EMBEDDED", 9)
    video = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    try:
        video.write_bytes(10 * b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    write_page(tmp_path / "page.html", video, {"detections": FOUND}, 9.0, title="v")
    assert Page((tmp_path / "page.html").read_text()).all("video")[0]["src"] == "caf%E9.mp4"


def test_messages(tmp_path):
    (tmp_path / "v.mp4").write_bytes(bytes(1_260_000))
    assert write_page(tmp_path / "a.html", tmp_path / "v.mp4", {}, 9.0, title="v") == "with the video, 1.3 MB"
    assert write_page(tmp_path / "a.html", None, {}, 9.0, title="v") == "without a video"


# --- safety -----------------------------------------------------------------------------------------------------------


def test_no_name_becomes_markup_and_only_the_script_of_the_page_may_run(written):
    found = pd.DataFrame({"label": HARMFUL, "score": 0.5, "start": 1.0, "end": 2.0})
    tracks = {name: found for name in HARMFUL}
    parsed = written(tracks, title="".join(HARMFUL), about="".join(HARMFUL))
    plain = written({name: found.assign(label="a") for name in "bcdefghi"})
    assert {element["tag"] for element in parsed.elements} == {element["tag"] for element in plain.elements}
    attributes = {name for element in parsed.elements for name in element}
    assert attributes == {name for element in plain.elements for name in element}
    assert not [name for name in attributes if name.startswith("on")]
    assert [style(bar).keys() for bar in bars(parsed)] == 64 * [{"colour", "start", "end", "height"}]

    (script,) = parsed.all("script")
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert parsed.all("h1")[0]["text"] == "".join(HARMFUL)
    assert [element["data-label"] for element in parsed.all("button") if "data-label" in element] == HARMFUL
    captions = base64.b64decode(parsed.all("track")[0]["src"].split(",")[1]).decode()
    assert captions.count("-->") == len(HARMFUL)
    assert [html.unescape(line) for line in captions.splitlines()[4::4]] == [
        f"{' '.join(label.split())} 50 %" for label in HARMFUL
    ]


def test_nothing_but_the_video_is_loaded(written):
    parsed = written({"detections": FOUND})
    for element in parsed.elements:
        assert element.get("src", "data:").startswith("data:")
        assert "href" not in element
    assert "@import" not in parsed.text
    assert "url(" not in parsed.text


# --- files ------------------------------------------------------------------------------------------------------------


def test_only_a_page_is_replaced(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<p>mine</p>")
    with pytest.raises(InputError, match=r"page\.html: exists already, and is no page of a video: move it away"):
        write_page(path, None, {}, 9.0, title="v")
    assert path.read_text() == "<p>mine</p>"
    path.unlink()
    for title in ("first", "second"):
        write_page(path, None, {}, 9.0, title=title)
    assert Page(path.read_text()).all("h1")[0]["text"] == "second"


@pytest.mark.parametrize(
    ("name", "video", "message"),
    [
        ("page.pdf", None, r"page\.pdf: must end in \.html or \.htm"),
        ("folder.html", None, r"folder\.html: is a folder, and a file never replaces one"),
        ("page.html", "missing.mp4", r"missing\.mp4: no such file"),
        ("page.html", "folder.html", r"folder\.html: cannot be read: it is a folder"),
        ("page.html", "page.html", r"page\.html: is also read, as .*, and would be replaced"),
    ],
)
def test_wrong_paths(tmp_path, name, video, message):
    (tmp_path / "folder.html").mkdir()
    if name == video:
        write_page(tmp_path / name, None, {}, 9.0, title="v")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        write_page(tmp_path / name, tmp_path / video if video else None, {"detections": FOUND}, 9.0, title="v")
    assert sorted(tmp_path.iterdir()) == before
