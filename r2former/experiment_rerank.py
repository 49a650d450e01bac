"""Train local features and reranker, alone or with the backbone (R2Former, CVPR'23, Table 5).

    python -m r2former.experiment_rerank with dataset.msls_rerank model.deit \
        resume=r2former/r2former_ckpts/msls_v2_deits.pth

fix=1: the global model stays. fix=0: both losses; the rerank loss into the backbone by finetune=1.
Measures recall with reranking on the val split after every epoch; logs/<save_dir>/best_model.pth
has the best weights, best_model_global.pth those best before reranking. Ctrl-C and
`continue_run=True` go on exactly.
Several processes: torchrun --nproc_per_node=N -m r2former.experiment_rerank with ...
"""

from typing import Any

import torch
from sacred import Experiment

from r2former.datasets.ingredient import (
    dataset_ingredient,
    load_train_set,
    load_val_set,
    make_train_transforms,
)
from r2former.experiment_options import loop_options
from r2former.models.ingredient import load_model, make_model, model_ingredient
from r2former.models.network import R2Former
from r2former.optimisation import choose_parameters
from r2former.training import RerankStage
from r2former.training_setup import check_options, finish_run, is_continued, make_passes, make_run
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT

ex = Experiment(
    "r2former_experiment_rerank",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)
ex.config(loop_options)


@ex.config
def config():
    criterion = "triplet"  # of the global loss; or in_batch (ours): all images of a batch
    rerank_loss = "ce"  # ce, triplet, infoNCE, combine
    margin = 0.1  # of triplet, in both losses
    temperature = 0.07  # of criterion in_batch
    fix = 1  # 1: only local_head and Reranker are trained
    finetune = 0  # 1: the rerank loss flows into the backbone too
    epochs_num = 50  # at most; the cosine ends there
    patience = 25  # epochs without a better recall, then it ends
    lr = 5e-4  # learning rate
    warmup = 5  # epochs of rising rate, of cos
    optim = "adamw"  # adamw, adam, sgd (constant rates)
    cos = True  # cosine schedule, of adamw; else steps
    schedule = [60, 80]  # epochs at which the rate of steps falls to a tenth
    val_top_k = 100  # candidates that are reranked when it is measured
    seed = 0
    resume = None  # checkpoint to start from, with or without reranker; None: ImageNet's weights
    local_start = "normal"  # of local_head, published; pca (ours): of the tokens; see frozen.py
    cache_frozen = False  # fix=1: the backbone runs once over the training images, not every step
    cache_budget_gib = 8  # memory that this may take
    mine_every_epoch = True  # False, as published: only once, if a round makes an epoch


@ex.capture
def load_net(fix: int, freeze: int, resume: str | None, seed: int, _config: Any) -> R2Former:
    """The network at the start of a run."""
    torch.manual_seed(seed)
    net = (
        make_model(for_checkpoint=True)
        if is_continued(_config)
        else load_model(resume, allow_global=True)
    )
    choose_parameters(net, bool(fix), freeze)
    return net


@ex.capture
def make_stage(
    fix: int,
    finetune: int,
    rerank_loss: str,
    margin: float,
    criterion: str,
    temperature: float,
    cpu: bool,
    _config: Any,
) -> RerankStage:
    """What a step does, on the device of this process."""
    passes = make_passes(_config)
    return RerankStage(
        bool(fix), bool(finetune), rerank_loss, margin, passes, start_ranks(cpu), criterion,
        temperature,
    )  # fmt: skip


@ex.automain
def main(continue_from, continue_run, _config, _run):
    check_options(_config)
    stage = make_stage()
    train, val = load_train_set(), load_val_set()
    run = make_run(load_net(), stage, train, val, make_train_transforms(), _config, _run)
    run.start(continue_from, continue_run)
    best = finish_run(run, _run)
    stop_ranks()
    return best
