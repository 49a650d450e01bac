"""Train the global model by triplets (R2Former, CVPR'23, Sec. 3.4; Table 6, global only).

    python -m r2former.experiment_global with dataset.msls_global model.deit

Mines hard negatives, measures recall on the val split after every epoch, keeps the best weights in
logs/<save_dir>/best_model.pth; Ctrl-C and `continue_run=True` go on exactly.
Several processes: torchrun --nproc_per_node=N -m r2former.experiment_global with ...
"""

from typing import Any

import torch
from sacred import Experiment
from torch import nn

from r2former.datasets.ingredient import (
    dataset_ingredient,
    load_train_set,
    load_val_set,
    make_train_transforms,
)
from r2former.experiment_options import loop_options
from r2former.models.ingredient import load_global_model, make_global_model, model_ingredient
from r2former.optimisation import choose_parameters
from r2former.training import GlobalStage
from r2former.training_setup import check_options, finish_run, is_continued, make_passes, make_run
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT

ex = Experiment(
    "r2former_experiment_global",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    criterion = "triplet"  # triplet, sare_ind, sare_joint; in_batch (ours): all images of a batch
    margin = 0.1  # of triplet
    temperature = 0.07  # of in_batch
    epochs_num = 100  # at most
    patience = 10  # epochs without a better recall, then it ends
    lr = 1e-5  # learning rate; constant for adam and sgd
    lr_crn_layer = 5e-3  # of the reweighting layers of model.aggregation=crn
    lr_crn_net = 5e-4  # of the rest then
    warmup = -1  # epochs of rising rate, of adamw with cos
    optim = "adam"  # adam, sgd, adamw
    cos = False  # cosine schedule, of adamw; else steps
    schedule = [60, 80]  # epochs at which adamw's rate falls to a tenth
    seed = 0
    resume = None  # checkpoint to start from: its weights; None: ImageNet's
    mine_every_epoch = True  # False: only once, if a round makes an epoch


@ex.capture
def load_net(freeze: int, resume: str | None, seed: int, _config: Any) -> nn.Module:
    """The model at the start of a run."""
    torch.manual_seed(seed)
    net = (
        make_global_model(for_checkpoint=True)
        if is_continued(_config)
        else load_global_model(resume)
    )
    choose_parameters(net, fix=False, freeze=freeze)
    return net


@ex.automain
def main(criterion, margin, temperature, cpu, continue_from, continue_run, _config, _run):
    check_options(_config)
    passes = make_passes(_config)
    stage = GlobalStage(criterion, margin, passes, start_ranks(cpu), temperature=temperature)
    train, val = load_train_set(), load_val_set()
    run = make_run(load_net(), stage, train, val, make_train_transforms(), _config, _run)
    run.start(continue_from, continue_run)
    best = finish_run(run, _run)
    stop_ranks()
    return best
