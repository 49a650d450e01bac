"""Each training-free baseline against the plain loop of its paper, and cases made by hand."""

import numpy as np
import pytest

from search import baselines
from search.codec import normalise_rows


def make_clusters(queries: int = 6, gallery: int = 60, seed: int = 0):
    """Unit rows around eight centres, queries and gallery."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, 12))
    member = rng.integers(0, 8, queries + gallery)
    noise = 0.6 * rng.standard_normal((queries + gallery, 12))
    rows = normalise_rows((centres[member] + noise).astype(np.float32))
    return rows[:queries], rows[queries:]


def test_augmentation_is_the_plain_loop():
    _, gallery = make_clusters()
    wanted = []
    for i, row in enumerate(gallery):
        similarities = gallery @ row
        similarities[i] = -2
        nearest = np.argsort(-similarities, kind="stable")[:3]
        mixed = row + sum(max(similarities[j], 0) ** 0.3 * gallery[j] for j in nearest)
        wanted.append(mixed / np.linalg.norm(mixed))
    found = baselines.augment_database(gallery, 3, 0.3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_augmentation_in_blocks_is_the_same(monkeypatch):
    _, gallery = make_clusters()
    whole = baselines.augment_database(gallery)
    monkeypatch.setattr(baselines, "BLOCK", 14)
    np.testing.assert_array_equal(baselines.augment_database(gallery), whole)


def diffuse_naively(queries, gallery, k, seeds, gamma, alpha):
    count = len(gallery)
    similarities = gallery.astype(np.float64) @ gallery.T
    near = np.zeros((count, count), bool)
    for i in range(count):
        others = [j for j in np.argsort(-similarities[i], kind="stable") if j != i]
        near[i, others[:k]] = True
    affinity = np.where(near & near.T, np.maximum(similarities, 0) ** gamma, 0)
    degree = affinity.sum(axis=1)
    degree[degree == 0] = 1
    spread = affinity / np.sqrt(degree[:, None] * degree[None])
    found = []
    for query in queries:
        own = gallery.astype(np.float64) @ query
        y = np.zeros(count)
        best = np.argsort(-own, kind="stable")[:seeds]
        y[best] = np.maximum(own[best], 0) ** gamma
        f = np.linalg.solve(np.eye(count) - alpha * spread, y)
        reached = f > 1e-12
        order = [*sorted(np.flatnonzero(reached), key=lambda j: -f[j])]
        order += sorted(np.flatnonzero(~reached), key=lambda j: -own[j])
        found.append(order)
    return np.array(found)


def test_diffusion_is_the_dense_solution():
    queries, gallery = make_clusters()
    wanted = diffuse_naively(queries, gallery, 8, 4, 3.0, 0.9)
    found = baselines.rank_by_diffusion(queries, gallery, 60, 8, 4, 3.0, 0.9)
    np.testing.assert_array_equal(found, wanted)


def test_conjugate_gradients_solve_all_columns():
    _, gallery = make_clusters()
    graph = baselines.make_graph(gallery, 10, 3.0)
    y = np.random.default_rng(1).uniform(size=(60, 5))
    y[:, 2] = 0  # a query without any similar image
    found = baselines.solve_diffusion(graph, y, 0.99)
    wanted = np.linalg.solve(np.eye(60) - 0.99 * graph.toarray(), y)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_diffusion_follows_a_chain_that_similarity_does_not():
    """Images along a quarter circle, one off it: its far end is nearer by the graph alone."""
    angles = np.linspace(0, np.pi / 2, 10)
    chain = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    off = np.array([[0.6, -0.4, 0.7]])
    gallery = normalise_rows(np.concatenate([chain, off]).astype(np.float32))
    query = np.array([[1, 0, 0]], np.float32)
    plain = baselines.rank_with("none", query, gallery, 11)[0]
    found = baselines.rank_by_diffusion(query, gallery, 11, neighbours=2, seeds=1)[0]
    assert plain.tolist().index(10) < plain.tolist().index(9)
    assert found.tolist().index(10) == 10


def reciprocal_naively(queries, gallery, k1, k2, mix):
    """Zhong et al., CVPR'17, set by set."""
    every = np.concatenate([queries, gallery]).astype(np.float64)
    distance = 2 - 2 * every @ every.T
    ranks = np.argsort(distance, axis=1, kind="stable")
    distance /= distance.max(axis=1, keepdims=True)

    def reciprocal(i, k):
        return [j for j in ranks[i, : k + 1] if i in ranks[j, : k + 1]]

    count = len(every)
    weights = np.zeros((count, count))
    for i in range(count):
        near = reciprocal(i, k1)
        expanded = set(near)
        for j in near:
            other = reciprocal(j, round(k1 / 2))
            if len(set(near) & set(other)) > 2 / 3 * len(other):
                expanded |= set(other)
        for j in expanded:
            weights[i, j] = np.exp(-distance[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[ranks[i, :k2]].mean(axis=0) for i in range(count)])
    found = []
    for i in range(len(queries)):
        total = []
        for j in range(len(queries), count):
            smaller = np.minimum(weights[i], weights[j]).sum()
            jaccard = 1 - smaller / np.maximum(weights[i], weights[j]).sum()
            total.append(mix * distance[i, j] + (1 - mix) * jaccard)
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize(("k1", "k2"), [(10, 4), (7, 1), (20, 6)])
def test_k_reciprocal_is_the_plain_loop(k1, k2):
    queries, gallery = make_clusters()
    wanted = reciprocal_naively(queries, gallery, k1, k2, 0.3)
    found = baselines.rank_k_reciprocal(queries, gallery, 60, k1, k2, 0.3)
    sorted_wanted = np.sort(wanted, axis=1)
    np.testing.assert_allclose(
        np.take_along_axis(wanted, found, axis=1), sorted_wanted, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", baselines.NAMES)
def test_small_blocks_change_no_ranking(monkeypatch, name):
    queries, gallery = make_clusters()
    whole = baselines.rank_with(name, queries, gallery, 20)
    assert whole.shape == (6, 20)
    monkeypatch.setattr(baselines, "BLOCK", 9)
    monkeypatch.setattr(baselines, "NUMBERS", 130)
    np.testing.assert_array_equal(baselines.rank_with(name, queries, gallery, 20), whole)


@pytest.mark.parametrize("name", baselines.NAMES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_galleries_are_ranked_whole(name, size):
    queries, gallery = make_clusters(2, size)
    found = baselines.rank_with(name, queries, gallery, size)
    assert [sorted(row) for row in found.tolist()] == 2 * [list(range(size))]


@pytest.mark.parametrize("name", baselines.NAMES)
def test_equal_images_are_all_ranked(name):
    queries, gallery = make_clusters(2, 4)
    gallery = np.repeat(gallery, 30, axis=0)  # more equal ones than neighbours are looked at
    found = baselines.rank_with(name, queries, gallery, 120)
    assert [sorted(row) for row in found.tolist()] == 2 * [list(range(120))]


def test_bad_options_are_explained():
    queries, gallery = make_clusters()
    with pytest.raises(ValueError, match="refine is 'x', expected one of none, aqe, dba"):
        baselines.rank_with("x", queries, gallery, 3)
    with pytest.raises(ValueError, match="k is 61, expected 1 to the 60"):
        baselines.rank_with("none", queries, gallery, 61)
    with pytest.raises(ValueError, match="expected 1 to 59"):
        baselines.augment_database(gallery, 60)
