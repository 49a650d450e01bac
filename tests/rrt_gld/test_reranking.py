"""The reranking protocol: reference answers, a case by hand, ties, each pair once."""

from typing import Any

import numpy as np
import pytest

from rrt_gld.datasets.image_set import ImageSet, Item
from rrt_gld.evaluation import compute_reranked_metrics, score_pairs_from_files
from rrt_gld.models.scoring import PairScorer
from rrt_gld.reranking import make_ignored, move_ignored_to_end, rerank, rerank_head
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_gld.data_folders import KINDS, drawn
from tests.rrt_gld.golden_models import golden_images, golden_matcher
from utils.revisited import FrozenList, GroundTruth, evaluate_ranks, load_ground_truth

SYSTEM = "rrt_gld"
MANIFEST, OUTPUTS = load_manifest(SYSTEM)["cases"], load_outputs(SYSTEM)
TABLE_CASES = cases_of_kind(SYSTEM, "reranking protocol with a given score table")
MATCHER_CASES = cases_of_kind(SYSTEM, "reranking with a real (small) matcher")
GROUND_TRUTHS = "rrt"  # folder of the reference data
DEPTH = 100  # of the table cases' text


def make_ground_truth(lists: list[tuple], n_gallery: int) -> GroundTruth:
    gnd: Any = [dict(zip(KINDS, entry, strict=True)) for entry in lists]
    names = FrozenList(f"g{j}" for j in range(n_gallery))
    return GroundTruth(names, FrozenList(f"q{i}" for i in range(len(lists))), gnd)


def unit_rows(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.data
@pytest.mark.parametrize("case", TABLE_CASES)
def test_protocol_on_the_real_ground_truth_equals_reference(case, reference_data):
    entry = MANIFEST[case]
    gnd = load_ground_truth(reference_data / GROUND_TRUTHS / entry["ground_truth"])
    shape = len(gnd.qimlist), len(gnd.imlist)
    queries = array(f"{case}/query", (shape[0], entry["d"])).astype(np.float64)
    gallery = array(f"{case}/gallery", (shape[1], entry["d"])).astype(np.float64)
    table = array(f"{case}/scores", shape)
    for i, lists in enumerate(gnd.gnd):
        for kind in KINDS:
            gallery[list(lists[kind])] += entry["planted"][kind] * queries[i]
            table[i, list(lists[kind])] += np.float32(entry["score_planted"][kind])
    order = np.argsort(-unit_rows(queries) @ unit_rows(gallery).T, axis=1, kind="stable")
    got = rerank(order, gnd, lambda pairs: table[pairs[:, 0], pairs[:, 1]], DEPTH)
    for name, lists, protocol in (("medium", got.medium, "M"), ("hard", got.hard, "H")):
        np.testing.assert_array_equal(lists[:, :DEPTH], OUTPUTS[f"{case}/{name}_top100"])
        values = evaluate_ranks(lists, gnd)[name]
        found = [values["map"], *values["mp"]]
        np.testing.assert_allclose(found, OUTPUTS[f"{case}/{protocol}_map_mp"], atol=1e-12)
    metrics, _ = compute_reranked_metrics(got, gnd)
    assert metrics == entry["upstream_result"]
    assert len(got.pairs) < 2 * DEPTH * shape[0] * 0.8, "the heads overlap; no pair is scored twice"


class RecipeSet(ImageSet):
    """Images of a matcher case, in place of files."""

    def __init__(self, case: str, side: str, lengths: np.ndarray) -> None:
        entry = MANIFEST[case]
        size, sizes = entry["max_sequence_len"], entry["constructor"]
        self.padded = golden_images(f"{case}/{side}", lengths, size, sizes)
        self.lengths = lengths

    def load_item(self, i: int) -> Item:
        n = self.lengths[i]
        global_, local, _, scales, positions = (part[i].numpy() for part in self.padded)
        return Item(global_, local[:n], scales[:n], positions[:n])


@pytest.mark.parametrize("case", MATCHER_CASES)
def test_reranking_with_a_matcher_equals_reference(case):
    entry = MANIFEST[case]
    n_query, n_gallery, longest = entry["n_query"], entry["n_gallery"], entry["max_sequence_len"]
    queries = RecipeSet(case, "query", drawn(f"{case}/qlen", (n_query,)) % longest + 1)
    gallery = RecipeSet(case, "gallery", drawn(f"{case}/glen", (n_gallery,)) % (longest + 1))
    kinds = [drawn(f"{case}/gt{i}", (n_gallery,)) % 6 for i in range(n_query)]
    lists = [tuple(np.flatnonzero(kind == k).tolist() for k in range(3)) for kind in kinds]
    gnd = make_ground_truth(lists, n_gallery)
    vectors = [unit_rows(s.padded.global_.numpy().astype(np.float64)) for s in (queries, gallery)]
    nn_inds = np.argsort(-vectors[0] @ vectors[1].T, axis=1, kind="stable")
    np.testing.assert_array_equal(nn_inds, OUTPUTS[f"{case}/nn_inds"])
    scorer = PairScorer(golden_matcher(entry), "cpu")

    def score_pairs(pairs):
        return score_pairs_from_files(scorer, queries, gallery, pairs, progress=False)

    everything = np.stack(np.divmod(np.arange(n_query * n_gallery), n_gallery), axis=1)
    scores = score_pairs(everything).reshape(n_query, n_gallery)
    np.testing.assert_allclose(scores, OUTPUTS[f"{case}/scores"], atol=2e-4)
    got = rerank(nn_inds, gnd, score_pairs)
    for name in ("medium", "hard"):
        expected = OUTPUTS[f"{case}/{name}"].astype(np.int64)
        found = getattr(got, name)
        # lists may differ only where two reference scores are closer than 1e-3
        rows = np.arange(n_query)[:, None]
        reference = OUTPUTS[f"{case}/scores"]
        gaps = np.abs(reference[rows, found] - reference[rows, expected])
        assert (gaps[found != expected] < 1e-3).all()
    metrics, aps = compute_reranked_metrics(got, gnd)
    assert metrics == entry["upstream_result"]
    assert aps["M"].shape == aps["H"].shape == (n_query,)


def test_protocol_by_hand():
    # one query; easy 1, hard 4, junk 0 and 3
    gnd = make_ground_truth([([1], [4], [0, 3])], 6)
    nn_inds = np.array([[0, 1, 2, 3, 4, 5]])
    table = np.array([0.9, 0.1, 0.5, 0.8, 0.5, 0.7], dtype=np.float32)
    asked = []

    def score_pairs(pairs):
        asked.append(pairs.copy())
        return table[pairs[:, 1]]

    got = rerank(nn_inds, gnd, score_pairs, top_k=3)
    # medium: junk to the end -> 1 2 4 5 0 3, head 1 2 4 with scores .1 .5 .5: the tie keeps 2 first
    np.testing.assert_array_equal(got.medium, [[2, 4, 1, 5, 0, 3]])
    # hard: easy counts as junk -> 2 4 5 0 1 3, head 2 4 5 with scores .5 .5 .7
    np.testing.assert_array_equal(got.hard, [[5, 2, 4, 0, 1, 3]])
    (pairs,) = asked
    np.testing.assert_array_equal(pairs, [[0, 1], [0, 2], [0, 4], [0, 5]])


def test_partition_and_stable_sort_equal_the_naive_loops():
    rng = np.random.default_rng(0)
    n_query, n_gallery, top_k = 7, 50, 20
    lists = []
    for _ in range(n_query):
        easy, hard, junk, _ = np.split(rng.permutation(n_gallery), [8, 16, 30])
        lists.append((easy.tolist(), hard.tolist(), junk.tolist()))
    gnd = make_ground_truth(lists, n_gallery)
    nn_inds = np.stack([rng.permutation(n_gallery) for _ in range(n_query)])
    table = rng.integers(0, 6, (n_query, n_gallery)).astype(np.float32)  # many ties
    got = rerank(nn_inds, gnd, lambda pairs: table[tuple(pairs.T)], top_k)
    for q, (easy, _, junk) in enumerate(lists):
        for found, ignored in ((got.medium[q], set(junk)), (got.hard[q], set(junk) | set(easy))):
            row = [j for j in nn_inds[q] if j not in ignored]
            row += [j for j in nn_inds[q] if j in ignored]
            head = sorted(row[:top_k], key=lambda j: -table[q, j])  # Python's sort is stable
            assert found.tolist() == head + row[top_k:]


def test_a_short_table_is_reranked_whole():
    gnd = make_ground_truth([([1], [], [])], 9)
    got = rerank(np.array([[3, 1]]), gnd, lambda pairs: pairs[:, 1] == 1, top_k=100)
    np.testing.assert_array_equal(got.medium, [[1, 3]])


def test_head_alone_is_reordered():
    ranks, scores = np.array([[4, 2, 7, 1]]), np.array([[0.1, 0.2]])
    np.testing.assert_array_equal(rerank_head(ranks, scores), [[2, 4, 7, 1]])
    ignored = np.zeros((1, 9), dtype=bool)
    ignored[0, [4, 7]] = True
    np.testing.assert_array_equal(move_ignored_to_end(ranks, ignored), [[2, 1, 4, 7]])
    assert make_ignored(make_ground_truth([([1], [2], [4, 7])], 9), "hard").sum() == 3


@pytest.mark.parametrize(
    ("nn_inds", "complaint"),
    [
        (np.zeros((2, 4), np.int64), r"\(2, 4\), expected \(1, K\)"),
        (np.array([[0, 9]]), r"indices 0\.\.9, but the gallery has 6"),
        (np.array([[-1, 2]]), r"indices -1\.\.2"),
    ],
)
def test_table_of_another_set_is_refused(nn_inds, complaint):
    gnd = make_ground_truth([([1], [4], [0])], 6)
    with pytest.raises(ValueError, match=complaint):
        rerank(nn_inds, gnd, lambda pairs: np.zeros(len(pairs)))


def test_scores_that_are_no_numbers_are_refused():
    gnd = make_ground_truth([([1], [4], [0])], 6)
    with pytest.raises(ValueError, match="2 of 2 pair scores are not finite"):
        rerank(np.array([[1, 2]]), gnd, lambda pairs: np.full(len(pairs), np.nan))
