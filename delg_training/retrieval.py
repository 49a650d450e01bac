"""Global retrieval on Revisited Oxford / Paris and re-ranking by geometric verification.

The protocol is that of the published `perform_retrieval`: similarities are inner products of
global descriptors; for Medium and Hard separately the first images of the ranking, without the
protocol's junk, are verified, and all images are sorted by (inliers, similarity).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from delg_training.geometric_verification import Verification
from delg_training.pair_scoring import LocalFiles, count_all
from utils.descriptors import read_global
from utils.nn_tables import hash_names
from utils.paths import hash_files, require_files
from utils.revisited import PROTOCOLS, GroundTruth, evaluate_ranks

logger = logging.getLogger(__name__)

VERIFIED_PROTOCOLS = ("medium", "hard")  # Easy is not reported
NUM_TO_RERANK = 100  # of the published rows
AFTER_GV = "_after_gv"  # suffix of results after geometric verification
BLOCK = 4096  # descriptors of the index held at once


class FeatureFolders(NamedTuple):
    """Where the features of both sides lie; may be one folder."""

    query: Path
    gallery: Path

    def files(self, gnd: GroundTruth, suffix: str) -> LocalFiles:
        """Files of all queries and index images, in the order of the ground truth."""
        return LocalFiles(
            [self.query / f"{name}{suffix}" for name in gnd.qimlist],
            [self.gallery / f"{name}{suffix}" for name in gnd.imlist],
        )


def load_global(paths: Sequence[Path], dim: int | None) -> np.ndarray:
    """(N, D) float32 global descriptors as stored; `dim` None: the width of the first one.

    An image that was too small to be described has a row of zeros: similarity 0 with everything.
    """
    vectors = [read_global(path) for path in paths]
    width = dim or max((len(vector) for vector in vectors), default=0)
    rows = np.zeros((len(paths), width), np.float32)
    for row, vector, path in zip(rows, vectors, paths, strict=True):
        if len(vector) not in (0, width):
            raise ValueError(
                f"{path} holds a global descriptor of {len(vector)} numbers, others have {width}: "
                "extract all images with the same model and configuration"
            )
        row[:] = vector if len(vector) else 0
    return rows


def compute_similarities(
    folders: FeatureFolders, gnd: GroundTruth, progress: bool = True
) -> np.ndarray:
    """(Q, G) float32 inner products of global descriptors; the index passes by in blocks."""
    files = folders.files(gnd, ".delg_global")
    require_files([*files.queries, *files.gallery], "extract the features of both image sets first")
    queries = load_global(files.queries, None)
    if queries.shape[1] == 0:
        raise ValueError(
            f"no query has a global descriptor in {folders.query}: extract with a configuration "
            "that has use_global_features: true"
        )
    similarities = np.empty((len(queries), len(files.gallery)), np.float32)
    with tqdm(total=len(files.gallery), desc="index", unit="image", disable=not progress) as bar:
        for start in range(0, len(files.gallery), BLOCK):
            block = load_global(files.gallery[start : start + BLOCK], queries.shape[1])
            similarities[:, start : start + len(block)] = queries @ block.T
            bar.update(len(block))
    return similarities


def rank(similarities: np.ndarray) -> np.ndarray:
    """(Q, G) int64 index images, most similar first; ties go to the lower index."""
    return np.argsort(-similarities, axis=1, kind="stable")


def choose_heads(
    ranks: np.ndarray, gnd: GroundTruth, protocol: str, num_to_rerank: int = NUM_TO_RERANK
) -> np.ndarray:
    """(P, 2) pairs to verify: per query its first `num_to_rerank` images that are not junk."""
    pairs = []
    for q, (row, lists) in enumerate(zip(ranks, gnd.gnd, strict=True)):
        junk = [i for kind in PROTOCOLS[protocol][1] for i in lists[kind]]
        head = row[~np.isin(row, junk)][:num_to_rerank]
        pairs.append(np.stack([np.full(len(head), q), head], axis=1))
    return np.concatenate(pairs)


def rerank(similarities: np.ndarray, pairs: np.ndarray, inliers: np.ndarray) -> np.ndarray:
    """(Q, G) int64 index images by inliers, then similarity, then index.

    `pairs` (P, 2), `inliers` (P,): of the verified pairs; all others have 0 inliers.
    """
    ranks = np.empty(similarities.shape, np.int64)
    for q, row in enumerate(similarities):
        counts = np.zeros(len(row), np.int64)
        mine = pairs[:, 0] == q
        counts[pairs[mine, 1]] = inliers[mine]
        ranks[q] = np.lexsort((-row, -counts))
    return ranks


def describe_origin(
    folders: FeatureFolders, gnd: GroundTruth, settings: Verification
) -> dict[str, str]:
    """What a table of inliers records of its making.

    Global descriptors stand for the extraction. Their similarities would not do: the last bit of a
    product depends on the number of threads.
    """
    return {
        "queries": f"{folders.query}, names {hash_names(list(gnd.qimlist))[:16]}",
        "index": f"{folders.gallery}, names {hash_names(list(gnd.imlist))[:16]}",
        "global descriptors": hash_files(
            [path for side in folders.files(gnd, ".delg_global") for path in side]
        ),
        "verification": str(settings),
    }


def rank_after_verification(
    similarities: np.ndarray,
    gnd: GroundTruth,
    folders: FeatureFolders,
    settings: Verification,
    table: Path,
    num_to_rerank: int = NUM_TO_RERANK,
    num_processes: int | None = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Medium and Hard -> (Q, G) re-ranked index images. A pair of both heads is verified once.

    `table`: file that keeps the inliers, see `delg_training.pair_scoring`.
    """
    if num_to_rerank < 1:
        raise ValueError(f"num_to_rerank is {num_to_rerank}, expected at least 1")
    before = rank(similarities)
    heads = {key: choose_heads(before, gnd, key, num_to_rerank) for key in VERIFIED_PROTOCOLS}
    pairs = np.unique(np.concatenate(list(heads.values())), axis=0)
    origin = describe_origin(folders, gnd, settings)
    files = folders.files(gnd, ".delg_local")
    inliers = count_all(pairs, files, settings, table, origin, num_processes, progress)
    keys = pairs @ np.array([similarities.shape[1], 1])
    after = {}
    for protocol, head in heads.items():
        at = np.searchsorted(keys, head @ np.array([similarities.shape[1], 1]))
        after[protocol] = rerank(similarities, head, inliers[at])
    return after


def measure(
    ranks: dict[str, np.ndarray], gnd: GroundTruth, ks: Sequence[int], suffix: str = ""
) -> dict[str, dict[str, Any]]:
    """Protocol (with `suffix`) -> mAP, mP@k, mR@k, AP per query of its ranking, fractions.

    ValueError for a k beyond the number of index images.
    """
    if max(ks) > len(gnd.imlist):
        raise ValueError(f"k is {max(ks)}, but there are only {len(gnd.imlist)} index images")
    return {
        f"{protocol}{suffix}": evaluate_ranks(rows, gnd, ks)[protocol]
        for protocol, rows in ranks.items()
    }
