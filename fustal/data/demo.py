"""The demo: invented annotations and simulated features, made when they are first needed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

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


DEMO_LOOK = Look(core_width=0.22, motion=0.5, disagreement=0.0, scene=0.6, linger=1.0, noise=2.2)
"""The demo is much clearer than that, so that its few minutes of training show what the stages do."""


def invent(*, train: int = 80, test: int = 20, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Invents the annotations of the demo: videos of 40 to 90 s with one or two of five classes.

    Returns:
        Frames of videos and of segments, like `annotations.read_annotations`.

    >>> videos, segments = invent(train=5, test=0)
    >>> videos.index[0], sorted(set(segments.label))
    ('train_000', ['Bow', 'Climb', 'Dance', 'Jump', 'Spin'])
    """
    rng = np.random.default_rng(seed)
    videos, segments, classes = [], [], list(DEMO_CLASSES)
    for subset, count in (("train", train), ("test", test)):
        for index in range(count):
            video, duration = f"{subset}_{index:03d}", round(rng.uniform(40, 90), 2)
            other = classes[(index + rng.integers(1, 5)) % 5]
            labels = [classes[index % 5], other][: rng.integers(1, 3)]
            videos.append((video, subset, duration, 25.0))
            segments += [(video, *action) for action in _invent_actions(labels, duration, rng)]
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    return frame, pd.DataFrame(segments, columns=SEGMENT_COLUMNS)


def _invent_actions(labels: list[str], duration: float, rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Actions one after the other, the classes in turn, with pauses about as long; the first always finds room."""
    end, turn = 0.0, 0
    while True:
        typical = DEMO_CLASSES[labels[turn % len(labels)]]
        start = end + rng.uniform(2, 2 + 2 * typical)
        end = start + typical * rng.lognormal(0, 0.3)
        if turn and end > duration - 1:
            return
        yield labels[turn % len(labels)], round(start, 2), round(min(end, duration - 1), 2)
        turn += 1


DEMO = ROOT / "params" / "datasets" / "demo.yaml"
"""The one card whose data are made without being asked for."""


def ensure(card: str | Path) -> None:
    """Makes the repository's own demo, if that is the data set and it is missing.

    Several processes may call it at once: the first one makes the data set, the others wait for it.

    Args:
        card: a name in `params/datasets`, or the path of a card.

    Raises:
        InputError: the data set is missing, and it is not the demo.
    """
    path = find_card(card)
    known = read_card(path)
    root = (path.parent / known.root).resolve()
    if (root / known.annotations).exists():
        return
    recover(root)  # it may have no name because a fetch was killed
    if path == DEMO and not root.exists():
        with held_folder(root):
            if not root.exists():  # else another process has made it meanwhile
                with atomic_folder(root, again=True) as folder:
                    make_demo(folder, known.grids)
    if not (root / known.annotations).exists():
        raise InputError(f"{root / known.annotations}: no such file: run `fustal fetch {card}` first")


def make_demo(root: Path, grids: Mapping[str, Grid]) -> None:
    """Writes annotations and simulated features of the demo.

    Args:
        root: the folder of the data set.
        grids: those of the card.
    """
    videos, segments = invent()
    simulate(videos, segments, root, grids, dim=32, seed=0, look=DEMO_LOOK)
