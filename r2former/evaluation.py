"""A set of places -> recall@k by global descriptors and after reranking; training uses it too."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from r2former.crops import combine_rankings, mean_descriptors
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import CROP_METHODS, make_database_transform, make_query_transform
from r2former.features import Extraction, Features, Loading
from r2former.models.network import R2Former
from r2former.models.pair_scoring import PairScorer
from r2former.reduction import ReducedDescriptors
from r2former.reranking import PUBLISHED_DEPTH, score_table
from r2former.retrieval import compute_maps, find_neighbours
from utils.checkpoints import fingerprint_weights
from utils.distributed import Ranks
from utils.pair_tables import rerank_table
from utils.recall import compute_recalls, find_first_hits, hits_from_positives
from utils.row_store import Resumption, hash_arrays


@dataclass(frozen=True)
class Settings:
    """How a set is measured; the defaults are the published ones."""

    resize: tuple[int, int] = (480, 640)  # pixels, height and width
    test_method: str = "hard_resize"  # of queries
    majority_weight: float = 0.01  # of test_method maj_voting
    recall_values: tuple[int, ...] = (1, 5, 10, 20, 100)
    radius: float = 25.0  # metres, of positives, included
    rerank: bool = True  # False: global descriptors only
    top_k: int = PUBLISHED_DEPTH  # candidates that are reranked
    precision: str = "float32"  # of pair scores; bf16 is faster and not for the tables
    local_dtype: str = "float32"  # of stored local features; float16 halves the disk
    pca_dim: int | None = None  # numbers that descriptors were reduced to, by `reduction`

    def __post_init__(self) -> None:
        if not self.recall_values or min(self.recall_values) < 1:
            raise ValueError(f"recall_values is {self.recall_values}, expected numbers >= 1")
        if self.rerank and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, expected at least 1")
        if self.rerank and self.pca_dim is not None:
            raise ValueError("pca_dim reduces global descriptors only: set rerank=False")
        if self.rerank and self.test_method in CROP_METHODS:
            raise ValueError(
                f"test_method {self.test_method} has no reranking: use hard_resize, central_crop "
                "or single_query, or rerank=False"
            )

    def is_tabled(self, img_size: tuple[int, int]) -> bool:
        """Whether numbers may be held against a table: all as published but the values of k.

        `img_size`: that the model was built for, which the table's images have.
        """
        free = {"recall_values": self.recall_values, "rerank": self.rerank, "resize": img_size}
        return asdict(self) == asdict(replace(Settings(), **free))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ranking:
    """Ranked lists of one stage, and what they score where positions are known."""

    nn_inds: np.ndarray  # (Q, K) int64 database indices, best first
    values: np.ndarray  # (Q, K) float32: squared distances ascending, or scores descending
    hits: np.ndarray | None = None  # (Q, K) bool
    first_hits: np.ndarray | None = None  # (Q,) int64 column of the first positive, else K
    metrics: dict[str, float] = field(default_factory=dict)  # R@k and mAP@k, percent


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    protocol: str  # in words, with all counts
    before: Ranking  # by global descriptors
    after: Ranking | None  # reranked; None without reranking
    seconds: Mapping[str, float]  # extraction per image, search and reranking per query

    @property
    def recalls_global(self) -> dict[str, float]:
        """{"R@k": percent} by global descriptors."""
        return recalls_of(self.before)

    @property
    def recalls_reranked(self) -> dict[str, float] | None:
        """{"R@k": percent} after reranking."""
        return None if self.after is None else recalls_of(self.after)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the last stage; with reranking those before it end in `_global`."""
        if self.after is None:
            return dict(self.before.metrics)
        before = {f"{key}_global": value for key, value in self.before.metrics.items()}
        return {**self.after.metrics, **before}


def recalls_of(ranking: Ranking) -> dict[str, float]:
    """The recalls among the metrics."""
    return {key: value for key, value in ranking.metrics.items() if key.startswith("R@")}


def evaluate(
    net: nn.Module,
    places: PlaceSet,
    settings: Settings | None = None,
    loading: Loading | None = None,
    ranks: Ranks | None = None,
    folder: str | Path | None = None,
) -> Evaluation:
    """Rank the database for every query by global descriptors, then rerank the head.

    `net`: an `R2Former`; any other model with unit rows needs `rerank=False`. It is put into
    evaluation mode and back. `folder`: features and scores are kept there until the end, and an
    interrupted call goes on with them; without one local features go to a temporary file. Several
    ranks share the work and all get the result; to rerank they need a `folder`.
    """
    settings, ranks = settings or Settings(), ranks or Ranks()
    loading = loading or Loading()
    if settings.rerank and not isinstance(net, R2Former):
        raise ValueError(f"{type(net).__name__} has no reranker; measure it with rerank=False")
    if (settings.pca_dim is not None) != isinstance(net, ReducedDescriptors):
        raise ValueError("pca_dim goes with descriptors of reduction.reduce_by_pca, nothing else")
    if settings.rerank and ranks.world > 1 and folder is None:
        raise ValueError("several processes need a folder for local features")
    with TemporaryDirectory() as spare, evaluation_mode(net):
        origin = make_origin(net, places, settings)
        kept = Resumption(spare if folder is None else folder, origin)
        found = _evaluate(net, places, settings, loading, ranks, kept)
        kept.remove()
    return found


def _evaluate(
    net: nn.Module,
    places: PlaceSet,
    settings: Settings,
    loading: Loading,
    ranks: Ranks,
    kept: Resumption,
) -> Evaluation:
    started = time.perf_counter()
    extraction = Extraction(net, loading, ranks, kept, settings.local_dtype)
    database = extraction.extract(
        places.database_paths, make_database_transform(settings.resize), "database", settings.rerank
    )
    # queries may have sizes of their own, and then go one by one
    single = settings.test_method == "single_query"
    one = Loading(1, loading.num_workers, loading.progress)
    extraction.loading = one if single else loading
    queries = extraction.extract(
        places.query_paths,
        make_query_transform(settings.resize, settings.test_method),
        "queries",
        settings.rerank,
    )
    images = len(places.database_paths) + len(places.query_paths)
    seconds = {"extraction per image": (time.perf_counter() - started) / images}
    started = time.perf_counter()
    nn_inds, distances = rank(queries.descriptors, database.descriptors, settings, ranks)
    seconds["search per query"] = (time.perf_counter() - started) / len(nn_inds)
    before = measure(nn_inds, distances, places, settings)
    after = None
    if settings.rerank:
        started = time.perf_counter()
        after = _rerank(net, places, settings, loading, ranks, kept, nn_inds, queries, database)
        seconds["reranking per query"] = (time.perf_counter() - started) / len(nn_inds)
    return Evaluation(describe(places, settings, before), before, after, seconds)


def rank(
    queries: np.ndarray, database: np.ndarray, settings: Settings, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) database indices and squared distances, crops combined."""
    depth = max(settings.recall_values)
    if settings.rerank:
        depth = max(depth, settings.top_k)
    method = settings.test_method
    if method == "five_crops":
        queries = mean_descriptors(queries)
    crops = queries.shape[:-1]
    flat = np.ascontiguousarray(queries.reshape(-1, queries.shape[-1]))
    distances, nn_inds = find_neighbours(flat, database, depth, device=ranks.device, progress=False)
    if len(crops) == 1:
        return nn_inds, distances
    weight = settings.majority_weight if method == "maj_voting" else None
    return combine_rankings(nn_inds.reshape(*crops, -1), distances.reshape(*crops, -1), weight)


def _rerank(
    net: nn.Module,
    places: PlaceSet,
    settings: Settings,
    loading: Loading,
    ranks: Ranks,
    kept: Resumption,
    nn_inds: np.ndarray,
    queries: Features,
    database: Features,
) -> Ranking:
    """The head of the lists, reordered."""
    assert isinstance(net, R2Former)
    assert queries.local is not None
    assert database.local is not None
    head = np.ascontiguousarray(nn_inds[:, : settings.top_k])
    scorer = PairScorer(net, ranks.device, settings.precision)
    store = None
    if ranks.world == 1:
        store = kept.store(
            "scores", head.shape, table=hash_arrays(head), precision=settings.precision
        )
    scores = score_table(
        scorer, queries.local, database.local, head, ranks, store, loading.progress
    )
    reranked, values = rerank_table(head, np.array(scores))
    return measure(reranked, values, places, settings)


def measure(
    nn_inds: np.ndarray, values: np.ndarray, places: PlaceSet, settings: Settings
) -> Ranking:
    """Recall and mAP of ranked lists; without positions the lists alone."""
    if not places.has_positions:
        return Ranking(nn_inds, values)
    positives = places.positives(settings.radius)
    hits = hits_from_positives(nn_inds, positives.counts, positives.indices)
    first = find_first_hits(hits)
    ks = settings.recall_values
    metrics = compute_recalls(first, ks, nn_inds.shape[1])
    metrics |= compute_maps(hits, positives.counts, ks)
    return Ranking(nn_inds, values, hits, first, metrics)


def describe(places: PlaceSet, settings: Settings, before: Ranking) -> str:
    """The protocol of all rows: counts, radius, image size, candidates."""
    parts = [
        f"{places.name}: {places.protocol}",
        f"{len(places.query_paths)} queries",
        f"{len(places.database_paths)} database images",
    ]
    if places.has_positions:
        lonely = int((places.positives(settings.radius).counts == 0).sum())
        parts.append(f"radius {settings.radius:g} m")
        parts += [f"{lonely} queries without a positive"] if lonely else []
    parts.append(f"{settings.resize[0]} x {settings.resize[1]}, {settings.test_method}")
    if settings.pca_dim is not None:
        parts.append(f"PCA to {settings.pca_dim} numbers")
    if settings.rerank:
        depth = min(settings.top_k, before.nn_inds.shape[1])
        parts.append(f"first {depth} reranked, {settings.precision}")
    return ", ".join(parts)


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """The net in evaluation mode within the block, then every part as it was."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def make_origin(net: nn.Module, places: PlaceSet, settings: Settings) -> dict[str, Any]:
    """What the kept features are made from."""
    return {
        **places.origin(),
        "weights": fingerprint_weights(net),
        "resize": list(settings.resize),
        "test_method": settings.test_method,
    }
