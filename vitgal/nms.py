"""Greedy non-maximum suppression of boxes, as a search for overlapping pairs instead of a loop.

Two boxes with an intersection over union above t have centres at most (1 - t) times the longest
side apart, in y and in x. A k-d tree lists these few pairs; only they get their overlap, and only
those that overlap are walked through in the order of the scores.
"""

import numpy as np
from scipy.spatial import cKDTree

MAX_PAIRS = 4_000_000  # listed at once (64 MB as indices); beyond, torchvision's loop over all


def suppress(
    boxes: np.ndarray, scores: np.ndarray, overlap: float, top_k: int | None = None
) -> np.ndarray:
    """(K,) int64 rows of `boxes` that are kept, best score first.

    `boxes`: (N, 4) as (y1, x1, y2, x2), sides without +1; `scores`: (N,). Of the `top_k` best
    (None: all) the best is kept and those with an IoU above `overlap` (strictly) with it are
    dropped, then the best of the rest, and so on. Among equal scores the LATER row comes first, as
    in ViTGaL's release.
    ValueError for boxes without area and for scores that are not finite.
    """
    _check(boxes, scores)
    order = np.argsort(scores, kind="stable")[::-1][:top_k]
    corners = boxes[order].astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    centres = corners[:, :2] + 0.5 * sides
    if len(order) < 2 or overlap >= 1:
        return order.astype(np.int64)
    reach = float(sides.max()) * (1.0 - overlap)
    tree = cKDTree(centres)
    if tree.count_neighbors(tree, reach, p=np.inf) > 2 * MAX_PAIRS:
        return order[_suppress_all(corners, overlap)].astype(np.int64)
    pairs = tree.query_pairs(reach, p=np.inf, output_type="ndarray")
    better, worse = _overlapping(corners, sides, pairs, overlap)
    alive = np.ones(len(order), dtype=bool)
    for i, j in zip(better.tolist(), worse.tolist(), strict=True):
        if alive[i]:
            alive[j] = False
    return order[alive].astype(np.int64)


def _check(boxes: np.ndarray, scores: np.ndarray) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise ValueError(
            f"boxes are {boxes.shape} and scores {scores.shape}, expected (N, 4) and (N,)"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite (weights?)"
        )
    if len(boxes) and not (boxes[:, 2:] > boxes[:, :2]).all():
        row = int(np.argmin((boxes[:, 2:] > boxes[:, :2]).all(axis=1)))
        raise ValueError(f"box {row} is {boxes[row].tolist()}, expected y1 < y2 and x1 < x2")


def _overlapping(
    corners: np.ndarray, sides: np.ndarray, pairs: np.ndarray, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of the candidate `pairs` (P, 2) those with an IoU above `overlap`: better and worse row.

    Sorted by the better row (rows are in the order of the scores). In float64 the quotient of two
    whole numbers is the correctly rounded one: an IoU of exactly 0.3 equals the option 0.3.
    """
    a, b = np.ascontiguousarray(pairs.T)
    y1, x1, y2, x2 = np.ascontiguousarray(corners.T)
    height = np.minimum(y2[a], y2[b]) - np.maximum(y1[a], y1[b])
    width = np.minimum(x2[a], x2[b]) - np.maximum(x1[a], x1[b])
    touching = (height > 0) & (width > 0)
    a, b = a[touching], b[touching]
    inter = height[touching] * width[touching]
    areas = sides[:, 0] * sides[:, 1]
    above = inter / (areas[a] + areas[b] - inter) > overlap
    a, b = a[above], b[above]
    better, worse = np.minimum(a, b), np.maximum(a, b)
    order = np.argsort(better, kind="stable")
    return better[order], worse[order]


def _suppress_all(corners: np.ndarray, overlap: float) -> np.ndarray:
    """Rows kept of `corners` (N, 4), which are in the order of the scores: for crowded boxes."""
    import torch
    from torchvision.ops import nms

    falling = torch.arange(len(corners), 0, -1, dtype=torch.float64)
    return nms(torch.from_numpy(corners), falling, overlap).numpy()
