"""Extract DELG features of Google Landmarks, for the reranking transformer (RRT, ICCV 2021).

    python -m delg_scripts.extract_features_gld with \
        delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
        output_features_dir=data/gldv2/delg_r50_gldv1

Pictures that have all their files are kept. On n machines: shard=0 num_shards=n, shard=1 ...
"""

from sacred import Experiment

from delg_training.delf_config import load_delf_config
from delg_training.extraction_run import choose_gpu, extract_pictures, finish, make_shard
from delg_training.picture_lists import list_landmarks
from utils.paths import REPO_ROOT

ex = Experiment("delg_scripts_extract_features_gld", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    delf_config_path = "delg_scripts/r50delg_gld_config.pbtxt"  # DelfConfig in text form
    dataset_file_path = "data/gldv2/train.txt"  # relative/path.jpg,label,width,height per line
    images_dir = "data/gldv2"  # the paths start here
    output_features_dir = "data/gldv2/delg_r50_gldv1"  # <name>.delg_global, <name>.delg_local
    shard = None  # which of num_shards equal parts to do; None: as a launcher says, or all
    num_shards = None  # parts of the work, e.g. one per machine
    num_workers = 2  # threads that read pictures ahead
    overwrite = False  # replace features that are there
    allow_missing = True  # end well although pictures are missing; missing.txt lists them
    seed = 0


@ex.automain
def main(
    delf_config_path, dataset_file_path, images_dir, output_features_dir, shard, num_shards,
    num_workers, overwrite, allow_missing,
):  # fmt: skip
    own = make_shard(shard, num_shards)
    delf_config = load_delf_config(delf_config_path)
    pictures = list_landmarks(dataset_file_path, images_dir)
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
