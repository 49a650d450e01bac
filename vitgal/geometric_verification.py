"""Matches of two images and how many of them agree with one homography.

For each query feature the nearest of the image, in one direction, if it is near enough; then the
inliers of a homography. Imports no torch: worker processes start quickly.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

import cv2
import numpy as np

from vitgal.stores import LocalFeatures

logger = logging.getLogger(__name__)

MIN_MATCHES = 4  # as many matches or fewer score 0: any four points fit some homography
CHUNK = 20_000  # features whose products with one query are held at once: they stay in the cache
ROUNDING = 2e-6  # two inner products of unit vectors in float32 closer than this are compared again


class Matches(NamedTuple):
    """Putative matches of a pair, in the order of the query's features."""

    query_index: np.ndarray  # (M,) int64
    db_index: np.ndarray  # (M,) int64
    distance: np.ndarray  # (M,) float32, L2


@dataclass(frozen=True)
class Verification:
    """How a pair is verified; the defaults are those of the published rows of S12."""

    max_distance: float = 0.82  # a match is nearer than this; S24: 0.79
    use_ratio_test: bool = False  # instead: nearer than matching_threshold times the second nearest
    matching_threshold: float = 0.99
    max_reprojection_error: float = 16.0  # pixels
    max_ransac_iteration: int = 2000
    homography_confidence: float = 1.0  # 1: never stop early
    estimator: str = "pydegensac"
    seed: int = 0  # of the estimator, the same for every pair

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator is {self.estimator!r}, expected one of {', '.join(ESTIMATORS)}"
            )
        if not (self.max_distance > 0 and self.max_reprojection_error > 0):
            raise ValueError("max_distance and max_reprojection_error must be above 0")
        if self.max_ransac_iteration < 1 or not 0 < self.homography_confidence <= 1:
            raise ValueError(
                "expected max_ransac_iteration >= 1 and homography_confidence in (0, 1], got "
                f"{self.max_ransac_iteration} and {self.homography_confidence}"
            )
        if not 0 < self.matching_threshold <= 1:
            raise ValueError(f"matching_threshold is {self.matching_threshold}, expected (0, 1]")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; below 0 pydegensac takes that of the clock")

    def __str__(self) -> str:
        """For records and protocols: estimator, version, seed and thresholds."""
        rule = (
            f"ratio below {self.matching_threshold:g}"
            if self.use_ratio_test
            else f"distance below {self.max_distance:g}"
        )
        return (
            f"{self.estimator} {estimator_version(self.estimator)} seed {self.seed}, "
            f"{self.max_reprojection_error:g} px, {self.max_ransac_iteration} iterations, "
            f"confidence {self.homography_confidence:g}, {rule}"
        )


# ---------------------------------------------------------------------------- matching


def match(query: np.ndarray, image: np.ndarray, settings: Verification) -> Matches:
    """Nearest features of `image` (N, D) to those of `query` (M, D), as far as they are accepted.

    Unit rows, float32. Exact: a second nearest that float32 cannot tell from the nearest is
    compared in float64; equal distances go to the lower index.
    """
    return match_all(query, [image], settings)[0]


def match_all(
    query: np.ndarray, images: Sequence[np.ndarray], settings: Verification
) -> list[Matches]:
    """`match` of one query with several images, by one matrix product per chunk of them."""
    found: list[Matches] = []
    chunk: list[np.ndarray] = []
    for image in images:
        _check_width(query, image)
        if chunk and sum(map(len, chunk)) + len(image) > CHUNK:
            found += _match_chunk(query, chunk, settings)
            chunk = []
        chunk.append(image)
    return found + _match_chunk(query, chunk, settings)


def _check_width(query: np.ndarray, image: np.ndarray) -> None:
    if query.ndim != 2 or image.ndim != 2 or query.shape[1] != image.shape[1]:
        raise ValueError(
            f"descriptors are {query.shape} and {image.shape}, expected (M, D) and (N, D) of one "
            "model; extract them again"
        )


def _match_chunk(
    query: np.ndarray, images: list[np.ndarray], settings: Verification
) -> list[Matches]:
    filled = [image for image in images if len(image)]
    if not filled or not len(query):
        return [_no_matches() for _ in images]
    products = query @ np.concatenate(filled).T
    found, start = [], 0
    for image in images:
        part = products[:, start : start + len(image)]
        start += len(image)
        if not len(image):
            found.append(_no_matches())
        elif settings.use_ratio_test:
            found.append(_match_by_ratio(query, image, part, settings.matching_threshold))
        else:
            found.append(_match_by_distance(query, image, part, settings.max_distance))
    return found


def _no_matches() -> Matches:
    empty = np.zeros(0, np.int64)
    return Matches(empty, empty, np.zeros(0, np.float32))


def _match_by_distance(
    query: np.ndarray, image: np.ndarray, products: np.ndarray, max_distance: float
) -> Matches:
    nearest = products.argmax(axis=1)
    best = products[np.arange(len(query)), nearest]
    rows = np.flatnonzero(best > 1 - max_distance**2 / 2 - ROUNDING)
    nearest = nearest[rows]
    _settle(query, image, products, rows, best[rows], nearest)
    distance = _distances(query[rows], image[nearest])
    kept = distance < max_distance
    return Matches(rows[kept], nearest[kept], distance[kept].astype(np.float32))


def _settle(
    query: np.ndarray,
    image: np.ndarray,
    products: np.ndarray,
    rows: np.ndarray,
    best: np.ndarray,
    nearest: np.ndarray,
) -> None:
    """Decide in float64, in place, which feature is `nearest` where float32 cannot."""
    rivals = products[rows] > (best - ROUNDING)[:, None]
    for i in np.flatnonzero(np.count_nonzero(rivals, axis=1) > 1):
        candidates = np.flatnonzero(rivals[i])
        distance = _distances(query[rows[i]][None], image[candidates])
        nearest[i] = candidates[distance.argmin()]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M,) float64 L2 distances of rows."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    return np.sqrt(np.einsum("md,md->m", difference, difference))


def _match_by_ratio(
    query: np.ndarray, image: np.ndarray, products: np.ndarray, threshold: float
) -> Matches:
    """Nearest, if nearer than `threshold` times the second nearest; no limit of the distance."""
    if len(image) < 2:
        return _no_matches()
    two = np.argpartition(-products, 1, axis=1)[:, :2]
    rows = np.arange(len(query))
    distances = np.stack([_distances(query, image[two[:, k]]) for k in (0, 1)], axis=1)
    first = distances.argmin(axis=1)
    nearest, second = distances[rows, first], distances[rows, 1 - first]
    kept = nearest < threshold * second
    return Matches(rows[kept], two[rows, first][kept], nearest[kept].astype(np.float32))


# ---------------------------------------------------------------------------- homography


def _pydegensac(source: np.ndarray, target: np.ndarray, settings: Verification) -> np.ndarray:
    import pydegensac

    try:
        _, mask = pydegensac.findHomography(
            source, target, settings.max_reprojection_error, settings.homography_confidence,
            settings.max_ransac_iteration, seed=settings.seed,
        )  # fmt: skip
    except np.linalg.LinAlgError:  # the model that it found is singular: none, as in the release
        return np.zeros(len(source), bool)
    return np.asarray(mask, dtype=bool).reshape(-1)


def _magsac(source: np.ndarray, target: np.ndarray, settings: Verification) -> np.ndarray:
    params = cv2.UsacParams()
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations, params.loSampleSize = 10, 14
    params.maxIterations = settings.max_ransac_iteration
    params.confidence = min(settings.homography_confidence, 1 - 1e-9)
    params.threshold = settings.max_reprojection_error
    params.randomGeneratorState = settings.seed
    _, mask = cv2.findHomography(source, target, params)
    return np.zeros(len(source), bool) if mask is None else mask.reshape(-1).astype(bool)


def _poselib(source: np.ndarray, target: np.ndarray, settings: Verification) -> np.ndarray:
    import poselib

    options = {
        "max_reproj_error": settings.max_reprojection_error,
        "max_iterations": settings.max_ransac_iteration,
        "min_iterations": min(settings.max_ransac_iteration, 100),
        "success_prob": min(settings.homography_confidence, 1 - 1e-9),
        "seed": settings.seed,
    }
    _, info = poselib.estimate_homography(source, target, options, {})
    return np.asarray(info["inliers"], dtype=bool).reshape(-1)


Estimate = Callable[[np.ndarray, np.ndarray, Verification], np.ndarray]
# published rows use pydegensac; package and function of each
ESTIMATORS: dict[str, tuple[str, Estimate]] = {
    "pydegensac": ("pydegensac", _pydegensac),
    "magsac": ("opencv", _magsac),
    "poselib": ("poselib", _poselib),
}


def estimator_version(name: str) -> str:
    """Version of the estimator's package; ValueError when it is not installed."""
    package = ESTIMATORS[name][0]
    if package == "opencv":
        return cv2.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"estimator={name} needs the package {package}, which is not installed; install it or "
            "take estimator=pydegensac, as all published rows do"
        ) from None


def find_inliers(
    query: LocalFeatures, image: LocalFeatures, matches: Matches, settings: Verification
) -> np.ndarray:
    """(M,) bool: matches that agree with one homography; none of them where M <= 4.

    Points are given to the estimator as (y, x), float64, the query's first. The same for the same
    input, whatever was estimated before and in whichever process.
    """
    if len(matches.query_index) <= MIN_MATCHES:
        return np.zeros(len(matches.query_index), bool)
    source = query.locations[matches.query_index].astype(np.float64)
    target = image.locations[matches.db_index].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of degenerate samples, in the estimators
        return ESTIMATORS[settings.estimator][1](source, target, settings)


def count_inliers(
    query: LocalFeatures, images: Sequence[LocalFeatures], settings: Verification
) -> np.ndarray:
    """(len(images),) int64 scores of one query's pairs."""
    matches = match_all(query.descriptors, [image.descriptors for image in images], settings)
    counts = [
        np.count_nonzero(find_inliers(query, image, found, settings))
        for image, found in zip(images, matches, strict=True)
    ]
    return np.array(counts, dtype=np.int64)
