"""Extract DELG features of Revisited Oxford or Paris: queries cropped to their box, or the index.

    python -m delg_scripts.extract_features_revisited with image_set=query \
        delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
        dataset_file_path=data/oxford5k/gnd_roxford5k.pkl images_dir=data/oxford5k/jpg \
        output_features_dir=data/oxford5k/delg_r50_gldv1

Pictures that have all their files are kept. On n machines: shard=0 num_shards=n, shard=1 ...
"""

from sacred import Experiment

from delg_training.delf_config import load_delf_config
from delg_training.extraction_run import choose_gpu, extract_pictures, finish, make_shard
from delg_training.picture_lists import list_revisited
from utils.paths import REPO_ROOT

ex = Experiment(
    "delg_scripts_extract_features_revisited", base_dir=str(REPO_ROOT), save_git_info=False
)


@ex.config
def config():
    delf_config_path = "delg_scripts/r50delg_gld_config.pbtxt"  # DelfConfig in text form
    dataset_file_path = "data/oxford5k/gnd_roxford5k.pkl"  # ground truth, .pkl or .mat
    images_dir = "data/oxford5k/jpg"  # <name>.jpg
    image_set = "query"  # query (cropped to their boxes) or index
    output_features_dir = "data/oxford5k/delg_r50_gldv1"  # <name>.delg_global, <name>.delg_local
    shard = None  # which of num_shards equal parts to do; None: as a launcher says, or all
    num_shards = None  # parts of the work, e.g. one per machine
    num_workers = 2  # threads that read pictures ahead
    overwrite = False  # replace features that are there
    allow_missing = False  # end well although pictures are missing; missing.txt lists them
    seed = 0


@ex.automain
def main(
    delf_config_path, dataset_file_path, images_dir, image_set, output_features_dir, shard,
    num_shards, num_workers, overwrite, allow_missing,
):  # fmt: skip
    own = make_shard(shard, num_shards)
    delf_config = load_delf_config(delf_config_path)
    pictures = list_revisited(dataset_file_path, images_dir, image_set)
    choose_gpu()
    outcome = extract_pictures(
        pictures,
        delf_config,
        output_features_dir,
        shard=own,
        num_workers=num_workers,
        overwrite=overwrite,
    )
    return finish(outcome, output_features_dir, own, allow_missing)
