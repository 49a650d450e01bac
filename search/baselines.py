"""Training-free ways to use the gallery's own neighbourhoods, on global descriptors alone.

All take float32 unit rows and work in blocks; beyond the descriptors they hold neighbour tables and
sparse matrices of some dozen numbers per image.

- alpha query expansion (`rrt_gld.global_retrieval.expand_queries`; Radenovic et al., PAMI'18)
- database-side augmentation (Turcot and Lowe, 2009; weighted as in Gordo et al., IJCV'17)
- diffusion (Iscen et al., CVPR'17)
- k-reciprocal re-ranking (Zhong et al., CVPR'17)
"""

import numpy as np
from scipy import sparse

from rrt_gld.global_retrieval import expand_queries, normalize
from utils.knn import search

NAMES = ("none", "aqe", "dba", "diffusion", "k-reciprocal")
BLOCK = 1 << 16  # gallery images whose neighbours are averaged at once
NUMBERS = 1 << 26  # of a block of queries by the whole gallery, float32
TOLERANCE, MOST_STEPS = 1e-6, 100  # of conjugate gradients


def rank_with(
    name: str, queries: np.ndarray, gallery: np.ndarray, k: int, progress: bool = False
) -> np.ndarray:
    """(Q, k) int64 gallery indices by the way called `name`; ValueError lists the names.

    Numbers of neighbours are those of the functions below, or the whole of a smaller gallery.
    """
    if name not in NAMES:
        raise ValueError(f"refine is {name!r}, expected one of {', '.join(NAMES)}")
    if not 0 < k <= len(gallery):
        raise ValueError(f"k is {k}, expected 1 to the {len(gallery)} images of the gallery")
    if name == "diffusion":
        return rank_by_diffusion(queries, gallery, k, progress=progress)
    if name == "k-reciprocal":
        return rank_k_reciprocal(queries, gallery, k, progress=progress)
    if name == "aqe":
        queries = expand_queries(queries, gallery, min(2, len(gallery)))
    elif name == "dba" and len(gallery) > 1:
        gallery = augment_database(gallery, min(2, len(gallery) - 1), progress=progress)
    return search(queries, gallery, k, progress=progress)[1]


def augment_database(
    gallery: np.ndarray, k: int = 2, alpha: float = 0.3, progress: bool = False
) -> np.ndarray:
    """(G, D): each row plus its `k` nearest others weighted by similarity^alpha, unit length.

    A negative similarity counts as 0. Defaults: those of the query expansion of RRT (ICCV'21).
    """
    if not 0 < k < len(gallery):
        raise ValueError(f"k of the augmentation is {k}, expected 1 to {len(gallery) - 1}")
    similarities, nn_inds = search(gallery, gallery, k, progress=progress, exclude_self=True)
    weights = np.maximum(similarities, 0) ** np.float32(alpha)
    out = np.empty_like(gallery)
    step = max(1, BLOCK // k)
    for start in range(0, len(gallery), step):
        part = slice(start, start + step)
        mixed = np.einsum("gk,gkd->gd", weights[part], gallery[nn_inds[part]])
        out[part] = normalize(gallery[part] + mixed)
    return out


# ---------------------------------------------------------------------------- diffusion


def rank_by_diffusion(
    queries: np.ndarray, gallery: np.ndarray, k: int, neighbours: int = 50, seeds: int = 10,
    gamma: float = 3.0, alpha: float = 0.99, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """(Q, k) int64: gallery images by f = (I - alpha S)^-1 y (Iscen et al., Eq. 5 and 11).

    S is the normalised graph of mutual neighbours (`neighbours` each), y the query's `seeds` best
    images; both weighted by similarity^gamma. Images that the diffusion does not reach follow in
    the order of their similarity.
    """
    neighbours, seeds = min(neighbours, len(gallery) - 1), min(seeds, len(gallery))
    graph = make_graph(gallery, neighbours, gamma, progress)
    out = np.empty((len(queries), k), np.int64)
    step = max(1, NUMBERS // len(gallery))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        similarities = part @ gallery.T
        top, nn_inds = search(part, gallery, seeds, progress=False)
        y = np.zeros(similarities.shape)
        np.put_along_axis(y, nn_inds, np.maximum(top, 0).astype(np.float64) ** gamma, axis=1)
        found = solve_diffusion(graph, y.T, alpha).T
        found[found <= 0] = -np.inf
        # two keys: what was reached, then the similarity
        order = np.lexsort((-similarities, -found), axis=1)
        out[start : start + step] = order[:, :k]
    return out


def make_graph(
    gallery: np.ndarray, neighbours: int, gamma: float, progress: bool = False
) -> sparse.csr_matrix:
    """(G, G) S = D^-1/2 A D^-1/2: A_ij = max(g_i g_j, 0)^gamma where both are neighbours."""
    count = len(gallery)
    if neighbours < 1:
        return sparse.csr_matrix((count, count))
    similarities, nn_inds = search(
        gallery, gallery, neighbours, progress=progress, exclude_self=True
    )
    rows = np.repeat(np.arange(count), neighbours)
    values = np.maximum(similarities, 0).astype(np.float64).ravel() ** gamma
    affinity = sparse.csr_matrix((values, (rows, nn_inds.ravel())), (count, count))
    affinity = affinity.minimum(affinity.T)  # an edge that one side lacks is 0 there
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    root = sparse.diags(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return (root @ affinity @ root).tocsr()


def solve_diffusion(graph: sparse.csr_matrix, y: np.ndarray, alpha: float) -> np.ndarray:
    """(G, B) solutions of (I - alpha S) f = y, all columns at once, by conjugate gradients."""
    f = np.zeros_like(y)
    rest = y.copy()
    direction = rest.copy()
    energy = (rest**2).sum(axis=0)
    goal = TOLERANCE**2 * energy
    for _ in range(MOST_STEPS):
        if (energy <= goal).all():
            break
        spread = direction - alpha * (graph @ direction)
        product = (direction * spread).sum(axis=0)
        step = energy / np.where(product > 0, product, 1)
        f += step * direction
        rest -= step * spread
        before, energy = energy, (rest**2).sum(axis=0)
        direction = rest + energy / np.where(before > 0, before, 1) * direction
    return f


# ---------------------------------------------------------------------------- k-reciprocal


def rank_k_reciprocal(
    queries: np.ndarray, gallery: np.ndarray, k: int, k1: int = 20, k2: int = 6, mix: float = 0.3,
    progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """(Q, k) int64 by mix * d + (1 - mix) * Jaccard distance (Zhong et al., Eq. 12).

    Queries and gallery are one set; d is the squared distance over the largest of the query. The
    Jaccard distance compares weighted sets of reciprocal neighbours, as published: `k1` neighbours,
    sets expanded by those of half as many, and averaged over the first `k2`.
    """
    every = np.concatenate([queries, gallery]).astype(np.float32)
    k1, k2 = min(k1, len(every) - 1), min(k2, len(every))
    _, nn_inds = search(every, every, k1 + 1, progress=progress)
    farthest = 2 + 2 * search(-every, every, 1, progress=progress)[0][:, 0]  # squared distance
    weights = weigh_neighbours(every, expand_sets(nn_inds, k1), farthest)
    if k2 > 1:
        weights = average_rows(weights, nn_inds[:, :k2])
    count = len(queries)
    by_column = weights[count:].tocsc()
    out = np.empty((count, k), np.int64)
    step = max(1, NUMBERS // len(gallery))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        distance = (2 - 2 * queries[part] @ gallery.T) / farthest[part, None]
        jaccard = compare_sets(weights[part], by_column)
        order = np.argsort(mix * distance + (1 - mix) * jaccard, axis=1, kind="stable")
        out[part] = order[:, :k]
    return out


def to_membership(nn_inds: np.ndarray) -> sparse.csr_matrix:
    """(N, N) 0/1: column j of row i is set when j is among its neighbours `nn_inds` (N, K)."""
    count, width = nn_inds.shape
    rows = np.repeat(np.arange(count), width)
    ones = np.ones(nn_inds.size, np.float32)
    return sparse.csr_matrix((ones, (rows, nn_inds.ravel())), (count, count))


def find_reciprocal(nn_inds: np.ndarray) -> sparse.csr_matrix:
    """(N, N) 0/1: pairs that are among each other's neighbours; each image with itself."""
    itself = sparse.identity(len(nn_inds), np.float32, format="csr")
    near = to_membership(nn_inds).maximum(itself)  # which many equal images may have pushed out
    return near.multiply(near.T).tocsr()


def expand_sets(nn_inds: np.ndarray, k1: int) -> sparse.csr_matrix:
    """(N, N) 0/1: the sets R*(i, k1) (Eq. 5).

    The set of a member with `k1 / 2` neighbours joins when more than two thirds of it are in
    R(i, k1) already. `nn_inds` (N, k1 + 1) begins with the image itself.
    """
    whole = find_reciprocal(nn_inds)
    half = find_reciprocal(nn_inds[:, : round(k1 / 2) + 1])
    sizes = np.asarray(half.sum(axis=1)).ravel()
    shared = whole.multiply(whole @ half.T).tocsr()  # at (i, j) of R(i): |R(i) and R_half(j)|
    joins = shared.copy()
    joins.data = (shared.data > 2 / 3 * sizes[shared.indices]).astype(np.float32)
    joins.eliminate_zeros()
    expanded = (whole + joins @ half).tocsr()
    expanded.data = np.ones_like(expanded.data)
    return expanded


def weigh_neighbours(
    vectors: np.ndarray, sets: sparse.csr_matrix, farthest: np.ndarray
) -> sparse.csr_matrix:
    """(N, N) rows of sum 1: exp(-d) of the members, d over the image's largest (Eq. 7)."""
    rows = np.repeat(np.arange(sets.shape[0]), np.diff(sets.indptr))
    values = np.empty(sets.nnz)
    for start in range(0, sets.nnz, BLOCK):
        part = slice(start, start + BLOCK)
        i, j = rows[part], sets.indices[part]
        similarities = np.einsum("nd,nd->n", vectors[i], vectors[j])
        values[part] = np.exp(-(2 - 2 * similarities) / farthest[i])
    weighted = sparse.csr_matrix((values, sets.indices, sets.indptr), sets.shape)
    totals = np.asarray(weighted.sum(axis=1)).ravel()
    return (sparse.diags(1 / totals) @ weighted).tocsr()


def average_rows(weights: sparse.csr_matrix, nn_inds: np.ndarray) -> sparse.csr_matrix:
    """Each row replaced by the mean of those of its neighbours `nn_inds` (N, k2) (Eq. 11)."""
    mean = (to_membership(nn_inds) / nn_inds.shape[1]).tocsr()
    return (mean @ weights).tocsr()


def compare_sets(queries: sparse.csr_matrix, by_column: sparse.csc_matrix) -> np.ndarray:
    """(Q, G) Jaccard distances 1 - sum min / sum max of rows of sum 1 (Eq. 10)."""
    out = np.empty((queries.shape[0], by_column.shape[0]))
    for q in range(queries.shape[0]):
        first, last = queries.indptr[q], queries.indptr[q + 1]
        columns = by_column[:, queries.indices[first:last]]
        smaller = np.minimum(
            columns.data, np.repeat(queries.data[first:last], np.diff(columns.indptr))
        )
        shared = np.bincount(columns.indices, smaller, minlength=by_column.shape[0])
        out[q] = 1 - shared / (2 - shared)
    return out
