"""Train the retrieval network of ViTGaL on Google Landmarks v2 (ACCV 2022).

    python -m vitgal.experiment with dataset.gldv2 model.xcit_s12 pretrained=FILE output_dir=FOLDER

Several processes: torchrun --nproc_per_node=N -m vitgal.experiment with ...
"""

from pathlib import Path
from typing import Any

import torch
from sacred import Experiment

from utils.distributed import Ranks, observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT, require_file
from vitgal.datasets.ingredient import (
    dataset_ingredient,
    load_splits,
    make_train_images,
    make_val_images,
)
from vitgal.experiment_options import (
    check_options,
    loop_options,
    make_parts,
    make_run_options,
    make_setup,
)
from vitgal.losses import choose_retrieval_loss
from vitgal.models.ingredient import count_classes, make_backbone, model_ingredient
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.weights import load_imagenet
from vitgal.training_run import TrainingRun, start_or_continue

ex = Experiment(
    "vitgal_experiment",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    epochs = 40  # passes over the training images
    pretrained = None  # ImageNet XCiT to start from (published or timm's names); None: from scratch
    output_dir = "outputs/vitgal_retrieval"  # checkpoint.pth, best_model.pth, log.txt
    correspondence_weight = 0.0  # of the loss between two views of a photograph; 0: as published
    seed = 0  # of the start, the augmentation, the dropped branches


@ex.capture
def make_start(num_classes: int, seed: int, pretrained: str | None) -> RetrievalNetwork:
    """The network before the first step, the same in all processes."""
    torch.manual_seed(seed)
    network = make_backbone(num_classes)
    if pretrained is not None:
        hint = "download it (vitgal/vitgal_ckpts/README.md), or leave pretrained= out"
        load_imagenet(network, require_file(pretrained, hint))
    return network


@ex.capture
def make_run(
    ranks: Ranks, seed: int, correspondence_weight: float, _config: dict[str, Any], _run: Any
) -> TrainingRun:
    """Images, network and optimiser, at the start of a run."""
    compute_loss = choose_retrieval_loss(correspondence_weight)
    splits = load_splits()
    network = make_start(count_classes(splits.num_classes))
    images = make_train_images(splits, seed=seed, two_views=correspondence_weight > 0)
    return TrainingRun(
        make_parts(network, _config, ranks),
        compute_loss,
        images,
        make_val_images(splits),
        make_run_options(_config, ranks.device),
        make_setup(_config, len(images), ranks),
        _run.log_scalar,
        ranks,
    )


@ex.automain
def main(
    cpu: bool,
    eval: bool,
    resume: str | None,
    continue_run: bool,
    _config: dict[str, Any],
    _run: Any,
) -> dict[str, float]:
    check_options(_config)
    ranks = start_ranks(cpu)
    run = make_run(ranks)
    start_or_continue(run, None if resume is None else Path(resume), continue_run, eval)
    metrics = run.validate(keep=False) if eval else run.run()
    stop_ranks()
    return metrics
