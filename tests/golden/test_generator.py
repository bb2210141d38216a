"""Mining, video score and losses of the generator against the released code."""

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from fustal.generator import (
    Snippets,
    contrast,
    equal_label_pairs,
    generator_loss,
    in_video_contrast,
    mine_snippets,
    video_score,
)
from fustal.params import Params
from tests.networks import PUBLISHED

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def _sorted_rows(array):
    """The embeddings of each video, sorted: the order of the top k does not matter."""
    return np.stack([video[np.lexsort(video.T)] for video in array])


def test_mining(golden):
    g = golden("mining")
    found = mine_snippets(
        torch.from_numpy(g["embeddings"]),
        torch.from_numpy(g["actionness"]),
        k_easy=int(g["k_easy"]),
        k_hard=int(g["k_hard"]),
        small=int(g["m"]),
        large=int(g["M"]),
    )
    for name in ("easy_action", "easy_background"):
        np.testing.assert_allclose(_sorted_rows(getattr(found, name).numpy()), _sorted_rows(g[name]), **CLOSE)
    # Hard snippets are compared where their product is above 0: ties at 0 are arbitrary.
    for name in ("hard_action", "hard_background"):
        ours = getattr(found, name).numpy()
        released = g[name]
        for video in range(len(ours)):
            score = _border(g, name, video)
            our_rows = ours[video][score[_positions(ours[video], g["embeddings"][video])] > 0]
            released_rows = released[video][score[_positions(released[video], g["embeddings"][video])] > 0]
            assert len(our_rows) == len(released_rows)
            np.testing.assert_allclose(_sorted_rows(our_rows[None]), _sorted_rows(released_rows[None]), **CLOSE)


def _positions(rows, embeddings):
    """Positions of embeddings in their video."""
    return [int(np.abs(embeddings - row).sum(1).argmin()) for row in rows]


def _border(g, name, video):
    """Actionness times border region, with scipy's morphology: hard snippets have the highest products."""
    a = g["actionness"][video]
    binary = a > np.median(a)
    small = np.ones(int(g["m"]))
    large = np.ones(int(g["M"]))
    if name == "hard_action":
        region = binary_erosion(binary, small).astype(int) - binary_erosion(binary, large).astype(int)
    else:
        region = binary_dilation(binary, large).astype(int) - binary_dilation(binary, small).astype(int)
    return a * region


def test_video_score(golden):
    g = golden("video_score")
    cas = torch.from_numpy(g["cas"])
    ratio = cas.shape[1] // int(g["k"])
    score = video_score(cas, torch.full((1, cas.shape[2]), ratio), Params(**PUBLISHED))
    np.testing.assert_allclose(score.numpy(), g["video_score"], **CLOSE)


def test_losses_and_gradients(golden):
    g = golden("losses")
    tensors = {name: torch.from_numpy(g[name]).requires_grad_() for name in ("video_score", "EA", "EB", "HA", "HB")}
    snippets = Snippets(tensors["EA"], tensors["EB"], tensors["HA"], tensors["HB"])
    labels = torch.from_numpy(g["labels"])
    params = Params(**PUBLISHED)
    losses = generator_loss(tensors["video_score"][None], labels, snippets, params)
    in_video = in_video_contrast(contrast(snippets, params.contrast_temperature))
    both = losses["in_video"] + params.cross_video_weight * losses["cross_video"]
    assert sorted(equal_label_pairs(labels).tolist()) == sorted(np.sort(g["pairs"], 1).tolist())
    np.testing.assert_allclose(losses["classification"].item(), g["loss_classification"], **CLOSE)
    np.testing.assert_allclose(in_video.item(), g["loss_in_video"], **CLOSE)
    np.testing.assert_allclose(both.item(), g["loss_contrast"], **CLOSE)
    np.testing.assert_allclose(losses["loss"].item(), g["loss_total"], **CLOSE)
    losses["loss"].backward()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor.grad.numpy(), g[f"grad_{name}"], **CLOSE)
