"""Every way of mining against the reference's rounds and plain loops; pre-computed lists."""

import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from r2former.datasets.place_set import PlaceSet, Positives
from r2former.hard_lists import compute_hard_final, compute_hard_init, load_list, save_list
from r2former.mining import Draws, Miner, MiningOptions
from r2former.nearest import (
    Features,
    find_smallest,
    look_at_sample,
    nearest_negatives,
    nearest_of_own,
    nearest_positive,
    rounding_error,
    settle,
)
from tests.golden_recipe import array, load_manifest, load_outputs
from tests.r2former.golden_models import PREFIX, SYSTEM

FILE, LISTS, START = "mining.json", "mining_precomputed.npz", f"{PREFIX}mining"
# modes of the file; msls_weighted is partial with weighted queries
MODES = ("partial", "full", "random", "global", "global_combine")
SEED = 0
SCALE = 30  # metres: how far positions go into the features


@cache
def golden() -> dict[str, Any]:
    return load_manifest(SYSTEM, FILE)


@cache
def inputs() -> tuple[PlaceSet, np.ndarray, np.ndarray]:
    """Training set, descriptors of its kept queries and of the database."""
    given = golden()["settings"]
    made = {}
    for side, count in (("q", given["queries"]), ("db", given["database"])):
        utm = array(f"{START}/utm_{side}", (count, 2)).astype(np.float64) * given["utm_scale"]
        projection = array(f"{START}/proj", (2, given["dim"]))
        near = (utm.astype(np.float32) / np.float32(SCALE)) @ projection
        rows = array(f"{START}/feat_{side}", (count, given["dim"])) + near
        made[side] = utm, rows / np.linalg.norm(rows, axis=1, keepdims=True)
    names = {side: [f"{side}{i}.jpg" for i in range(len(made[side][0]))] for side in made}
    places = PlaceSet("toy", "", names["db"], names["q"], made["db"][0], made["q"][0])
    kept = np.flatnonzero(places.positives(10).counts)
    return places.with_positives_only(10), made["q"][1][kept], made["db"][1]


def make_miner(mining: str, **changes: Any) -> Miner:
    places, queries, database = inputs()
    given = golden()["settings"]
    names = ("cache_refresh_rate", "negs_num_per_query", "neg_samples_num", "neg_hardness")
    options = MiningOptions(mining, **{name: given[name] for name in names} | changes)
    return Miner(
        places.positives(10), places.positives(25), len(database), options,
        lambda rows, mine: (database[rows], queries[mine]),
        hard_list=load_outputs(SYSTEM, LISTS)["hard_final"],
        weights=np.full(len(queries), 1 / len(queries)),
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_rounds_are_those_of_the_reference(mode):
    miner, draws = make_miner(mode), Draws.seeded(SEED)
    for expected in golden()[mode]["rounds"]:
        made = miner.mine(draws)
        assert made.queries.tolist() == expected["sampled_queries"]
        sample = made.sampled_database
        assert (None if sample is None else sample.tolist()) == expected["sampled_database"]
        assert made.triplets.tolist() == expected["triplets"]
    after = golden()[mode].get("neg_cache_after")
    if after is not None:
        assert [row[row >= 0].tolist() for row in miner.memory] == after


def test_precomputed_lists_are_those_of_the_reference():
    places, queries, database = inputs()
    expected, given = load_outputs(SYSTEM, LISTS), golden()["settings"]
    init = compute_hard_init(queries, database, given["hard_init_keep"])
    np.testing.assert_array_equal(init, expected["hard_init"])
    final = compute_hard_final(init, places.positives(25), given["hard_final_keep"])
    np.testing.assert_array_equal(final, expected["hard_final"])
    assert (final < 0).any()


def test_seeded_draws_are_the_published_global_streams():
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    draws = Draws.seeded(5)
    assert draws.choice(50, 9).tolist() == np.random.choice(50, 9, replace=False).tolist()  # noqa: NPY002
    assert draws.python.sample(range(9), 4) == random.sample(range(9), 4)


def test_partial_mining_equals_a_plain_loop():
    places, queries, database = inputs()
    miner = make_miner("partial", neg_samples_num=120, cache_refresh_rate=30)
    made = miner.mine(Draws.seeded(3))
    assert made.sampled_database is not None
    hard, soft = places.positives(10), places.positives(25)
    for query, positive, *negatives in made.triplets.tolist():
        distance = ((database.astype(np.float64) - queries[query]) ** 2).sum(axis=1)
        assert positive == min(hard[query], key=lambda d: distance[d])
        allowed = [d for d in made.sampled_database.tolist() if d not in soft[query]]
        assert negatives == sorted(allowed, key=lambda d: distance[d])[:4]


def test_near_ties_are_decided_exactly():
    """Ten images that float32 products cannot tell apart: the exact search takes over."""
    generator = np.random.default_rng(0)
    query = generator.standard_normal((1, 64)).astype(np.float32)
    query /= np.linalg.norm(query)
    database = np.repeat(query, 40, axis=0) + np.float32(1e-6) * generator.standard_normal((40, 64))
    database = database.astype(np.float32)
    features = Features(np.arange(40), np.array([0]), lambda d, _: (database[d], query))
    soft = Positives(np.array([0, 2]), np.array([3, 7]))
    sample = generator.permutation(40)
    distance = ((database.astype(np.float64) - query) ** 2).sum(axis=1)
    expected = [d for d in np.argsort(distance, kind="stable").tolist() if d not in (3, 7)][:5]
    vectors, none = database[sample], np.empty(0, int)
    values, near = look_at_sample(query, vectors, none, none, 7)
    assert not settle(query, vectors, values, near, rounding_error(query, vectors), 5)[1].any()
    made = nearest_negatives(features, np.array([0]), sample, soft, 5)
    assert made[0].tolist() == expected


def test_near_ties_of_positives_are_decided_exactly(monkeypatch):
    """Equal ones by lower index, nearly equal ones in float64, in many pieces as in one."""
    generator = np.random.default_rng(1)
    queries = generator.standard_normal((5, 64)).astype(np.float32)
    base = np.repeat(queries, 6, axis=0)
    database = base + np.float32(0.5) + np.float32(1e-7) * generator.standard_normal(base.shape)
    database = database.astype(np.float32)
    database[8] = database[7]  # of query 1
    features = Features(np.arange(30), np.arange(5), lambda d, q: (database[d], queries[q]))
    hard = Positives(np.arange(0, 31, 6), np.arange(30))
    distance = ((database.astype(np.float64) - base) ** 2).sum(axis=1).reshape(5, 6)
    expected = np.argmin(distance, axis=1) + np.arange(0, 30, 6)
    assert nearest_positive(features, np.arange(5), hard).tolist() == expected.tolist()
    monkeypatch.setattr("r2former.nearest.PAIRS_AT_ONCE", 4)
    assert nearest_positive(features, np.arange(5), hard).tolist() == expected.tolist()


@pytest.mark.parametrize("keep", [3, 20])
def test_smallest_numbers_by_passes_and_by_selection(keep):
    table = np.random.default_rng(keep).standard_normal((9, 40)).astype(np.float32)
    table[2, 2:] = np.inf  # two numbers only
    whole = table.copy()
    values, index = find_smallest(table, keep)
    np.testing.assert_array_equal(values, np.sort(whole, axis=1)[:, :keep])
    found = np.take_along_axis(whole, index, axis=1)
    np.testing.assert_array_equal(found[np.isfinite(values)], values[np.isfinite(values)])


def test_rows_of_a_sample_are_looked_at_in_pieces(monkeypatch):
    _, queries, database = inputs()
    places, row = np.array([3, 0, 7]), np.array([1, 8, 8])
    whole = look_at_sample(queries[:9], database[:50], places, row, 6)
    monkeypatch.setattr("r2former.nearest.QUERIES_AT_ONCE", 4)
    for one, other in zip(
        whole, look_at_sample(queries[:9], database[:50], places, row, 6), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    banned = [3 in whole[1][1], 0 in whole[1][8], 7 in whole[1][8]]
    assert not any(banned)
    rough = (database[:50] ** 2).sum(axis=1) - 2 * queries[:9] @ database[:50].T
    rough[row, places] = np.inf
    np.testing.assert_allclose(whole[0], np.sort(rough, axis=1)[:, :6], rtol=0, atol=1e-6)


def test_weighted_mining_draws_heavy_queries_more_often():
    miner = make_miner("msls_weighted", cache_refresh_rate=5)
    weights = np.ones(len(miner.hard))
    weights[7] = 100
    miner.weights = weights / weights.sum()
    drawn = np.concatenate([miner.mine(Draws.seeded(seed)).queries for seed in range(20)])
    assert (drawn == 7).sum() >= 18


def test_full_mining_keeps_an_exact_order_in_many_pieces(monkeypatch):
    _, queries, database = inputs()
    whole = make_miner("full").mine(Draws.seeded(1)).triplets
    monkeypatch.setattr("r2former.nearest.PAIRS_AT_ONCE", 100)
    assert make_miner("full").mine(Draws.seeded(1)).triplets.tolist() == whole.tolist()
    features = Features(np.arange(300), np.arange(9), lambda d, q: (database[d], queries[q]))
    own = np.tile(np.arange(300), (9, 1))
    distance = ((queries[:9, None].astype(np.float64) - database[None]) ** 2).sum(axis=2)
    expected = np.argsort(distance, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(nearest_of_own(features, np.arange(9), own, 6), expected)


def test_an_odd_number_of_negatives_is_filled_up():
    made = make_miner("global_combine", negs_num_per_query=3).mine(Draws.seeded(0))
    assert made.triplets.shape[1] == 5


def test_padding_is_never_drawn():
    miner = make_miner("global", neg_hardness=30)
    miner.hard_list = np.tile(np.array([4, 5, 6, 7, -1, -1]), (len(miner.hard), 1))
    negatives = miner.mine(Draws.seeded(0)).triplets[:, 2:]
    assert np.sort(negatives, axis=1).tolist() == [[4, 5, 6, 7]] * len(negatives)
    miner.hard_list = miner.hard_list[:, 2:]
    with pytest.raises(ValueError, match=r"has 2 negatives of training query \d+ among its first"):
        miner.mine(Draws.seeded(0))


def test_more_queries_and_samples_than_exist_are_cut_with_a_word(caplog):
    miner = make_miner("partial", cache_refresh_rate=1000, neg_samples_num=5000)
    assert "there are 33 training queries: all are taken" in caplog.text
    assert "there are 300 database images: all are taken" in caplog.text
    assert sorted(miner.mine(Draws.seeded(0)).queries) == list(range(33))


@pytest.mark.parametrize("mode", ["partial", "full"])
def test_too_few_candidates_are_refused(mode):
    miner = make_miner(mode, neg_samples_num=3)
    with pytest.raises(ValueError, match="are needed; raise neg_samples_num"):
        miner.mine(Draws.seeded(0))


def test_random_mining_of_a_too_small_set_is_refused():
    with pytest.raises(ValueError, match="candidates that are no soft positives"):
        make_miner("random", negs_num_per_query=299).mine(Draws.seeded(0))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"mining": "best"}, "mining is 'best', expected one of"),
        ({"negs_num_per_query": 0}, "negs_num_per_query is 0"),
        ({"mining": "global", "neg_hardness": 3}, "neg_hardness=3 is below"),
    ],
)
def test_bad_options_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        MiningOptions(**changes)


@pytest.mark.parametrize("mining, part", [("global", "hard_list"), ("msls_weighted", "weights")])
def test_ways_without_what_they_need_are_refused(mining, part):
    whole = make_miner(mining)
    parts = {name: getattr(whole, name) for name in ("hard", "soft", "database_size", "options")}
    with pytest.raises(ValueError, match=f"mining={mining} needs"):
        Miner(**parts, embed=whole.embed)


def test_queries_without_positives_are_refused():
    empty = Positives(np.array([0, 0, 1]), np.array([3]))
    with pytest.raises(ValueError, match="every training query needs a hard positive"):
        Miner(empty, empty, 9, MiningOptions(), lambda d, q: (d, q))


def test_lists_come_back_and_lists_of_another_set_are_refused(tmp_path):
    places, _, database = inputs()
    rows = load_outputs(SYSTEM, LISTS)["hard_final"]
    path = save_list(tmp_path / "list.npy", rows, places.origin())
    np.testing.assert_array_equal(load_list(path, places), rows)
    fewer = places.take(np.arange(20))
    with pytest.raises(ValueError, match=r"expected integers \(20, >= 1\)"):
        load_list(path, fewer)
    renamed = PlaceSet(
        **{**vars(places), "database_paths": [f"x{i}" for i in range(len(database))]}
    )
    with pytest.raises(ValueError, match="made for other images: database differ"):
        load_list(path, renamed)
    (tmp_path / "list.npy.json").unlink()
    np.testing.assert_array_equal(load_list(path, renamed), rows)
    cut = PlaceSet(**{**vars(places), "database_paths": places.database_paths[:90],
                      "database_utm": places.database_utm[:90], "_cache": {}})  # fmt: skip
    with pytest.raises(ValueError, match=r"toy has 90: it was made for another set"):
        load_list(path, cut)


def test_missing_and_broken_lists_are_refused(tmp_path):
    places, _, _ = inputs()
    with pytest.raises(FileNotFoundError, match="precompute_mining"):
        load_list(tmp_path / "list.npy", places)
    (tmp_path / "list.npy").write_text("nothing")
    with pytest.raises(ValueError, match="is no whole numpy array"):
        load_list(tmp_path / "list.npy", places)
