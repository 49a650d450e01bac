"""Hard negatives of every training query by a trained global model, for mining=global (Sec. 3.4).

    python -m r2former.precompute_mining with dataset.msls_rerank \
        resume=r2former/r2former_ckpts/msls_v2_deits.pth

Writes <dataset>_v2_<backbone>_hard_final.npy, (Q, 200) database indices by descending similarity
without the images within 25 m, rows ending with -1, where mining=global looks for it; with
keep_all=True also the first search (hard_init, 500 wide) and the descriptors.
"""

from typing import Any

import torch
from sacred import Experiment

from r2former.datasets.ingredient import dataset_ingredient, load_train_set
from r2former.datasets.transforms import make_database_transform
from r2former.embedding import Reading, embed_images
from r2former.hard_lists import FINAL, INIT, write_lists
from r2former.models.ingredient import load_global_model, model_ingredient
from r2former.training_setup import list_path
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT

ex = Experiment(
    "r2former_precompute_mining",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    # resume=FILE: the trained global model, msls_v2_deits.pth as published
    hard_init = INIT  # columns of the first search
    hard_final = FINAL  # columns that are kept without positives
    keep_all = False  # also write hard_init and the descriptors of database and queries
    seed = 0
    cpu = False  # stay on the CPU where there is a GPU


@ex.capture
def make_reading(cpu: bool, dataset: dict[str, Any]) -> Reading:
    """How images are read, on the device of this process."""
    return Reading(dataset["infer_batch_size"], dataset["num_workers"], start_ranks(cpu))


@ex.automain
def main(resume, hard_init, hard_final, keep_all, seed, dataset, _config):
    torch.manual_seed(seed)
    places, reading = load_train_set(), make_reading()
    net = load_global_model(resume).to(reading.ranks.device)
    transform = make_database_transform(dataset["resize"])
    queries = embed_images(net, places.query_paths, transform, reading, told="queries")
    database = embed_images(net, places.database_paths, transform, reading, told="database")
    soft = places.positives(dataset["val_positive_dist_threshold"])
    origin = {**places.origin(), "weights": str(resume), "resize": list(dataset["resize"])}
    path = list_path(_config)
    if reading.ranks.is_first:
        write_lists(path, queries, database, soft, origin, (hard_init, hard_final), keep_all)
    stop_ranks()
    return str(path)
