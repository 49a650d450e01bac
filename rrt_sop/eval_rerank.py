"""Rerank the global ranking of products by the pair matcher and print recall@k (RRT, ICCV'21).

    python -m rrt_sop.eval_rerank with dataset.sop_rerank model.resnet50 resume=FILE \
        cache_nn_inds=rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl

Needs the neighbour table that rrt_sop.eval_global writes. An interrupted run goes on where it stood
when the same command is given again.
"""

from pathlib import Path

import numpy as np
import torch
from sacred import Experiment

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.ingredient import dataset_ingredient, load_test_lists, load_train_list
from rrt_sop.evaluation import Evaluation, evaluate_reranked, measure
from rrt_sop.features import Loading
from rrt_sop.models.ingredient import load_model, model_ingredient
from rrt_sop.models.nets import Net
from rrt_sop.product_page import write_product_page
from rrt_sop.reranking import PUBLISHED_DEPTH
from rrt_sop.result_record import make_reranked_record
from rrt_sop.retrieval import TableFiles, Tables, neighbour_origin, save_tables
from rrt_sop.rows import load_row, make_gain_rows, make_recall_rows
from utils.distributed import Ranks, observe_first_rank_only, start_ranks, stop_ranks
from utils.nn_tables import load_nn_inds
from utils.paths import REPO_ROOT, hash_file, require_file
from utils.result_files import describe_checkpoint, finish

ex = Experiment(
    "rrt_sop_eval_rerank",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    cpu = False  # stay on the CPU where there is a GPU
    cudnn_flag = "benchmark"  # benchmark or deterministic
    temp_dir = "logs/temp"  # gets nn_inds.pkl and nn_dists.pkl (logits); maps until the run is over
    resume = None  # checkpoint with the weights; required
    untrained = False  # in its place: fresh heads and the backbone's own weights, before training
    cache_nn_inds = "caches/sop/nn_inds_test.pkl"  # neighbour table of rrt_sop.eval_global
    top_k = 100  # columns that are reranked and kept; published: 100
    precision = "float32"  # float32 or bf16 (the matcher's linear maps: faster, not for the table)
    page = False  # write page.html to temp_dir: ranked lists before and after
    row = None  # script whose expected values the result is held against; None: none
    strict = False  # exit code 3 when a row is outside its tolerance
    seed = 0


@ex.capture
def load_table(queries: ImageList, gallery: ImageList | None, cache_nn_inds: str) -> np.ndarray:
    """(Q, K) neighbours by global features, after checking that they are of these images."""
    hint = "run the global row's script (rrt_scripts/eval_global_*.sh) first"
    path = require_file(cache_nn_inds, hint)
    searched = queries if gallery is None else gallery
    origin = neighbour_origin(queries, gallery)
    return load_nn_inds(path, origin, len(queries), len(searched), min_k=1)


@ex.capture
def load_net(resume: str | None, untrained: bool, seed: int) -> Net:
    """The network with the checkpoint's weights, or with fresh ones on request."""
    torch.manual_seed(seed)
    return load_model(resume, load_train_list().num_classes if untrained else None)


@ex.capture
def save(
    queries: ImageList,
    gallery: ImageList | None,
    before: np.ndarray,
    found: Evaluation,
    ranks: Ranks,
    temp_dir: str,
    resume: str | None,
    top_k: int,
    precision: str,
    cache_nn_inds: str,
    page: bool,
    row: str | None,
    strict: bool,
    dataset: dict,
    model: dict,
    _run: object,
) -> None:
    """Reranked table, rows with the gain over the global ranking, page."""
    head = before[:, : found.nn_inds.shape[1]]
    ks = tuple(dataset["recalls"])
    base = measure(head, found.values, queries, gallery, ks)
    protocol = f"{resume or 'UNTRAINED heads'}, first {head.shape[1]} reranked"
    origin = neighbour_origin(queries, gallery) | {"ranking": f"reranked by {resume}"}
    save_tables(TableFiles(temp_dir, origin), Tables(found.values, found.nn_inds))
    as_published = top_k == PUBLISHED_DEPTH and precision == "float32"
    expected = row if as_published else None
    gains = make_gain_rows(base.first_hits, found, ks, protocol)
    rows = [*make_recall_rows(found, expected, protocol), *gains]
    method = {"model": model["arch"], "top_k": top_k, "precision": precision}
    method |= describe_checkpoint(resume) | {"neighbour_table_sha256": hash_file(cache_nn_inds)}
    record = make_reranked_record(queries, gallery, base, found, method, ranks)
    if page:
        facts = {
            "weights": resume or "UNTRAINED heads",
            "queries": len(queries),
            "top_k": head.shape[1],
        }
        write_product_page(Path(temp_dir) / "page.html", record.lists, rows, facts)
    finish(_run, rows, record, expected, strict)


@ex.automain
def main(cpu, cudnn_flag, temp_dir, top_k, precision, row, dataset):
    load_row(row)  # a name that is not known ends the run before the work
    torch.backends.cudnn.deterministic = cudnn_flag == "deterministic"
    queries, gallery = load_test_lists()
    nn_inds = load_table(queries, gallery)
    ranks = start_ranks(cpu)
    net = load_net().to(ranks.device)
    ks = tuple(dataset["recalls"])
    loading = Loading(dataset["test_batch_size"], dataset["num_workers"], dataset["pin_memory"])
    found = evaluate_reranked(
        net, queries, gallery, nn_inds, top_k, ks, ranks, loading, temp_dir, precision
    )
    stop_ranks()
    if ranks.is_first:
        save(queries, gallery, nn_inds, found, ranks)
    return {**found.metrics, "top_k": top_k}
