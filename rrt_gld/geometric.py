"""Training-free reranking: how many matches of two images agree with one geometry.

Mutual nearest neighbours of the local descriptors, then the inliers of a homography or fundamental
matrix (LO-RANSAC of pydegensac, or MAGSAC++ of OpenCV). A yardstick for the learned matcher.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from rrt_gld.datasets.image_set import LocalImages
from utils.descriptors import LocalFeatures

MODELS = {"homography": 4, "fundamental": 8}  # and the matches that one needs at least
MAX_ITERATIONS = 2000
CONFIDENCE = 0.9999


class Estimator(NamedTuple):
    """How inliers are counted."""

    library: str  # pydegensac or magsac
    model: str  # homography or fundamental
    threshold: float  # pixels

    def __str__(self) -> str:
        return f"{self.library} {self.model}, {self.threshold:g} px"


def make_estimator(library: str, model: str, threshold: float) -> Estimator:
    """Checked options; ValueError lists the choices."""
    if library not in INLIERS:
        raise ValueError(f"estimator is {library!r}, expected one of {list(INLIERS)}")
    if model not in MODELS:
        raise ValueError(f"geometry is {model!r}, expected one of {list(MODELS)}")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}, expected a positive number of pixels")
    return Estimator(library, model, threshold)


def match_mutually(first: np.ndarray, second: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """(M, 2) rows of (N, D) and (N2, D) that are each other's nearest neighbour.

    `ratio` < 1 also asks that the squared distance is below ratio^2 times that to the second
    nearest in `second` (Lowe's test).
    """
    if len(first) == 0 or len(second) == 0:
        return np.empty((0, 2), dtype=np.int64)
    norms = (first**2).sum(1)[:, None] + (second**2).sum(1)
    distances = np.maximum(norms - 2 * first @ second.T, 0)  # squared
    nearest, back = distances.argmin(axis=1), distances.argmin(axis=0)
    rows = np.arange(len(first))
    keep = back[nearest] == rows
    if ratio < 1 and len(second) > 1:
        two = np.partition(distances, 1, axis=1)
        keep &= two[:, 0] < ratio**2 * two[:, 1]
    return np.stack([rows[keep], nearest[keep]], axis=1)


def _pydegensac_inliers(source: np.ndarray, target: np.ndarray, estimator: Estimator) -> np.ndarray:
    import pydegensac

    find = {
        "homography": pydegensac.findHomography,
        "fundamental": pydegensac.findFundamentalMatrix,
    }
    try:
        # its own seed is the clock
        _, mask = find[estimator.model](
            source, target, estimator.threshold, CONFIDENCE, MAX_ITERATIONS, seed=0
        )
    except np.linalg.LinAlgError:  # the model that it found is singular: none
        return np.zeros(len(source), bool)
    return np.asarray(mask, dtype=bool).reshape(-1)


def _magsac_inliers(source: np.ndarray, target: np.ndarray, estimator: Estimator) -> np.ndarray:
    find = cv2.findHomography if estimator.model == "homography" else cv2.findFundamentalMat
    _, mask = find(
        source, target, cv2.USAC_MAGSAC, estimator.threshold,
        confidence=CONFIDENCE, maxIters=MAX_ITERATIONS,
    )  # fmt: skip
    return np.zeros(len(source), bool) if mask is None else mask.reshape(-1).astype(bool)


INLIERS: dict[str, Callable[[np.ndarray, np.ndarray, Estimator], np.ndarray]] = {
    "pydegensac": _pydegensac_inliers,
    "magsac": _magsac_inliers,
}


def verify(
    query: LocalFeatures, image: LocalFeatures, estimator: Estimator, ratio: float = 1.0
) -> np.ndarray:
    """(M, 2) matches (row of the query, row of the image) that agree with one geometry.

    Empty when there are too few matches for the geometry, or no more inliers than those that any
    such choice of matches has.
    """
    matches = match_mutually(query.descriptors, image.descriptors, ratio)
    if len(matches) <= MODELS[estimator.model]:
        return matches[:0]
    # (y, x) -> (x, y)
    source = query.locations[matches[:, 0], ::-1].astype(np.float64)
    target = image.locations[matches[:, 1], ::-1].astype(np.float64)
    inliers = INLIERS[estimator.library](source, target, estimator)
    return matches[inliers] if inliers.sum() > MODELS[estimator.model] else matches[:0]


def count_inliers(
    queries: LocalImages,
    gallery: LocalImages,
    pairs: np.ndarray,
    estimator: Estimator,
    ratio: float = 1.0,
    progress: bool = True,
) -> np.ndarray:
    """(P,) float32 inliers of `pairs` (P, 2): query, gallery image. Each file is read once.

    Those features take part that the two sets hand out (`max_sequence_len` of an ImageSet).
    """
    of_query = {int(i): queries.load_local(int(i)) for i in np.unique(pairs[:, 0])}
    scores = np.zeros(len(pairs), dtype=np.float32)
    order = np.argsort(pairs[:, 1], kind="stable")
    images, first = np.unique(pairs[order, 1], return_index=True)
    groups = np.split(order, first[1:])

    with tqdm(total=len(pairs), desc="pairs", unit="pair", disable=not progress) as bar:
        for image, group in zip(images, groups, strict=True):
            features = gallery.load_local(int(image))
            for pair in group:
                query = of_query[int(pairs[pair, 0])]
                scores[pair] = len(verify(query, features, estimator, ratio))
            bar.update(len(group))
    return scores
