"""Options of runs on drawn sets with a tiny network, and its checkpoint."""

from pathlib import Path
from typing import Any

import torch

from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former
from r2former.models.weights import ENTRY, to_released_names
from utils.checkpoints import save_checkpoint

MODEL: dict[str, Any] = {
    "pretrained": False,
    "img_size": [32, 48],
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "patch_size": 8,
    "fc_output_dim": 16,
    "local_dim": 8,
    "num_local": 20,
    "rerank_dim": 16,
    "rerank_depth": 2,
    "rerank_heads": 2,
}
DATASET: dict[str, Any] = {
    "layout": "own",
    "resize": [32, 48],
    "num_workers": 0,
    "infer_batch_size": 4,
    "recall_values": [1, 2, 5],
}


def make_tiny() -> DeiTR2Former:
    """The network that `MODEL` configures, random weights."""
    torch.manual_seed(3)
    deit = DeiT((32, 48), out_dim=16, embed_dim=32, depth=3, num_heads=2, patch_size=8)
    return DeiTR2Former(deit, local_dim=8, num_local=20, dim=16, depth=2, num_heads=2).eval()


def write_checkpoint(path: Path, net: torch.nn.Module) -> Path:
    """A file in the published form."""
    state = to_released_names(net)
    return save_checkpoint(path, **{ENTRY: state, "epoch_num": 3, "recalls": [50.0]})


def options(places: Path, temp_dir: Path, **changes: Any) -> dict[str, Any]:
    """Updates for `r2former.evaluate` on the folders that `draw_places` made."""
    folders = {"database_folder": f"{places}/database", "query_folder": f"{places}/queries"}
    return {
        "dataset": {**DATASET, **folders, **changes.pop("dataset", {})},
        "model": {**MODEL, **changes.pop("model", {})},
        "cpu": True,
        "top_k": 4,
        "temp_dir": str(temp_dir),
        **changes,
    }
