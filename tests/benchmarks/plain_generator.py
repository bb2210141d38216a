"""The generator's training step as the field writes it: channels first, a loop over videos, a loop over pairs.

Written from docs/method.md section 2, for comparison: with `video_score: softmax` and one ratio in `score_ratios`,
as in the paper, `fustal.generator` computes the same.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn


class PlainGenerator(nn.Module):
    """Two convolutions over (B, D, T); its weights have the names of `fustal.generator.Generator`."""

    def __init__(self, in_dim, num_classes, dim, dropout):
        super().__init__()
        self.embed = nn.Conv1d(in_dim, dim, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv1d(dim, num_classes, 1, bias=False)

    def forward(self, features):
        """Features (B, T, D) to embeddings (B, T, E), CAS (B, T, C) and actionness (B, T)."""
        embeddings = F.relu(self.embed(features.permute(0, 2, 1)))
        cas = F.relu(self.classify(self.dropout(embeddings))).permute(0, 2, 1)
        return embeddings.permute(0, 2, 1), cas, cas.sum(dim=2)


def plain_losses(output, labels, params):
    """Losses of a batch by name, from the outputs of the network."""
    embeddings, cas, actionness = output
    length = cas.shape[1]
    top = torch.sort(cas, dim=1, descending=True)[0][:, : max(1, length // int(params.score_ratios))]
    score = torch.softmax(top.mean(dim=1), dim=1)
    classification = nn.BCELoss()(score, labels / labels.sum(dim=1, keepdim=True))
    snippets = plain_mining(embeddings, actionness, params)
    in_video = plain_contrast(*snippets, params.contrast_temperature)
    cross_video = plain_cross_video(snippets, labels, params.contrast_temperature)
    loss = classification + params.contrast_weight * (in_video + params.cross_video_weight * cross_video)
    return {"loss": loss, "classification": classification, "in_video": in_video, "cross_video": cross_video}


def plain_mining(embeddings, actionness, params):
    """Easy action, easy background, hard action, hard background: each (B, k, E)."""
    length = actionness.shape[1]
    easy = max(1, length // params.easy_ratio)
    hard = max(1, length // params.hard_ratio)
    kept = nn.Dropout(params.mining_dropout)(torch.ones_like(actionness))
    reverse = actionness.max(dim=1, keepdim=True)[0] - actionness
    regions = np.stack([plain_borders(row, params) for row in actionness.detach().cpu().numpy()])  # (B, 2, T)
    inner = torch.from_numpy(regions[:, 0]).to(actionness)
    outer = torch.from_numpy(regions[:, 1]).to(actionness)
    return (
        plain_pick(actionness * kept, embeddings, easy),
        plain_pick(reverse * kept, embeddings, easy),
        plain_pick(actionness * inner, embeddings, hard),
        plain_pick(actionness * outer, embeddings, hard),
    )


def plain_borders(actionness, params):
    """Inner and outer border regions (2, T) of one video."""
    binary = actionness > np.median(actionness)
    small = np.ones(params.erosion_small)
    large = np.ones(params.erosion_large)
    inner = ndimage.binary_erosion(binary, small).astype(np.float32) - ndimage.binary_erosion(binary, large)
    outer = ndimage.binary_dilation(binary, large).astype(np.float32) - ndimage.binary_dilation(binary, small)
    return np.stack([inner, outer])


def plain_pick(score, embeddings, k):
    """Embeddings (B, k, E) of the k snippets of the highest score."""
    _, order = torch.sort(score, dim=1, descending=True)
    return torch.gather(embeddings, 1, order[:, :k].unsqueeze(2).expand(-1, -1, embeddings.shape[2]))


def plain_contrast(easy_action, easy_background, hard_action, hard_background, temperature):
    """In-video contrast of a batch."""
    action = plain_nce(hard_action.mean(dim=1), easy_action.mean(dim=1), easy_background, temperature)
    return action + plain_nce(hard_background.mean(dim=1), easy_background.mean(dim=1), easy_action, temperature)


def plain_nce(query, key, negatives, temperature):
    """InfoNCE of queries (B, E) against keys (B, E) and negatives (B, n, E)."""
    query = F.normalize(query, dim=1)
    key = F.normalize(key, dim=1)
    negatives = F.normalize(negatives.permute(0, 2, 1), dim=1)
    positive = torch.einsum("nc,nc->n", query, key).unsqueeze(1)
    negative = torch.einsum("nc,nck->nk", query, negatives)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def plain_cross_video(snippets, labels, temperature):
    """Mean over the pairs of videos with identical labels of their contrast with the hard snippets swapped."""
    easy_action, easy_background, hard_action, hard_background = snippets
    total = 0.0
    pairs = 0
    for p in range(len(labels)):
        for q in range(p + 1, len(labels)):
            if torch.equal(labels[p], labels[q]):
                total = total + plain_contrast(
                    torch.stack([easy_action[p], easy_action[q]]),
                    torch.stack([easy_background[p], easy_background[q]]),
                    torch.stack([hard_action[q], hard_action[p]]),
                    torch.stack([hard_background[q], hard_background[p]]),
                    temperature,
                )
                pairs += 1
    return total / pairs if pairs else torch.zeros(())
