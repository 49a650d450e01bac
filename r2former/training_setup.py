"""From the options of an experiment to the parts of its training run; shared by both stages."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Transform, make_database_transform
from r2former.datasets.triplets import GroupOptions
from r2former.embedding import MiningEmbedder, Reading, embed_images
from r2former.evaluation import Settings, evaluate
from r2former.features import Loading
from r2former.frozen import (
    FrozenEmbedder,
    FrozenImages,
    check_cache,
    check_local_start,
    choose_for_start,
    pack_images,
    start_local_head,
)
from r2former.hard_lists import load_list
from r2former.mining import LISTED, Draws, Miner, MiningOptions
from r2former.models.network import R2Former
from r2former.nearest import Embed
from r2former.optimisation import (
    Schedule,
    make_groups,
    make_optimizer,
    scale_rate,
    split_crn,
)
from r2former.run_state import Progress, RunParts
from r2former.training import Guard, Passes, Stage, check_batch_norms
from r2former.training_run import (
    GLOBAL,
    LAST,
    Measure,
    RunOptions,
    TrainingImages,
    TrainingRun,
    check_recall_values,
    count_rounds,
)
from utils.distributed import Ranks

logger = logging.getLogger(__name__)

LISTS = Path("r2former/r2former_ckpts")  # where pre-computed lists are looked for by name
# options that an interrupted run and its continuation may differ in
FREE = {
    *("max_minutes", "log_every", "checkpoint_every", "continue_from", "continue_run", "cpu"),
    *("cache_frozen", "cache_budget_gib"),
    *("save_dir", "groups_per_pass", "collapse_share", "collapse_spread", "epochs_num", "patience"),
}
FREE_DATASET = {
    *("datasets_folder", "num_workers", "infer_batch_size", "scan_folder", "split", "mining_file"),
    *("database_folder", "query_folder", "test_method", "majority_weight"),
}
FREE_MODEL = {"pretrained", "backbone_weights"}


def save_folder(save_dir: str) -> Path:
    """logs/<save_dir>, as published; a whole path is taken as it is."""
    return Path("logs") / save_dir


def is_continued(config: Mapping[str, Any]) -> bool:
    """Whether the weights come from an interrupted run."""
    last = save_folder(config["save_dir"]) / LAST
    return config["continue_from"] is not None or (config["continue_run"] and last.is_file())


def check_options(config: Mapping[str, Any]) -> None:
    """ValueError for options that could only fail later; a word on unusual ones."""
    for name in ("epochs_num", "patience", "log_every", "lr"):
        if not config[name] > 0:
            raise ValueError(f"{name} is {config[name]}, expected more than 0")
    dataset, model = config["dataset"], config["model"]
    if dataset["train_batch_size"] < 1:
        raise ValueError(f"train_batch_size is {dataset['train_batch_size']}, expected at least 1")
    if dataset["mining"] in LISTED and config["resume"] is None:
        logger.warning(
            "mining=%s without a trained global model: the list was made with one; give "
            "resume=r2former/r2former_ckpts/msls_v2_deits.pth (the published command forgot it)",
            dataset["mining"],
        )
    if model["backbone"].startswith("deit") and model["aggregation"] != "gem":
        logger.warning("model.aggregation=%s is ignored for a DeiT", model["aggregation"])


def make_passes(config: Mapping[str, Any]) -> Passes:
    """How groups go through the network."""
    return Passes(config["groups_per_pass"], config["autocast"])


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """Rates by epoch; constant for adam and sgd, as published."""
    lr = scale_rate(config["lr"], config["dataset"]["train_batch_size"], config["lr_batch_size"])
    return Schedule(
        lr,
        config["epochs_num"],
        config["warmup"],
        config["cos"],
        tuple(config["schedule"]),
        constant=config["optim"] != "adamw",
    )


def list_path(config: Mapping[str, Any]) -> Path:
    """The pre-computed list that mining=global reads."""
    dataset = config["dataset"]
    if dataset["mining_file"] is not None:
        return Path(dataset["mining_file"])
    return LISTS / f"{dataset['dataset_name']}_v2_{config['model']['backbone']}_hard_final.npy"


def make_miner(net: nn.Module, places: PlaceSet, config: Mapping[str, Any], ranks: Ranks) -> Miner:
    """Mining of the training set with the current weights of `net`."""
    dataset = config["dataset"]
    options = MiningOptions(**{part.name: dataset[part.name] for part in fields(MiningOptions)})
    reading = Reading(dataset["infer_batch_size"], dataset["num_workers"], ranks)
    current = MiningEmbedder(net, places, make_database_transform(dataset["resize"]), reading)
    embed: Embed = FrozenEmbedder(current) if config.get("cache_frozen") else current
    hard_list = None
    if options.mining in LISTED:
        hard_list = load_list(list_path(config), places)
    miner = Miner(
        places.positives(dataset["train_positives_dist_threshold"]),
        places.positives(dataset["val_positive_dist_threshold"]),
        len(places.database_paths),
        options,
        embed,
        places.query_weights,
        hard_list,
    )
    if miner.count < dataset["train_batch_size"]:
        raise ValueError(
            f"a round of mining gives {miner.count} groups, fewer than train_batch_size="
            f"{dataset['train_batch_size']}: no batch would be whole; lower it, or raise "
            "cache_refresh_rate"
        )
    return miner


def make_measure(
    net: nn.Module, places: PlaceSet, config: Mapping[str, Any], ranks: Ranks, rerank: bool
) -> Measure:
    """Recalls on the validation set: "R@k" of the last stage, "global R@k" before reranking."""
    dataset = config["dataset"]
    places.positives(dataset["val_positive_dist_threshold"])  # refuses a set without positions
    settings = Settings(
        resize=tuple(dataset["resize"]),
        recall_values=tuple(dataset["recall_values"]),
        radius=dataset["val_positive_dist_threshold"],
        rerank=rerank,
        **({"top_k": config["val_top_k"]} if rerank else {}),
    )
    loading = Loading(dataset["infer_batch_size"], dataset["num_workers"])
    folder = save_folder(config["save_dir"]) / "val"

    def measure() -> dict[str, float]:
        found = evaluate(net, places, settings, loading, ranks, folder)
        if found.recalls_reranked is None:
            return dict(found.recalls_global)
        before = {GLOBAL + name: value for name, value in found.recalls_global.items()}
        return {**found.recalls_reranked, **before}

    return measure


def make_setup(config: Mapping[str, Any], places: PlaceSet) -> dict[str, Any]:
    """What an interrupted run and its continuation must share, as plain values."""
    setup = {k: v for k, v in config.items() if k not in FREE and k not in ("dataset", "model")}
    dataset, model = config["dataset"], config["model"]
    setup |= {f"dataset.{k}": v for k, v in dataset.items() if k not in FREE_DATASET}
    setup |= {f"model.{k}": v for k, v in model.items() if k not in FREE_MODEL}
    if config["cos"]:
        setup |= {"epochs_num": config["epochs_num"]}  # the cosine depends on it
    # sacred's own containers must not get into a checkpoint
    plain = {k: list(v) if isinstance(v, list | tuple) else v for k, v in setup.items()}
    return plain | {f"train {key}": value for key, value in places.origin().items()}


def make_run_options(config: Mapping[str, Any]) -> RunOptions:
    """The options of the loop."""
    dataset = config["dataset"]
    flat = {
        **config,
        "rounds": count_rounds(dataset["queries_per_epoch"], dataset["cache_refresh_rate"]),
        "kept_by": check_recall_values(list(dataset["recall_values"]), config["save_best"]),
        "pin_memory": True,
    }
    return RunOptions(**{part.name: flat[part.name] for part in fields(RunOptions)})


def make_run(
    net: nn.Module,
    stage: Stage,
    train: PlaceSet,
    val: PlaceSet,
    transforms: tuple[Transform, Transform],
    config: Mapping[str, Any],
    sacred_run: Any,
) -> TrainingRun:
    """Everything made and checked; `net` is in place, with its trained parameters chosen.

    `transforms`: of the other training images, and of training queries.
    """
    options, ranks, dataset = make_run_options(config), stage.ranks, config["dataset"]
    check_batch_norms(net, stage)
    net.to(ranks.device)
    ranks.broadcast_state(net)
    schedule = make_schedule(config)
    groups = make_groups(net)
    if config["model"]["aggregation"] == "crn" and "lr_crn_layer" in config:
        groups = split_crn(net, schedule.lr, config["lr_crn_layer"], config["lr_crn_net"])
    reranks = not is_global(stage)
    frozen = make_frozen(net, train, transforms[0], config, ranks)
    return TrainingRun(
        RunParts(
            net,
            make_optimizer(groups, config["optim"], schedule.lr),
            make_miner(net, train, config, ranks),
            Draws.seeded(config["seed"]),
            Progress(),
        ),
        TrainingImages(
            train,
            *transforms,
            GroupOptions(
                dataset["train_batch_size"],
                0 if frozen else dataset["num_workers"],
                dataset["horizontal_flip"],
                ranks.rank,
                ranks.world,
            ),
            frozen,
        ),
        stage,
        schedule,
        make_measure(net, val, config, ranks, reranks),
        sacred_run.log_scalar,
        options,
        save_folder(config["save_dir"]),
        make_setup(config, train),
        Guard(config["collapse_spread"], config["collapse_share"]),
    )


def make_frozen(
    net: nn.Module, places: PlaceSet, transform: Transform, config: Mapping[str, Any], ranks: Ranks
) -> FrozenImages | None:
    """The training images through the fixed backbone, where cache_frozen asks for it."""
    if not isinstance(net, R2Former):
        return None
    check_local_start(config)
    dataset = config["dataset"]
    reading = Reading(dataset["infer_batch_size"], dataset["num_workers"], ranks)
    frozen = None
    if config["cache_frozen"]:
        check_cache(config)
        frozen = pack_images(net, places, transform, reading, config["cache_budget_gib"])
    if config["local_start"] == "pca" and not is_continued(config):
        rows = choose_for_start(len(places.database_paths), config["seed"])
        paths = places.database_paths
        packed = (
            frozen.database[torch.from_numpy(rows)]
            if frozen
            else torch.from_numpy(
                embed_images(net, paths, transform, reading, rows, "local head", net.pack)
            )
        )
        start_local_head(net, packed)
    return frozen


def is_global(stage: Stage) -> bool:
    """Whether the stage has no reranker."""
    return not hasattr(stage, "finetune")


def finish_run(run: TrainingRun, sacred_run: Any) -> dict[str, float]:
    """Train to the end; the kept recalls go to the sacred run and are returned, in percent."""
    progress = run.run()
    sacred_run.info["best_epoch"] = progress.best_epoch
    sacred_run.info["recalls"] = {
        k: float(np.round(v, 4)) for k, v in progress.best_metrics.items()
    }
    sacred_run.info["best_global"] = progress.best_global
    return dict(progress.best_metrics)
