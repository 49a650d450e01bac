"""Train the global feature by the contrastive loss (RRT, ICCV'21, on products).

    python -m rrt_sop.experiment_global with dataset.sop_global model.resnet50

Evaluates on the test set before training and after every epoch, and keeps the weights with the best
R@1: the choice uses the test set, as the published one did. epochs=0 only evaluates.
Several processes: torchrun --nproc_per_node=N -m rrt_sop.experiment_global with ...
"""

from typing import Any

import torch
from sacred import Experiment

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.ingredient import (
    dataset_ingredient,
    load_test_lists,
    load_train_list,
    make_sampler,
)
from rrt_sop.datasets.samplers import Sampler
from rrt_sop.evaluation import evaluate_global
from rrt_sop.experiment_options import loop_options
from rrt_sop.losses import collapsed_loss
from rrt_sop.models.ingredient import make_model, model_ingredient
from rrt_sop.training import GlobalStage, Guard, Net
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
from utils.paths import REPO_ROOT

ex = Experiment(
    "rrt_sop_experiment_global",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    lr = 0.001  # learning rate at the start
    momentum = 0.9  # of sgd
    nesterov = True  # of sgd
    optim = "sgd"  # sgd (published) or adamw
    temperature = 0.05  # of the contrastive loss
    seed = 364086339
    resume = None  # checkpoint to start from: its weights; None: ImageNet weights, fresh heads
    steps_per_epoch = None  # None: what the sampler yields; else that many steps make an epoch
    chunk = None  # images per pass, for batches beyond the memory: same gradients, a second forward
    guard_steps = 2000  # steps before a loss that stands at that of equal features is reported


@ex.capture
def load_training(seed: int, epochs: int) -> tuple[ImageList, Sampler | None]:
    """Training images, and their batches unless there is nothing to train."""
    torch.manual_seed(seed)
    images = load_train_list()
    return images, make_sampler(images) if epochs else None


@ex.capture
def load_net(
    num_classes: int,
    stage: GlobalStage,
    seed: int,
    resume: str | None,
    continue_from: str | None,
) -> Net:
    """The network at the start of a run."""
    torch.manual_seed(seed)
    given = resume is not None or continue_from is not None
    return start_net(make_model(num_classes, for_checkpoint=given), resume, stage)


@ex.capture
def make_guard(guard_steps: int, dataset: dict[str, Any]) -> Guard:
    """Knows the loss of features that are all alike, where batches have images of one label."""
    per_id = dataset["batch_size"] // dataset["num_identities"]
    if dataset["sampler"] != "random_id" or per_id < 2:
        return Guard(None, guard_steps, ceiling=100.0)
    level = collapsed_loss(dataset["batch_size"], per_id)
    return Guard(level, guard_steps, ceiling=5 * level)


@ex.capture
def make_run(
    stage: GlobalStage,
    steps_per_epoch: int | None,
    dataset: dict[str, Any],
    _config: Any,
    _run: Any,
) -> TrainingRun:
    """Everything loaded and made, in the order of the published seeds."""
    queries, gallery = load_test_lists()
    images, sampler = load_training()
    steps = steps_of_epoch(sampler, steps_per_epoch)
    net = load_net(images.num_classes, stage)
    ks, loading = tuple(dataset["recalls"]), make_loading(dataset)

    def evaluate_now() -> dict[str, float]:
        return evaluate_global(net, queries, gallery, ks, stage.ranks, loading).metrics

    return TrainingRun(
        make_parts(net, _config, steps),
        TrainingSet(images, sampler, stage) if sampler is not None else None,
        evaluate_now,
        _run.log_scalar,
        make_run_options(_config, steps),
        best_path(_config),
        make_setup(_config, steps, images),
        make_guard(),
        stage.ranks,
    )


@ex.automain
def main(cpu, temperature, chunk, autocast, continue_from, continue_run, _config, _run):
    check_options(_config)
    stage = GlobalStage(temperature, chunk, autocast, start_ranks(cpu))
    run = make_run(stage)
    run.start(continue_from, continue_run)
    best = finish_run(run, _run)
    stop_ranks()
    return best
