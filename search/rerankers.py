"""One interface of all rerankers: pairs of rows of one store -> scores, higher is better.

Whether a reranker can read a store is a matter of widths alone; `require` says which stores fit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from r2former.models.network import R2Former
from r2former.models.pair_scoring import PairScorer as PlaceScorer
from r2former.models.selection import XYA
from rrt_gld.datasets.image_set import Item, center, compute_published_scale_inds
from rrt_gld.evaluation import score_pairs_from_files
from rrt_gld.geometric import count_inliers, make_estimator
from rrt_gld.models.matcher import Matcher
from rrt_gld.models.scoring import PairScorer
from rrt_gld.sift import load_codebook
from search.describers import CODEBOOK
from search.store import Store
from search.weights import load_matcher, load_r2former
from utils.descriptors import LocalFeatures
from utils.paths import REPO_ROOT

NAMES = ("none", "rrt", "geometric", "r2former")
MINI_MATCHER = REPO_ROOT / "rrt_gld/rrt_gld_ckpts/mini_sift.pt"
MINI_LOCALS, PUBLISHED_LOCALS = 64, 500  # that the matchers were trained to read
WIDTHS = {  # (global, local) of the stores with published weights
    "sift": (2048, 128), "delg-files": (2048, 128), "vitgal": (384, 128), "r2former": (256, 128),
}  # fmt: skip
THRESHOLDS = {"sift": 4.0}  # pixels; features that are patches of 16 pixels lie less exactly:
PATCH_THRESHOLD = 16.0
LOWEST = np.float32(-1e9)  # of a pair with too few features to be compared
GROUP_BYTES = 1 << 28  # of local features held at a time


class Reranker(Protocol):
    """Scores pairs of images of one store."""

    @property
    def max_locals(self) -> int | None:
        """Local features of an image that are read; None: all."""

    @property
    def title(self) -> str:
        """For pages and tables."""

    def require(self, store: Store) -> None:
        """ValueError, naming stores that fit, unless this one does."""

    def score(self, store: Store, pairs: np.ndarray, progress: bool = True) -> np.ndarray:
        """(P,) float32 of `pairs` (P, 2): row of the query, row of the gallery image."""


def make_reranker(
    name: str, store_name: str, weights: Path | None = None, max_locals: int | None = None
) -> Reranker | None:
    """The reranker called `name` for a store; None for "none". ValueError where weights lack."""
    if name not in NAMES:
        raise ValueError(f"rerank is {name!r}, expected one of {', '.join(NAMES)}")
    if name == "none":
        return None
    if name == "geometric":
        threshold = THRESHOLDS.get(store_name, PATCH_THRESHOLD)
        return GeometricReranker(threshold, max_locals)
    if weights is None and name == "rrt" and store_name == "sift":
        weights = MINI_MATCHER
    if weights is None:
        raise ValueError(
            f"{name} on a store of {store_name} needs trained weights: give a checkpoint with "
            f"--rerank-weights; without any: geometric, or rrt on sift (tracked mini matcher)"
        )
    if name == "rrt":
        matcher = load_matcher(weights)
        is_mini = len(matcher.encoder.layers) < 6
        limit = MINI_LOCALS if is_mini else PUBLISHED_LOCALS
        return MatcherReranker(matcher, max_locals or limit, weights.name)
    network = load_r2former(weights)
    if not network.has_reranking:
        raise ValueError(
            f"{weights} holds a global model only, without R2Former's reranker; give a file of its "
            "reranking stages"
        )
    return PlaceReranker(network.net, max_locals, weights.name)


def require_locals(store: Store, name: str) -> None:
    """ValueError for a store without local features."""
    if not store.has_locals:
        raise ValueError(
            f"{name} compares local features, of which this store of {store.name} has none; "
            "stores with them: sift, vitgal, delg-files, r2former with weights of its reranking "
            "stages"
        )


class StoreImages:
    """Images of a store as the systems read them."""

    def __init__(
        self, store: Store, max_locals: int | None = None, local_mean: np.ndarray | None = None
    ) -> None:
        """`local_mean` (D,): taken off the local descriptors, which are then normalised."""
        self.store, self.max_locals, self.local_mean = store, max_locals, local_mean

    def load_local(self, i: int) -> LocalFeatures:
        """Local features of row i."""
        return self.store.load_local(i, self.max_locals)

    def load_item(self, i: int) -> Item:
        """Row i as input of the matcher."""
        features = self.load_local(i)
        local = features.descriptors.reshape(-1, self.store.codecs["local"].width)
        if self.local_mean is not None:
            local = center(local, self.local_mean)
        height, width = self.store.frames[i]
        positions = features.locations[:, ::-1] / np.array([width, height], np.float32)
        scales = compute_published_scale_inds(features.scales)
        return Item(self.store.global_descriptors(np.array([i]))[0], local, scales, positions)


class GeometricReranker:
    """Inliers of one homography among mutual nearest neighbours (pydegensac); on every store."""

    def __init__(self, threshold: float = 4.0, max_locals: int | None = None) -> None:
        """`threshold`: pixels of the frame that the store's locations are counted in."""
        self.estimator = make_estimator("pydegensac", "homography", threshold)
        self.max_locals = max_locals

    @property
    def title(self) -> str:
        return f"geometric ({self.estimator})"

    def require(self, store: Store) -> None:
        require_locals(store, "geometric")

    def score(self, store: Store, pairs: np.ndarray, progress: bool = True) -> np.ndarray:
        self.require(store)
        images = StoreImages(store, self.max_locals)
        return count_inliers(images, images, pairs, self.estimator, progress=progress)


class MatcherReranker:
    """The reranking transformer of rrt_gld: stores whose widths are those of its weights."""

    def __init__(self, model: Matcher, max_locals: int, weights: str) -> None:
        self.model, self.max_locals, self.weights = model, max_locals, weights
        self.scorer = PairScorer(model, "cuda" if torch.cuda.is_available() else "cpu")

    @property
    def title(self) -> str:
        return f"rrt ({self.weights}, {self.max_locals} locals)"

    def require(self, store: Store) -> None:
        require_locals(store, "rrt")
        needed = (self.model.d_global, self.model.d_model)
        found = (store.codecs["global"].width, store.codecs["local"].width)
        if found != needed:
            fitting = [name for name, widths in WIDTHS.items() if widths == needed]
            raise ValueError(
                f"{self.weights} compares global descriptors of {needed[0]} numbers and local ones "
                f"of {needed[1]}, this store of {store.name} has {found[0]} and {found[1]}; stores "
                f"that fit: {', '.join(fitting) or 'those it was trained on'}; or give "
                "--rerank-weights that were trained on this one, or --rerank geometric"
            )

    def score(self, store: Store, pairs: np.ndarray, progress: bool = True) -> np.ndarray:
        self.require(store)
        # SIFT is not centred, DELG's descriptors are: as in rrt_gld's rows
        mean = load_codebook(CODEBOOK).mean if store.name == "sift" else None
        images = StoreImages(store, self.max_locals, mean)
        return score_pairs_from_files(self.scorer, images, images, pairs, progress=progress)


class PlaceReranker:
    """R2Former's reranker. It reads similarities, places and attention: any width will do."""

    def __init__(self, net: R2Former, max_locals: int | None, weights: str) -> None:
        """`max_locals`: local features of an image; None: as many as it was built for."""
        self.max_locals = max_locals or net.num_local
        self.num_corr = net.Reranker.num_corr
        self.scorer = PlaceScorer(net, "cuda" if torch.cuda.is_available() else "cpu")
        self.weights = weights

    @property
    def title(self) -> str:
        return f"r2former ({self.weights})"

    def require(self, store: Store) -> None:
        require_locals(store, "r2former")

    def score(self, store: Store, pairs: np.ndarray, progress: bool = True) -> np.ndarray:
        """Images with fewer features than the reranker compares get the lowest score."""
        self.require(store)
        counts = np.minimum(store.count_local(np.arange(len(store))), self.max_locals)
        of_pairs = counts[pairs]  # (P, 2): pairs of equal counts are computed together
        scores = np.full(len(pairs), LOWEST)
        groups, member = np.unique(of_pairs, axis=0, return_inverse=True)
        order = np.argsort(member.reshape(-1), kind="stable")
        starts = np.searchsorted(member.reshape(-1)[order], np.arange(len(groups) + 1))
        with tqdm(total=len(pairs), desc="pairs", unit="pair", disable=not progress) as bar:
            for group, first, last in zip(groups, starts, starts[1:], strict=False):
                if group.min() >= self.num_corr:
                    for rows in self._split(store, pairs, order[first:last], group):
                        scores[rows] = self._score_alike(store, pairs[rows], group)
                        bar.update(len(rows))
        return scores

    def _split(
        self, store: Store, pairs: np.ndarray, rows: np.ndarray, counts: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Pieces of `rows`, by gallery image, whose features fit into memory."""
        per_pair = 4 * int(counts.sum()) * (store.codecs["local"].width + XYA)
        step = max(1, GROUP_BYTES // per_pair)
        rows = rows[np.argsort(pairs[rows, 1], kind="stable")]
        return [rows[start : start + step] for start in range(0, len(rows), step)]

    def _score_alike(self, store: Store, pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
        tables, places = [], []
        for column, count in zip(pairs.T, counts.tolist(), strict=True):
            images, place = np.unique(column, return_inverse=True)
            tables.append(np.stack([load_place_locals(store, int(i), count) for i in images]))
            places.append(place.reshape(-1))
        return self.scorer.score(tables[0], tables[1], np.stack(places, axis=1))


def load_place_locals(store: Store, row: int, count: int) -> np.ndarray:
    """(count, 3 + D) float32 as R2Former reads them: X, Y over the longer side, A, descriptor."""
    features = store.load_local(row, count)
    places = features.locations[:, ::-1] / np.float32(max(store.frames[row]))
    return np.concatenate([places, features.attention[:, None], features.descriptors], axis=1)
