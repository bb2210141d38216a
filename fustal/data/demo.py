"""The demo data set: invented annotations and simulated features, made at their first use."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fustal import ROOT
from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Grid, read_card
from fustal.data.names import find_card
from fustal.data.simulate import Look, simulate
from fustal.data.writing import atomic_folder, held_folder, recover
from fustal.exceptions import InputError

DEMO_CLASSES = {"Bow": 4.0, "Climb": 9.0, "Dance": 14.0, "Jump": 5.0, "Spin": 6.0}
"""Classes of the invented annotations, and the median duration of their actions in seconds."""

DEMO_LOOK = Look(core_width=0.22, motion=0.5, disagreement=0.0, scene=0.6, linger=0.3, noise=2.6)
"""The demo is much clearer than the default look: its training takes a few minutes, and must still show an effect.

It was chosen so that with most seeds each stage improves on the one before. Its results are an illustration of the
method, and no evidence for it."""


def invent(*, train: int = 80, test: int = 60, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Invents the annotations of the demo: videos of 40 to 90 s with one or two of five classes.

    Returns:
        Frames of videos and of segments, like `annotations.read_annotations`.

    >>> videos, segments = invent(train=5, test=0)
    >>> videos.index[0], sorted(set(segments.label))
    ('train_000', ['Bow', 'Climb', 'Dance', 'Jump', 'Spin'])
    """
    rng = np.random.default_rng(seed)
    classes = list(DEMO_CLASSES)
    videos = []
    segments = []
    for subset, count in (("train", train), ("test", test)):
        for index in range(count):
            video = f"{subset}_{index:03d}"
            duration = round(rng.uniform(40, 90), 2)
            # The classes in turn, each with one of the four others, or alone
            other = classes[(index + rng.integers(1, 5)) % 5]
            labels = [classes[index % 5], other][: rng.integers(1, 3)]
            videos.append((video, subset, duration, 25.0))
            for label, start, end in _invent_actions(labels, duration, rng):
                segments.append((video, label, start, end))
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    return frame, pd.DataFrame(segments, columns=SEGMENT_COLUMNS)


def _invent_actions(labels: list[str], duration: float, rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Label, start and end (s) of actions one after the other, the classes in turn, with pauses about as long.

    There is at least one action: the first one is cut if it is too long.
    """
    end = 0.0
    for turn, label in enumerate(cycle(labels)):
        typical = DEMO_CLASSES[label]
        start = end + rng.uniform(2, 2 + 2 * typical)
        end = start + typical * rng.lognormal(0, 0.3)
        if turn > 0 and end > duration - 1:
            return
        yield label, round(start, 2), round(min(end, duration - 1), 2)


DEMO = ROOT / "params" / "datasets" / "demo.yaml"
"""The only card whose data are made automatically."""


def ensure(card: str | Path) -> None:
    """Makes the data of the demo, if the card is the demo's and they are missing.

    Several processes may call it at the same time: the first one makes the data set, the others wait.

    Args:
        card: a name in `params/datasets`, or the path of a card.

    Raises:
        InputError: the data set is missing, and it is not the demo.
    """
    path = find_card(card)
    contents = read_card(path)
    root = (path.parent / contents.root).resolve()
    annotations = root / contents.annotations
    if annotations.exists():
        return
    recover(root)  # a fetch that was killed may have left the data without their name
    if path == DEMO and not root.exists():
        with held_folder(root):
            if not root.exists():  # another process may have made it meanwhile
                with atomic_folder(root, again=True) as folder:
                    make_demo(folder, contents.grids)
    if not annotations.exists():
        raise InputError(f"{annotations}: no such file: run `fustal fetch {card}` first")


def make_demo(root: Path, grids: Mapping[Any, Grid]) -> None:
    """Writes annotations and simulated features of the demo.

    Args:
        root: the folder of the data set.
        grids: the grids of the card, by stage.
    """
    videos, segments = invent()
    simulate(videos, segments, root, grids, dim=32, seed=0, look=DEMO_LOOK)
