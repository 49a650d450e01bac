"""From the options of an experiment to the parts of its training run; shared by both stages."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.features import Loading
from rrt_sop.optimisation import make_optimizer, make_scheduler
from rrt_sop.run_state import Progress, RunParts
from rrt_sop.training import Net, Stage, check_batch_norms
from rrt_sop.training_run import RunOptions, TrainingRun
from utils.checkpoints import load_released
from utils.paths import require_file

# options that an interrupted run and its continuation must share
SETUP_KEYS = (
    *("epochs", "optim", "lr", "momentum", "nesterov", "weight_decay", "no_bias_decay"),
    *("scheduler", "scheduler_tau", "scheduler_gamma", "warmup_steps", "max_norm", "autocast"),
    *("seed", "temperature", "resume", "cached_views"),
)
DATASET_KEYS = (
    *("name", "train_file", "test_file", "batch_size", "sampler", "num_identities"),
    *(
        "num_candidates",
        "random_negatives",
        "num_iterations",
        "crop_size",
        "smallest_crop",
        "test_resize",
        "test_crop",
        "keypoints",
    ),
)
UNSHARED_MODEL_KEYS = ("pretrained", "backbone_weights")  # where the first weights came from


def check_options(config: Mapping[str, Any]) -> None:
    """ValueError for options that could only fail later; sets cudnn's determinism."""
    flag = config["cudnn_flag"]
    if flag not in ("benchmark", "deterministic"):
        raise ValueError(f"cudnn_flag is {flag!r}, expected 'benchmark' or 'deterministic'")
    if config["epochs"] < 0 or config["visdom_freq"] < 1:
        raise ValueError(
            f"epochs={config['epochs']}, visdom_freq={config['visdom_freq']}: expected >= 0 "
            "and >= 1"
        )
    if 1 not in config["dataset"]["recalls"]:
        raise ValueError(
            f"dataset.recalls is {list(config['dataset']['recalls'])}, expected 1 among them: "
            "recall@1 decides which weights are kept"
        )
    torch.backends.cudnn.deterministic = flag == "deterministic"


def make_run_options(config: Mapping[str, Any], steps: int) -> RunOptions:
    """The options of the loop; `steps` of an epoch."""
    flat = {**config["dataset"], **config, "steps_per_epoch": steps}
    return RunOptions(**{part.name: flat[part.name] for part in fields(RunOptions)})


def make_loading(dataset: Mapping[str, Any]) -> Loading:
    """How the images of the evaluation are read."""
    return Loading(dataset["test_batch_size"], dataset["num_workers"], dataset["pin_memory"])


def make_setup(config: Mapping[str, Any], steps: int, images: ImageList) -> dict[str, Any]:
    """What an interrupted run and its continuation must share, as plain values."""
    setup = {key: config[key] for key in SETUP_KEYS if key in config}
    setup |= {f"dataset.{key}": config["dataset"][key] for key in DATASET_KEYS}
    model = {k: v for k, v in config["model"].items() if k not in UNSHARED_MODEL_KEYS}
    setup |= {f"model.{key}": value for key, value in model.items()}
    # sacred's own containers must not get into a checkpoint
    plain = {k: list(v) if isinstance(v, list | tuple) else v for k, v in setup.items()}
    made_from = {f"train {key}": value for key, value in images.origin().items()}
    return plain | {"steps_per_epoch": steps} | made_from


def start_net(net: Net, resume: str | None, stage: Stage) -> Net:
    """`net` on the device of its process, with the weights of the file `resume` if one is given."""
    if resume is not None:
        load_released(net, require_file(resume, "give the path of a checkpoint as resume="))
    check_batch_norms(net, stage)
    net.to(stage.ranks.device)
    stage.ranks.broadcast_state(net)
    return net


def make_parts(net: Net, config: Mapping[str, Any], steps: int) -> RunParts:
    """Optimiser and schedule for `net`, at the start of a run."""
    optimizer = make_optimizer(
        net,
        config["optim"],
        config["lr"],
        config["weight_decay"],
        config["momentum"],
        config["nesterov"],
        config["no_bias_decay"],
    )
    scheduler = make_scheduler(
        optimizer,
        config["scheduler"],
        config["epochs"],
        steps,
        list(config["scheduler_tau"]),
        config["scheduler_gamma"],
        config["warmup_steps"],
    )
    return RunParts(net, optimizer, scheduler, Progress())


def best_path(config: Mapping[str, Any]) -> Path:
    """Where the best weights go: <temp_dir>/<arch>_<dataset name>.pt."""
    name = f"{config['model']['arch']}_{config['dataset']['name']}.pt"
    return Path(config["temp_dir"]) / name


def finish_run(run: TrainingRun, sacred_run: Any) -> float:
    """Train to the end; the kept metrics and weights go to the sacred run; returns the best R@1."""
    recall = run.run()
    sacred_run.info["recall"] = recall
    sacred_run.info["recall_at_start"] = run.progress.start_metrics
    sacred_run.info["best_epoch"] = run.progress.best_epoch
    if run.ranks.is_first:
        sacred_run.add_artifact(str(run.best))
    return run.progress.best
