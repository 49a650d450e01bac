"""What the systems write, on a few made-up images: each stage can be cut short and run again."""

import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import r2former.features
import rrt_sop.features
import search.store
from data import make_mini
from delg_training.pair_scoring import save_counts
from r2former.datasets.msls import load_msls
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import make_database_transform
from r2former.hard_lists import save_list
from rrt_gld.sift import WORDS, Codebook
from rrt_gld.tools.extract_sift import extract_all, list_pictures, save_codebook
from rrt_sop.datasets.archive import extract as extract_archive
from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.transforms import make_train_transform
from rrt_sop.frozen_views import make_frozen_views
from rrt_sop.models.network import RerankNet
from rrt_sop.retrieval import TableFiles, Tables, save_tables
from rrt_sop.training import RerankStage
from search.store import Store as SearchStore
from tests.drills.formats_lists import make_msls
from tests.drills.formats_runs import tiny_place_net
from tests.drills.formats_stores import (
    MADE_FROM,
    PICTURES,
    WIDTH,
    local_features,
    make_ranking,
    values,
)  # fmt: skip
from tests.drills.formats_utils import checkpoint, make_tar
from tests.drills.interruptions import Outcome, Stage, all_files
from tests.r2former.street_folders import write_image
from tests.rrt_sop.image_folders import write_products, zip_folder
from tests.rrt_sop.small_networks import MODEL, use_thin_backbone
from tests.rrt_sop.test_features import Counting, mean_twice
from tests.search.made_up import describe, make_photos
from utils.checkpoints import convert, save_checkpoint
from utils.downloads import download, unpack_tar
from utils.knn import build_nn_table
from utils.row_store import Resumption
from vitgal.datasets.revisited_images import Photograph
from vitgal.descriptor_files import load_or_extract
from vitgal.stores import CompactStore, PublishedStore

# marks are set after few images, so that a run has many of them
rrt_sop.features.SAVE_EVERY = r2former.features.SAVE_EVERY = 2
search.store.CHUNK = 2
use_thin_backbone()


def nothing(_: Path) -> None:
    """No inputs."""


# ---------------------------------------------------------------------------- tables


def build_table(_: Path, out: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    build_nn_table(vectors, 3, out, "set", {}, block_rows=8, progress=False, device="cpu")


def write_neighbours(_: Path, out: Path) -> None:
    table = np.arange(12).reshape(3, 4)
    files = TableFiles(out, {"set": "x"}, out / "copy.pkl")
    save_tables(files, Tables(table.astype(np.float32), table))


PLACES = PlaceSet("toy", "", [f"d{i}.jpg" for i in range(9)], [f"q{i}.jpg" for i in range(4)])


def write_hard_lists(_: Path, out: Path) -> None:
    save_list(out / "hard_final.npy", np.arange(20, dtype=np.int32).reshape(4, 5), PLACES.origin())


def write_rankings(_: Path, out: Path) -> None:
    make_ranking(out, "rank.npy")
    make_ranking(out, "rank.npz")


def write_counts(_: Path, out: Path) -> None:
    save_counts(out / "inliers.npz", {"x": 1}, np.ones((3, 2), int), np.arange(3))


def scan_msls(inputs: Path, out: Path) -> None:
    load_msls(inputs, "msls", "val", ("cph",), out, check_images=False)


# ---------------------------------------------------------------------------- rows of features


def extract_products(_: Path, out: Path) -> None:
    store = rrt_sop.features.Store((10, 2), out / "features.npy", {"weights": "0f"})
    loading = rrt_sop.features.Loading(batch_size=2, progress=False)
    rrt_sop.features.extract(mean_twice, Counting(10), store, loading)


def extract_frozen(inputs: Path, out: Path) -> None:
    torch.manual_seed(0)
    sizes = {key: value for key, value in MODEL.items() if key != "pretrained"}
    net = RerankNet(**sizes, num_classes=8, freeze_backbone=True)
    images = ImageList(inputs, "train.txt", make_train_transform(40))
    loading = rrt_sop.features.Loading(batch_size=8, progress=False)
    make_frozen_views(net, images, 1, 7, out, loading, RerankStage())


def write_streets(inputs: Path) -> None:
    for number in range(6):
        write_image(inputs / f"{number}.jpg", number, (20, 16))


def extract_places(inputs: Path, out: Path) -> None:
    folder = Resumption(out, {"weights": "0f"})
    loading = r2former.features.Loading(batch_size=2, progress=False)
    extraction = r2former.features.Extraction(tiny_place_net().eval(), loading, folder=folder)
    paths = sorted(str(path) for path in inputs.glob("*.jpg"))
    extraction.extract(paths, make_database_transform((16, 16)), "streets", with_local=True)


def write_photographs(inputs: Path) -> None:
    for name in PICTURES:
        (inputs / name).write_bytes(b"x")


def extract_global(inputs: Path, out: Path) -> None:
    def fill(part: list[Photograph], rows: np.ndarray) -> None:
        first = PICTURES.index(part[0].path.name)
        rows[:] = values()[first : first + len(part)]

    photographs = [Photograph(inputs / name, None) for name in PICTURES]
    load_or_extract(out, "query", photographs, WIDTH, {}, fill, shard=2)


# ---------------------------------------------------------------------------- local features


def save_missing(store: Any, inputs: Path) -> None:
    for number in range(6):
        path = str(inputs / f"{number}.jpg")
        if not store.has(path):
            store.save(path, local_features(number))


def fill_published(inputs: Path, out: Path) -> None:
    save_missing(PublishedStore(out / "D", out / "L", inputs), inputs)


def fill_compact(inputs: Path, out: Path, kind: str) -> None:
    save_missing(CompactStore(out, inputs, kind), inputs)


def extend_search(_: Path, out: Path) -> None:
    for count in (3, 7):
        SearchStore(out, MADE_FROM).extend(make_photos(count), describe, progress=False)


def write_pictures(inputs: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(4):
        coarse = draw.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (120, 96), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(inputs / f"{number}.png"), picture)
    centres = draw.random((WORDS, 128), np.float32)
    save_codebook(inputs / "book.npz", Codebook(centres, centres.mean(axis=0)))


def extract_sift(inputs: Path, out: Path) -> None:
    extract_all(list_pictures(inputs, None, None), out, inputs / "book.npz", 40)


# ---------------------------------------------------------------------------- other files


def save_net(_: Path, out: Path) -> None:
    save_checkpoint(out / "net.pt", **checkpoint())


def convert_net(inputs: Path, out: Path) -> None:
    convert(inputs / "net.pt", out / "net.safetensors", overwrite=True)


def fetch(inputs: Path, out: Path) -> None:
    archive = download((inputs / "a.tar").as_uri(), out / "a.tar")
    unpack_tar(archive, out / "jpg", lambda path: path)


def write_archive(inputs: Path) -> None:
    zip_folder(write_products(inputs / "set", 2, 1, 2, 8), inputs / "a.zip")


def unpack_archive(inputs: Path, out: Path) -> None:
    extract_archive(inputs / "a.zip", out, "Ebay_train.txt", ("Ebay_train.txt",))


def draw_landmarks(_: Path, out: Path) -> None:
    sizes = ["--queries", "1", "--views", "2", "--distractors", "1", "--train-landmarks", "2"]
    code = make_mini.main(["landmarks", "--out", str(out), *sizes, "--workers", "1"])
    if code:
        raise RuntimeError("make_mini ended with exit code 1; it has told why")


def scan_files(out: Path) -> Outcome:
    """All files; of .npz files, which hold the time of their writing, the arrays."""
    found = all_files(out)
    for name in [name for name in found if name.endswith(".npz")]:
        with zipfile.ZipFile(out / name) as archive:
            sums = {info.filename: info.CRC for info in archive.infolist()}
        found[name] = json.dumps(sums)
    return found


STAGES = {
    "knn_cache": Stage(nothing, build_table),
    "neighbour_table": Stage(nothing, write_neighbours),
    "hard_lists": Stage(nothing, write_hard_lists),
    "rankings": Stage(nothing, write_rankings, scan_files),
    "inlier_counts": Stage(nothing, write_counts, scan_files),
    "msls_scan": Stage(make_msls, scan_msls, scan_files),
    "rrt_sop_features": Stage(nothing, extract_products),
    "frozen_views": Stage(lambda inputs: write_products(inputs), extract_frozen),
    "r2former_features": Stage(write_streets, extract_places),
    "vitgal_global": Stage(write_photographs, extract_global),
    "vitgal_published": Stage(nothing, fill_published),
    "vitgal_compact_float16": Stage(nothing, partial(fill_compact, kind="float16")),
    "vitgal_compact_int8": Stage(nothing, partial(fill_compact, kind="int8")),
    "search_index": Stage(nothing, extend_search),
    "sift_features": Stage(write_pictures, extract_sift),
    "checkpoint": Stage(nothing, save_net),
    "safetensors": Stage(
        lambda inputs: save_checkpoint(inputs / "net.pt", **checkpoint()), convert_net
    ),
    "download": Stage(partial(make_tar, name="a.tar"), fetch),
    "zip_archive": Stage(write_archive, unpack_archive),
    "drawn_landmarks": Stage(nothing, draw_landmarks, drills=("kill",)),
}
