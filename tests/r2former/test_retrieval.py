"""Ranking, recall, reranked lists and crops: reference answers and hand-checked cases."""

from functools import cache

import numpy as np
import pytest

from r2former.crops import combine_rankings, find_repeated, mean_descriptors, vote
from r2former.datasets.place_set import PlaceSet, Positives
from r2former.retrieval import average_precisions, compute_maps, find_neighbours
from tests.golden_recipe import array, load_outputs
from tests.r2former.golden_models import PREFIX, SYSTEM
from utils.pair_tables import rerank_table
from utils.recall import compute_recalls, find_first_hits, hits_from_positives

# of the manifest's case "recall" and "crops"
QUERIES, DATABASE, WIDTH, CROPS = 50, 240, 32, 5
UTM_SCALE, RADIUS, FEATURE_SCALE = 70, 25, 25
TOP, CROP_HITS, SCORE_OF_POSITIVE = 100, 20, 1.5
KS, CROP_KS = (1, 5, 10, 20, 100), (1, 5, 10, 20)
MAJORITY_WEIGHT = 0.01
DECIMALS = 0.0051  # recalls are rounded to two decimals


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@cache
def golden_places() -> tuple[PlaceSet, np.ndarray, np.ndarray]:
    """The set, and descriptors of queries and database."""
    proj = array(f"{PREFIX}recall/proj", (2, WIDTH))
    positions, features = [], []
    for role, count in (("q", QUERIES), ("db", DATABASE)):
        utm = array(f"{PREFIX}recall/utm_{role}", (count, 2)).astype(np.float64) * UTM_SCALE
        noise = array(f"{PREFIX}recall/feat_{role}", (count, WIDTH))
        positions.append(utm)
        features.append(unit(noise + (utm.astype(np.float32) / np.float32(FEATURE_SCALE)) @ proj))
    places = PlaceSet(
        "golden",
        "all",
        [f"{i}.jpg" for i in range(DATABASE)],
        [f"{i}.jpg" for i in range(QUERIES)],
        positions[1],
        positions[0],
    )
    return places, features[0], features[1]


def hits_of(nn_inds: np.ndarray, positives: Positives) -> np.ndarray:
    return hits_from_positives(nn_inds, positives.counts, positives.indices)


def percents(nn_inds: np.ndarray, ks: tuple[int, ...]) -> list[float]:
    hits = hits_of(nn_inds, golden_places()[0].positives(RADIUS))
    return list(compute_recalls(find_first_hits(hits), ks, nn_inds.shape[1]).values())


def test_recall_before_and_after_reranking_equals_the_reference():
    wanted = load_outputs(SYSTEM, "recall.npz")
    places, queries, database = golden_places()
    distances, nn_inds = find_neighbours(queries, database, TOP, progress=False)
    np.testing.assert_array_equal(nn_inds, wanted["predictions"])
    np.testing.assert_allclose(distances, wanted["distances"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(percents(nn_inds, KS), wanted["recalls"], rtol=0, atol=DECIMALS)
    assert (places.positives(RADIUS).counts == 0).sum() == 4
    hits = hits_of(nn_inds, places.positives(RADIUS))
    raw = array(f"{PREFIX}recall/scores", (QUERIES, TOP)).astype(np.float64)
    scores = (1 / (1 + np.exp(-(raw + SCORE_OF_POSITIVE * hits)))).astype(np.float32)
    reranked, _ = rerank_table(nn_inds, scores)
    np.testing.assert_array_equal(reranked, wanted["reranked"])
    found = percents(reranked, KS)
    np.testing.assert_allclose(found, wanted["recalls_reranked"], rtol=0, atol=DECIMALS)


@pytest.mark.parametrize(
    "method,weight,key",
    [("nearest_crop", None, "recalls_nearest"), ("maj_voting", MAJORITY_WEIGHT, "recalls_maj")],
)
def test_crops_combine_as_published(method, weight, key):
    wanted = load_outputs(SYSTEM, "crops.npz")
    shape = (QUERIES, CROPS, CROP_HITS)
    found, distances = combine_rankings(
        wanted["predictions5"].astype(np.int64).reshape(shape),
        wanted["distances5"].reshape(shape),
        weight,
    )
    np.testing.assert_array_equal(found, wanted[method])
    np.testing.assert_allclose(percents(found, CROP_KS), wanted[key], rtol=0, atol=DECIMALS)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_crop_rankings_are_those_of_the_search():
    wanted = load_outputs(SYSTEM, "crops.npz")
    _, queries, database = golden_places()
    noise = array(f"{PREFIX}recall/feat_q5", (QUERIES * CROPS, WIDTH))
    crops = unit(np.float32(0.5) * noise + queries.repeat(CROPS, axis=0))
    distances, nn_inds = find_neighbours(crops, database, CROP_HITS, progress=False)
    np.testing.assert_allclose(distances, wanted["distances5"], rtol=0, atol=1e-5)
    assert (nn_inds == wanted["predictions5"]).mean() > 0.999


def test_voting_by_hand():
    """Image 7 leads in two of three crops: 0.1 * 2 / 1; among the first 5 columns it occurs three
    times and image 8 twice: 0.1 * 3 / 5 and 0.1 * 2 / 5; all again for m = 10."""
    nn_inds = np.array([[[7, 8], [7, 9], [8, 7]]])
    lowered = 1 - vote(nn_inds, np.ones((1, 3, 2)), 0.1)
    seven, eight = 0.06 + 0.03, 0.04 + 0.02
    expected = [[[0.2 + seven, eight], [0.2 + seven, 0.0], [eight, seven]]]
    np.testing.assert_allclose(lowered, expected, atol=1e-12)
    assert find_repeated(np.array([[3, 1, 3, 1, 2]])).tolist() == [
        [False, False, True, True, False]
    ]
    assert mean_descriptors(np.array([[[1.0, 0.0], [0.0, 1.0]]])).tolist() == [[0.5, 0.5]]


def test_recall_and_map_by_hand():
    """Query 0: positives 4, 5, hits at ranks 1 and 3; query 1: none; query 2: 6, missed."""
    positives = Positives(np.array([0, 2, 2, 3]), np.array([4, 5, 6]))
    nn_inds = np.array([[4, 1, 5], [4, 5, 6], [1, 2, 3]])
    hits = hits_of(nn_inds, positives)
    assert hits.tolist() == [[True, False, True], [False] * 3, [False] * 3]
    assert find_first_hits(hits).tolist() == [0, 3, 3]
    assert compute_recalls(find_first_hits(hits), (1, 100), 3) == {"R@1": 33.33, "R@100": 33.33}
    # AP@3 of query 0: (1/1 + 2/3) / min(2, 3); query 1 is not asked, query 2 scores 0
    aps = average_precisions(hits, positives.counts, 3)
    np.testing.assert_allclose(aps, [5 / 6, np.nan, 0])
    assert compute_maps(hits, positives.counts, (1, 3)) == {"mAP@1": 50.0, "mAP@3": 41.67}


def test_map_is_that_of_the_naive_loop():
    generator = np.random.default_rng(0)
    nn_inds = np.stack([generator.permutation(30)[:10] for _ in range(20)])
    lists = [np.sort(generator.permutation(30)[: generator.integers(0, 6)]) for _ in range(20)]
    counts = np.array([len(part) for part in lists])
    positives = Positives(np.concatenate([[0], counts.cumsum()]), np.concatenate(lists))
    hits = hits_of(nn_inds, positives)
    found = average_precisions(hits, counts, 7)
    for q, wanted in enumerate(lists):
        seen, total = 0, 0.0
        for r, image in enumerate(nn_inds[q][:7], start=1):
            if image in wanted:
                seen += 1
                total += seen / r
        naive = total / min(len(wanted), 7) if len(wanted) else np.nan
        np.testing.assert_allclose(found[q], naive)


def test_bad_tables_are_refused():
    positives = Positives(np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="2 ranked lists, but positives of 1 queries"):
        hits_of(np.zeros((2, 1), int), positives)
    with pytest.raises(ValueError, match="1 of 2 pair scores are not finite"):
        rerank_table(np.array([[0, 1]]), np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match=r"crops' rankings are \(1, 2\)"):
        combine_rankings(np.zeros((1, 2), int), np.zeros((1, 2)))
