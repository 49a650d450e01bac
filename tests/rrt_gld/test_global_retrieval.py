"""The global ranking is defined to the last digit: no product's order of summation shows in it."""

import numpy as np

from rrt_gld.global_retrieval import expand_queries, normalize, rank_all


def test_ranking_is_that_of_sums_in_double_precision_with_ties_by_index() -> None:
    rng = np.random.default_rng(0)
    gallery = normalize(rng.normal(size=(300, 64)).astype(np.float32))
    gallery[100:200] = gallery[:100]  # equal images
    gallery[200:] = normalize(gallery[:100] + np.float32(1e-7) * gallery[1:101])  # nearly equal
    queries = normalize(rng.normal(size=(20, 64)).astype(np.float32))
    exact = (queries.astype(np.float64) @ gallery.T.astype(np.float64)).astype(np.float32)
    similarities, nn_inds = rank_all(queries, gallery)
    np.testing.assert_array_equal(nn_inds, np.argsort(-exact, axis=1, kind="stable"))
    np.testing.assert_array_equal(similarities, np.take_along_axis(exact, nn_inds, axis=1))


def test_expansion_by_hand() -> None:
    """Query (1, 0), its two nearest (1, 0) and (0.6, 0.8): weights 1 and 0.6^0.5."""
    gallery = np.array([[0.6, 0.8], [1, 0], [-1, 0]], np.float32)
    found = expand_queries(np.array([[1, 0]], np.float32), gallery, k=2, alpha=0.5)
    total = np.array([1 + 1 + 0.6**1.5, 0.8 * 0.6**0.5])
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), rtol=1e-6)
