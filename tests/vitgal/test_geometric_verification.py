"""Matches and inliers: the reference, the plain loop, other estimators, degenerate pairs."""

import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from tests.golden_recipe import load_outputs
from tests.vitgal.golden_pairs import CASES, FILE, SYSTEM, golden_pair, unit_rows
from vitgal import geometric_verification, matching
from vitgal.geometric_verification import (
    MIN_MATCHES,
    Matches,
    Verification,
    count_inliers,
    find_inliers,
    match,
    match_all,
)
from vitgal.stores import LocalFeatures

PUBLISHED = "pydegensac"
INSTALLED = [PUBLISHED, "magsac"]
RICHEST = max(CASES, key=lambda case: CASES[case]["matches"])


def settings_of(case: str, **options: object) -> Verification:
    return Verification(max_distance=CASES[case]["max_distance"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_matches_and_inliers_equal_the_reference(case: str) -> None:
    query, image = golden_pair(case)
    outputs = load_outputs(SYSTEM, FILE)
    found = match(query.descriptors, image.descriptors, settings_of(case))
    assert len(found.query_index) == CASES[case]["matches"]
    np.testing.assert_array_equal(found.query_index, outputs[f"{case}/query_index"])
    np.testing.assert_array_equal(found.db_index, outputs[f"{case}/db_index"])
    np.testing.assert_allclose(found.distance, outputs[f"{case}/distance"], rtol=1e-6)
    inliers = find_inliers(query, image, found, settings_of(case))
    # one more or less with another LAPACK, says the manifest
    assert abs(int(inliers.sum()) - CASES[case]["inliers_seed0"]) <= 1
    assert (inliers != outputs[f"{case}/mask_seed0"]).sum() <= 1


@pytest.mark.parametrize("case", CASES)
def test_magsac_counts_what_other_seeds_count(case: str) -> None:
    query, image = golden_pair(case)
    low, _, high = CASES[case]["inliers_over_40_seeds"]
    (count,) = count_inliers(query, [image], settings_of(case, estimator="magsac"))
    assert low - 2 <= count <= high + 2


def match_by_loop(query: np.ndarray, image: np.ndarray, max_distance: float) -> list[tuple]:
    found = []
    for i, q in enumerate(query.astype(np.float64)):
        distances = [np.sqrt(((q - d) ** 2).sum()) for d in image.astype(np.float64)]
        j = int(np.argmin(distances))
        if distances[j] < max_distance:
            found.append((i, j))
    return found


def test_matches_equal_the_loop_also_among_near_duplicates() -> None:
    """Rows that differ in the last bits of float32: only float64 tells which is nearer."""
    rng = np.random.default_rng(0)
    image = unit_rows(rng.standard_normal((40, 16)))
    image[20:] = unit_rows(image[:20] + 1e-7 * rng.standard_normal((20, 16)))
    query = unit_rows(image[:30] + 0.1 * rng.standard_normal((30, 16)))
    for max_distance in (0.3, 0.45, 2.0):
        for bf16 in (False, True):
            (found,) = matching.match_by_distance(query, [image], max_distance, bf16)
            pairs = list(zip(found.query_index.tolist(), found.db_index.tolist(), strict=True))
            assert pairs == match_by_loop(query, image, max_distance)


def test_descriptors_that_are_much_alike_are_matched_exactly(monkeypatch) -> None:
    """As before training: bfloat16 leaves nearly every pair open, so float32 is asked."""
    rng = np.random.default_rng(3)
    query, image = (unit_rows(1 + 0.01 * rng.standard_normal((n, 16))) for n in (60, 70))
    monkeypatch.setattr(matching, "PAIRS", 7)
    for bf16 in (False, True):
        (found,) = matching.match_by_distance(query, [image], 0.02, bf16)
        pairs = list(zip(found.query_index.tolist(), found.db_index.tolist(), strict=True))
        assert pairs == match_by_loop(query, image, 0.02)
        assert pairs


def test_of_equal_distances_the_lower_row_is_taken() -> None:
    image = np.repeat(np.eye(3, 8, dtype=np.float32), 4, axis=0)
    for bf16 in (False, True):
        (found,) = matching.match_by_distance(image, [image], 0.5, bf16)
        assert found.db_index.tolist() == [0] * 4 + [4] * 4 + [8] * 4


@pytest.mark.parametrize("width", [8, 128])
def test_products_are_within_the_error_that_is_assumed(width: int) -> None:
    rng = np.random.default_rng(2)
    query, image = (unit_rows(rng.standard_normal((200, width))) for _ in range(2))
    image[:50] = query[:50]
    exact = query.astype(np.float64) @ image.T.astype(np.float64)
    for bf16 in (False, True):
        multiply, error = matching.multiplier(query, bf16)
        assert np.abs(multiply(image) - exact).max() < error


def test_distance_equal_to_the_limit_is_no_match() -> None:
    query, image = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    limit = float(np.sqrt(2.0))
    assert len(match(query, image, Verification(max_distance=limit)).query_index) == 0
    assert len(match(query, image, Verification(max_distance=limit + 1e-9)).query_index) == 1


def test_ratio_test_equals_the_loop() -> None:
    rng = np.random.default_rng(1)
    query, image = (unit_rows(rng.standard_normal((n, 8))) for n in (50, 30))
    found = match(query, image, Verification(use_ratio_test=True, matching_threshold=0.9))
    distances = np.linalg.norm(query[:, None].astype(np.float64) - image, axis=2)
    two = np.sort(distances, axis=1)[:, :2]
    expected = np.flatnonzero(two[:, 0] < 0.9 * two[:, 1])
    assert 0 < len(expected) < 50
    np.testing.assert_array_equal(found.query_index, expected)
    np.testing.assert_array_equal(found.db_index, distances.argmin(axis=1)[expected])


def test_several_images_at_once_give_what_single_ones_give(monkeypatch) -> None:
    pairs = [golden_pair(case) for case in CASES]
    none = LocalFeatures(np.zeros((0, 128), np.float32), np.zeros((0, 2), np.int64))
    query, images = pairs[0][0], [image for _, image in pairs] + [none]
    for chunk in (1, 9000, 10**6):
        monkeypatch.setattr(matching, "CHUNK", chunk)
        together = match_all(query.descriptors, [i.descriptors for i in images], Verification())
        for image, found in zip(images, together, strict=True):
            alone = match(query.descriptors, image.descriptors, Verification())
            for a, b in zip(found, alone, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("estimator", INSTALLED)
def test_images_without_keypoints_score_zero(estimator: str) -> None:
    none = LocalFeatures(np.zeros((0, 128), np.float32), np.zeros((0, 2), np.int64))
    some = golden_pair(RICHEST)[0]
    settings = Verification(estimator=estimator)
    assert count_inliers(none, [some, none], settings).tolist() == [0, 0]
    assert count_inliers(some, [none], settings).tolist() == [0]


@pytest.mark.parametrize("estimator", INSTALLED)
@pytest.mark.parametrize("n", [0, 1, MIN_MATCHES, MIN_MATCHES + 1])
def test_four_matches_or_fewer_score_zero(estimator: str, n: int) -> None:
    points = np.array([[0, 0], [90, 10], [200, 150], [20, 160], [110, 80]], np.int64)[:n]
    features = LocalFeatures(np.eye(5, dtype=np.float32)[:n], points)
    expected = n if n > MIN_MATCHES else 0
    settings = Verification(estimator=estimator)
    assert count_inliers(features, [features], settings).tolist() == [expected]


@pytest.mark.parametrize("estimator", INSTALLED)
def test_points_in_one_place_or_line_score_zero(estimator: str) -> None:
    eye = np.eye(20, dtype=np.float32)
    line = np.repeat(np.arange(20, dtype=np.int64)[:, None], 2, axis=1)
    for points in (np.full((20, 2), 7, np.int64), line):
        features = LocalFeatures(eye, points)
        assert count_inliers(features, [features], Verification(estimator=estimator)).tolist() == [
            0
        ]


@pytest.mark.parametrize("estimator", INSTALLED)
def test_counts_do_not_depend_on_what_was_counted_before(estimator: str) -> None:
    settings = Verification(estimator=estimator)
    pairs = [golden_pair(case) for case in CASES]
    forwards = [int(count_inliers(q, [d], settings)[0]) for q, d in pairs]
    backwards = [int(count_inliers(q, [d], settings)[0]) for q, d in reversed(pairs)]
    assert forwards == backwards[::-1]


def test_points_are_given_as_y_x_query_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def estimate(source, target, settings):
        seen.update(source=source, target=target)
        return np.ones(len(source), bool)

    table = {**geometric_verification.ESTIMATORS, PUBLISHED: (PUBLISHED, estimate)}
    monkeypatch.setattr(geometric_verification, "ESTIMATORS", table)
    query, image = golden_pair(RICHEST)
    rows = np.arange(6)
    matches = Matches(rows, rows[::-1], np.zeros(6, np.float32))
    assert find_inliers(query, image, matches, Verification()).all()
    assert seen["source"].dtype == np.float64
    np.testing.assert_array_equal(seen["source"], query.locations[:6])
    np.testing.assert_array_equal(seen["target"], image.locations[5::-1])


def test_singular_model_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pydegensac = pytest.importorskip("pydegensac")

    def singular(*_args, **_options):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(pydegensac, "findHomography", singular)
    query, image = golden_pair(RICHEST)
    assert count_inliers(query, [image], Verification()).tolist() == [0]


def test_other_errors_of_an_estimator_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    pydegensac = pytest.importorskip("pydegensac")

    def broken(*_args, **_options):
        raise RuntimeError("out of order")

    monkeypatch.setattr(pydegensac, "findHomography", broken)
    query, image = golden_pair(RICHEST)
    with pytest.raises(RuntimeError, match="out of order"):
        count_inliers(query, [image], Verification())


def test_estimator_version_and_seed_are_in_the_record() -> None:
    text = str(Verification())
    assert f"pydegensac {metadata.version('pydegensac')} seed 0, 16 px, 2000 iterations" in text
    assert "distance below 0.82" in text
    assert f"magsac {cv2.__version__}" in str(Verification(estimator="magsac"))
    assert "ratio below 0.99" in str(Verification(use_ratio_test=True))


def test_missing_estimator_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ValueError, match=r"poselib, which is not installed.*pydegensac"):
        str(Verification(estimator="poselib"))


def test_poselib_is_asked_with_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package: what it is given, and what is taken of its answer."""
    asked: dict[str, Any] = {}

    def estimate_homography(source, target, ransac, bundle):
        asked.update(ransac, n=len(source))
        return np.eye(3), {"inliers": [True] * 7 + [False] * (len(source) - 7)}

    stand_in = ModuleType("poselib")
    monkeypatch.setattr(stand_in, "estimate_homography", estimate_homography, raising=False)
    monkeypatch.setitem(sys.modules, "poselib", stand_in)
    query, image = golden_pair(RICHEST)
    settings = Verification(estimator="poselib", max_reprojection_error=5.0)
    assert count_inliers(query, [image], settings).tolist() == [7]
    assert (asked["max_reproj_error"], asked["max_iterations"], asked["seed"]) == (5.0, 2000, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "ransac"}, "estimator is 'ransac', expected one of pydegensac, magsac"),
        ({"max_distance": 0.0}, "above 0"),
        ({"max_ransac_iteration": 0}, "max_ransac_iteration >= 1"),
        ({"homography_confidence": 1.5}, "homography_confidence"),
        ({"matching_threshold": 0.0}, "matching_threshold is 0"),
        ({"seed": -1}, "clock"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verification(**options)


def test_descriptors_of_two_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8\) and \(3, 4\).*of one model"):
        match(np.ones((3, 8), np.float32), np.ones((3, 4), np.float32), Verification())
