"""Measure the seconds per image that feature extraction takes.

    python -m delg_training.measure_latency with list_images_path=list_images.txt \
        delf_config_path=delg_scripts/r50delg_gld_config.pbtxt

Pictures are read before the clock starts. The first hundred holds the model's warm-up.
"""

from sacred import Experiment

from delg_training.delf_config import load_delf_config
from delg_training.extraction import Extractor
from delg_training.extraction_run import choose_gpu
from delg_training.latency import load_all, measure_seconds
from delg_training.picture_lists import list_paths
from utils.paths import REPO_ROOT

ex = Experiment("delg_training_measure_latency", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    delf_config_path = "delf_config_example.pbtxt"  # DelfConfig in text form
    list_images_path = "list_images.txt"  # the path of a picture per line; all are kept in memory
    repeat_per_image = 10  # how often each picture is extracted
    binary_local_features = False  # also pack the signs of the local descriptors into bits
    seed = 0  # of the order


@ex.automain
def main(delf_config_path, list_images_path, repeat_per_image, binary_local_features, seed, _log):
    delf_config = load_delf_config(delf_config_path)
    images = load_all(list_paths(list_images_path), delf_config)
    choose_gpu()
    seconds = measure_seconds(
        Extractor(delf_config), images, repeat_per_image, binary_local_features, seed
    )
    _log.info("seconds per image, hundred by hundred: %s", ", ".join(f"{s:.4f}" for s in seconds))
    return {"first": seconds[0], "last": seconds[-1]}
