"""Train the autoencoder of ViTGaL on a frozen retrieval network (ACCV 2022).

    python -m vitgal.experiment_autoencoder with dataset.gldv2 model.xcit_s12 epochs=30 \\
        pretrained_backbone=FILE output_dir=FOLDER

pretrained_backbone: checkpoint.pth or best_model.pth of vitgal.experiment; required unless a run is
resumed. Several processes: torchrun --nproc_per_node=N -m vitgal.experiment_autoencoder with ...
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
from vitgal.losses import autoencoder_loss
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.ingredient import count_classes, make_model, model_ingredient
from vitgal.models.weights import load_backbone
from vitgal.training_run import TrainingRun, start_or_continue

ex = Experiment(
    "vitgal_experiment_autoencoder",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    epochs = 25  # passes over the training images; the published runs had 30
    pretrained_backbone = None  # checkpoint of vitgal.experiment; the backbone stays as it is
    output_dir = "outputs/vitgal_autoencoder"  # checkpoint.pth, best_model.pth, log.txt
    seed = 0  # of the start and of the augmentation


@ex.capture
def make_start(num_classes: int, seed: int, pretrained_backbone: str | None) -> Autoencoder:
    """The autoencoder before the first step, the same in all processes, on its backbone."""
    if pretrained_backbone is None:
        raise ValueError(
            "pretrained_backbone is not set; give the checkpoint.pth or best_model.pth of "
            "vitgal.experiment: an autoencoder of an untrained network is of no use"
        )
    torch.manual_seed(seed)
    model = make_model(num_classes=num_classes)
    path = require_file(pretrained_backbone, "run vitgal.experiment first")
    load_backbone(model.retrieval_back_bone, path)
    return model


@ex.capture
def make_run(ranks: Ranks, seed: int, _config: dict[str, Any], _run: Any) -> TrainingRun:
    """Images, model and optimiser, at the start of a run."""
    splits = load_splits()
    model = make_start(count_classes(splits.num_classes))
    images = make_train_images(splits, seed=seed)
    return TrainingRun(
        make_parts(model, _config, ranks),
        autoencoder_loss,
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
