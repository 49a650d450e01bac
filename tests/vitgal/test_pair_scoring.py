"""Scores of heads: the same for any number of processes; nothing missing is passed over."""

from pathlib import Path

import numpy as np
import pytest

from tests.vitgal.golden_pairs import CASES, golden_pair
from vitgal.geometric_verification import Verification, count_inliers
from vitgal.pair_scoring import StoreOptions, score_heads


@pytest.fixture
def stored(tmp_path: Path) -> tuple[StoreOptions, list[str], list[list[str]]]:
    """Two queries with heads of 45 images: more than two tasks each."""
    options = StoreOptions(str(tmp_path / "D"), str(tmp_path / "L"), "data")
    store = options.open()
    names = list(CASES)
    for case in names:
        query, image = golden_pair(case)
        store.save(f"data/q_{case}.jpg", query)
        store.save(f"data/d_{case}.jpg", image)
    queries = [f"data/q_{case}.jpg" for case in names[:2]]
    heads = [[f"data/d_{names[(i + q) % len(names)]}.jpg" for i in range(45)] for q in range(2)]
    return options, queries, heads


def test_scores_do_not_depend_on_the_number_of_processes(stored) -> None:
    options, queries, heads = stored
    alone = score_heads(queries, heads, options, Verification(), 1, progress=False)
    together = score_heads(queries, heads, options, Verification(), 3, progress=False)
    np.testing.assert_array_equal(alone, together)
    store = options.open()
    for query, head, scores in zip(queries, heads, alone, strict=True):
        images = [store.load(path) for path in head[:5]]
        expected = count_inliers(store.load(query), images, Verification())
        np.testing.assert_array_equal(scores[:5], expected)
    assert alone.max() > 0


@pytest.mark.parametrize("num_processes", [1, 2])
def test_missing_local_file_of_a_ranked_image_is_named_before_the_work(
    stored, num_processes: int
) -> None:
    options, queries, heads = stored
    heads[1][44] = "data/lost.jpg"
    count = len({*queries, *heads[0], *heads[1]})
    with pytest.raises(
        FileNotFoundError, match=rf"1 of {count} images have no local.*\n  data/lost.jpg"
    ):
        score_heads(queries, heads, options, Verification(), num_processes, progress=False)


def test_damaged_features_stop_the_workers(stored, tmp_path: Path) -> None:
    options, queries, heads = stored
    victim = next(tmp_path.glob("D/d_*"))
    victim.write_bytes(b"no array")
    with pytest.raises(ValueError, match=f"{victim.name} is no whole numpy array"):
        score_heads(queries, heads, options, Verification(), 2, progress=False)


def test_heads_of_unequal_lengths_are_refused(stored) -> None:
    options, queries, heads = stored
    with pytest.raises(ValueError, match="not a table"):
        score_heads(queries, [heads[0], heads[1][:3]], options, Verification(), 1)
