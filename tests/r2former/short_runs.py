"""Short training runs of both stages on a street of a few images."""

from pathlib import Path
from typing import Any

import torch

from r2former import experiment_global, experiment_rerank
from r2former.models.weights import read_checkpoint
from tests.r2former.street_folders import line_of_places, write_vg_split

EXPERIMENTS = {"global": experiment_global.ex, "rerank": experiment_rerank.ex}
STAGES = tuple(EXPERIMENTS)
MODEL = {
    **{"backbone": "deit", "pretrained": False, "img_size": [32, 48], "embed_dim": 32, "depth": 2},
    **{"num_heads": 2, "patch_size": 8, "fc_output_dim": 16, "local_dim": 8, "num_local": 16},
    **{"rerank_dim": 16, "rerank_depth": 2, "rerank_pair_depth": 1, "rerank_heads": 2},
}
DATASET = {
    **{"dataset_name": "street", "resize": [32, 48], "num_workers": 0, "infer_batch_size": 16},
    **{"train_batch_size": 3, "queries_per_epoch": 12, "cache_refresh_rate": 6},
    **{"negs_num_per_query": 2, "neg_samples_num": 20, "recall_values": [1, 5, 10]},
}


def write_street(folder: Path) -> Path:
    """A set "street": 30 places 30 m apart, 10 queries of training and 6 of the others."""
    for split, queries in (("train", 10), ("val", 6), ("test", 6)):
        write_vg_split(
            folder / "street", split, line_of_places(30, 30.0), line_of_places(queries, 90.0, 2.0)
        )
    return folder


def options(stage: str, folder: Path, save_dir: Path, **changes: Any) -> dict[str, Any]:
    """2 epochs of 2 rounds of 2 steps."""
    dataset = DATASET | {"datasets_folder": str(folder)} | changes.pop("dataset", {})
    base: dict[str, Any] = {
        **{"epochs_num": 2, "cpu": True, "log_every": 2, "save_dir": str(save_dir), "lr": 1e-3},
    }
    if stage == "rerank":
        base |= {"val_top_k": 10, "warmup": 1}
    model = MODEL | changes.pop("model", {})
    return {**base, "dataset": dataset, "model": model, **changes}


def train(stage: str, folder: Path, save_dir: Path, **changes: Any) -> Any:
    return EXPERIMENTS[stage].run(config_updates=options(stage, folder, save_dir, **changes))


def weights(save_dir: Path, name: str = "last_model.pth") -> dict[str, torch.Tensor]:
    return read_checkpoint(save_dir / name)["model_state_dict"]
