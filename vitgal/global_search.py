"""Photographs of a test set -> descriptors -> ranking on disk."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from utils.checkpoints import fingerprint_weights
from vitgal.datasets.revisited_images import Photograph
from vitgal.datasets.revisited_lists import TestImages
from vitgal.descriptor_files import load_or_extract
from vitgal.global_features import (
    Describe,
    GlobalSettings,
    Loading,
    extract_global,
)
from vitgal.global_ranking import GlobalRanking, rank_database
from vitgal.rank_files import (
    RERANK_LIST,
    SetSize,
    full_rank_file,
    hash_paths,
    load_ranking,
    make_rerank_list,
    save_ranking,
    write_rerank_list,
)

logger = logging.getLogger(__name__)


class Descriptors(NamedTuple):
    """Unit rows, float32; memory maps."""

    queries: np.ndarray  # (Q, D)
    gallery: np.ndarray  # (n_benchmark, D)
    distractors: np.ndarray | None  # (N, D)


def describe_origin(test: TestImages) -> dict[str, Any]:
    """By what a ranking of this set is recognised."""
    return {
        "set": test.name,
        "queries": hash_paths(test.queries),
        "gallery": hash_paths(test.gallery),
        "distractors": len(test.distractors),
    }


def set_size(test: TestImages) -> SetSize:
    return SetSize(len(test.queries), len(test.gallery), test.num_database)


def extract_descriptors(
    network: nn.Module,
    test: TestImages,
    folder: Path,
    settings: GlobalSettings,
    loading: Loading,
    overwrite: bool = False,
) -> Descriptors:
    """Descriptors of queries (cropped), gallery and distractors; `folder` keeps them for later.

    `network(images)["global"]` is (B, D).
    """
    network = network.to(loading.device).eval()

    def describe(images):
        return network(images)["global"]

    fill = partial(extract_global, describe, settings=settings, loading=loading)
    made_from = {"weights": fingerprint_weights(network), **settings._asdict()}
    width = _width(describe, settings, loading)
    store = partial(load_or_extract, folder, width=width, made_from=made_from, fill=fill)
    queries = [
        Photograph(test.data_path / path, tuple(box))
        for path, box in zip(test.queries, test.boxes.tolist(), strict=True)
    ]
    gallery = [Photograph(test.data_path / path) for path in test.gallery]
    stem = test.name.removesuffix("_1m")
    found = [
        store(name=f"{stem}_queries", photographs=queries, overwrite=overwrite),
        store(name=f"{stem}_gallery", photographs=gallery, overwrite=overwrite),
    ]
    distractors = None
    if test.distractors:
        assert test.distractor_path is not None
        photographs = [Photograph(test.distractor_path / path) for path in test.distractors]
        distractors = store(name="distractors", photographs=photographs, overwrite=overwrite)
    return Descriptors(found[0], found[1], distractors)


def _width(describe: Describe, settings: GlobalSettings, loading: Loading) -> int:
    """Width of the descriptors, from one grey image."""
    import torch

    with torch.inference_mode():
        return describe(torch.zeros(1, 3, 64, 64, device=loading.device)).shape[1]


def search(
    test: TestImages,
    path: Path,
    extract: Callable[[], Descriptors],
    made_from: dict[str, Any],
    overwrite: bool = False,
) -> GlobalRanking:
    """The ranking of the set, written to `path`; one that is there already is reused.

    `made_from`: weights and settings; a file of others is refused unless `overwrite`. `extract` is
    called only when there is something to rank.
    """
    origin = describe_origin(test) | made_from
    if path.is_file() and not overwrite:
        ranking = load_ranking(path, set_size(test), origin)
        logger.info("%s holds this ranking already and is kept", path)
        return ranking
    found = extract()
    with full_rank_file(path, test.num_database, len(test.queries)) as full:
        ranking = rank_database(found.queries, found.gallery, found.distractors, full=full)
    save_ranking(path, ranking, origin)
    return ranking


def query_paths(test: TestImages) -> list[str]:
    """Queries as they are loaded."""
    return [(test.data_path / path).as_posix() for path in test.queries]


def head_paths(test: TestImages, ranking: GlobalRanking, num_rerank: int) -> list[list[str]]:
    """The first images of each list as they are loaded; ValueError where fewer are kept."""
    kept = ranking.head.shape[1]
    if not 1 <= num_rerank <= kept:
        raise ValueError(f"num_rerank is {num_rerank}, expected 1 to {kept} (entries of a list)")
    return [
        [test.database_path(int(index)).as_posix() for index in row]
        for row in ranking.head[:, :num_rerank]
    ]


def write_list(path: Path, test: TestImages, heads: list[list[str]]) -> Path:
    """`rerank_path.txt` beside the ranking `path`: what extract_local_features works through."""
    listed = make_rerank_list(query_paths(test), test.boxes, heads)
    target = path.with_name(RERANK_LIST)
    write_rerank_list(target, listed)
    return target
