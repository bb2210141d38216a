"""Mining, video score and losses of the generator against the released code."""

import numpy as np
import torch

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

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def _sorted_rows(array):
    """Order inside k does not matter: sort the embeddings of each video."""
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
    for name in ("hard_action", "hard_background"):  # ties: those with a product of 0 are arbitrary
        ours, theirs = getattr(found, name).numpy(), g[name]
        for video in range(len(ours)):
            score = _border(g, name, video)
            sure = score[_positions(theirs[video], g["embeddings"][video])] > 0
            mine = score[_positions(ours[video], g["embeddings"][video])] > 0
            assert sure.sum() == mine.sum()
            np.testing.assert_allclose(
                _sorted_rows(ours[video][mine][None]), _sorted_rows(theirs[video][sure][None]), **CLOSE
            )


def _positions(rows, embeddings):
    return [int(np.abs(embeddings - row).sum(1).argmin()) for row in rows]


def _border(g, name, video):
    """The products that the hard snippets are the top of, with scipy's morphology."""
    from scipy.ndimage import binary_dilation, binary_erosion

    a = g["actionness"][video]
    binary, small, large = a > np.median(a), np.ones(int(g["m"])), np.ones(int(g["M"]))
    if name == "hard_action":
        region = binary_erosion(binary, small).astype(int) - binary_erosion(binary, large).astype(int)
    else:
        region = binary_dilation(binary, large).astype(int) - binary_dilation(binary, small).astype(int)
    return a * region


def test_video_score(golden):
    g = golden("video_score")
    score = video_score(torch.from_numpy(g["cas"]), int(g["k"]))
    np.testing.assert_allclose(score.numpy(), g["video_score"], **CLOSE)


def test_losses_and_gradients(golden):
    g = golden("losses")
    score, ea, eb, ha, hb = (
        torch.from_numpy(g[name]).requires_grad_() for name in ("video_score", "EA", "EB", "HA", "HB")
    )
    labels, params = torch.from_numpy(g["labels"]), Params(recipe="published")
    snippets = Snippets(ea, eb, ha, hb)
    losses = generator_loss(score, labels, snippets, params)
    both = losses["in_video"] + params.cross_video_weight * losses["cross_video"]
    assert sorted(map(tuple, equal_label_pairs(labels).tolist())) == sorted(map(tuple, np.sort(g["pairs"], 1).tolist()))
    np.testing.assert_allclose(losses["classification"].item(), g["loss_classification"], **CLOSE)
    np.testing.assert_allclose(
        in_video_contrast(contrast(snippets, params.contrast_temperature)).item(), g["loss_in_video"], **CLOSE
    )
    np.testing.assert_allclose(both.item(), g["loss_contrast"], **CLOSE)
    np.testing.assert_allclose(losses["loss"].item(), g["loss_total"], **CLOSE)
    losses["loss"].backward()
    for name, tensor in (("video_score", score), ("EA", ea), ("EB", eb), ("HA", ha), ("HB", hb)):
        np.testing.assert_allclose(tensor.grad.numpy(), g[f"grad_{name}"], **CLOSE)
