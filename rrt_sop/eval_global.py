"""Rank products by global features: recall@k and the neighbour table (RRT, ICCV'21).

    python -m rrt_sop.eval_global with dataset.sop_global model.resnet50 resume=FILE

`query_set=train` makes the neighbour table that the rerank stages are trained with. An interrupted
run goes on where it stood when the same command is given again.
"""

import torch
from sacred import Experiment

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.ingredient import (
    dataset_ingredient,
    load_test_lists,
    load_train_list,
    load_train_list_for_testing,
)
from rrt_sop.evaluation import evaluate_global
from rrt_sop.features import Loading
from rrt_sop.models.ingredient import load_model, model_ingredient
from rrt_sop.models.nets import Net
from rrt_sop.result_record import make_global_record
from rrt_sop.retrieval import TableFiles, neighbour_origin
from rrt_sop.rows import load_row, make_recall_rows
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT
from utils.result_files import describe_checkpoint, finish

ex = Experiment(
    "rrt_sop_eval_global",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    cpu = False  # stay on the CPU where there is a GPU
    cudnn_flag = "benchmark"  # benchmark or deterministic
    temp_dir = "outputs/temp"  # gets nn_inds.pkl and nn_dists.pkl; features until the run is over
    resume = None  # checkpoint with the weights; required
    untrained = False  # in its place: fresh heads and the backbone's own weights, before training
    query_set = "test"  # test, or train: the training list, against itself
    nn_inds_copy = None  # the neighbour table goes to this path too
    row = None  # script whose expected values the result is held against; None: none
    strict = False  # exit code 3 when a row is outside its tolerance
    seed = 0


@ex.capture
def load_lists(query_set: str) -> tuple[ImageList, ImageList | None]:
    """Queries and gallery; None where the queries are matched against each other."""
    if query_set not in ("test", "train"):
        raise ValueError(f"query_set is {query_set!r}, expected 'test' or 'train'")
    return load_test_lists() if query_set == "test" else (load_train_list_for_testing(), None)


@ex.capture
def load_net(resume: str | None, untrained: bool, seed: int) -> Net:
    """The network with the checkpoint's weights, or with fresh ones on request."""
    torch.manual_seed(seed)
    return load_model(resume, load_train_list().num_classes if untrained else None)


@ex.automain
def main(
    cpu, cudnn_flag, temp_dir, resume, query_set, nn_inds_copy, row, strict, dataset, model, _run
):
    load_row(row)  # a name that is not known ends the run before the work
    torch.backends.cudnn.deterministic = cudnn_flag == "deterministic"
    queries, gallery = load_lists()
    ranks = start_ranks(cpu)
    net = load_net().to(ranks.device)
    ks = tuple(dataset["recalls"])
    loading = Loading(dataset["test_batch_size"], dataset["num_workers"], dataset["pin_memory"])
    origin = {**neighbour_origin(queries, gallery), "weights": str(resume)}
    files = TableFiles(temp_dir, origin, nn_inds_copy) if ranks.is_first else None
    found = evaluate_global(net, queries, gallery, ks, ranks, loading, temp_dir, files)
    stop_ranks()
    protocol = f"{resume or 'UNTRAINED heads'}, {query_set} list, global features"
    if ranks.is_first:
        method = {"model": model["arch"], "precision": "float32", **describe_checkpoint(resume)}
        record = make_global_record(queries, gallery, found, method, ranks)
        finish(_run, make_recall_rows(found, row, protocol), record, row, strict)
    return found.metrics
