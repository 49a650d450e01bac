"""Write the list files `path,class_id` of Stanford Online Products, unpacking it where needed.

    python -m rrt_sop.prepare_data                         # fetches the official zip
    python -m rrt_sop.prepare_data with sop_url=FILE.zip   # or a zip, or an unpacked folder
    python -m rrt_sop.prepare_data with mini               # the generated products

Fetching and unpacking go on where an earlier call was interrupted.
"""

# ruff: noqa: F841 (sacred reads the locals of the config scope)

from pathlib import Path

from sacred import Experiment

from rrt_sop.datasets.preparation import Counts, obtain, write_lists
from utils.paths import REPO_ROOT

ex = Experiment("rrt_sop_prepare_data", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    sop_dir = "data/Stanford_Online_Products"  # gets the images and the lists
    # address, zip or unpacked folder; used only where sop_dir does not hold the official lists
    sop_url = "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip"
    train_file = "train.txt"  # list of the training images, written to sop_dir
    test_file = "test.txt"  # list of the test images, likewise
    train_images = 59551  # expected numbers, see also the next three; None: any
    train_classes = 11318  # classes of the training list
    test_images = 60502  # images of the test list
    test_classes = 11316  # classes of the test list
    overwrite = False  # replace lists that are there with other content
    seed = 0


ex.add_named_config(
    "mini",
    {
        "sop_dir": "data/mini_products",
        "sop_url": None,
        "train_images": None,
        "train_classes": None,
        "test_images": None,
        "test_classes": None,
    },
)


@ex.automain
def main(
    sop_dir,
    sop_url,
    train_file,
    test_file,
    train_images,
    train_classes,
    test_images,
    test_classes,
    overwrite,
):
    obtain(Path(sop_dir), sop_url)
    files = {"train": train_file, "test": test_file}
    counts = {
        "train": Counts(train_images, train_classes),
        "test": Counts(test_images, test_classes),
    }
    return write_lists(Path(sop_dir), files, counts, overwrite)
