"""Matches of two images and how many of them agree with one homography.

For each query feature the nearest of the image, in one direction, if it is near enough; then the
inliers of a homography.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

import cv2
import numpy as np

from vitgal.matching import Matches, match_by_distance, match_by_ratio
from vitgal.stores import LocalFeatures

logger = logging.getLogger(__name__)

MIN_MATCHES = 4  # as many matches or fewer score 0: any four points fit some homography


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


def match(query: np.ndarray, image: np.ndarray, settings: Verification) -> Matches:
    """Nearest features of `image` (N, D) to those of `query` (M, D), as far as they are accepted.

    One direction only: several of the query may share one of the image. Unit rows, float32. Exact;
    equal distances go to the lower index.
    """
    return match_all(query, [image], settings)[0]


def match_all(
    query: np.ndarray, images: Sequence[np.ndarray], settings: Verification
) -> list[Matches]:
    """`match` of one query with several images."""
    if settings.use_ratio_test:
        return list(match_by_ratio(query, images, settings.matching_threshold))
    return match_by_distance(query, images, settings.max_distance)


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
