"""Options that both trainings share, named like the flags of the release, and what is made of them.

`loop_options` is a config scope of sacred: both experiments take it up as it stands.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.distributed import Ranks
from vitgal.optimisation import Schedule, make_optimizer
from vitgal.run_state import Progress, RunParts
from vitgal.training import choose_precision, make_scaler
from vitgal.training_run import RunOptions

# an interrupted run may go on with other values of these
FREE = (
    "resume continue_run eval cpu output_dir max_minutes print_freq checkpoint_every keep_epochs "
    "guard_steps test_freq pretrained pretrained_backbone"
).split()
FREE_DATASET = ("num_workers", "pin_mem", "imsize", "keep_aspec_ratio", "folder", "gnd", "r1m_path")
IGNORED = (
    "momentum lr_noise_pct lr_noise_std decay_epochs cooldown_epochs patience_epochs decay_rate "
    "dist_eval full_crop lr_noise"
).split()


def loop_options():
    opt = "adamw"  # the one choice
    opt_eps = 1e-8  # epsilon of AdamW
    opt_betas = None  # None: (0.9, 0.999)
    weight_decay = 0.005  # not on 1-d tensors, biases, class tokens
    clip_grad = None  # the total gradient 2-norm is clipped to this; None: no clipping
    sched = "cosine"  # the one choice
    lr = 5e-5  # learning rate after the rise; no scaling with batch size or processes
    min_lr = 1e-7  # at the end of the cosine
    warmup_lr = 3e-5  # at the start of the rise
    warmup_epochs = 1  # length of the rise
    test_freq = 4  # epochs between validations, counted from 0; the last epoch has one too
    resume = None  # checkpoint.pth of an interrupted run: goes on exactly where it stood
    continue_run = False  # the same with <output_dir>/checkpoint.pth, where there is one
    eval = False  # only validate: the start, or the weights of `resume`
    cpu = False  # stay on the CPU where there is a GPU
    precision = None  # None: fp16 on a GPU, float32 on a CPU; float32, fp16, bf16
    print_freq = 50  # steps between console lines
    checkpoint_every = 0  # steps between writes of checkpoint.pth; 0: at epoch ends only
    keep_epochs = True  # keep checkpoint_model_epoch_<e>.pth of each epoch, as published
    max_minutes = None  # wall-clock budget; then one more validation and a clean end
    guard_steps = 2000  # steps before a loss that has not fallen is reported
    momentum = 0.9  # accepted and ignored: AdamW has none
    lr_noise = None  # accepted as None only
    lr_noise_pct = 0.67  # accepted and ignored, without lr_noise
    lr_noise_std = 1.0  # accepted and ignored, without lr_noise
    decay_epochs = 10  # accepted and ignored: of other schedules
    cooldown_epochs = 2  # accepted and ignored: of other schedules
    patience_epochs = 2  # accepted and ignored: of other schedules
    decay_rate = 0.1  # accepted and ignored: of other schedules
    dist_eval = False  # accepted and ignored: validation is always shared by the processes
    full_crop = False  # accepted and ignored: nothing in the release reads it


def check_options(config: Mapping[str, Any]) -> None:
    """ValueError for options that could only fail later."""
    if config["sched"] != "cosine":
        raise ValueError(f"sched is {config['sched']!r}, expected 'cosine'")
    if config["lr_noise"] is not None:
        raise ValueError(f"lr_noise is {config['lr_noise']!r}, expected None: it was never used")
    for name, least in (("epochs", 1), ("test_freq", 1), ("print_freq", 1), ("warmup_epochs", 0)):
        if config[name] < least:
            raise ValueError(f"{name} is {config[name]}, expected at least {least}")
    if not config["output_dir"]:
        raise ValueError("output_dir is empty, expected the folder that gets the checkpoints")


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """The learning rates of the run."""
    return Schedule(*(config[name] for name in Schedule._fields))


def make_parts(model: nn.Module, config: Mapping[str, Any], ranks: Ranks) -> RunParts:
    """Optimiser and scaler for a model, which moves to the device."""
    model.to(ranks.device)
    optimizer = make_optimizer(
        model,
        config["opt"],
        config["lr"],
        config["weight_decay"],
        config["opt_eps"],
        config["opt_betas"],
    )
    scaler = make_scaler(ranks.device, choose_precision(config["precision"], ranks.device))
    return RunParts(model, optimizer, scaler, Progress())


def make_run_options(config: Mapping[str, Any], device: torch.device) -> RunOptions:
    """The options of the loop."""
    same = (
        "test_freq clip_grad seed print_freq checkpoint_every keep_epochs max_minutes guard_steps"
    ).split()
    dataset = config["dataset"]
    return RunOptions(
        schedule=make_schedule(config),
        output_dir=Path(config["output_dir"]),
        batch_size=dataset["batch_size"],
        num_workers=dataset["num_workers"],
        pin_mem=dataset["pin_mem"],
        precision=choose_precision(config["precision"], device),
        **{name: config[name] for name in same},
    )


def make_setup(config: Mapping[str, Any], num_images: int, ranks: Ranks) -> dict[str, Any]:
    """Options that an interrupted run and its continuation must share, as plain values."""
    setup = {
        key: value
        for key, value in config.items()
        if key not in (*FREE, *IGNORED, "dataset", "model")
    }
    for part in ("dataset", "model"):
        free = FREE_DATASET if part == "dataset" else ()
        setup |= {f"{part}.{k}": v for k, v in config[part].items() if k not in (*free, "seed")}
    # sacred's own containers must not get into a checkpoint
    plain = {k: list(v) if isinstance(v, list | tuple) else v for k, v in setup.items()}
    return plain | {"train_images": num_images, "processes": ranks.world}
