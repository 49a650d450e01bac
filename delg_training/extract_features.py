"""Extract the local features of a list of pictures (DELF, ICCV 2017).

    python -m delg_training.extract_features with list_images_path=list_images.txt \
        config_path=delg_scripts/r50delg_gld_config.pbtxt output_dir=test_features

One `.delf` file per picture. Those that have one are kept; the next extraction goes on from there.
"""

from sacred import Experiment

from delg_training.delf_config import load_delf_config
from delg_training.extraction_run import (
    choose_gpu,
    delf_files,
    extract_pictures,
    finish,
    make_shard,
)
from delg_training.picture_lists import list_paths
from utils.paths import REPO_ROOT

ex = Experiment("delg_training_extract_features", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    config_path = "delf_config_example.pbtxt"  # DelfConfig in text form, with local features
    list_images_path = "list_images.txt"  # the path of a picture per line
    output_dir = "test_features"  # <name>.delf of each picture
    shard = None  # which of num_shards equal parts to do; None: as a launcher says, or all
    num_shards = None  # parts of the work, e.g. one per machine
    num_workers = 2  # threads that read pictures ahead
    overwrite = False  # replace features that are there
    allow_missing = False  # end well although pictures are missing; missing.txt lists them
    seed = 0


@ex.automain
def main(
    config_path, list_images_path, output_dir, shard, num_shards, num_workers, overwrite,
    allow_missing,
):  # fmt: skip
    own = make_shard(shard, num_shards)
    delf_config = load_delf_config(config_path)
    pictures = list_paths(list_images_path)
    choose_gpu()
    outcome = extract_pictures(
        pictures, delf_config, output_dir, delf_files, own, num_workers, overwrite
    )
    return finish(outcome, output_dir, own, allow_missing)
