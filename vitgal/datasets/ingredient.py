"""Sacred ingredient `dataset`: the images that a command works on, and how they are prepared.

Training sets: dataset.gldv2, dataset.gldv2_mini. Test sets: dataset.roxford5k, dataset.rparis6k
(with _1m: and one million distractors), dataset.landmarks_mini.
"""

from pathlib import Path

from sacred import Ingredient

from vitgal.datasets.gldv2 import LandmarkImages, SplitList, load_split
from vitgal.datasets.revisited_lists import TestImages, load_test_lists
from vitgal.datasets.transforms import Augmentation
from vitgal.datasets.two_views import ViewAugmentation

dataset_ingredient = Ingredient("dataset", save_git_info=False)

TEST_SETS = {  # folder below data_path, ground truth in it
    "roxford5k": ("oxford5k", "gnd_roxford5k.pkl"),
    "rparis6k": ("paris6k", "gnd_rparis6k.pkl"),
}
R1M_PATH = "data/revisitop1m/jpg"
MINI_SIZE = 128  # pixels, in training; the drawn photographs have 240 x 320
MINI_TEST_SIZE = 256


@dataset_ingredient.config
def config():
    name = None  # of the set; the named configs set it
    data_path = "data"  # test sets: holds their folders; training: train.csv, train/ and the split
    batch_size = 64  # images at a time; in training, of each process
    num_workers = 4  # processes that read images; 0: none
    pin_mem = True  # page-locked batches, where there is a GPU
    # test sets
    folder = None  # of the set below data_path; holds jpg/ and the ground truth
    gnd = None  # file of the ground truth in that folder
    r1m_path = None  # folder of the distractors; None (or the word None): without
    imsize = 512  # side of the squares that global descriptors are computed from
    keep_aspec_ratio = False  # True: the longer side is imsize and the aspect is kept (sic)
    # training sets
    train_split = "train_split.txt"  # in data_path: lines "path label"
    val_split = "test_split.txt"  # likewise
    input_size = 512  # side of the squares that the network is trained on
    color_jitter = 0.4  # largest change of brightness, contrast, saturation (factor), hue (circle)
    compress_lower = 99  # lowest JPEG quality
    compress_upper = 100  # highest JPEG quality
    shift_limit = 0.2  # largest shift, share of the side
    scale_limit = 0.3  # largest change of the scale
    rotate_limit = 10  # largest angle, degrees
    shift_roate_scale_p = 0.7  # how often shift, scale and rotation are changed (sic)
    cutout_size = 0.25  # side of the black hole, share of input_size
    cutout_p = 0.5  # how often there is a hole
    crop_scale = 0.9  # smallest area of the random crop, share of the image
    crop_p = 0.5  # how often the image is cropped
    # two views of each photograph, where the training's correspondence_weight is above 0; not
    # published: they take the place of the augmentation above
    view_zoom = (0.45, 1.1)  # side of the part of the photograph that a view shows, as a share
    view_rotate_limit = 12.0  # largest angle, degrees
    view_light = 1.0  # strength of the changes of exposure and tint; 0: none


for _name, (_folder, _gnd) in TEST_SETS.items():
    dataset_ingredient.add_named_config(_name, {"name": _name, "folder": _folder, "gnd": _gnd})
    dataset_ingredient.add_named_config(
        f"{_name}_1m",
        {"name": f"{_name}_1m", "folder": _folder, "gnd": _gnd, "r1m_path": R1M_PATH},
    )
# the generated set: small pictures, see vitgal/README.md
dataset_ingredient.add_named_config(
    "landmarks_mini",
    {
        "name": "landmarks_mini",
        "folder": "mini_landmarks",
        "gnd": "gnd_mini_landmarks.pkl",
        "imsize": MINI_TEST_SIZE,
        "num_workers": 2,
    },
)
dataset_ingredient.add_named_config(
    "gldv2", {"name": "gldv2", "data_path": "data/gldv2", "num_workers": 10}
)
dataset_ingredient.add_named_config(
    "gldv2_mini",
    {
        "name": "gldv2_mini",
        "data_path": "data/many_views/mini_gldv2",  # 400 landmarks, 20 views each
        "input_size": MINI_SIZE,
        "batch_size": 32,
        "num_workers": 2,
        # milder than published: a short training from scratch does not get to where these pay
        "color_jitter": 0.1,
        "cutout_p": 0.0,
    },
)


def _require(value: str | None, option: str) -> str:
    if value is None:
        raise ValueError(
            f"dataset.{option} is not set; name a set: dataset.{', dataset.'.join(TEST_SETS)} "
            "or dataset.landmarks_mini for a test, dataset.gldv2 or dataset.gldv2_mini for training"
        )
    return value


@dataset_ingredient.capture
def load_test_images(
    name: str | None, data_path: str, folder: str | None, gnd: str | None, r1m_path: str | None
) -> TestImages:
    """Paths, boxes and ground truth of the configured test set; all benchmark images are there."""
    return load_test_lists(
        _require(name, "name"),
        data_path,
        _require(folder, "folder"),
        _require(gnd, "gnd"),
        r1m_path,
    )


@dataset_ingredient.capture
def load_splits(name: str | None, data_path: str, train_split: str, val_split: str) -> SplitList:
    """Training and validation images of the configured training set."""
    _require(name, "name")
    return load_split(Path(data_path), train_split, val_split)


@dataset_ingredient.capture
def make_augmentation(
    input_size: int,
    color_jitter: float,
    compress_lower: int,
    compress_upper: int,
    shift_limit: float,
    scale_limit: float,
    rotate_limit: float,
    shift_roate_scale_p: float,
    cutout_size: float,
    cutout_p: float,
    crop_scale: float,
    crop_p: float,
) -> Augmentation:
    """The configured augmentation."""
    return Augmentation(
        input_size=input_size,
        color_jitter=color_jitter,
        compress_lower=compress_lower,
        compress_upper=compress_upper,
        shift_limit=shift_limit,
        scale_limit=scale_limit,
        rotate_limit=rotate_limit,
        shift_scale_rotate_p=shift_roate_scale_p,
        cutout_size=cutout_size,
        cutout_p=cutout_p,
        crop_scale=crop_scale,
        crop_p=crop_p,
    )


@dataset_ingredient.capture
def make_view_augmentation(
    input_size: int,
    view_zoom: tuple[float, float],
    view_rotate_limit: float,
    view_light: float,
) -> ViewAugmentation:
    """How two views of a photograph are drawn; ValueError for numbers that make none."""
    smallest, largest = view_zoom
    return ViewAugmentation(input_size, (smallest, largest), view_rotate_limit, view_light).check()


@dataset_ingredient.capture
def make_train_images(
    splits: SplitList, seed: int, input_size: int, two_views: bool = False
) -> LandmarkImages:
    """Training images, augmented from the stream of `seed`; `two_views`: each of them twice."""
    augmentation = make_view_augmentation() if two_views else make_augmentation()
    return LandmarkImages(
        splits.data_path, splits.train_paths, splits.train_labels, input_size, augmentation, seed
    )


@dataset_ingredient.capture
def make_val_images(splits: SplitList, input_size: int) -> LandmarkImages:
    """Validation images: squashed to the input size, nothing else."""
    return LandmarkImages(splits.data_path, splits.val_paths, splits.val_labels, input_size)
