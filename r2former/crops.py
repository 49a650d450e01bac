"""Five crops of a query -> one ranking: mean descriptor, nearest crop, majority voting."""

import numpy as np

VOTED = (1, 5, 10)  # of the first so many columns, in this order


def mean_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """five_crops: (Q, 5, D) -> (Q, D), not normalised again, as published."""
    return descriptors.mean(axis=1)


def combine_rankings(
    nn_inds: np.ndarray, distances: np.ndarray, majority_weight: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rankings of the crops (Q, 5, K) -> one of the first K images (Q, K) with their distances.

    All hits of a query sorted by distance, the first of every image kept (nearest_crop).
    `majority_weight` (maj_voting): images that several crops agree on are brought nearer first.
    """
    if nn_inds.ndim != 3 or nn_inds.shape != distances.shape:
        raise ValueError(f"crops' rankings are {nn_inds.shape}, distances {distances.shape}")
    if majority_weight is not None:
        distances = vote(nn_inds, distances, majority_weight)
    count = nn_inds.shape[2]
    flat, values = (part.reshape(len(part), -1) for part in (nn_inds, distances))
    order = np.argsort(values, axis=1, kind="stable")
    flat, values = (np.take_along_axis(part, order, axis=1) for part in (flat, values))
    repeated = find_repeated(flat)
    # kept hits first, in their order: every crop has `count` different images, so that many are
    first = np.argsort(repeated, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(flat, first, axis=1), np.take_along_axis(values, first, axis=1)


def find_repeated(values: np.ndarray) -> np.ndarray:
    """(Q, M) bool: entries that the row has already had further left."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated


def vote(nn_inds: np.ndarray, distances: np.ndarray, weight: float) -> np.ndarray:
    """Distances lowered by weight * c / m where c > 1 of the first m columns name an image.

    For m = 1, 5, 10 in turn, cumulatively; only entries among those columns change.
    """
    lowered = distances.copy()
    for m in VOTED:
        head = nn_inds[:, :, :m].reshape(len(nn_inds), -1)
        counts = (head[:, :, None] == head[:, None]).sum(axis=2)
        change = np.where(counts > 1, weight * counts / m, 0).reshape(nn_inds[:, :, :m].shape)
        lowered[:, :, :m] -= change.astype(lowered.dtype)
    return lowered
