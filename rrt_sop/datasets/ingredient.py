"""Sacred ingredient `dataset`: list files, images, samplers and neighbour tables of a command."""

import logging

from sacred import Ingredient

from rrt_sop.datasets.image_list import ImageList, Transform, share_labels
from rrt_sop.datasets.keypoint_list import KeypointList
from rrt_sop.datasets.samplers import (
    NUM_CANDIDATES,
    RandomIdSampler,
    Sampler,
    ShuffleSampler,
    TripletSampler,
)
from rrt_sop.datasets.transforms import make_test_transform, make_train_transform
from utils.nn_tables import load_nn_inds
from utils.paths import require_file

logger = logging.getLogger(__name__)
dataset_ingredient = Ingredient("dataset", save_git_info=False)

SAMPLERS = ("random", "random_id", "triplet")
TRAIN_IMAGES = 59551  # of Stanford Online Products
CACHES = "rrt_sop/rrt_sop_caches"


@dataset_ingredient.config
def config():
    name = "sop"  # part of the names of saved checkpoints
    data_path = "data/Stanford_Online_Products"  # folder of the lists and their images
    train_file = "train.txt"  # list of the training images, in data_path
    test_file = "test.txt"  # list of the test images; or two lists: queries, gallery
    batch_size = 128  # images per training step, all processes together
    num_candidates = NUM_CANDIDATES  # nearest images that a triplet's negative is one of
    random_negatives = 0.0  # share of triplets whose negative is any other product; published: 0
    sample_per_id = 2  # images per identity in a batch of random_id; divides batch_size
    test_batch_size = 256  # images per step of evaluation
    sampler = "random"  # random_id (global), triplet (reranking), random: plain shuffling
    num_workers = 8  # processes that read images; 0: none
    pin_memory = True  # page-locked batches, where there is a GPU
    crop_size = 224  # pixels, side of the random training crops
    smallest_crop = 0.08  # share of the image's area that such a crop covers at least
    test_resize = 256  # pixels, side that test images are squeezed to; published: 256
    test_crop = 224  # pixels, side of their centre crop; published: 224
    recalls = [1, 10, 100, 1000]  # k of recall@k
    num_identities = batch_size // max(1, sample_per_id)  # identities in a batch of random_id
    num_iterations = TRAIN_IMAGES // batch_size  # batches per epoch of random_id
    train_cache_nn_inds = None  # neighbour table of the training list, for triplet
    keypoints = None  # file of SuperPoint keypoints: images come grey and with them, not cropped
    test_cache_nn_inds = None  # accepted and ignored: the command's own cache_nn_inds is read


dataset_ingredient.add_named_config(
    "sop_global",
    {"name": "sop_global", "batch_size": 800, "test_batch_size": 800, "sampler": "random_id"},
)
dataset_ingredient.add_named_config(
    "sop_rerank",
    {
        "name": "sop_rerank",
        "batch_size": 300,
        "test_batch_size": 600,
        "sampler": "triplet",
        "recalls": [1, 10, 100],
        "train_cache_nn_inds": f"{CACHES}/rrt_r50_sop_nn_inds_train.pkl",
        "test_cache_nn_inds": f"{CACHES}/rrt_r50_sop_nn_inds_test.pkl",
    },
)

# descriptors at SuperPoint keypoints, with model.superpoint
dataset_ingredient.add_named_config(
    "sop_superpoint",
    {
        "name": "sop_superpoint",
        "batch_size": 96,
        "test_batch_size": 96,
        "sampler": "triplet",
        "recalls": [1, 10, 100],
        "keypoints": f"{CACHES}/superpoint_sop_320_500.pkl",
        "train_cache_nn_inds": f"{CACHES}/superpoint_sop_nn_inds_train.pkl",
        "test_cache_nn_inds": f"{CACHES}/superpoint_sop_nn_inds_test.pkl",
    },
)

# the generated products (data/make_mini.py): smaller images, a small set, two cores
MINI = {
    "data_path": "data/mini_products",
    "crop_size": 96,
    "smallest_crop": 0.3,
    "test_resize": 108,
    "test_crop": 96,
    "num_workers": 2,
    "recalls": [1, 10, 100],
}
dataset_ingredient.add_named_config(
    "mini_global",
    MINI
    | {
        "name": "mini_global",
        "batch_size": 128,
        "test_batch_size": 128,
        "sampler": "random_id",
        "num_iterations": 50,
    },
)
dataset_ingredient.add_named_config(
    "mini_rerank",
    MINI
    | {
        "name": "mini_rerank",
        "batch_size": 96,
        "test_batch_size": 128,
        "sampler": "triplet",
        "train_cache_nn_inds": f"{CACHES}/mini_nn_inds_train.pkl",
        "test_cache_nn_inds": f"{CACHES}/mini_nn_inds_test.pkl",
    },
)


@dataset_ingredient.capture
def load_list(
    list_file: str, transform: Transform, data_path: str, keypoints: str | None
) -> ImageList:
    """The images of one list; with `keypoints` they come grey, with them, and unchanged."""
    if keypoints is not None:
        return KeypointList(data_path, list_file, keypoints)
    return ImageList(data_path, list_file, transform)


@dataset_ingredient.capture
def load_train_list(train_file: str, crop_size: int, smallest_crop: float) -> ImageList:
    """The training images with random crops and mirroring."""
    return load_list(train_file, make_train_transform(crop_size, smallest_crop))


@dataset_ingredient.capture
def load_train_list_for_testing(train_file: str, test_resize: int, test_crop: int) -> ImageList:
    """The training images as test images look: for their neighbour table."""
    return load_list(train_file, make_test_transform(test_resize, test_crop))


@dataset_ingredient.capture
def load_test_lists(
    test_file: str | list[str], test_resize: int, test_crop: int
) -> tuple[ImageList, ImageList | None]:
    """Queries and gallery; None where the queries are matched against each other."""
    transform = make_test_transform(test_resize, test_crop)
    if isinstance(test_file, str):
        return load_list(test_file, transform), None
    if len(test_file) != 2:
        raise ValueError(
            f"dataset.test_file is {list(test_file)}, expected one list file or two of them "
            "(queries, gallery)"
        )
    queries, gallery = (load_list(name, transform) for name in test_file)
    share_labels(queries, gallery)
    return queries, gallery


@dataset_ingredient.capture
def make_sampler(
    images: ImageList,
    sampler: str,
    batch_size: int,
    num_identities: int,
    num_iterations: int,
) -> Sampler:
    """The batches of the training images by the option `sampler`."""
    if sampler == "random":
        return ShuffleSampler(len(images), batch_size)
    if sampler == "random_id":
        if num_identities < 1 or batch_size % num_identities:
            raise ValueError(
                f"dataset.batch_size={batch_size} is not divisible by num_identities="
                f"{num_identities}; choose sample_per_id (or num_identities) so that it is"
            )
        return RandomIdSampler(
            images.labels, batch_size, batch_size // num_identities, num_iterations
        )
    if sampler == "triplet":
        return make_triplet_sampler(images)
    raise ValueError(f"dataset.sampler is {sampler!r}, expected one of {SAMPLERS}")


@dataset_ingredient.capture
def make_triplet_sampler(
    images: ImageList,
    train_cache_nn_inds: str | None,
    batch_size: int,
    num_candidates: int,
    random_negatives: float,
    data_path: str,
) -> TripletSampler:
    """Triplets from the neighbour table of the training images."""
    remedy = (
        "run rrt_scripts/nn_inds_train_r50.sh (or the one of your model) first and put its "
        "nn_inds.pkl there"
    )
    if train_cache_nn_inds is None:
        raise ValueError(
            "dataset.train_cache_nn_inds is not set, but the sampler 'triplet' needs the "
            f"neighbour table of the training images: {remedy}, or name dataset.sop_rerank"
        )
    path = require_file(train_cache_nn_inds, remedy)
    table = load_nn_inds(path, images.origin(), len(images), len(images), min_k=1)
    made = TripletSampler(images.labels, table, batch_size, num_candidates, random_negatives)
    if made.skipped:
        logger.warning(
            "%d of %d images of %s are no anchors: single images of their identity, or without a "
            "neighbour of another one",
            made.skipped, len(images), data_path,
        )  # fmt: skip
    return made
