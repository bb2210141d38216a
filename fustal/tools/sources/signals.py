"""What the hand-made features of recorded signals have in common: pieces around snippets, slopes, standardisation."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np


def pieces_of(channels: np.ndarray, centres: np.ndarray, width: int) -> np.ndarray:
    """The channels (N, C) around each centre (T,), as (T, width, C); beyond the ends, the first or last sample."""
    at = centres[:, None] + np.arange(width) - width // 2
    return channels[at.clip(0, len(channels) - 1)]


def slope_of(pieces: np.ndarray) -> np.ndarray:
    """Half the change of each channel from the beginning to the end of a piece, by a line through it: (T, C)."""
    ramp = np.linspace(-1, 1, pieces.shape[1])
    return np.einsum("twc,w->tc", pieces, ramp) / max(float(ramp @ ramp), 1e-6)


def standardised(features: Mapping[str, np.ndarray], train: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Features with mean 0 and deviation 1 over the training recordings, clipped to +-5.

    Args:
        features: name of a recording -> its features (T, D).
        train: names of the training recordings.

    Yields:
        Name and features, float16, of each recording.
    """
    reference = np.concatenate([values for name, values in features.items() if name in train])
    mean = reference.mean(axis=0)
    deviation = reference.std(axis=0) + 1e-6
    for name, values in features.items():
        yield name, ((values - mean) / deviation).clip(-5, 5).astype(np.float16)
