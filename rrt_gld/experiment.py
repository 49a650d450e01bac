"""Train the reranking transformer on triplets of a landmark set (RRT, ICCV'21).

    python -m rrt_gld.experiment with dataset.gldv2_roxford_r50_gldv1 model.RRT max_norm=0.1

Evaluates on the test set before training and after every epoch, and keeps the weights with the best
M_map + H_map: the choice uses the test set, as the published one did. epochs=0 only evaluates.
Several processes: torchrun --nproc_per_node=N -m rrt_gld.experiment with ...
"""

import logging
from pathlib import Path
from typing import Any

import torch
from sacred import Experiment

from rrt_gld.datasets.image_set import EvalSet
from rrt_gld.datasets.ingredient import (
    dataset_ingredient,
    load_test_set,
    load_train_set,
    make_sampler,
)
from rrt_gld.datasets.pairs import CachedImages, FileImages
from rrt_gld.datasets.samplers import TripletSampler
from rrt_gld.evaluation import evaluate
from rrt_gld.models.ingredient import make_model, model_ingredient
from rrt_gld.optimisation import make_optimizer, make_scheduler
from rrt_gld.run_state import Progress, RunParts
from rrt_gld.training import Guard
from rrt_gld.training_run import RunOptions, TrainingRun, steps_of_epoch
from utils.checkpoints import load_released, load_state
from utils.distributed import Ranks, observe_first_rank_only, start_ranks, stop_ranks
from utils.interruption import keep_previous
from utils.paths import REPO_ROOT, require_file

logger = logging.getLogger(__name__)
ex = Experiment(
    "rrt_gld_experiment",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    epochs = 15  # 0: evaluation only
    lr = 1e-4  # learning rate at the start
    momentum = 0.0  # of sgd
    nesterov = False  # of sgd
    weight_decay = 5e-4  # on all parameters, see no_bias_decay
    optim = "adamw"  # sgd, adam, adamw
    scheduler = "multistep"  # multistep, cos, warmcos (per epoch); warmstep, cos_step, warmcos_step
    scheduler_tau = [16, 18]  # epochs at which multistep lowers the rate
    scheduler_gamma = 0.1  # factor of multistep
    lr_step = 10  # epochs between drops of warmstep
    warmup_steps = 500  # linear rise of warmcos_step
    max_norm = 0.0  # clip the total gradient 2-norm to this; 0: no clipping
    no_bias_decay = False  # no decay on biases and norms
    loss = "bce"  # the one choice: binary cross entropy on pairs
    seed = 0
    cpu = False  # stay on the CPU where there is a GPU
    cudnn_flag = "benchmark"  # benchmark or deterministic
    temp_dir = "outputs/temp"  # best and last checkpoint
    resume = None  # checkpoint to start from: weights, and the optimiser's state when present
    visdom_port = None  # accepted and ignored
    visdom_freq = 100  # steps between console lines
    top_k = 100  # head of the global ranking that evaluation reranks
    steps_per_epoch = None  # None: each anchor once; else that many steps make an epoch
    max_minutes = None  # wall-clock budget of training; then one more evaluation and a clean end
    autocast = False  # forward pass of training in bfloat16
    checkpoint_every = 1000  # steps between writes of last.pt; 0: at epoch ends only
    continue_from = None  # last.pt of an interrupted run: goes on exactly where it stood
    continue_run = False  # the same with <temp_dir>/last.pt, where there is one
    guard_steps = 5000  # steps before a loss that stands at ln 2 is reported


@ex.capture
def check_options(loss: str, cudnn_flag: str, epochs: int, visdom_freq: int) -> None:
    """ValueError for options that could only fail later."""
    if loss != "bce":
        raise ValueError(f"loss is {loss!r}, expected 'bce'")
    if cudnn_flag not in ("benchmark", "deterministic"):
        raise ValueError(f"cudnn_flag is {cudnn_flag!r}, expected 'benchmark' or 'deterministic'")
    if epochs < 0 or visdom_freq < 1:
        raise ValueError(f"epochs={epochs}, visdom_freq={visdom_freq}: expected >= 0 and >= 1")
    torch.backends.cudnn.deterministic = cudnn_flag == "deterministic"


Training = tuple[FileImages | CachedImages, TripletSampler]


@ex.capture
def load_data(seed: int, epochs: int, model: dict[str, Any]) -> tuple[EvalSet, Training | None]:
    """The test set; batches and triplets of the training set, unless there is nothing to train."""
    torch.manual_seed(seed)
    widths = model["num_local_features"], model["num_global_features"]
    test = load_test_set(*widths)
    if not epochs:
        return test, None
    images, source = load_train_set(*widths)
    return test, (source, make_sampler(images))


@ex.capture
def make_parts(
    steps: int,
    ranks: Ranks,
    seed: int,
    resume: str | None,
    optim: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    no_bias_decay: bool,
    scheduler: str,
    epochs: int,
    scheduler_tau: list[int],
    scheduler_gamma: float,
    lr_step: int,
    warmup_steps: int,
) -> RunParts:
    """Model, optimiser and schedule at the start of a run, or as in the file `resume`."""
    torch.manual_seed(seed + 1)
    model = make_model()
    if resume is not None:
        load_released(model, require_file(resume, "give the path of a checkpoint as resume="))
    model.to(ranks.device)
    ranks.broadcast_state(model)
    torch.manual_seed(seed + 2)
    optimizer = make_optimizer(model, optim, lr, weight_decay, momentum, nesterov, no_bias_decay)
    saved = load_state(resume) if resume is not None else {}
    if "optim" in saved:
        optimizer.load_state_dict(saved["optim"])
    schedule = make_scheduler(
        optimizer, scheduler, epochs, steps, scheduler_tau, scheduler_gamma, lr_step, warmup_steps
    )
    return RunParts(model, optimizer, schedule, Progress())


@ex.capture
def make_setup(steps: int, anchors: int, _config: dict[str, Any]) -> dict[str, Any]:
    """Options that an interrupted run and its continuation must share, as plain values."""
    keys = (
        "epochs lr momentum nesterov weight_decay optim scheduler scheduler_tau scheduler_gamma "
        "lr_step warmup_steps max_norm no_bias_decay seed autocast resume"
    ).split()
    setup = {key: _config[key] for key in keys}
    setup |= {f"model.{key}": value for key, value in _config["model"].items()}
    data_keys = (
        "name desc_name train_data_dir train_txt batch_size max_sequence_len sampler "
        "num_candidates min_positives train_locals scale_map local_mean"
    ).split()
    setup |= {f"dataset.{key}": _config["dataset"][key] for key in data_keys}
    # sacred's own containers must not get into a checkpoint
    plain = {k: list(v) if isinstance(v, list | tuple) else v for k, v in setup.items()}
    return plain | {"steps_per_epoch": steps, "anchors": anchors}


@ex.capture
def make_run_options(
    steps: int,
    epochs: int,
    scheduler: str,
    max_norm: float,
    autocast: bool,
    cudnn_flag: str,
    visdom_freq: int,
    checkpoint_every: int,
    max_minutes: float | None,
    seed: int,
    dataset: dict[str, Any],
) -> RunOptions:
    """The options of the loop."""
    return RunOptions(
        epochs=epochs,
        steps_per_epoch=steps,
        scheduler=scheduler,
        max_norm=max_norm,
        autocast=autocast,
        cudnn_flag=cudnn_flag,
        visdom_freq=visdom_freq,
        checkpoint_every=checkpoint_every,
        max_minutes=max_minutes,
        train_locals=dataset["train_locals"],
        num_workers=dataset["num_workers"],
        pin_memory=dataset["pin_memory"],
        seed=seed,
    )


@ex.capture
def start_or_continue(run: TrainingRun, continue_from: str | None, continue_run: bool) -> None:
    """Take up an interrupted run where that is asked for; else set an older last.pt aside."""
    if continue_from is not None:
        run.continue_from(require_file(continue_from, "give the last.pt of an interrupted run"))
    elif continue_run and run.last.is_file():
        run.continue_from(run.last)
    elif run.options.epochs and run.ranks.is_first:
        logger.info("starting anew; checkpoints go to %s", run.last.parent)
        keep_previous(run.last)


@ex.capture
def make_run(
    ranks: Ranks,
    temp_dir: str,
    top_k: int,
    steps_per_epoch: int | None,
    guard_steps: int,
    model: dict[str, Any],
    dataset: dict[str, Any],
    _run: Any,
) -> TrainingRun:
    """Everything loaded and made, in the order of the published seeds."""
    test, training = load_data()
    source, sampler = training or (None, None)
    steps = steps_of_epoch(sampler, steps_per_epoch)
    parts = make_parts(steps, ranks)

    def evaluate_now() -> dict[str, Any]:
        return evaluate(
            parts.model,
            test,
            top_k,
            tuple(dataset["recalls"]),
            ranks,
        ).metrics

    return TrainingRun(
        parts,
        source,
        sampler,
        evaluate_now,
        _run.log_scalar,
        make_run_options(steps),
        Path(temp_dir) / f"{model['name']}_{dataset['name']}.pt",
        make_setup(steps, 0 if sampler is None else len(sampler.valids)),
        ranks,
        Guard(guard_steps),
    )


@ex.automain
def main(cpu: bool, top_k: int, _run: Any) -> dict[str, Any]:
    check_options()
    ranks = start_ranks(cpu)
    run = make_run(ranks)
    start_or_continue(run)
    metrics = run.run()
    _run.info["metrics"] = metrics
    _run.info["metrics_at_start"] = run.progress.start_metrics
    if ranks.is_first:
        _run.add_artifact(str(run.best))
    stop_ranks()
    return {**metrics, "top_k": top_k}
