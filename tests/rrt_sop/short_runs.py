"""Short training runs of both stages on a few images."""

from pathlib import Path
from typing import Any

import torch

from rrt_sop import experiment_global, experiment_rerank
from tests.rrt_sop.image_folders import write_products, write_random_table
from tests.rrt_sop.small_networks import MODEL
from utils.checkpoints import load_state

EXPERIMENTS = {"global": experiment_global.ex, "rerank": experiment_rerank.ex}
STAGES = tuple(EXPERIMENTS)
BEST = "resnet18_set.pt"


def write_set(folder: Path) -> Path:
    """Lists, images, and random neighbour tables in nn_train.pkl and nn_test.pkl."""
    write_products(folder)
    write_random_table(folder / "nn_train.pkl", 24, 12)
    write_random_table(folder / "nn_test.pkl", 15, 14)
    return folder


def options(stage: str, products: Path, temp_dir: Path, **changes: Any) -> dict[str, Any]:
    """A short run: 2 epochs of 4 steps on 24 images; the neighbour tables are random."""
    dataset = {
        "name": "set",
        "data_path": str(products),
        "batch_size": 8 if stage == "global" else 18,
        "test_batch_size": 16,
        "sampler": "random_id" if stage == "global" else "triplet",
        "num_workers": 0,
        "crop_size": 40,
        "test_resize": 40,
        "test_crop": 40,
        "recalls": [1, 2, 10],
        "num_iterations": 4,
        "train_cache_nn_inds": str(products / "nn_train.pkl"),
        **changes.pop("dataset", {}),
    }
    base: dict[str, Any] = {"epochs": 2, "cpu": True, "visdom_freq": 3, "temp_dir": str(temp_dir)}
    if stage == "rerank":
        base |= {"cache_nn_inds": str(products / "nn_test.pkl")}
    model = MODEL | changes.pop("model", {})
    return {**base, "dataset": dataset, "model": model, **changes}


def train(stage: str, products: Path, temp_dir: Path, **changes: Any) -> Any:
    return EXPERIMENTS[stage].run(config_updates=options(stage, products, temp_dir, **changes))


def weights(temp_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return load_state(temp_dir / name)["state"]
