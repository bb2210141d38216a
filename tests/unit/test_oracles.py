"""Labels corrected by true segments in one way, and nothing else."""

import pandas as pd
import pytest

from tests import oracles

TRUTH = pd.DataFrame(
    {
        "video": ["v", "v", "v", "w"],
        "label": ["run", "run", "jump", "run"],
        "start": [10.0, 30.0, 50.0, 5.0],
        "end": [20.0, 40.0, 60.0, 9.0],
    }
)
LABELS = pd.DataFrame(
    {
        "video": ["v", "v", "v", "v", "x"],
        "label": ["run", "run", "run", "jump", "run"],
        "score": [0.9, 0.8, 0.7, 0.6, 0.5],
        "start": [12.0, 31.0, 51.0, 70.0, 1.0],
        "end": [20.0, 44.0, 60.0, 80.0, 2.0],
    }
)


def segments(labels: pd.DataFrame) -> list[tuple]:
    return list(labels[["video", "label", "start", "end"]].itertuples(index=False, name=None))


def test_perfect_borders_move_labels_that_overlap_an_action_of_their_class() -> None:
    moved = oracles.perfect_borders(LABELS, TRUTH)
    assert segments(moved) == [
        ("v", "run", 10.0, 20.0),
        ("v", "run", 30.0, 40.0),
        ("v", "run", 51.0, 60.0),  # a jump is there: a false label stays
        ("v", "jump", 70.0, 80.0),
        ("x", "run", 1.0, 2.0),
    ]
    assert moved.score.equals(LABELS.score)


def test_perfect_classes_rename_labels_that_overlap_an_action() -> None:
    renamed = oracles.perfect_classes(LABELS, TRUTH)
    assert renamed.label.tolist() == ["run", "run", "jump", "jump", "run"]
    assert renamed[["start", "end"]].equals(LABELS[["start", "end"]])


def test_perfect_counts_keep_the_most_confident_ones() -> None:
    assert segments(oracles.perfect_counts(LABELS, TRUTH)) == segments(LABELS.iloc[[0, 1, 3]])


def test_the_best_proposals_are_those_with_the_highest_tiou() -> None:
    worse = LABELS.assign(start=LABELS.start + 3, score=0.99)
    chosen = oracles.perfect_choice(pd.concat([worse, LABELS], ignore_index=True), TRUTH)
    assert segments(chosen) == segments(LABELS.iloc[[0, 1]])


@pytest.mark.parametrize("correct", [oracles.perfect_borders, oracles.perfect_classes, oracles.perfect_counts])
def test_nothing_is_corrected_without_labels_and_nothing_is_lost_without_truth(correct) -> None:
    assert correct(LABELS[:0], TRUTH).empty
    kept = correct(LABELS, TRUTH[:0])
    assert kept.empty if correct is oracles.perfect_counts else kept.equals(LABELS)


def test_the_page_has_means_and_deviations_over_the_runs_of_a_data_set() -> None:
    def measured(value: float) -> pd.DataFrame:
        return pd.DataFrame([[value] * 5], index=["true segments"], columns=oracles.COLUMNS)

    text = oracles.page([("one", measured(50)), ("two", measured(1)), ("one", measured(60))])
    assert "| one | true segments | 2 | 55.0 ± 7.1 |" in text
    assert "| two | true segments | 1 | 1.0 |" in text
