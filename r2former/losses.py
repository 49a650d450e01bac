"""Losses of groups (query, positive, negative 1 .. n), as published (R2Former, Sec. 3.4; spec 5).

    loss = sum_j (T_j + C_j) / (B n)

T_j: sum over the B groups of the triplet loss with negative j; C_j: mean over the pairs of the
groups. So the rerank term weighs 1/B against the triplet term, and positives count once per
negative: kept, as published rates belong to it.
Terms are given by group, so that a batch may be taken in parts and by several processes.
"""

import torch
from torch import Tensor
from torch.nn import functional

IN_BATCH = "in_batch"  # ours, for training from random weights
CRITERIA = ("triplet", "sare_ind", "sare_joint", IN_BATCH)
RERANK_LOSSES = ("ce", "triplet", "infoNCE", "combine")
SHIFT = 1e-6  # torch's triplet loss adds it to each difference of two coordinates
TEMPERATURE = 0.07  # of infoNCE
SAME_PLACE = 25.0  # metres: nearer images are no negatives of in_batch


def global_terms(features: Tensor, criterion: str = "triplet", margin: float = 0.1) -> Tensor:
    """(b, n) terms of descriptors (b, 2 + n, D): query, positive, negatives.

    triplet: max(0, d(q, p) - d(q, n_j) + margin), d the Euclidean distance (the paper prints its
    square). sare_ind: -log softmax(-|q - p|^2, -|q - n_j|^2)[0]; sare_joint: the same over all
    negatives at once, in the first column, the others 0.
    """
    if criterion == "triplet":
        distance = (features[:, :1] - features[:, 1:] + SHIFT).norm(dim=-1)
        return (distance[:, :1] - distance[:, 1:] + margin).relu()
    closeness = -(features[:, :1] - features[:, 1:]).square().sum(dim=-1)  # (b, 1 + n)
    if criterion == "sare_ind":
        return functional.softplus(closeness[:, 1:] - closeness[:, :1])
    if criterion == "sare_joint":
        joint = -closeness.log_softmax(dim=1)[:, :1]
        return functional.pad(joint, (0, closeness.shape[1] - 2))
    raise ValueError(f"criterion is {criterion!r}, expected one of {CRITERIA[:3]}")


def in_batch_terms(
    features: Tensor, places: Tensor, temperature: float, radius: float = SAME_PLACE
) -> Tensor:
    """(b, n) terms of descriptors (b, 2 + n, D) with the images of all groups as negatives.

    Not of the paper. Query and positive of each group are told apart from all other images of the
    batch: -log softmax(cosine / temperature) of the partner, the mean of both in the first column,
    the others 0. Images within `radius` of an anchor, its partner apart, do not count; `places`
    (b, 2 + n, .) are coordinates in metres, float64.
    """
    groups, slots = features.shape[:2]
    anchors = features[:, :2].transpose(0, 1).flatten(0, 1)  # (2b, D): queries, then positives
    everyone = features.transpose(0, 1).flatten(0, 1)  # slot by slot, so the anchors come first
    where = places.transpose(0, 1).flatten(0, 1)
    same = (where[: 2 * groups, None] - where[None]).square().sum(dim=-1) <= radius**2
    row = torch.arange(2 * groups, device=features.device)
    partner = (row + groups) % (2 * groups)
    same[row, partner] = False
    logits = (anchors @ everyone.T / temperature).masked_fill(same, -torch.inf)
    loss = functional.cross_entropy(logits, partner, reduction="none").view(2, groups).mean(dim=0)
    return functional.pad(loss[:, None], (0, slots - 3))


def rerank_terms(logits: Tensor, rerank_loss: str = "ce", margin: float = 0.1) -> Tensor:
    """(b, n) terms of logits (b, 1 + n, 2) of (query, positive), (query, negative j).

    C_j is their mean over the groups. P = softmax[1]. ce: mean of the cross entropies of both
    pairs; triplet: max(0, P_neg - P_pos + margin); infoNCE: cross entropy of (P_pos, P_neg) / 0.07;
    combine: max(0, P_neg - P_pos) for the first n // 2 negatives, ce for the others.
    """
    if rerank_loss not in RERANK_LOSSES:
        raise ValueError(f"rerank_loss is {rerank_loss!r}, expected one of {RERANK_LOSSES}")
    score = logits.softmax(dim=-1)[..., 1]
    excess = score[:, 1:] - score[:, :1]
    if rerank_loss == "triplet":
        return (excess + margin).relu()
    if rerank_loss == "infoNCE":
        return functional.softplus(excess / TEMPERATURE)
    logs = logits.log_softmax(dim=-1)
    ce = -(logs[:, :1, 1] + logs[:, 1:, 0]) / 2
    if rerank_loss == "ce":
        return ce
    first = excess.shape[1] // 2
    return torch.cat([excess[:, :first].relu(), ce[:, first:]], dim=1)


def total_loss(of_global: Tensor | None, of_rerank: Tensor | None, count: int) -> Tensor:
    """Share of these groups in the loss of a batch of `count` groups: () tensor.

    `of_global` (b, n), None with fix=1; `of_rerank` (b, n), None in the global stage. The shares
    of a batch's parts add up to its loss.
    """
    given = [terms for terms in (of_global, of_rerank) if terms is not None]
    if not given:
        raise ValueError("neither a global nor a rerank term is given")
    loss = given[0].new_zeros(())
    if of_global is not None:
        loss = loss + of_global.sum()
    if of_rerank is not None:
        loss = loss + of_rerank.sum() / count
    return loss / (count * given[0].shape[1])
