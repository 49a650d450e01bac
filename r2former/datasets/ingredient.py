"""Sacred ingredient `dataset`: the set, its protocol, how images are read, how queries are mined.

Options have the names of the published flags; a named config holds what one published command
passes.
"""

from pathlib import Path

from sacred import Ingredient

from r2former.datasets.msls import CITIES, load_msls_test_set, load_msls_train_set
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import (
    Augmentation,
    Transform,
    make_train_transform,
)
from r2former.datasets.vg_folder import list_images, load_folders, load_vg_set

dataset_ingredient = Ingredient("dataset", save_git_info=False)

LAYOUTS = ("msls", "vg", "own")


@dataset_ingredient.config
def config():
    datasets_folder = "data"  # holds one folder per set
    dataset_name = "pitts30k"  # folder of the set
    layout = "msls" if dataset_name == "msls" else "vg"  # msls: csv files; vg: UTM names; own
    split = "val" if layout == "msls" else "test"  # that evaluation measures: train, val, test
    protocol = "official"  # queries of msls: official (740 of val), all_queries; vg: always all
    database_folder = None  # of layout own: any folder of images
    query_folder = None  # of layout own; with @easting@northing@ names there are recalls
    train_cities = list(CITIES["train"])  # of msls
    val_cities = list(CITIES["val"])  # of msls
    test_cities = list(CITIES["test"])  # of msls
    scan_folder = None  # where the scan of msls's csv files is kept; None: the folder of the set
    resize = [480, 640]  # pixels, height and width
    test_method = "hard_resize"  # of queries: single_query, central_crop, five_crops, ...
    majority_weight = 0.01  # of test_method maj_voting
    val_positive_dist_threshold = 25  # metres, radius of positives in evaluation, included
    train_positives_dist_threshold = 10  # metres, radius of positives in training
    recall_values = [1, 5, 10, 20, 100]  # k of recall@k
    infer_batch_size = 16  # images per step of evaluation and mining
    num_workers = 8  # processes that read images; 0: none
    train_batch_size = 4  # groups (query, positive, negatives) per step, all processes together
    mining = "partial"  # partial, full, random, msls_weighted, global, global_combine
    queries_per_epoch = 5000  # a multiple of cache_refresh_rate
    cache_refresh_rate = 1000  # queries per round of mining
    negs_num_per_query = 10  # negatives of a query
    neg_samples_num = 1000  # random database images that negatives are looked for among
    neg_hardness = 10  # of mining global: drawn from the first so many of a query's list
    mining_file = None  # pre-computed list; None: <dataset_name>_v2_<backbone>_hard_final.npy
    brightness = None  # augmentation of training queries, see Augmentation; None: off
    contrast = None  # factor 1 +- x
    saturation = None  # factor 1 +- x
    hue = None  # shift +- x of the colour circle
    rand_perspective = None  # distortion
    random_resized_crop = None  # crops cover at least 1 - x
    random_rotation = None  # degrees
    horizontal_flip = False  # mirror all images of a training batch, or none


# the test sets: folders of the VG benchmark
for folder in ("pitts30k", "pitts250k", "tokyo247", "st_lucia", "nordland", "san_francisco"):
    dataset_ingredient.add_named_config(folder, {"dataset_name": folder})
MSLS = {"dataset_name": "msls", "layout": "msls"}
dataset_ingredient.add_named_config("msls", MSLS)
dataset_ingredient.add_named_config("msls_challenge", MSLS | {"split": "test"})

# the published training commands
LARGE = {"queries_per_epoch": 50_000, "cache_refresh_rate": 10_000, "infer_batch_size": 256}
dataset_ingredient.add_named_config(
    "msls_global", MSLS | LARGE | {"train_batch_size": 16, "negs_num_per_query": 2}
)
RERANK = MSLS | LARGE | {"train_batch_size": 64, "negs_num_per_query": 1}
dataset_ingredient.add_named_config(
    "msls_rerank", RERANK | {"mining": "global", "neg_hardness": 100}
)
dataset_ingredient.add_named_config("msls_rerank_partial", RERANK)
dataset_ingredient.add_named_config(
    "msls_finetune", MSLS | LARGE | {"train_batch_size": 48, "negs_num_per_query": 2}
)
dataset_ingredient.add_named_config("msls_end_to_end", RERANK | {"infer_batch_size": 512})
dataset_ingredient.add_named_config(
    "pitts30k_finetune",
    {
        "dataset_name": "pitts30k",
        "layout": "vg",
        "mining": "full",
        "train_batch_size": 16,
        "negs_num_per_query": 1,
        "infer_batch_size": 256,
    },
)

# the generated streets (data/make_mini.py): smaller images, a small set, two cores
MINI = {"resize": [96, 128], "num_workers": 2, "infer_batch_size": 64}
MINI_STREETS = MINI | {"dataset_name": "mini_streets", "layout": "vg"}
MINI_MSLS = MINI | {
    "dataset_name": "mini_msls",
    "layout": "msls",
    "train_cities": ["arven", "belmora"],
    "val_cities": ["castrel"],
    "test_cities": ["dunmere"],
}
dataset_ingredient.add_named_config("mini_streets", MINI_STREETS)
MINI_TRAINING = MINI_STREETS | {
    "queries_per_epoch": 2000,
    "cache_refresh_rate": 2000,
    "neg_samples_num": 1000,
    "recall_values": [1, 5, 10, 20],
}
dataset_ingredient.add_named_config(
    "mini_global", MINI_TRAINING | {"train_batch_size": 32, "negs_num_per_query": 1}
)
dataset_ingredient.add_named_config(
    "mini_rerank",
    MINI_TRAINING
    | {
        "train_batch_size": 32,
        "negs_num_per_query": 2,
        "mining": "global",
        "neg_hardness": 100,
    },
)
dataset_ingredient.add_named_config(
    "mini_end_to_end", MINI_TRAINING | {"train_batch_size": 32, "negs_num_per_query": 1}
)
dataset_ingredient.add_named_config("mini_msls", MINI_MSLS)


@dataset_ingredient.capture
def load_split(
    split: str,
    datasets_folder: str,
    dataset_name: str,
    layout: str,
    protocol: str,
    database_folder: str | None,
    query_folder: str | None,
    train_cities: list[str],
    val_cities: list[str],
    test_cities: list[str],
    scan_folder: str | None,
    val_positive_dist_threshold: float,
) -> PlaceSet:
    """One split as evaluation sees it: the queries that the protocol counts."""
    if layout == "msls":
        cities = {"train": train_cities, "val": val_cities, "test": test_cities}
        return load_msls_test_set(
            datasets_folder,
            dataset_name,
            split,
            val_positive_dist_threshold,
            protocol,
            cities.get(split),
            scan_folder,
        )
    if layout == "vg":
        return load_vg_set(datasets_folder, dataset_name, split)
    if layout != "own":
        raise ValueError(f"dataset.layout is {layout!r}, expected one of {LAYOUTS}")
    if database_folder is None or query_folder is None:
        raise ValueError(
            "dataset.layout=own needs dataset.database_folder=... and dataset.query_folder=..."
        )
    return load_folders(database_folder, query_folder)


@dataset_ingredient.capture
def load_test_set(split: str) -> PlaceSet:
    """The split of the option `split`."""
    return load_split(split)


@dataset_ingredient.capture
def list_pca_images(folder: str | None, datasets_folder: str, layout: str) -> list[str]:
    """Images for pca_dim: those below <datasets_folder>/<folder>; None: of the training split."""
    if folder is not None:
        return list_images(Path(datasets_folder) / folder)
    if layout == "own":
        raise ValueError(
            "dataset.layout=own has no training split for pca_dim: give pca_dataset_folder=DIR, a "
            "folder of images below dataset.datasets_folder"
        )
    train = load_split("train")
    return [*train.database_paths, *train.query_paths]


def load_val_set() -> PlaceSet:
    """The split that training measures after each epoch."""
    return load_split("val")


@dataset_ingredient.capture
def load_train_set(
    datasets_folder: str,
    dataset_name: str,
    layout: str,
    train_cities: list[str],
    scan_folder: str | None,
    mining: str,
    train_positives_dist_threshold: float,
) -> PlaceSet:
    """The training split: only queries with a positive in `train_positives_dist_threshold`."""
    radius = train_positives_dist_threshold
    if layout == "msls":
        return load_msls_train_set(datasets_folder, dataset_name, radius, train_cities, scan_folder)
    if layout != "vg":
        raise ValueError(f"dataset.layout is {layout!r}, but training needs msls or vg")
    weighted = mining == "msls_weighted"
    return load_vg_set(datasets_folder, dataset_name, "train", weighted).with_positives_only(radius)


@dataset_ingredient.capture
def make_train_transforms(
    resize: list[int],
    brightness: float | None,
    contrast: float | None,
    saturation: float | None,
    hue: float | None,
    rand_perspective: float | None,
    random_resized_crop: float | None,
    random_rotation: float | None,
) -> tuple[Transform, Transform]:
    """Of the other images and of queries (augmented), in training."""
    augmentation = Augmentation(
        brightness,
        contrast,
        saturation,
        hue,
        rand_perspective,
        random_resized_crop,
        random_rotation,
    )
    return make_train_transform(resize), make_train_transform(resize, augmentation)
