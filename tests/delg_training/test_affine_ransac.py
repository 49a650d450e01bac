"""RANSAC of all trials at once against the trials one by one; its samples; degenerate points."""

import numpy as np
import pytest

from delg_training import affine_ransac
from delg_training.affine_ransac import draw_samples, find_affine, solve_samples

TRUE = np.array([[0.9, 0.2, 30.0], [-0.15, 1.1, -20.0]])


def some_matches(n: int, planted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(0, 800, (2, n, 2))
    noise = rng.standard_normal((planted, 2))
    target[:planted] = source[:planted] @ TRUE[:, :2].T + TRUE[:, 2] + noise
    return source, target


def trials_one_by_one(
    source: np.ndarray, target: np.ndarray, threshold: float, num_trials: int, seed: int
) -> np.ndarray:
    """Inliers by the published rules: a least-squares map per sample, the better one is kept."""
    best, best_count, best_sum = np.zeros(len(source), bool), 0, np.inf
    homogeneous = np.c_[source, np.ones(len(source))]
    for sample in draw_samples(len(source), num_trials, seed):
        if np.linalg.matrix_rank(homogeneous[sample]) < 3:
            continue
        matrix = np.linalg.lstsq(homogeneous[sample], target[sample], rcond=None)[0]
        residuals = np.linalg.norm(homogeneous @ matrix - target, axis=1)
        inliers, total = residuals < threshold, residuals @ residuals
        count = inliers.sum()
        if count > best_count or (count == best_count and total < best_sum):
            best, best_count, best_sum = inliers, count, total
    return best


@pytest.mark.parametrize(("n", "planted"), [(4, 0), (9, 4), (30, 0), (80, 20), (120, 120)])
@pytest.mark.parametrize("block", [1 << 17, 500])
def test_inliers_equal_those_of_trials_one_by_one(monkeypatch, n, planted, block):
    monkeypatch.setattr(affine_ransac, "BLOCK", block)
    for seed in range(3):
        source, target = some_matches(n, planted, seed)
        found = find_affine(source, target, 20.0, 200, seed)
        expected = trials_one_by_one(source, target, 20.0, 200, seed)
        np.testing.assert_array_equal(found.inliers, expected)


def test_map_is_fitted_to_all_inliers():
    source, target = some_matches(60, 40, 0)
    found = find_affine(source, target, 5.0)
    homogeneous = np.c_[source, np.ones(60)][found.inliers]
    expected = np.linalg.lstsq(homogeneous, target[found.inliers], rcond=None)[0].T
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.matrix[:, :2], TRUE[:, :2], atol=0.01)


def test_far_away_points_lose_no_precision():
    """Centred: coordinates of a million pixels give the inliers of coordinates near 0."""
    source, target = some_matches(60, 30, 0)
    near = find_affine(source, target, 5.0)
    far = find_affine(source + 1e6, target - 1e6, 5.0)
    np.testing.assert_array_equal(far.inliers, near.inliers)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_samples_are_three_different_matches_each_equally_likely(n):
    samples = draw_samples(n, 60_000, 0)
    assert (np.diff(np.sort(samples, axis=1), axis=1) > 0).all()
    ordered, counts = np.unique(samples, axis=0, return_counts=True)
    assert len(ordered) == n * (n - 1) * (n - 2)
    share = 60_000 / len(ordered)
    assert np.abs(counts - share).max() < 6 * np.sqrt(share)
    assert not np.array_equal(samples, draw_samples(n, 60_000, 1))


def test_maps_send_corners_onto_corners():
    rng = np.random.default_rng(0)
    source, target = rng.uniform(-100, 100, (2, 50, 3, 2))
    source[7, 2] = source[7, 0]  # no triangle
    maps, solved = solve_samples(source, target)
    np.testing.assert_array_equal(np.flatnonzero(~solved), [7])
    mapped = np.einsum("tij,tnj->tni", maps[:, :, :2], source[solved]) + maps[:, None, :, 2]
    np.testing.assert_allclose(mapped, target[solved], atol=1e-6)


def test_points_without_a_triangle_have_no_map():
    line = np.stack([np.arange(10.0), 2 * np.arange(10.0)], axis=1)
    target = np.random.default_rng(0).uniform(0, 10, (10, 2))
    assert find_affine(line, target, 5.0) is None
    assert find_affine(np.ones((10, 2)), target, 5.0) is None
    assert find_affine(line[:2], target[:2], 5.0) is None


def test_points_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 3\), expected \(M, 2\)"):
        find_affine(np.ones((4, 3)), np.ones((4, 3)), 5.0)
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(5, 2\)"):
        find_affine(np.ones((4, 2)), np.ones((5, 2)), 5.0)
