"""Sacred ingredient `dataset`: images, descriptors and neighbour tables that a command works on."""

from itertools import product
from pathlib import Path

from sacred import Ingredient

from rrt_gld.datasets.image_set import EvalSet, ImageSet, describe_origin
from rrt_gld.datasets.pairs import CachedImages, FileImages
from rrt_gld.datasets.samplers import TripletSampler
from utils.nn_tables import load_nn_inds
from utils.paths import require_file
from utils.revisited import GroundTruth, load_ground_truth

dataset_ingredient = Ingredient("dataset", save_git_info=False)

DESC_NAMES = [f"{net}_{train}" for net, train in product(("r50", "r101"), ("gldv1", "gldv2"))]
EVAL_SETS = {
    "roxford": ("data/oxford5k", "gnd_roxford5k.pkl"),
    "rparis": ("data/paris6k", "gnd_rparis6k.pkl"),
}
TEST_TXT = ("test_query.txt", "test_gallery.txt")
SAMPLERS = {"triplet": "published", "triplet_fast": "vectorised"}


@dataset_ingredient.config
def config():
    name = None  # part of the names of saved checkpoints; the named configs set it
    desc_name = None  # descriptors: {r50,r101}_{gldv1,gldv2}, sift; folder delg_<desc_name>
    train_data_dir = None  # folder of the training set
    test_data_dir = None  # folder of the test set
    train_txt = None  # line list of the training images, in train_data_dir
    test_txt = None  # line lists (query, gallery), in test_data_dir
    test_gnd_file = None  # ground truth of the test set, in test_data_dir
    batch_size = 36  # images per training step, a multiple of 3: batch_size / 3 triplets
    test_batch_size = 36  # accepted and ignored: pairs are scored alone (CPU) or by tokens (GPU)
    max_sequence_len = 500  # local features used per image, strongest first
    train_locals = None  # of these, drawn at random per image and step of training; None: all
    sampler = "random"  # triplet (the published random stream), triplet_fast; random: evaluation
    num_workers = 8  # processes that read training files; 0: none; unused with cache_locals
    pin_memory = True  # page-locked batches, where there is a GPU
    recalls = [1, 5, 10]  # k of mP@k
    num_candidates = 100  # columns of the neighbour table that triplets are drawn from; None: all
    min_positives = 5  # an anchor's row holds at least that many images of its label
    local_mean = None  # .npz with key 'mean', taken off the locals (SIFT); None for DELG
    scale_map = "published"  # published (the released weights need it) or nearest
    cache_locals = False  # keep all training descriptors in memory
    cache_budget_gib = 8.0  # refuse to cache more than this, GiB


for (short, (folder, gnd)), desc in product(EVAL_SETS.items(), DESC_NAMES):
    dataset_ingredient.add_named_config(
        f"{short}_{desc}",
        {
            "name": f"{short}_{desc}",
            "desc_name": desc,
            "train_txt": TEST_TXT[0],
            "train_data_dir": folder,
            "test_txt": TEST_TXT,
            "test_data_dir": folder,
            "test_gnd_file": gnd,
            "sampler": "random",
        },
    )

for desc in DESC_NAMES:
    dataset_ingredient.add_named_config(
        f"gldv2_roxford_{desc}",
        {
            "name": f"gldv2_roxford_{desc}",
            "desc_name": desc,
            "train_txt": "train.txt",
            "train_data_dir": "data/gldv2",
            "test_txt": TEST_TXT,
            "test_data_dir": EVAL_SETS["roxford"][0],
            "test_gnd_file": EVAL_SETS["roxford"][1],
            "sampler": "triplet",
        },
    )

# the generated set (data/make_mini.py) with the descriptors of rrt_gld.tools.extract_sift
MINI_TEST = {
    "desc_name": "sift",
    "test_txt": TEST_TXT,
    "test_data_dir": "data/mini_landmarks",
    "test_gnd_file": "gnd_mini_landmarks.pkl",
    "max_sequence_len": 64,
    "local_mean": "rrt_gld/rrt_gld_ckpts/mini_sift_codebook.npz",
}
dataset_ingredient.add_named_config(
    "mini_sift",
    MINI_TEST
    | {
        "name": "mini_landmarks",
        "train_txt": TEST_TXT[0],
        "train_data_dir": "data/mini_landmarks",
        "sampler": "random",
    },
)
# the same set with the DELG descriptors of delg_training/scripts/extract_mini.sh, 64 numbers wide
dataset_ingredient.add_named_config(
    "mini_delg",
    MINI_TEST
    | {
        "name": "mini_landmarks",
        "desc_name": "mini",
        "train_txt": TEST_TXT[0],
        "train_data_dir": "data/mini_landmarks",
        "sampler": "random",
        "max_sequence_len": 500,
        "local_mean": None,
    },
)
dataset_ingredient.add_named_config(
    "gldv2_mini_sift",
    MINI_TEST
    | {
        "name": "gldv2_mini_sift",
        "train_txt": "train.txt",
        "train_data_dir": "data/mini_gldv2",
        "sampler": "triplet_fast",
        "num_candidates": 1000,  # the first 3 % of the set; a test head of 100 is the first 10 %
        "train_locals": 48,  # else it learns the images by heart
        "min_positives": 1,  # five images a landmark: nobody has five others
        "batch_size": 144,
        "cache_locals": True,
    },
)


def _require(value: object, option: str) -> None:
    if value is None:
        raise ValueError(
            f"dataset.{option} is not set; name a configuration, e.g. dataset.roxford_r50_gldv1, "
            "dataset.gldv2_roxford_r50_gldv1 or dataset.mini_sift"
        )


@dataset_ingredient.capture
def load_image_set(
    data_dir: str,
    txt: str,
    local_dim: int,
    global_dim: int | None,
    desc_name: str | None,
    max_sequence_len: int,
    local_mean: str | None,
    scale_map: str,
) -> ImageSet:
    """The images of one line list, with the configured descriptors."""
    _require(desc_name, "desc_name")
    return ImageSet(
        data_dir,
        txt,
        str(desc_name),
        max_sequence_len,
        local_dim,
        global_dim,
        local_mean,
        scale_map,
    )


def nn_inds_path(data_dir: str | Path, desc_name: str) -> Path:
    """Where the neighbour table of one set and descriptor lies."""
    return Path(data_dir) / f"nn_inds_{desc_name}.pkl"


@dataset_ingredient.capture
def load_test_images(
    local_dim: int,
    global_dim: int | None,
    test_data_dir: str | None,
    test_txt: tuple[str, str] | None,
    test_gnd_file: str | None,
) -> tuple[ImageSet, ImageSet, GroundTruth]:
    """Queries, gallery and ground truth; ValueError when they are not of one set."""
    _require(test_data_dir, "test_data_dir")
    _require(test_txt, "test_txt")
    _require(test_gnd_file, "test_gnd_file")
    gnd_file = Path(str(test_data_dir)) / str(test_gnd_file)
    gnd = load_ground_truth(
        require_file(gnd_file, "data/README.md says where the ground truth comes from")
    )
    queries, gallery = (
        load_image_set(test_data_dir, txt, local_dim, global_dim) for txt in test_txt or ()
    )
    queries.require_names(gnd.qimlist, gnd_file)
    gallery.require_names(gnd.imlist, gnd_file)
    return queries, gallery, gnd


@dataset_ingredient.capture
def load_test_set(
    local_dim: int, global_dim: int | None, test_data_dir: str | None, desc_name: str | None
) -> EvalSet:
    """Images, ground truth, and the ranking made by rrt_gld.tools.prepare_topk_revisited."""
    queries, gallery, gnd = load_test_images(local_dim, global_dim)
    path = require_file(
        nn_inds_path(str(test_data_dir), str(desc_name)),
        "run the global row's script (rrt_scripts/eval_*_global.sh) first",
    )
    origin = describe_origin(str(desc_name), queries, gallery)
    nn_inds = load_nn_inds(path, origin, len(queries), len(gallery), min_k=1)
    return EvalSet(queries, gallery, nn_inds, gnd)


@dataset_ingredient.capture
def load_train_set(
    local_dim: int,
    global_dim: int | None,
    train_data_dir: str | None,
    train_txt: str | None,
    cache_locals: bool,
    cache_budget_gib: float,
) -> tuple[ImageSet, FileImages | CachedImages]:
    """The training images and where their batches come from."""
    _require(train_data_dir, "train_data_dir")
    _require(train_txt, "train_txt")
    images = load_image_set(train_data_dir, train_txt, local_dim, global_dim)
    if not cache_locals:
        return images, FileImages(images)
    return images, CachedImages(images, cache_budget_gib)


@dataset_ingredient.capture
def make_sampler(
    images: ImageSet,
    train_data_dir: str,
    desc_name: str,
    batch_size: int,
    sampler: str,
    num_candidates: int | None,
    min_positives: int,
) -> TripletSampler:
    """Triplets of the training set, from its neighbour table."""
    if sampler not in SAMPLERS:
        raise ValueError(
            f"dataset.sampler is {sampler!r}, but training needs one of {list(SAMPLERS)}; name a "
            "training set, e.g. dataset.gldv2_roxford_r50_gldv1 or dataset.gldv2_mini_sift"
        )
    path = require_file(
        nn_inds_path(train_data_dir, desc_name),
        f"run python -m rrt_gld.tools.prepare_topk_gldv2 with data_dir={train_data_dir} "
        f"feature_name={desc_name} first",
    )
    origin = describe_origin(desc_name, images, images)
    nn_inds = load_nn_inds(path, origin, len(images), len(images), min_k=1)
    stream = SAMPLERS[sampler]
    return TripletSampler(images.labels, nn_inds, batch_size, num_candidates, stream, min_positives)
