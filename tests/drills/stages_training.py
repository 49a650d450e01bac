"""Trainings of a few steps, killed and gone on with: the weights of an undisturbed run."""

from pathlib import Path
from typing import Any

from rrt_gld.experiment import ex as rrt_gld_ex
from rrt_gld.tools.prepare_topk_gldv2 import ex as topk_gldv2
from rrt_gld.tools.prepare_topk_revisited import ex as topk_revisited
from tests.drills.interruptions import Outcome, Stage
from tests.drills.reading import digest
from tests.r2former import short_runs as r2former_runs
from tests.rrt_gld.data_folders import write_random_test_folder, write_random_train_folder
from tests.rrt_sop import short_runs as rrt_sop_runs
from tests.rrt_sop.small_networks import use_thin_backbone
from tests.vitgal.train_folder import write_train_folder
from utils.checkpoints import load_state
from vitgal.create_train_split import ex as split_ex
from vitgal.experiment import ex as vitgal_ex

use_thin_backbone()


def trained(out: Path, name: str) -> Outcome:
    """Weights, optimiser and progress of the last checkpoint, without the time it took."""
    content: dict[str, Any] = load_state(out / name)
    content["progress"] = {k: v for k, v in content["progress"].items() if k != "seconds"}
    content.pop("random", None)  # holds lists of thousands of numbers
    return {key: digest(value) for key, value in content.items()}


def prepare_rrt_gld(inputs: Path) -> None:
    write_random_test_folder(inputs / "test")
    write_random_train_folder(inputs / "train")
    options = {"dataset_name": "test", "data_dir": str(inputs / "test"), "feature_name": "feat"}
    topk_revisited.run(config_updates={**options, "gnd_name": "gnd.pkl"})
    options = {"data_dir": str(inputs / "train"), "feature_name": "feat"}
    topk_gldv2.run(config_updates={**options, "num_neighbours": 20})


def run_rrt_gld(inputs: Path, out: Path) -> None:
    model = {
        "name": "tiny", "num_global_features": 24, "num_local_features": 16, "dim_feedforward": 32,
        "nhead": 2, "num_encoder_layers": 1,
    }  # fmt: skip
    dataset = {
        "name": "set", "desc_name": "feat", "train_data_dir": str(inputs / "train"),
        "test_data_dir": str(inputs / "test"), "train_txt": "train.txt",
        "test_txt": ["test_query.txt", "test_gallery.txt"], "test_gnd_file": "gnd.pkl",
        "max_sequence_len": 9, "sampler": "triplet",
    }  # fmt: skip
    rrt_gld_ex.run(
        config_updates={
            "epochs": 1, "lr": 1e-3, "cpu": True, "temp_dir": str(out), "checkpoint_every": 1,
            "steps_per_epoch": 3, "continue_run": True, "model": model,
            "dataset": dataset,
        }
    )  # fmt: skip


def run_rrt_sop(inputs: Path, out: Path) -> None:
    changes = {"epochs": 1, "checkpoint_every": 1, "continue_run": True}
    rrt_sop_runs.train("rerank", inputs, out, **changes)


def prepare_vitgal(inputs: Path) -> None:
    write_train_folder(inputs)
    split_ex.run(config_updates={"data_path": str(inputs)})


def run_vitgal(inputs: Path, out: Path) -> None:
    options: dict[str, Any] = {
        "epochs": 1, "cpu": True, "checkpoint_every": 2, "output_dir": str(out),
        "keep_epochs": False, "continue_run": True,
        "dataset": {"name": "set", "data_path": str(inputs), "batch_size": 4, "num_workers": 0,
                    "input_size": 32},
        "model": {"name": "tiny", "embed_dim": 24, "depth": 1, "num_heads": 2, "code_dim": 8},
    }  # fmt: skip
    vitgal_ex.run(config_updates=options)


def run_r2former(inputs: Path, out: Path) -> None:
    changes = {"epochs_num": 1, "checkpoint_every": 1, "continue_run": True}
    r2former_runs.train("global", inputs, out, **changes)


def r2former_outcome(out: Path) -> Outcome:
    """Weights of the last checkpoint."""
    return {"weights": digest(r2former_runs.weights(out))}


STAGES = {
    "train_rrt_gld": Stage(
        prepare_rrt_gld, run_rrt_gld, lambda out: trained(out, "last.pt"), ("kill", "disk")
    ),
    "train_rrt_sop": Stage(
        lambda inputs: rrt_sop_runs.write_set(inputs), run_rrt_sop,
        lambda out: trained(out, "last.pt"), ("kill", "disk"),
    ),
    "train_vitgal": Stage(
        prepare_vitgal, run_vitgal, lambda out: trained(out, "checkpoint.pth"), ("kill", "disk")
    ),
    "train_r2former": Stage(
        lambda inputs: r2former_runs.write_street(inputs), run_r2former,
        r2former_outcome, ("kill", "disk"),
    ),
}  # fmt: skip
