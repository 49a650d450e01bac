"""Nearest neighbours of every training image within the training set, for drawing triplets.

    python -m rrt_gld.tools.prepare_topk_gldv2 with feature_name=r50_gldv2

Writes <data_dir>/nn_inds_<feature_name>.pkl, (N, 100) int64. Works in blocks of 2000 images, each
kept as <data_dir>/<feature_name>_nn_<first row>.pkl: an interrupted run goes on with the next one.
The first neighbour is dropped without checking that it is the image itself, as published.
"""

import logging

from sacred import Experiment

from rrt_gld.datasets.image_set import ImageSet, describe_origin
from rrt_gld.datasets.ingredient import nn_inds_path
from rrt_gld.global_retrieval import normalize
from utils import knn
from utils.paths import REPO_ROOT
from utils.row_store import hash_arrays

logger = logging.getLogger(__name__)
ex = Experiment("rrt_gld_prepare_topk_gldv2", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    data_dir = "data/gldv2"  # holds the line list and delg_<feature_name>/
    feature_name = "r50_gldv2"  # descriptors: {r50,r101}_{gldv1,gldv2}, sift
    train_txt = "train.txt"  # line list, in data_dir
    num_neighbours = 100  # columns of the table
    block_rows = 2000  # images per cached block
    overwrite = False  # recompute a table and blocks that were made from other descriptors
    seed = 0


@ex.automain
def main(data_dir, feature_name, train_txt, num_neighbours, block_rows, overwrite):
    images = ImageSet(data_dir, train_txt, feature_name, with_locals=False)
    vectors = normalize(images.global_descriptors())
    origin = describe_origin(feature_name, images, images)
    made_from = {**origin, "fingerprint": hash_arrays(vectors)}
    path = nn_inds_path(data_dir, feature_name)
    k = min(num_neighbours, len(images) - 1)
    if path.is_file() and not overwrite:
        table = knn.load_nn_inds(path, made_from, len(images), len(images), k)
        logger.info("%s was made from these descriptors and is kept", path)
        return {"images": len(images), "neighbours": table.shape[1]}
    # one more than asked for: column 0 is dropped
    table = knn.build_nn_table(
        vectors, k + 1, data_dir, feature_name, made_from, block_rows, overwrite=overwrite
    )[:, 1:]
    knn.save_nn_inds(path, table, made_from)
    return {"images": len(images), "neighbours": k}
