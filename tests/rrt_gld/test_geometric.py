"""Mutual matches and inliers on planted geometry."""

import numpy as np
import pytest

from rrt_gld.geometric import count_inliers, make_estimator, match_mutually, verify
from utils.descriptors import LocalFeatures

ESTIMATORS = [("pydegensac", "homography"), ("magsac", "homography"),
              ("pydegensac", "fundamental"), ("magsac", "fundamental")]  # fmt: skip
HOMOGRAPHY = np.array([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-4, 2e-4, 1]])


def features(xy: np.ndarray, descriptors: np.ndarray) -> LocalFeatures:
    n = len(xy)
    return LocalFeatures(xy[:, ::-1], np.ones(n), descriptors, np.ones(n), np.zeros(n))


def planted(n: int, true: int, seed: int = 0) -> tuple[LocalFeatures, LocalFeatures]:
    """Two images of n features, `true` of which agree with one homography of a plane."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 300, (n, 2))
    mapped = np.c_[xy, np.ones(n)] @ HOMOGRAPHY.T
    mapped = mapped[:, :2] / mapped[:, 2:] + 0.1 * rng.standard_normal((n, 2))
    mapped[true:] = rng.uniform(0, 300, (n - true, 2))
    descriptors = rng.standard_normal((n, 32))
    shuffled = rng.permutation(n)
    return features(xy, descriptors), features(mapped[shuffled], descriptors[shuffled])


def test_mutual_matches_equal_the_naive_loop():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 30, 8)).astype(np.float32)
    second = second[:20]
    distance = np.linalg.norm(first[:, None].astype(np.float64) - second, axis=2)
    expected = [
        (i, int(j)) for i, j in enumerate(distance.argmin(1)) if distance[:, j].argmin() == i
    ]
    assert match_mutually(first, second).tolist() == [list(pair) for pair in expected]
    two = np.sort(distance, axis=1)
    passing = [[i, j] for i, j in expected if two[i, 0] < 0.8 * two[i, 1]]
    assert 0 < len(passing) < len(expected)
    assert match_mutually(first, second, ratio=0.8).tolist() == passing


def test_images_without_features_have_no_matches():
    none, some = np.empty((0, 8), np.float32), np.ones((3, 8), np.float32)
    assert match_mutually(none, some).shape == match_mutually(some, none).shape == (0, 2)


@pytest.mark.parametrize("library, model", ESTIMATORS)
def test_planted_inliers_are_found(library, model):
    estimator = make_estimator(library, model, 3.0)
    query, image = planted(80, 50)
    inliers = verify(query, image, estimator)
    true = match_mutually(query.descriptors, image.descriptors)[:50]
    found = {tuple(pair) for pair in inliers.tolist()}
    assert len(found & {tuple(pair) for pair in true.tolist()}) >= 48
    # a fundamental matrix leaves a line for each point: more chance matches pass
    assert len(found) <= (58 if model == "homography" else 70)


@pytest.mark.parametrize("library, model", ESTIMATORS)
def test_chance_scores_below_geometry(library, model):
    estimator = make_estimator(library, model, 3.0)
    assert len(verify(*planted(80, 0), estimator)) < 25
    assert len(verify(*planted(4, 4), estimator)) == 0, "any four matches have a homography"


@pytest.mark.parametrize("library, model", ESTIMATORS)
def test_counts_do_not_depend_on_what_was_counted_before(library, model):
    estimator = make_estimator(library, model, 3.0)
    pairs = [planted(60, 25, seed) for seed in range(6)]
    forwards = [len(verify(*pair, estimator)) for pair in pairs]
    backwards = [len(verify(*pair, estimator)) for pair in reversed(pairs)]
    assert forwards == backwards[::-1]


class Memory:
    """Features by number, in place of files; counts what is read."""

    def __init__(self, images: list[LocalFeatures]) -> None:
        self.images, self.read = images, [0] * len(images)

    def load_local(self, i: int) -> LocalFeatures:
        self.read[i] += 1
        return self.images[i]


def test_each_image_is_read_once():
    sides = [planted(40, true, seed) for seed, true in enumerate((30, 0, 12))]
    queries, gallery = Memory([a for a, _ in sides]), Memory([b for _, b in sides])
    pairs = np.array([[2, 2], [0, 0], [1, 0], [0, 2], [0, 1]])
    estimator = make_estimator("pydegensac", "homography", 3.0)
    counts = count_inliers(queries, gallery, pairs, estimator, progress=False)  # type: ignore[arg-type]
    assert queries.read == gallery.read == [1, 1, 1]
    expected = [len(verify(sides[q][0], sides[g][1], estimator)) for q, g in pairs]
    assert counts.tolist() == expected
    assert counts[1] >= 29


def test_a_singular_model_of_the_estimator_has_no_inliers(monkeypatch):
    """pydegensac raises on some degenerate photographs; the release counts that as none."""
    import pydegensac

    def fail(*_, **__):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(pydegensac, "findHomography", fail)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 8)).astype(np.float32)
    features = LocalFeatures(rng.uniform(0, 99, (20, 2)), np.ones(20), rows, np.ones(20))
    estimator = make_estimator("pydegensac", "homography", 4.0)
    assert len(verify(features, features, estimator)) == 0
