"""RANSAC for affine maps: all trials of a pair at once, with the rules of the published one.

Each trial maps three matches exactly; the winner has the most inliers and, among equals, the
smaller sum of squared residuals over all matches. The published code (scikit-image's `ransac`)
goes through its trials one by one; here the squared residuals of all trials are one product,

    |A p + t - q|^2 = c(A, t) . phi(p, q)        c and phi have 13 entries,

of coefficients of the trial and monomials of the match. Points are centred first, so that the
product loses nothing that a threshold in pixels could notice; the winner's mask is computed anew,
from the definition.
"""

from typing import NamedTuple

import numpy as np

SAMPLE = 3  # matches that determine an affine map
FLAT = (
    1e-9  # a triangle is degenerate when its area is below this share of its longest side squared
)
BLOCK = 1 << 17  # residuals held at once, 1 MB: they stay in the cache


class Affine(NamedTuple):
    """An affine map and the matches that agree with it."""

    matrix: np.ndarray  # (2, 3) float64: target = matrix[:, :2] @ source + matrix[:, 2]
    inliers: np.ndarray  # (M,) bool, of the best sample; the matrix is fitted to all of them


def draw_samples(num_matches: int, num_trials: int, seed: int) -> np.ndarray:
    """(T, 3) int64: three different matches per trial, each choice equally likely."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, num_matches, num_trials)
    second = rng.integers(0, num_matches - 1, num_trials)
    second += second >= first
    third = rng.integers(0, num_matches - 2, num_trials)
    third += third >= np.minimum(first, second)
    third += third >= np.maximum(first, second)
    return np.stack([first, second, third], axis=1)


def solve_samples(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T', 2, 3) maps of the corners `source` onto `target`, both (T, 3, 2); (T,) which exist.

    A degenerate triangle (equal points, points on a line) has no map.
    """
    edges, images = source[:, 1:] - source[:, :1], target[:, 1:] - target[:, :1]  # (T, 2, 2)
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    side = (edges**2).sum(axis=2).max(axis=1)
    solved = np.abs(area) > FLAT * side
    edges, images, area = edges[solved], images[solved], area[solved]
    adjugate = np.stack(
        [
            np.stack([edges[:, 1, 1], -edges[:, 0, 1]], axis=1),
            np.stack([-edges[:, 1, 0], edges[:, 0, 0]], axis=1),
        ],
        axis=1,
    )
    # rows are edges: edges @ A^T = images
    linear = np.swapaxes(adjugate @ images, 1, 2) / area[:, None, None]
    shift = target[solved, 0] - np.einsum("tij,tj->ti", linear, source[solved, 0])
    return np.concatenate([linear, shift[:, :, None]], axis=2), solved


def _coefficients(maps: np.ndarray) -> np.ndarray:
    """(T, 13): see the head of this module; `maps` (T, 2, 3)."""
    a, b, t = maps[:, 0].T
    c, d, u = maps[:, 1].T
    columns = [
        *(a * a + c * c, 2 * (a * b + c * d), b * b + d * d),
        *(2 * (a * t + c * u), 2 * (b * t + d * u), t * t + u * u),
        *(-2 * a, -2 * b, -2 * t, -2 * c, -2 * d, -2 * u),
        np.ones_like(a),
    ]
    return np.stack(columns, axis=1)


def _monomials(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(13, M), in the order of the coefficients."""
    (x, y), (v, w) = source.T, target.T
    rows = [
        *(x * x, x * y, y * y, x, y, np.ones_like(x)),
        *(x * v, y * v, v, x * w, y * w, w),
        v * v + w * w,
    ]
    return np.stack(rows)


def squared_residuals(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(M,) squared distances of mapped sources and targets, from the definition."""
    return ((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum(axis=1)


def _best_trial(maps: np.ndarray, source: np.ndarray, target: np.ndarray, threshold: float) -> int:
    """The trial with the most inliers; among equals the smallest sum of squares, then the first."""
    coefficients, monomials = _coefficients(maps), _monomials(source, target)
    step = max(1, BLOCK // len(source))
    counts = np.concatenate(
        [
            np.count_nonzero(coefficients[at : at + step] @ monomials < threshold**2, axis=1)
            for at in range(0, len(maps), step)
        ]
    )
    leaders = np.flatnonzero(counts == counts.max())
    sums = coefficients[leaders] @ monomials.sum(axis=1)
    return int(leaders[sums.argmin()])


def _fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) affine map with the least squared residuals."""
    homogeneous = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    return np.linalg.lstsq(homogeneous, target, rcond=None)[0].T


def find_affine(
    source: np.ndarray,
    target: np.ndarray,
    residual_threshold: float,
    num_trials: int = 1000,
    seed: int = 0,
) -> Affine | None:
    """The affine map source -> target that most matches agree with; None when there is none.

    `source`, `target`: (M, 2), M >= 3, in the same order of axes. An inlier's residual, the
    distance after the map, is below `residual_threshold`. The same result for the same input and
    seed. ValueError for arrays of other shapes.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape[1:] != (2,) or source.shape != target.shape:
        raise ValueError(f"points {source.shape} and {target.shape}, expected (M, 2) both")
    if len(source) < SAMPLE:
        return None
    from_origin, to_origin = source.mean(axis=0), target.mean(axis=0)
    source, target = source - from_origin, target - to_origin
    samples = draw_samples(len(source), num_trials, seed)
    maps, _ = solve_samples(source[samples], target[samples])
    if not len(maps):
        return None
    best = maps[_best_trial(maps, source, target, residual_threshold)]
    inliers = squared_residuals(best, source, target) < residual_threshold**2
    matrix = _fit(source[inliers], target[inliers])
    matrix[:, 2] += to_origin - matrix[:, :2] @ from_origin
    return Affine(matrix, inliers)
