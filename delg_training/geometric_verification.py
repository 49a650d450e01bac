"""Geometric verification of a pair: how many matches of two images agree with one map.

For each feature of the query the nearest of the index image, in one direction; then the inliers of
an affine map from locations of the index image to those of the query (DELG, section 3.3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from delg_training.affine_ransac import SAMPLE, find_affine
from delg_training.matching import match_by_distance, match_by_ratio
from utils.descriptors import LocalFeatures


@dataclass(frozen=True)
class Verification:
    """How a pair is verified; defaults of the published function, not of the published rows."""

    descriptor_matching_threshold: float = 0.9  # a match is nearer than this; or the ratio's limit
    ransac_residual_threshold: float = 10.0  # pixels of the query
    use_ratio_test: bool = False  # nearest below that threshold times the second nearest
    estimator: str = "ransac"  # see ESTIMATORS
    num_trials: int = 1000  # of RANSAC
    seed: int = 0  # of RANSAC, the same for every pair
    min_matches: int = 4  # fewer score 0

    def __post_init__(self) -> None:
        """ValueError lists the choices."""
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator is {self.estimator!r}, expected one of {', '.join(ESTIMATORS)}"
            )
        if not (self.descriptor_matching_threshold > 0 and self.ransac_residual_threshold > 0):
            raise ValueError(
                "expected thresholds above 0, got descriptor_matching_threshold="
                f"{self.descriptor_matching_threshold} and ransac_residual_threshold="
                f"{self.ransac_residual_threshold}"
            )
        if self.num_trials < 1 or self.seed < 0 or self.min_matches < SAMPLE:
            raise ValueError(
                f"expected num_trials >= 1, seed >= 0 and min_matches >= {SAMPLE}, got "
                f"{self.num_trials}, {self.seed} and {self.min_matches}"
            )

    def __str__(self) -> str:
        """For records and protocols."""
        rule = "ratio" if self.use_ratio_test else "distance"
        return (
            f"{rule} below {self.descriptor_matching_threshold:g}, {self.estimator} "
            f"{self.num_trials} trials seed {self.seed}, residual below "
            f"{self.ransac_residual_threshold:g} px, at least {self.min_matches} matches"
        )


def match(query: np.ndarray, index: np.ndarray, settings: Verification) -> np.ndarray:
    """(M, 2) putative matches of descriptors (N, D) and (N2, D): rows of query and index image."""
    rule = match_by_ratio if settings.use_ratio_test else match_by_distance
    return rule(query, index, settings.descriptor_matching_threshold)


def _ransac(source: np.ndarray, target: np.ndarray, settings: Verification) -> np.ndarray:
    threshold, trials = settings.ransac_residual_threshold, settings.num_trials
    found = find_affine(source, target, threshold, trials, settings.seed)
    return np.zeros(len(source), bool) if found is None else found.inliers


def _opencv(source: np.ndarray, target: np.ndarray, settings: Verification) -> np.ndarray:
    params = cv2.UsacParams()
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MSAC
    params.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    params.loIterations, params.loSampleSize = 10, 12
    params.maxIterations = settings.num_trials
    params.confidence = 0.9999
    params.threshold = settings.ransac_residual_threshold
    params.randomGeneratorState = settings.seed
    _, mask = cv2.estimateAffine2D(source, target, params)
    return np.zeros(len(source), bool) if mask is None else mask.reshape(-1).astype(bool)


Estimate = Callable[[np.ndarray, np.ndarray, Verification], np.ndarray]
# ransac: the published rules; opencv: stops when it is confident and refines, another seed stream
ESTIMATORS: dict[str, Estimate] = {"ransac": _ransac, "opencv": _opencv}


def verify(query: LocalFeatures, index: LocalFeatures, settings: Verification) -> np.ndarray:
    """(I, 2) int64 matches (row of the query, row of the index image) that agree with one map.

    None of them when an image has no features, too few match, or no map is found. The same for the
    same input, whatever was verified before. ValueError for descriptors of different widths.
    """
    nothing = np.zeros((0, 2), np.int64)
    if not len(query) or not len(index):
        return nothing
    matches = match(query.descriptors, index.descriptors, settings)
    if len(matches) < settings.min_matches:
        return nothing
    source = index.locations[matches[:, 1]].astype(np.float64)
    target = query.locations[matches[:, 0]].astype(np.float64)
    return matches[ESTIMATORS[settings.estimator](source, target, settings)]
