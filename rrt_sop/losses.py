"""Losses of both stages: contrastive on global features, binary cross entropy on pairs."""

import math

import torch
from torch import Tensor
from torch.nn import functional

LN2 = math.log(2.0)  # loss of a matcher that answers 1/2 to every pair


def contrastive_loss(features: Tensor, labels: Tensor, temperature: float = 0.05) -> Tensor:
    """Mean over the batch of -log q_i, where q_i is the share of images of i's label.

    With S = features features^T, its diagonal set to 0, and W = exp(S / temperature):

        q_i = sum_{j != i, same label} W_ij / sum_j W_ij

    The second sum takes in the diagonal, that is exp(0). Rows without another image of their label
    are left out of the sum, but it is divided by the full batch size, as published.

    Args:
        features: (B, D), rows of L2 norm 1.
        labels: (B,) integers.
    """
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    partners = same.any(dim=1)
    own = torch.eye(len(labels), dtype=torch.bool, device=features.device)
    logits = (features @ features.T).masked_fill(own, 0.0)[partners] / temperature
    log_shares = logits.masked_fill(~same[partners], -torch.inf).logsumexp(1) - logits.logsumexp(1)
    return -log_shares.sum() / len(labels)


def collapsed_loss(batch_size: int, sample_per_id: int) -> float:
    """The contrastive loss of features that are all alike: nothing is told apart.

    With n = batch_size images, k > 1 of each label, and weights far above the diagonal's exp(0):
    q = (k - 1) / (n - 1).
    """
    return math.log((batch_size - 1) / (sample_per_id - 1))


def nearest_is_right(features: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: whether the most similar other image of the batch has the same label."""
    similarity = features @ features.T
    similarity.fill_diagonal_(-torch.inf)
    return labels[similarity.argmax(dim=1)] == labels


def pair_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the binary cross entropies of (2T,) logits, and how many are on the right side.

    The first T logits are those of right pairs, the others of wrong ones.
    """
    half = len(logits) // 2
    labels = torch.cat([logits.new_ones(half), logits.new_zeros(half)])
    loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    # sigmoid > 0.5 exactly where the logit is positive
    return loss, ((logits > 0) == (labels > 0.5)).sum()
