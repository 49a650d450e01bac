"""Global ranking, recall and reranked tables: reference answers, hand-checked cases."""

import numpy as np
import pytest

from rrt_sop.reranking import PUBLISHED_DEPTH, check_table
from rrt_sop.retrieval import (
    compute_recall,
    find_first_hits,
    find_neighbours,
    neighbour_origin,
    save_neighbours,
)
from tests.golden_recipe import GOLDEN_DIR, array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import RECALL, RERANK, SYSTEM, golden_features
from utils.nn_tables import load_nn_inds
from utils.pair_tables import rerank_table
from utils.pickles import load_foreign

RECALL_CASES, RERANK_CASES = cases_of_kind(SYSTEM, RECALL), cases_of_kind(SYSTEM, RERANK)
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)


def named(recalls: dict[str, float]) -> dict[str, float]:
    return {f"R@{k}": value for k, value in recalls.items()}


@pytest.mark.parametrize("case", RECALL_CASES)
def test_global_ranking_equals_reference(case):
    entry = MANIFEST[case]
    features, labels = golden_features(case)
    dists, nn_inds = find_neighbours(features, None, max(entry["ks"]), progress=False)
    assert compute_recall(nn_inds, labels, labels, tuple(entry["ks"])) == named(entry["recalls"])
    expected_dists, expected = OUTPUTS[f"{case}/nn_dists"], OUTPUTS[f"{case}/nn_inds"]
    columns = expected.shape[1]
    np.testing.assert_allclose(dists[:, :columns], expected_dists, rtol=0, atol=1e-5)
    # neighbours at nearly equal distance may change places, each with the one beside it
    steps = np.diff(dists[:, : columns + 1], axis=1)
    steps = np.pad(steps, ((0, 0), (1, columns - steps.shape[1])), constant_values=1.0)
    clear = (steps[:, :-1] > 1e-5) & (steps[:, 1:] > 1e-5)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(nn_inds[:, :columns][clear], expected[clear])


@pytest.mark.parametrize("case", RERANK_CASES)
def test_reranked_table_equals_reference(case):
    entry = MANIFEST[case]
    table = OUTPUTS[f"{case}/cache"].astype(np.int64)
    assert table.shape[1] == entry["columns_in_cache"]
    labels = np.arange(len(table)) // 5
    same = labels[:, None] == labels
    scores = array(f"{case}/scores", same.shape) + np.float32(1.5) * same
    head = table[:, :PUBLISHED_DEPTH]
    reranked, values = rerank_table(table, np.take_along_axis(scores, head, axis=1))
    assert reranked.shape == (len(table), min(100, table.shape[1]))
    expected = OUTPUTS[f"{case}/nn_inds"]
    np.testing.assert_array_equal(reranked[:, : expected.shape[1]], expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, reranked, axis=1))
    assert compute_recall(reranked, labels, labels, tuple(entry["ks"])) == named(entry["recalls"])


def test_reference_cases_were_found():
    for kind, cases in ((RECALL, RECALL_CASES), (RERANK, RERANK_CASES)):
        assert cases, f"no '{kind}' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"


def test_first_neighbour_is_dropped_without_a_look():
    """Images 0 and 1 are duplicates: 1 finds 0 first (lower index), which is what is dropped."""
    features = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    _, nn_inds = find_neighbours(features, None, 2, progress=False)
    assert nn_inds.tolist() == [[1, 3], [1, 3], [3, 0], [2, 0]]


def test_distances_are_squared_and_of_normalised_features():
    """(3, 4) becomes (0.6, 0.8): to (1, 0) it is 0.16 + 0.64, to (0, 1) it is 0.36 + 0.04."""
    queries = np.array([[3, 4]], dtype=np.float32)
    gallery = np.array([[2, 0], [0, 5]], dtype=np.float32)
    dists, nn_inds = find_neighbours(queries, gallery, 10, progress=False)
    assert nn_inds.tolist() == [[1, 0]]
    np.testing.assert_allclose(dists, [[0.4, 0.8]], rtol=0, atol=1e-6)


def test_recall_counts_queries_with_a_right_image_and_short_lists_as_they_are():
    """First right columns: 0, 2, none: of three queries, one within 1, two within 3 and 10."""
    nn_inds = np.array([[1, 2, 3], [3, 4, 0], [0, 1, 3]])
    query_labels, gallery_labels = np.array([7, 8, 9]), np.array([8, 7, 5, 5, 5])
    recalls = compute_recall(nn_inds, query_labels, gallery_labels, (1, 3, 10))
    assert recalls == {"R@1": 33.33, "R@3": 66.67, "R@10": 66.67}
    assert find_first_hits(nn_inds, query_labels, gallery_labels).tolist() == [0, 2, 3]


def test_first_hits_and_recall_agree_over_several_blocks(monkeypatch):
    monkeypatch.setattr("rrt_sop.retrieval.BLOCK", 7)
    rng = np.random.default_rng(0)
    labels, nn_inds = rng.integers(12, size=50), rng.integers(50, size=(50, 20))
    first = find_first_hits(nn_inds, labels, labels)
    for metric, value in compute_recall(nn_inds, labels, labels, (1, 4, 20)).items():
        assert value == round(100 * (first < int(metric[2:])).mean(), 2)


def test_ties_keep_the_global_order():
    nn_inds = np.array([[5, 3, 9, 1]])
    scores = np.array([[1.0, 2.0, 1.0]], dtype=np.float32)
    reranked, values = rerank_table(nn_inds, scores)
    assert reranked.tolist() == [[3, 5, 9]]
    assert values.tolist() == [[2.0, 1.0, 1.0]]


def test_tables_and_scores_that_do_not_fit_are_refused():
    nn_inds = np.array([[1, 2], [0, 2]])
    with pytest.raises(ValueError, match=r"scores are \(2, 3\)"):
        rerank_table(nn_inds, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="1 of 4 pair scores are not finite"):
        rerank_table(nn_inds, np.array([[0, np.nan], [0, 0]]))
    with pytest.raises(
        ValueError, match=r"\(2, 2\), expected \(3, K\): it belongs to another split"
    ):
        check_table(nn_inds, 3, 3)
    with pytest.raises(ValueError, match=r"indices 0\.\.2, but there are 2 images"):
        check_table(nn_inds, 2, 2)
    with pytest.raises(ValueError, match="1 image cannot be matched against itself"):
        find_neighbours(np.ones((1, 4), np.float32), None, 1)


class OneList:
    """Stands for an image list."""

    def __init__(self, name: str) -> None:
        self.name = name

    def origin(self) -> dict[str, str]:
        return {"images": self.name}


def test_saved_table_is_a_plain_array_with_its_record(tmp_path):
    nn_inds, dists = np.array([[1, 2], [0, 2]]), np.array([[0.5, 0.7], [0.1, 0.2]])
    origin = neighbour_origin(OneList("a"), OneList("b"))
    copy = tmp_path / "caches" / "table.pkl"
    save_neighbours(tmp_path / "run", dists, nn_inds, origin, copy)
    for path in (tmp_path / "run" / "nn_inds.pkl", copy):
        np.testing.assert_array_equal(load_nn_inds(path, origin, 2, 3), nn_inds)
        assert load_foreign(path).dtype == np.int64
    saved = load_foreign(tmp_path / "run" / "nn_dists.pkl")
    assert saved.dtype == np.float32
    np.testing.assert_allclose(saved, dists)
    with pytest.raises(ValueError, match="made from images = 'a', expected 'c'"):
        load_nn_inds(copy, neighbour_origin(OneList("c")))
