"""The search is exact by its own definition, whatever the path; tables go on after an interrupt."""

import numpy as np
import pytest
import torch

from utils import knn, knn_certified, knn_codes, knn_exact, knn_rows
from utils.nn_tables import hash_names, record_path

PASSES = ("bf16", "float32", "float64")


def naive(queries, gallery, k, metric="ip", exclude_self=False):
    """The definition, row by row: all scores, a full stable sort."""
    scores, indices = [], []
    for i, query in enumerate(queries.astype(np.float32)):
        rows = np.repeat(query[None], len(gallery), axis=0)
        goodness = knn_exact.defined_scores(rows, gallery.astype(np.float32), metric)
        if exclude_self:
            goodness[i] = -np.inf
        order = np.argsort(-goodness, kind="stable")[:k]
        indices.append(order)
        scores.append(goodness[order] if metric == "ip" else 0.0 - goodness[order])
    return np.array(scores), np.array(indices)


def check(queries, gallery, k, **options):
    """The search must equal the definition bit for bit; returns its stats."""
    stats = {}
    scores, indices = knn.search(queries, gallery, k, progress=False, stats=stats, **options)
    plain = {key: options[key] for key in ("metric", "exclude_self") if key in options}
    expected_scores, expected_indices = naive(queries, gallery, k, **plain)
    assert scores.dtype == np.float32
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(scores, expected_scores)
    return stats


def clustered(n, d, seed=0, per_cluster=20, noise=0.5):
    """(n, d) float32 unit vectors around common centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // per_cluster), d))
    x = centres[rng.integers(0, len(centres), n)] + noise * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=["tables", "rows"])
def small_tiles(monkeypatch, request):
    """Small tiles, so that small sets take many; tables of candidates, then whole rows."""
    monkeypatch.setitem(knn.BLOCK, "cpu", 128)
    if request.param == "tables":  # no room for whole rows
        monkeypatch.setattr(knn.RowSearch, "memory", staticmethod(lambda *_: (1 << 62, 1)))
    monkeypatch.setattr(knn, "ROWS", 24)
    monkeypatch.setattr(knn_rows, "FEW", 7)
    monkeypatch.setattr(knn_rows, "WIDTH", 50)
    return request.param


def test_scores_and_ties_by_hand():
    gallery = np.array([[1, 0], [0, 2], [2, 0], [1, 0], [1, 0]], np.float32)
    scores, indices = knn.search(np.array([[1, 0]], np.float32), gallery, 4, progress=False)
    assert indices.tolist() == [[2, 0, 3, 4]]  # 2, then the ties at 1 by index
    assert scores.tolist() == [[2, 1, 1, 1]]
    scores, indices = knn.search(gallery[1:2], gallery, 3, metric="l2", progress=False)
    assert indices.tolist() == [[1, 0, 3]]  # 0, then (0-1)^2 + (2-0)^2 = 5
    assert scores.tolist() == [[0, 5, 5]]


def test_tree_sum_is_the_sum():
    terms = np.arange(21.0).reshape(3, 7)
    assert knn_exact.tree_sum(terms.copy()).tolist() == terms.sum(axis=1).tolist()


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
@pytest.mark.parametrize("self_search", [True, False])
@pytest.mark.parametrize("memory_budget", [2 << 30, 1 << 18])
def test_every_path_gives_the_defined_result(
    metric, first_pass, self_search, memory_budget, small_tiles
):
    gallery = clustered(700, 48)
    queries = gallery if self_search else clustered(150, 48)
    options = {"metric": metric, "first_pass": first_pass, "memory_budget": memory_budget}
    stats = check(queries, gallery, 7, exclude_self=self_search, **options)
    assert stats["first_pass"] == first_pass
    if first_pass != "float64":
        assert stats["float32_rows"] == stats["float64_rows"] == 0
        assert stats["pairs"] >= 7 * len(queries)


def test_tile_size_and_threads_never_change_a_bit(monkeypatch):
    gallery, queries = clustered(900, 33), clustered(130, 33, seed=1)
    results = []
    threads = torch.get_num_threads()
    for block, n_threads in ((64, 1), (200, 2), (4096, 2)):
        monkeypatch.setitem(knn.BLOCK, "cpu", block)
        torch.set_num_threads(n_threads)
        results.append(knn.search(queries, gallery, 9, progress=False, first_pass="bf16"))
        results.append(knn.search(gallery, gallery, 9, progress=False, first_pass="bf16"))
    torch.set_num_threads(threads)
    for scores, indices in results[2:]:
        first = results[0] if len(scores) == 130 else results[1]
        np.testing.assert_array_equal(scores, first[0])
        np.testing.assert_array_equal(indices, first[1])


@pytest.mark.parametrize("first_pass", ["auto", *PASSES])
def test_memory_maps_and_float16_give_the_same(first_pass, tmp_path, small_tiles):
    gallery, queries = clustered(600, 20).astype(np.float16), clustered(40, 20, seed=1)
    for dtype in (np.float16, np.float32):
        path = tmp_path / f"{np.dtype(dtype)}.npy"
        np.save(path, gallery.astype(dtype))
        check(queries, np.load(path, mmap_mode="r"), 5, first_pass=first_pass)


def test_strided_and_float64_arrays_are_taken(small_tiles):
    gallery = clustered(800, 40)
    check(gallery[::2, ::2], gallery[:, ::2].astype(np.float64), 5, first_pass="bf16")


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
def test_many_exact_duplicates_come_by_index(metric, first_pass, small_tiles):
    gallery = clustered(900, 24)
    gallery[np.random.default_rng(1).permutation(900)[:500]] = gallery[3]
    stats = check(gallery, gallery, 6, metric=metric, first_pass=first_pass)
    assert stats["float64_rows"] >= 500  # more duplicates than tables and rows have room for


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
def test_near_ties_below_float32_noise(metric, first_pass, small_tiles):
    rng = np.random.default_rng(0)
    base = clustered(1, 64)
    steps = rng.integers(-3, 4, (500, 64)) * np.spacing(np.abs(base))  # last bits only
    gallery = np.concatenate([clustered(300, 64), (base + steps).astype(np.float32)])
    gallery = gallery[rng.permutation(800)]
    stats = check(np.concatenate([base, gallery[:60]]), gallery, 8, metric=metric,
                  first_pass=first_pass)  # fmt: skip
    if small_tiles == "tables" or first_pass == "float64":
        assert stats["float64_rows"] > 0


def test_rows_too_dense_for_bfloat16_are_settled_in_float32(small_tiles):
    rng = np.random.default_rng(0)
    base = clustered(1, 64)
    close = base + 2e-4 * rng.standard_normal((300, 64))  # apart by less than 2^-9
    gallery = np.concatenate([clustered(500, 64), close]).astype(np.float32)
    stats = check(gallery, gallery, 5, first_pass="bf16")
    assert stats["float32_rows"] >= 300
    assert stats["float64_rows"] < 30


def test_bfloat16_order_is_wrong_and_the_result_is_not(small_tiles):
    rng = np.random.default_rng(0)
    query = np.abs(clustered(1, 256))
    gallery = (query * (1 + 0.002 * rng.standard_normal((400, 256)))).astype(np.float32)
    rounded = torch.from_numpy(query).bfloat16() @ torch.from_numpy(gallery).bfloat16().T
    assert rounded.float().argmax() != naive(query, gallery, 1)[1][0, 0]
    check(query, gallery, 20, first_pass="bf16")


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-18, 1e17])
def test_tiny_and_huge_vectors(scale, metric, first_pass, small_tiles):
    gallery = (clustered(500, 16) * scale).astype(np.float32)
    check(gallery, gallery, 5, metric=metric, first_pass=first_pass)


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
def test_lengths_from_zero_to_huge_in_one_set(metric, first_pass, small_tiles):
    gallery = clustered(600, 16) * 10.0 ** np.random.default_rng(0).integers(-20, 9, (600, 1))
    gallery[::50] = 0
    gallery = gallery.astype(np.float32)
    check(gallery, gallery, 5, metric=metric, first_pass=first_pass)


@pytest.mark.parametrize("metric", knn.METRICS)
def test_all_negative_scores(metric, small_tiles):
    gallery = np.abs(clustered(500, 16))
    check(-gallery[:50], gallery, 5, metric=metric, first_pass="bf16")


@pytest.mark.parametrize("first_pass", PASSES)
def test_scores_half_way_between_float32_numbers(first_pass, small_tiles):
    """Whole numbers up to 255 in 1024 dimensions: totals beyond 2^24, every second one a tie."""
    rng = np.random.default_rng(0)
    gallery = rng.integers(100, 256, (600, 1024)).astype(np.float32)
    check(gallery[:20], gallery, 30, first_pass=first_pass)


@pytest.mark.parametrize("metric", knn.METRICS)
def test_full_ranking(metric):
    gallery = clustered(300, 16)
    gallery[200:220] = gallery[7]
    check(gallery[:10], gallery, 300, metric=metric)


def test_exclude_self_drops_the_pair_not_the_duplicates(small_tiles):
    gallery = clustered(300, 16)
    gallery[100:140] = gallery[5]  # more than k + 1 equal vectors: own index may not be found
    check(gallery, gallery, 6, exclude_self=True)
    check(gallery, gallery.copy(), 6, exclude_self=True)


def test_error_bound_holds_and_its_breach_is_noticed(monkeypatch, small_tiles):
    gallery = clustered(500, 64)
    for module in (knn_certified, knn_rows):
        monkeypatch.setattr(
            module,
            "value_errors",
            lambda q, g, part, shift=0.0: torch.zeros(len(q.norms[part])).double(),
        )
    monkeypatch.setitem(knn_certified.OUTPUT_ERROR, torch.bfloat16, 1e-9)
    with pytest.raises(RuntimeError, match="break their rounding-error bound"):
        knn.search(gallery, gallery, 5, first_pass="bf16", progress=False)


@pytest.mark.parametrize(
    "metric, shift", [("ip", 0.0), ("l2", 0.0), ("l2", 0.7), ("l2", 40.0), ("l2", -3.0)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_stay_within_their_error(metric, shift, dtype):
    device = torch.device("cpu")
    gallery = knn_certified.Operand(clustered(300, 200, noise=2.0), dtype, metric, device, True)
    rows = slice(0, 100)
    left = gallery.block(rows, left=True, shift=shift)
    values = left @ gallery.block(slice(0, 300), left=False).T
    x = gallery.vectors.astype(np.float64)
    exact = x[rows] @ x.T
    if metric == "l2":
        exact = shift - 0.5 * np.square(x[rows, None] - x[None]).sum(axis=2)
    error = knn_certified.value_errors(gallery, gallery, rows, shift).numpy()[:, None]
    error = error + np.abs(values.float().numpy()) * knn_certified.OUTPUT_ERROR[dtype]
    assert (np.abs(values.double().numpy() - exact) <= error).all()


@pytest.mark.parametrize("metric", knn.METRICS)
def test_scorer_of_a_gpu_gives_the_same_bits(metric):
    """The path for other devices, here carried out by the processor."""
    x = clustered(200, 37)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    scorer = knn_exact.PairScorer(x, x, metric, (norms, norms), torch.device("cpu"))
    rows = torch.arange(200).repeat_interleave(5)
    columns = torch.randint(0, 200, (1000,), generator=torch.manual_seed(0))
    expected = knn_exact.defined_scores(x[rows], x[columns], metric)
    np.testing.assert_array_equal(scorer(rows, columns).numpy(), expected)
    scorer.resident = torch.from_numpy(x)
    np.testing.assert_array_equal(scorer(rows, columns).numpy(), expected)


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_scores_of_a_tile_are_the_defined_ones(metric, scale):
    """Among them equal vectors, whose distance is 0, and scores that the definition must round."""
    x = clustered(150, 37)
    x[40:60] = x[7]
    x *= np.float32(scale) * np.random.default_rng(0).lognormal(size=(150, 1)).astype(np.float32)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    scorer = knn_exact.PairScorer(x, x, metric, (norms, norms), torch.device("cpu"))
    chosen = np.random.default_rng(1).random((30, 90)) < 0.3
    chosen[4] = False  # a query without a pair
    rows, columns = np.nonzero(chosen)
    starts = np.concatenate([[0], chosen.sum(axis=1).cumsum()])
    left = scorer.factor(slice(40, 70), left=True)
    found = scorer.chosen_of_tile(left, 40, slice(20, 110), starts, columns)
    expected = knn_exact.defined_scores(x[40 + rows], x[20 + columns], metric)
    np.testing.assert_array_equal(found, expected)


def test_sums_whose_rounding_is_open_are_named():
    half = 1 + 2.0**-24  # between two float32 numbers
    sums = np.array([1.0, half, half + 2e-12, -0.0])
    rounded, open_ = knn_exact.round_sums(sums, np.full(4, 1e-12))
    assert open_.tolist() == [1, 3]
    assert rounded[[0, 2]].tolist() == [1.0, 1 + 2.0**-23]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_true_places_are_those_of_numpy(share):
    mask = np.random.default_rng(0).random((16, 50)) < share
    np.testing.assert_array_equal(knn_codes.true_places(mask), np.flatnonzero(mask))


def test_blocks_of_a_search_are_the_search(small_tiles):
    gallery = clustered(400, 32)
    for options in ({}, {"metric": "l2"}, {"exclude_self": True}):
        scores, indices = knn.search(gallery, gallery, 5, progress=False, **options)
        row = 0
        for start, stop, found, which in knn.search_blocks(
            gallery, gallery, 5, progress=False, **options
        ):
            assert start == row
            np.testing.assert_array_equal(found, scores[start:stop])
            np.testing.assert_array_equal(which, indices[start:stop])
            row = stop
        assert row == 400
    with pytest.raises(ValueError, match="k asks for 401"):
        knn.search_blocks(gallery, gallery, 401)  # at the call, before any block


def test_keys_order_scores_then_lower_indices():
    scores = torch.tensor([0.0, -1.0, 2.0, 2.0, -torch.inf, 1e-45, -3e38])
    indices = torch.tensor([5, 6, 7, 3, 0, 2**31, 1])
    keys = knn_exact.rank_keys(scores, indices).sort(descending=True).values
    back, order = knn_exact.from_rank_keys(keys)
    assert order.tolist() == [3, 7, 2**31, 5, 6, 1, 0]
    assert back.tolist() == sorted(scores.tolist(), reverse=True)


def test_float32_product_setting_is_restored():
    torch.set_float32_matmul_precision("medium")
    try:
        gallery = clustered(400, 64)
        check(gallery[:20], gallery, 5, first_pass="float32")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_progress_bar_can_be_switched_off(capfd):
    gallery = clustered(50, 8)
    knn.search(gallery, gallery, 3, progress=False)
    assert capfd.readouterr().err == ""
    knn.search(gallery, gallery, 3)
    assert "pair/s" in capfd.readouterr().err


GOOD = np.eye(6, dtype=np.float32)
WITH_NAN, WITH_INF = GOOD.copy(), GOOD.copy()
WITH_NAN[2, 1], WITH_INF[3, 3] = np.nan, np.inf


@pytest.mark.parametrize(
    "queries, gallery, options, message",
    [
        (WITH_NAN, GOOD, {}, "queries holds NaN or inf in 1 of 6 rows, first row 2"),
        (GOOD, WITH_INF, {}, "gallery holds NaN or inf in 1 of 6 rows, first row 3"),
        (GOOD[:, :4], GOOD, {}, "queries are 4-dimensional, the gallery is 6-dimensional"),
        (GOOD, GOOD, {"k": 7}, "k asks for 7 of 6"),
        (GOOD, GOOD, {"k": 0}, "k asks for 0 of 6"),
        (GOOD, GOOD, {"k": 6, "exclude_self": True}, "k asks for 7 of 6"),
        (GOOD[:2], GOOD, {"exclude_self": True}, "exclude_self needs the same set twice"),
        (GOOD, GOOD, {"metric": "cosine"}, "metric is 'cosine', expected one of ip, l2"),
        (GOOD, GOOD, {"first_pass": "int8"}, "first_pass is 'int8', expected one of auto"),
        (GOOD[0], GOOD, {}, r"queries has shape \(6,\)"),
        (GOOD, GOOD[:0], {}, r"gallery has shape \(0, 6\)"),
        (GOOD.astype(int), GOOD, {}, "queries is int64, expected float32"),
        (GOOD * np.float32(1e20), GOOD * np.float32(1e20), {}, "beyond float32; scale"),
        (GOOD * np.float32(2e19), GOOD, {"metric": "l2"}, "beyond float32; scale"),
    ],
)
def test_bad_input_is_named(queries, gallery, options, message):
    with pytest.raises(ValueError, match=message):
        knn.search(queries, gallery, **{"k": 2, "progress": False, **options})


MADE_FROM = {"set": "roxford5k", "descriptors": "r50_gldv1", "names": hash_names(["a", "b"])}


def build(vectors, folder, **options):
    options = {"made_from": MADE_FROM, "block_rows": 50, "progress": False, **options}
    return knn.build_nn_table(vectors, 7, folder, "r50_gldv1", **options)


@pytest.mark.parametrize("first_pass", ["bf16", "float64"])
def test_interrupted_table_goes_on_where_it_stopped(first_pass, tmp_path, monkeypatch, small_tiles):
    vectors = clustered(420, 24)
    expected = knn.search(vectors, vectors, 7, progress=False)[1]
    save, written = knn.save_block, []

    def interrupted(path, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        save(path, *rest)
        written.append(path.name)

    monkeypatch.setattr(knn, "save_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(vectors, tmp_path, first_pass=first_pass)
    assert written == [f"r50_gldv1_nn_{row:09d}.pkl" for row in (0, 50, 100)]
    later = []
    monkeypatch.setattr(
        knn, "save_block", lambda path, *rest: (later.append(path), save(path, *rest))
    )
    np.testing.assert_array_equal(build(vectors, tmp_path, first_pass=first_pass), expected)
    assert len(later) == 6  # 9 blocks of 50 rows, 3 of them there
    monkeypatch.setattr(knn, "_Search", None)  # all there: nothing is computed
    np.testing.assert_array_equal(build(vectors, tmp_path, first_pass=first_pass), expected)


def test_block_of_another_origin_is_refused_or_replaced(tmp_path):
    vectors = clustered(120, 24)
    build(vectors, tmp_path)
    other = {**MADE_FROM, "descriptors": "r101_gldv1"}
    with pytest.raises(ValueError, match=r"r50_gldv1_nn_000000000.pkl was made from descriptors"):
        build(vectors, tmp_path, made_from=other)
    with pytest.raises(ValueError, match=r"vectors = \[120, 24\], expected \[110, 24\]"):
        build(vectors[:110], tmp_path)
    table = build(vectors[::-1].copy(), tmp_path, made_from=other, overwrite=True)
    np.testing.assert_array_equal(table[:, 0], np.arange(120))
    record_path(tmp_path / "r50_gldv1_nn_000000050.pkl").unlink()
    with pytest.raises(ValueError, match="has no record"):
        build(vectors, tmp_path, made_from=other)
