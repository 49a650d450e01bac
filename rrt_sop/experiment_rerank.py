"""Train the matcher on triplets, with the backbone frozen or not (RRT, ICCV'21, on products).

    python -m rrt_sop.experiment_rerank with dataset.sop_rerank model.resnet50 \
        model.freeze_backbone=True resume=rrt_sop/rrt_sop_ckpts/rrt_r50_sop_global.pt

Evaluates on the test set before training and after every epoch by reranking the first columns of
its neighbour table, and keeps the weights with the best R@1: the choice uses the test set, as the
published one did. epochs=0 only evaluates.
Several processes: torchrun --nproc_per_node=N -m rrt_sop.experiment_rerank with ...
"""

from typing import Any

import numpy as np
import torch
from sacred import Experiment

from rrt_sop.datasets.image_list import ImageList, LabelledItems
from rrt_sop.datasets.ingredient import (
    dataset_ingredient,
    load_test_lists,
    load_train_list,
    make_triplet_sampler,
)
from rrt_sop.datasets.samplers import TripletSampler
from rrt_sop.evaluation import evaluate_reranked
from rrt_sop.experiment_options import loop_options
from rrt_sop.frozen_views import FrozenViews, make_frozen_views
from rrt_sop.models.ingredient import make_model, model_ingredient
from rrt_sop.retrieval import neighbour_origin
from rrt_sop.training import Guard, Net, RerankStage
from rrt_sop.training_run import TrainingRun, TrainingSet, steps_of_epoch
from rrt_sop.training_setup import (
    best_path,
    check_options,
    finish_run,
    make_loading,
    make_parts,
    make_run_options,
    make_setup,
    start_net,
)
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.nn_tables import load_nn_inds
from utils.paths import REPO_ROOT, require_file

ex = Experiment(
    "rrt_sop_experiment_rerank",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    lr = 0.0001  # learning rate at the start
    momentum = 0.0  # of sgd
    nesterov = False  # of sgd
    optim = "adamw"  # adamw (published) or sgd
    seed = 459858808
    resume = None  # checkpoint to start from: its weights, not its optimiser; None: ImageNet's
    cache_nn_inds = "rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl"  # of the test set
    rerank_depth = 15  # its columns that evaluation reranks during training; published: 15
    steps_per_epoch = None  # None: each anchor once; else that many steps make an epoch
    cached_views = None  # frozen backbone: its outputs of that many crops per image, computed once
    guard_steps = 5000  # steps before a loss that stands at ln 2 is reported


@ex.capture
def load_training(
    seed: int, epochs: int, dataset: dict[str, Any]
) -> tuple[ImageList, TripletSampler | None]:
    """Training images, and their triplets unless there is nothing to train."""
    torch.manual_seed(seed)
    if epochs and dataset["sampler"] != "triplet":
        raise ValueError(
            f"dataset.sampler is {dataset['sampler']!r}, but reranking trains on 'triplet'; name "
            "a set for it: dataset.sop_rerank or dataset.mini_rerank"
        )
    images = load_train_list()
    return images, make_triplet_sampler(images) if epochs else None


@ex.capture
def load_table(
    queries: ImageList, gallery: ImageList | None, cache_nn_inds: str, rerank_depth: int
) -> np.ndarray:
    """(Q, K) neighbours of the test images."""
    if rerank_depth < 1:
        raise ValueError(f"rerank_depth is {rerank_depth}, expected at least 1 column")
    path = require_file(
        cache_nn_inds,
        "run rrt_scripts/eval_global_r50.sh (or the one of your model) first and give its "
        "nn_inds.pkl as cache_nn_inds",
    )
    searched = queries if gallery is None else gallery
    return load_nn_inds(path, neighbour_origin(queries, gallery), len(queries), len(searched), 1)


@ex.capture
def load_net(
    num_classes: int,
    stage: RerankStage,
    seed: int,
    resume: str | None,
    continue_from: str | None,
) -> Net:
    """The network at the start of a run."""
    torch.manual_seed(seed)
    given = resume is not None or continue_from is not None
    return start_net(make_model(num_classes, for_checkpoint=given), resume, stage)


@ex.capture
def make_run(
    stage: RerankStage,
    steps_per_epoch: int | None,
    rerank_depth: int,
    guard_steps: int,
    cached_views: int | None,
    seed: int,
    temp_dir: str,
    dataset: dict[str, Any],
    _config: Any,
    _run: Any,
) -> TrainingRun:
    """Everything loaded and made, in the order of the published seeds."""
    queries, gallery = load_test_lists()
    table = load_table(queries, gallery)
    images, sampler = load_training()
    steps = steps_of_epoch(sampler, steps_per_epoch)
    net = load_net(images.num_classes, stage)
    ks, loading = tuple(dataset["recalls"]), make_loading(dataset)
    views: LabelledItems = images
    if cached_views is not None:
        views = make_frozen_views(net, images, cached_views, seed, temp_dir, loading, stage)

    def evaluate_now() -> dict[str, float]:
        return evaluate_reranked(
            net, queries, gallery, table, rerank_depth, ks, stage.ranks, loading
        ).metrics

    return TrainingRun(
        make_parts(net, _config, steps),
        TrainingSet(views, sampler, stage) if sampler is not None else None,
        evaluate_now,
        _run.log_scalar,
        make_run_options(_config, steps),
        best_path(_config),
        make_setup(_config, steps, images),
        Guard(patience=guard_steps),
        stage.ranks,
    )


@ex.automain
def main(cpu, autocast, cached_views, continue_from, continue_run, _config, _run):
    check_options(_config)
    stage = RerankStage(autocast, start_ranks(cpu), cached_views is not None)
    run = make_run(stage)
    run.start(continue_from, continue_run)
    best = finish_run(run, _run)
    if run.training is not None and isinstance(run.training.images, FrozenViews):
        run.training.images.remove()
    stop_ranks()
    return best
