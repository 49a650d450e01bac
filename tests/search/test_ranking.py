"""Ranked lists: blocks, the query itself, the head alone reordered."""

import numpy as np
import pytest

from search import ranking
from search.ranking import rank, rank_globally, rerank
from search.store import Store
from tests.search.made_up import describe, make_photos

GALLERY = np.arange(5, 30)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"), {"descriptor": "made up"}, "float16")
    store.extend(make_photos(30), describe, progress=False)
    return store


def rank_naively(store, query_rows, gallery_rows):
    queries, gallery = map(store.global_descriptors, (query_rows, gallery_rows))
    return np.argsort(-(queries.astype(np.float64) @ gallery.T), axis=1, kind="stable")


def test_blocks_change_nothing(store, monkeypatch):
    wanted = rank_naively(store, np.arange(5), GALLERY)
    np.testing.assert_array_equal(rank_globally(store, np.arange(5), GALLERY, 25), wanted)
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 1)  # blocks of k rows
    for k in (1, 4, 25):
        np.testing.assert_array_equal(rank_globally(store, np.arange(5), GALLERY, k), wanted[:, :k])


def test_equal_images_keep_the_order_of_the_gallery_across_blocks(store, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 1)
    twice = np.array([9, 8, 7, 9, 8, 7])
    found = rank_globally(store, np.array([7]), twice, 2)
    assert found.tolist() == [[2, 5]]


@pytest.mark.parametrize("refine", ["none", "aqe", "dba", "diffusion", "k-reciprocal"])
@pytest.mark.parametrize("k", [4, 24, 100])
def test_a_query_is_not_found_itself(store, refine, k):
    queries, own = np.array([7, 20]), np.array([2, 15])
    found = rank(store, queries, GALLERY, k, refine, own)
    assert found.shape == (2, min(k, 24))
    assert not (found == own[:, None]).any()
    every = rank(store, queries, GALLERY, 25, refine)
    for row, all_, me in zip(found, every, own, strict=True):
        assert row.tolist() == [i for i in all_ if i != me][: min(k, 24)]


def test_queries_in_and_outside_of_the_gallery_have_lists_of_one_length(store):
    found = rank(store, np.array([7, 0]), GALLERY, 6, own=np.array([2, -1]))
    wanted = rank_naively(store, np.array([7, 0]), GALLERY)
    assert found[0].tolist() == [i for i in wanted[0] if i != 2][:6]
    assert found[1].tolist() == wanted[1, :6].tolist()


class ByRow:
    """Scores of pairs: the row of the gallery image; of NaN where it is `bad`."""

    title, max_locals = "by row", None

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def require(self, store: Store) -> None:
        pass

    def score(self, store: Store, pairs: np.ndarray, progress: bool = True) -> np.ndarray:
        return np.where(pairs[:, 1] == self.bad, np.nan, pairs[:, 1]).astype(np.float32)


def test_the_head_alone_is_reordered(store):
    before = rank(store, np.arange(3), GALLERY, 10)
    found = rerank(store, np.arange(3), GALLERY, before, 4, ByRow())
    for old, new, scores in zip(before, found.after, found.scores, strict=True):
        assert new[:4].tolist() == sorted(old[:4], reverse=True)
        assert new[4:].tolist() == old[4:].tolist()
        assert scores.tolist() == GALLERY[old[:4]].tolist()
    assert rerank(store, np.arange(3), GALLERY, before, 4, None).scores is None


def test_scores_that_are_not_finite_are_refused(store):
    before = rank(store, np.arange(3), GALLERY, 10)
    with pytest.raises(ValueError, match="not finite"):
        rerank(store, np.arange(3), GALLERY, before, 10, ByRow(int(GALLERY[before[0, 0]])))
