"""Stores of features, rankings, tables and records that the systems write and go on with."""

import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.drawn_sets import make_side
from delg_training.pair_scoring import load_counts, save_counts
from r2former.datasets.place_set import PlaceSet
from r2former.hard_lists import load_list, save_list
from rrt_gld.datasets.image_set import _load_mean
from rrt_gld.sift import WORDS, Codebook, load_codebook
from rrt_gld.tools.extract_sift import check_record as check_sift_record
from rrt_gld.tools.extract_sift import save_codebook
from search.describers import DelgFiles
from search.store import Store as SearchStore
from search.store_files import FILES, LEVELS, MARK
from tests.drills.formats_utils import finite, rng
from tests.drills.reading import Format, require
from tests.search.made_up import describe, make_photos
from utils.row_store import Store as RowStore
from vitgal.datasets.revisited_images import Photograph
from vitgal.descriptor_files import load_or_extract
from vitgal.extraction import check_record, recorded_image_size
from vitgal.global_ranking import GlobalRanking
from vitgal.rank_files import SetSize, full_rank_file, load_ranking, save_ranking
from vitgal.stores import CompactStore, LocalFeatures, PublishedStore

ROWS, WIDTH = 6, 4
ORIGIN = {"weights": "0f", "images": ROWS}

# ---------------------------------------------------------------------------- rows in order


def values() -> np.ndarray:
    return rng().standard_normal((ROWS, WIDTH)).astype(np.float32)


def make_rows(store: Any) -> None:
    store.array[:3] = values()[:3]
    store.save_mark(3)
    store.array.flush()


def read_rows(store: Any) -> Any:
    """As an interrupted extraction goes on: rows behind the mark are computed again."""
    require(store.array.shape == (ROWS, WIDTH) and store.array.dtype == np.float32, "array")
    require(type(store.done) is int and 0 <= store.done <= ROWS, f"done is {store.done!r}")
    store.array[store.done :] = values()[store.done :]
    return np.array(store.array)


def row_store(folder: Path) -> RowStore:
    return RowStore((ROWS, WIDTH), folder / "rows.npy", ORIGIN)


# ---------------------------------------------------------------------------- vitgal

PICTURES = [f"p{i}.jpg" for i in range(ROWS)]


def extract_global(folder: Path) -> np.ndarray:
    for name in PICTURES:
        (folder / name).write_bytes(b"x")
    photographs = [Photograph(folder / name, None) for name in PICTURES]

    def fill(part: list[Photograph], out: np.ndarray) -> None:
        first = PICTURES.index(part[0].path.name)
        out[:] = values()[first : first + len(part)]

    return np.array(
        load_or_extract(folder, "query", photographs, WIDTH, {"weights": "0f"}, fill, shard=2)
    )


def read_global(folder: Path) -> np.ndarray:
    found = extract_global(folder)
    require(found.shape == (ROWS, WIDTH) and found.dtype == np.float32, "array")
    return found


def local_features(count: int) -> LocalFeatures:
    rows = np.random.default_rng(count).standard_normal((count, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return LocalFeatures(rows, np.arange(2 * count).reshape(count, 2))


def check_locals(found: LocalFeatures) -> LocalFeatures:
    finite(found.descriptors, np.float32, (None, None), "descriptors")
    norms = np.linalg.norm(found.descriptors, axis=1)
    require((np.abs(norms - 1) < 2e-3).all(), "descriptors have not unit length")
    require(found.locations.dtype == np.int64, "locations")
    require(found.locations.shape == (len(found.descriptors), 2), "locations")
    return found


def published(folder: Path) -> PublishedStore:
    return PublishedStore(folder / "D", folder / "L", folder)


def make_published(folder: Path) -> None:
    published(folder).save(str(folder / "a.jpg"), local_features(5))


def make_compact(folder: Path, kind: str) -> None:
    store = CompactStore(folder, folder, kind)
    for count in (3, 0, 5):
        store.save(str(folder / f"{count}.jpg"), local_features(count))


def read_compact(folder: Path) -> Any:
    store = CompactStore(folder, folder)
    paths = [str(folder / name.removesuffix(".npy")) for name in store.rows]
    return [sorted(store.rows), [check_locals(store.load(path)) for path in paths]]


SIZE = SetSize(3, 5, 9)
RANK_ORIGIN = {"weights": "0f", "imsize": 512, "keep_aspect": False, "multiscale": False}


def make_ranking(folder: Path, name: str) -> None:
    order = np.argsort(rng().random((SIZE.n_queries, SIZE.n_database)), axis=1)
    positions = np.argsort(order, axis=1)[:, : SIZE.n_benchmark].astype(np.int32)
    with full_rank_file(folder / name, SIZE.n_database, SIZE.n_queries) as ranks:
        if ranks is not None:
            ranks[:] = order.T
    ranking = GlobalRanking(order[:, :4].astype(np.int64), positions, SIZE.n_database)
    save_ranking(folder / name, ranking, RANK_ORIGIN)


def read_ranking(folder: Path, name: str) -> Any:
    found = load_ranking(folder / name, SIZE, RANK_ORIGIN, 4)
    require(found.positions.shape == (SIZE.n_queries, SIZE.n_benchmark), "positions")
    require(found.head.shape[0] == SIZE.n_queries and found.head.shape[1] <= 4, "head")
    for part in (found.head, found.positions):
        require(part.size == 0 or 0 <= part.min() <= part.max() < SIZE.n_database, "range")
    found.listed()
    return [found.head.astype(np.int64), found.positions, found.n_database]


RECORD = {"weights": "0f", "image_size": 512}


def read_record(folder: Path) -> Any:
    check_record(folder, RECORD, overwrite=False)
    size = recorded_image_size(folder)
    require(type(size) is int and size > 0, "image_size")
    return size


# ---------------------------------------------------------------------------- r2former

PLACES = PlaceSet("toy", "", [f"d{i}.jpg" for i in range(9)], [f"q{i}.jpg" for i in range(4)])


def read_hard(folder: Path) -> Any:
    rows = load_list(folder / "hard_final.npy", PLACES)
    require(rows.dtype.kind in "iu" and rows.ndim == 2 and len(rows) == 4, "rows")
    require(-1 <= rows.min() and rows.max() < 9, "range")
    return rows.astype(np.int64)


# ---------------------------------------------------------------------------- search

MADE_FROM = {"descriptor": "made_up", "width": 16}


def make_search(folder: Path, kind: str) -> None:
    SearchStore(folder, MADE_FROM, kind, kind).extend(make_photos(4), describe, progress=False)


def read_search(folder: Path, kind: str) -> Any:
    store = SearchStore(folder, MADE_FROM, kind, kind)
    rows = np.arange(len(store))
    found = [store.global_descriptors(rows)] if len(rows) else []
    for row in rows:
        features = store.load_local(int(row))
        found.append(features.descriptors)
        require(len(features.locations) == len(features.descriptors), "lengths")
        require(np.isfinite(features.scales).all(), "scales")
    return [sorted(store.keys), found]


def make_delg_folder(folder: Path) -> None:
    (folder / "extracted.json").write_text(json.dumps({"model": "0f", "config": {"scales": [1]}}))


# ---------------------------------------------------------------------------- others

COUNTS = {"verification": "x", "images": "0f"}


def read_counts(folder: Path) -> Any:
    pairs, inliers = load_counts(folder / "inliers.npz", COUNTS)
    require(pairs.dtype.kind in "iu" and pairs.shape == (len(inliers), 2), "pairs")
    require(inliers.dtype.kind in "iu", "inliers")
    return [pairs, inliers]


def read_codebook(folder: Path) -> Any:
    book = load_codebook(folder / "book.npz")
    finite(book.centres, np.float32, (WORDS, 128), "centres")
    finite(book.mean, np.float32, (128,), "mean")
    return [*book, finite(_load_mean(folder / "book.npz", 128), np.float32, (128,), "mean")]


def draw(folder: Path) -> str:
    """The record of a generated set, as far as it was drawn."""
    options = Namespace(seed=0, overwrite=False)
    make_side(options, folder, 1, {"queries": 2}, lambda path, _: None)
    return (folder / "drawn.json").read_text()


MORE_FILES: dict[str, tuple[str, ...]] = {"float16": (), "int8": ("scales.bin",)}  # of a kind
FORMATS = {
    "row_store": Format(
        lambda f: make_rows(row_store(f)), ("rows.npy", "rows.json"),
        lambda f: read_rows(row_store(f)),
    ),
    "vitgal_global": Format(
        extract_global, ("query_*.npy", "query_*.json"), read_global
    ),
    "vitgal_published": Format(
        make_published, ("D/a.jpg.npy", "L/a.jpg.npy"),
        lambda f: check_locals(published(f).load(str(f / "a.jpg"))),
    ),
    **{
        f"vitgal_compact_{kind}": Format(
            partial(make_compact, kind=kind),
            ("index.jsonl", "descriptors.bin", "locations.bin", *more), read_compact,
        )
        for kind, more in MORE_FILES.items()
    },
    **{
        f"vitgal_ranking_{kind}": Format(
            partial(make_ranking, name=f"rank.{kind}"), (f"rank.{kind}", f"rank.{kind}.json"),
            partial(read_ranking, name=f"rank.{kind}"),
        )
        for kind in ("npy", "npz")
    },
    "vitgal_record": Format(
        lambda f: check_record(f, RECORD, False), ("extracted.json",), read_record
    ),
    "r2former_hard_lists": Format(
        lambda f: save_list(
            f / "hard_final.npy", rng().integers(0, 9, (4, 5)).astype(np.int32), PLACES.origin()
        ),
        ("hard_final.npy", "hard_final.npy.json"), read_hard,
    ),
    **{
        f"search_{kind}": Format(
            partial(make_search, kind=kind), (*FILES, MARK, *([LEVELS] if kind == "1bit" else [])),
            partial(read_search, kind=kind),
        )
        for kind in ("float32", "1bit")
    },
    "search_delg_files": Format(
        make_delg_folder, ("extracted.json",), lambda f: DelgFiles(f, 10).made_from
    ),
    "delg_inliers": Format(
        lambda f: save_counts(f / "inliers.npz", COUNTS, np.ones((3, 2), int), np.arange(3)),
        ("inliers.npz",), read_counts,
    ),
    "sift_codebook": Format(
        lambda f: save_codebook(
            f / "book.npz", Codebook(rng().random((WORDS, 128), np.float32), np.ones(128, "f4"))
        ),
        ("book.npz",), read_codebook,
    ),
    "sift_record": Format(
        lambda f: check_sift_record(f, {"codebook": "0f", "max_features": 9}, False),
        ("extracted.json",),
        lambda f: check_sift_record(f, {"codebook": "0f", "max_features": 9}, False),
    ),
    "drawn_set": Format(draw, ("drawn.json",), draw),
}  # fmt: skip
