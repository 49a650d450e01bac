"""Global ranking, recall and reranked tables: reference answers, hand-checked cases."""

import pickle

import numpy as np
import pytest

from rrt_sop.reranking import PUBLISHED_DEPTH, check_table
from rrt_sop.retrieval import (
    KeptTables,
    TableFiles,
    Tables,
    find_neighbours,
    neighbour_origin,
    save_tables,
    writing_tables,
)
from tests.golden_recipe import GOLDEN_DIR, array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import RECALL, RERANK, SYSTEM, golden_features
from utils.nn_tables import load_nn_inds
from utils.pair_tables import rerank_table
from utils.pickles import load_foreign
from utils.recall import compute_recalls, find_first_of_label

RECALL_CASES, RERANK_CASES = cases_of_kind(SYSTEM, RECALL), cases_of_kind(SYSTEM, RERANK)
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)


def named(recalls: dict[str, float]) -> dict[str, float]:
    return {f"R@{k}": value for k, value in recalls.items()}


def find_all(queries: np.ndarray, gallery: np.ndarray | None, depth: int) -> Tables:
    depth, blocks = find_neighbours(queries, gallery, depth, progress=False)
    kept = KeptTables((len(queries), depth))
    for _, _, dists, nn_inds in blocks:
        kept.append(dists, nn_inds)
    return kept.tables()


def recalls_of(nn_inds: np.ndarray, labels: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    return compute_recalls(find_first_of_label(nn_inds, labels, labels), ks, nn_inds.shape[1])


@pytest.mark.parametrize("case", RECALL_CASES)
def test_global_ranking_equals_reference(case):
    entry = MANIFEST[case]
    features, labels = golden_features(case)
    dists, nn_inds = find_all(features, None, max(entry["ks"]))
    assert recalls_of(nn_inds, labels, tuple(entry["ks"])) == named(entry["recalls"])
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
    assert recalls_of(reranked, labels, tuple(entry["ks"])) == named(entry["recalls"])


def test_reference_cases_were_found():
    for kind, cases in ((RECALL, RECALL_CASES), (RERANK, RERANK_CASES)):
        assert cases, f"no '{kind}' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"


def test_first_neighbour_is_dropped_without_a_look():
    """Images 0 and 1 are duplicates: 1 finds 0 first (lower index), which is what is dropped."""
    features = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    _, nn_inds = find_all(features, None, 2)
    assert nn_inds.tolist() == [[1, 3], [1, 3], [3, 0], [2, 0]]


def test_distances_are_squared_and_of_normalised_features():
    """(3, 4) becomes (0.6, 0.8): to (1, 0) it is 0.16 + 0.64, to (0, 1) it is 0.36 + 0.04."""
    queries = np.array([[3, 4]], dtype=np.float32)
    gallery = np.array([[2, 0], [0, 5]], dtype=np.float32)
    dists, nn_inds = find_all(queries, gallery, 10)
    assert nn_inds.tolist() == [[1, 0]]
    np.testing.assert_allclose(dists, [[0.4, 0.8]], rtol=0, atol=1e-6)


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


def test_saved_tables_are_plain_arrays_with_a_record(tmp_path):
    tables = Tables(np.float32([[0.5, 0.7], [0.1, 0.2]]), np.array([[1, 2], [0, 2]]))
    origin = neighbour_origin(OneList("a"), OneList("b"))
    files = TableFiles(tmp_path / "run", origin, tmp_path / "caches" / "table.pkl")
    save_tables(files, tables)
    for path in (tmp_path / "run" / "nn_inds.pkl", files.copy):
        np.testing.assert_array_equal(load_nn_inds(path, origin, 2, 3), tables.nn_inds)
    for name, expected in zip(("nn_dists.pkl", "nn_inds.pkl"), tables, strict=True):
        found = pickle.loads((tmp_path / "run" / name).read_bytes())
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(load_foreign(tmp_path / "run" / name), expected)
    with pytest.raises(ValueError, match="made from images = 'a', expected 'c'"):
        load_nn_inds(files.copy, neighbour_origin(OneList("c")))


def test_written_tables_are_those_in_memory_and_only_whole_ones_get_their_names(tmp_path):
    features = np.random.default_rng(0).standard_normal((70, 8)).astype(np.float32)
    kept, files = find_all(features, None, 9), TableFiles(tmp_path, {})
    depth, blocks = find_neighbours(features, None, 9, progress=False)
    with writing_tables(files, (70, depth)) as written:
        for _, _, *found in blocks:
            written.append(*found)
    for mapped, expected in zip(written.tables(), kept, strict=True):
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, expected)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(ValueError, match="3 rows were written, expected 70"),
        writing_tables(files, (70, 9)) as half,
    ):
        half.append(kept.values[:3], kept.nn_inds[:3])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with (
        pytest.raises(ValueError, match=r"rows are \(70, 8\), expected \(n, 9\)"),
        writing_tables(files, (70, 9)) as narrow,
    ):
        narrow.append(kept.values[:, 1:], kept.nn_inds[:, 1:])
