"""Recall@k of place recognition before and after reranking (R2Former, CVPR'23).

    python -m r2former.evaluate with dataset.msls \\
        resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth
    python -m r2former.evaluate with dataset.layout=own dataset.database_folder=DIR \\
        dataset.query_folder=DIR resume=FILE

An interrupted run goes on where it stood when the same command is given again. Where positions are
unknown (MSLS's challenge, own folders without UTM names) it writes ranked lists and no recall.
"""

from pathlib import Path
from typing import Any

import torch
from sacred import Experiment

from r2former.datasets.ingredient import dataset_ingredient, list_pca_images, load_test_set
from r2former.datasets.place_set import PlaceSet
from r2former.embedding import Reading
from r2former.evaluation import Evaluation, Settings, evaluate
from r2former.features import Loading
from r2former.models.ingredient import load_global_model, load_model, model_ingredient
from r2former.models.network import R2Former
from r2former.place_page import draw_matches, make_lists, write_place_page
from r2former.ranked_lists import write_ranked_lists
from r2former.reduction import reduce_by_pca
from r2former.result_record import make_record
from r2former.rows import load_row, make_recall_rows, query_values
from utils.distributed import Ranks, observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT
from utils.result_files import describe_checkpoint, finish

ex = Experiment(
    "r2former_evaluate",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    cpu = False  # stay on the CPU where there is a GPU
    resume = None  # checkpoint with the weights; required
    untrained = False  # in its place: the weights that training starts from
    rerank = True  # False: global descriptors only (msls_v2_deits.pth, CNNs, crop methods)
    top_k = 100  # candidates that are reranked; published: 100
    precision = "float32"  # of pair scores: float32 or bf16 (faster, not for the table)
    pca_dim = None  # rerank=False: descriptors reduced to so many principal components; None: not
    pca_dataset_folder = None  # images for that, below dataset.datasets_folder; None: train split
    local_dtype = "float32"  # of stored local features: float32 or float16 (half the disk)
    temp_dir = "logs/r2former_evaluate"  # features until the run is over; lists and page
    save_lists = False  # write global.csv and rerank.csv also where recall is measured
    page = False  # write page.html: ranked lists before and after, matched patches
    row = None  # script whose expected values the result is held against; None: none
    strict = False  # exit code 3 when a row is outside its tolerance
    seed = 0


@ex.capture
def load_net(resume: str | None, untrained: bool, rerank: bool, seed: int) -> torch.nn.Module:
    """The network with the checkpoint's weights, or with those before training on request."""
    if resume is None and not untrained:
        raise ValueError(
            "resume is not set: give the checkpoint to evaluate, e.g. resume=r2former/"
            "r2former_ckpts/CVPR23_DeitS_Rerank.pth (r2former/README.md says where it comes from), "
            "or untrained=True"
        )
    torch.manual_seed(seed)
    return load_model(resume) if rerank else load_global_model(resume)


@ex.capture
def reduce(
    net: torch.nn.Module,
    ranks: Ranks,
    pca_dim: int | None,
    pca_dataset_folder: str | None,
    seed: int,
    dataset: dict,
) -> torch.nn.Module:
    """The network, its descriptors reduced on request."""
    if pca_dim is None:
        return net
    reading = Reading(dataset["infer_batch_size"], dataset["num_workers"], ranks)
    paths = list_pca_images(pca_dataset_folder)
    return reduce_by_pca(net, paths, pca_dim, dataset["resize"], reading, seed)


@ex.capture
def make_settings(
    rerank: bool, top_k: int, precision: str, local_dtype: str, pca_dim: int | None, dataset: dict
) -> Settings:
    """How the set is measured."""
    return Settings(
        resize=tuple(dataset["resize"]),
        test_method=dataset["test_method"],
        majority_weight=dataset["majority_weight"],
        recall_values=tuple(dataset["recall_values"]),
        radius=float(dataset["val_positive_dist_threshold"]),
        rerank=rerank,
        top_k=top_k,
        precision=precision,
        local_dtype=local_dtype,
        pca_dim=pca_dim,
    )


@ex.capture
def save(
    net: torch.nn.Module,
    places: PlaceSet,
    found: Evaluation,
    settings: Settings,
    resume: str | None,
    temp_dir: str,
    save_lists: bool,
    page: bool,
    row: str | None,
    strict: bool,
    seed: int,
    dataset: dict,
    model: dict,
    _log: Any,
    _run: Any,
) -> None:
    """Rows, ranked lists, page, timings. Other protocols have no expected value."""
    weights = resume or "UNTRAINED"
    tabled = settings.is_tabled(tuple(model["img_size"])) and dataset["protocol"] == "official"
    expected = row if tabled else None
    values = query_values(found, places, settings)
    rows = make_recall_rows(found, values, expected, weights)
    lists = make_lists(places, found, seed)
    drawer = net if page and isinstance(net, R2Former) else None
    pictures = draw_matches(drawer, places, found, settings, seed)
    _run.info["seconds"] = found.seconds
    for what, value in found.seconds.items():
        _log.info("%s: %.2f ms", what, 1000 * value)
    if save_lists or not places.has_positions:
        for path in write_ranked_lists(Path(temp_dir), places, found):
            _log.info("ranked lists: %s", path)
    if page:
        facts = {"weights": weights, "protocol": found.protocol}
        write_place_page(Path(temp_dir) / "page.html", places, lists, pictures, rows, facts, seed)
    method = {"model": model["backbone"], **describe_checkpoint(resume)}
    device = next(net.parameters()).device
    record = make_record(places, found, settings, values, method, lists, pictures, device)
    finish(_run, rows, record, expected, strict)


@ex.automain
def main(cpu, temp_dir, row, dataset):
    load_row(row)  # a name that is not known ends the run before the work
    settings = make_settings()
    places = load_test_set()
    net = load_net()
    ranks = start_ranks(cpu)
    net = reduce(net.to(ranks.device), ranks)
    loading = Loading(dataset["infer_batch_size"], dataset["num_workers"])
    found = evaluate(net, places, settings, loading, ranks, temp_dir)
    stop_ranks()
    if ranks.is_first:
        save(net, places, found, settings)
    return {**found.metrics, "top_k": settings.top_k}
