"""Matches and inliers: reference answers, plain loops, degenerate pairs, bad input."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from delg_training import matching
from delg_training.geometric_verification import ESTIMATORS, Verification, match, verify
from delg_training.matching import match_by_distance, match_by_ratio
from tests.delg_training.golden_pairs import (
    CASES,
    golden_pair,
    random_pair,
    settings_of,
    to_features,
    unit_rows,
)
from utils.descriptors import LocalFeatures

SEEDS = range(5)


@pytest.mark.parametrize("name", CASES)
def test_matches_and_inliers_equal_the_reference(name):
    case = CASES[name]
    query, index = golden_pair(name)
    matches = match(query["descriptors"], index["descriptors"], settings_of(case))
    assert len(matches) == case["putative_matches"]
    for seed, expected in zip(SEEDS, case["inliers_for_seed_0_to_4"], strict=True):
        settings = settings_of(case, seed=seed)
        assert len(verify(to_features(query), to_features(index), settings)) == expected


@pytest.mark.parametrize("name", CASES)
def test_opencv_finds_as_many_inliers_as_the_reference(name):
    query, index = (to_features(side) for side in golden_pair(name))
    settings = settings_of(CASES[name], estimator="opencv")
    inliers = verify(query, index, settings)
    assert len(inliers) == CASES[name]["inliers_for_seed_0_to_4"][0]
    np.testing.assert_array_equal(verify(query, index, settings), inliers)


def tree_matches(query: np.ndarray, index: np.ndarray, max_distance: float) -> np.ndarray:
    """The search of the published code: a k-d tree with an upper bound."""
    distances, columns = cKDTree(index).query(query, distance_upper_bound=max_distance)
    found = np.flatnonzero(np.isfinite(distances))
    return np.stack([found, columns[found]], axis=1)


def loop_matches(query: np.ndarray, index: np.ndarray, ratio: float) -> np.ndarray:
    """Nearest and second nearest of each row, one row at a time, in float64."""
    found = []
    for i, row in enumerate(query.astype(np.float64)):
        distances = np.linalg.norm(index - row, axis=1)
        order = np.argsort(distances, kind="stable")
        second = distances[order[1]] if len(order) > 1 else np.inf
        if distances[order[0]] < ratio * second:
            found.append((i, order[0]))
    return np.array(found, np.int64).reshape(-1, 2)


@pytest.mark.parametrize("length", [1.0, 30.0])
@pytest.mark.parametrize("products", [4_000_000, 700])
def test_matches_equal_those_of_a_tree_for_descriptors_of_any_length(monkeypatch, length, products):
    """Also with near duplicates, which float32 alone could not order, and in blocks of rows."""
    monkeypatch.setattr(matching, "PRODUCTS", products)
    monkeypatch.setattr(matching, "PAIRS", 50)
    rng = np.random.default_rng(0)
    index = unit_rows(rng.standard_normal((60, 16)))
    index[30:] = unit_rows(index[:30] + 1e-7 * rng.standard_normal((30, 16)))
    query = unit_rows(index[:50] + 0.1 * rng.standard_normal((50, 16)))
    query[40:] = unit_rows(rng.standard_normal((10, 16)))
    if length > 1:
        index *= rng.uniform(1, length, (60, 1))
        query *= rng.uniform(1, length, (50, 1))
    sides = [(query, index), (query.astype(np.float32), index.astype(np.float32))]
    for first, second in sides:
        for max_distance in (0.3 * length, 0.45 * length, 2.0 * length):
            expected = tree_matches(first, second, max_distance)
            np.testing.assert_array_equal(match_by_distance(first, second, max_distance), expected)
        for ratio in (0.5, 0.9, 1.0):
            expected = loop_matches(first, second, ratio)
            np.testing.assert_array_equal(match_by_ratio(first, second, ratio), expected)


def test_a_distance_equal_to_the_threshold_is_no_match_and_ties_go_to_the_lower_row():
    query, index = np.array([[0.0, 0.0]]), np.array([[0.0, 0.5], [0.5, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(match_by_distance(query, index, 0.51), [[0, 0]])
    assert len(match_by_distance(query, index, 0.5)) == 0
    assert len(match_by_ratio(query, index, 1.0)) == 0  # nearest and second are equally far


def test_a_single_feature_has_no_second_nearest():
    query, index = np.eye(3), np.ones((1, 3))
    np.testing.assert_array_equal(match_by_ratio(query, index, 0.5), [[0, 0], [1, 0], [2, 0]])


@pytest.mark.parametrize("rule", [match_by_distance, match_by_ratio])
def test_no_features_no_matches(rule):
    some, none = np.ones((3, 8)), np.zeros((0, 8))
    for query, index in ((some, none), (none, some), (none, none)):
        assert rule(query, index, 1.0).shape == (0, 2)


@pytest.mark.parametrize("rule", [match_by_distance, match_by_ratio])
def test_descriptors_of_different_widths_are_refused(rule):
    with pytest.raises(ValueError, match=r"\(3, 8\) and \(3, 7\).*same model"):
        rule(np.ones((3, 8)), np.ones((3, 7)), 1.0)


# ---------------------------------------------------------------------------- verification


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_planted_matches_are_the_inliers(estimator):
    query, index = random_pair(200, 50)
    settings = Verification(1.5, 5.0, estimator=estimator)
    found = verify(query, index, settings)
    assert {(i, i) for i in range(50)} <= {tuple(row) for row in found.tolist()}
    assert len(found) <= 53  # a random match may agree by chance


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_inliers_are_the_same_after_other_pairs(estimator):
    settings = Verification(2.0, 8.0, estimator=estimator)
    pair = random_pair(60, 12, seed=1)
    before = verify(*pair, settings)
    for seed in range(3):
        verify(*random_pair(40, 10, seed=seed), settings)
    np.testing.assert_array_equal(verify(*pair, settings), before)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("planted", [0, 3])
def test_too_few_matches_score_nothing(estimator, planted):
    query, index = random_pair(10, planted)
    assert verify(query, index, Verification(0.1, 20.0, estimator=estimator)).shape == (0, 2)


def test_three_matches_are_enough_where_they_are_asked_for():
    query, index = random_pair(10, 3)
    assert len(verify(query, index, Verification(0.1, 20.0, min_matches=3))) == 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_matches_at_one_place_or_on_a_line_determine_no_map(estimator):
    query, index = random_pair(12, 12)
    line = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    for places in (np.zeros((12, 2)), line):
        flat = LocalFeatures(places, index.scales, index.descriptors, index.attention)
        assert len(verify(query, flat, Verification(0.1, 1.0, estimator=estimator))) <= 3


def test_an_image_without_features_scores_nothing():
    query, _ = random_pair(10, 3)
    empty = LocalFeatures(*(np.zeros(0),) * 4)
    for pair in ((query, empty), (empty, query), (empty, empty)):
        assert verify(*pair, Verification()).shape == (0, 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"estimator": "magic"}, "'magic', expected one of ransac, opencv"),
        ({"descriptor_matching_threshold": 0.0}, "thresholds above 0"),
        ({"ransac_residual_threshold": float("nan")}, "thresholds above 0"),
        ({"num_trials": 0}, "num_trials >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"min_matches": 2}, "min_matches >= 3"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Verification(**options)
