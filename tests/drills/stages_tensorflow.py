"""What the TensorFlow side writes: packed shards, weights, a training with its checkpoints.

Nothing of TensorFlow may run before the forks: it starts threads that a fork does not have.
"""

from pathlib import Path
from typing import Any

from delg_training import experiment
from delg_training.models.weights import save_weights
from delg_training.packing_run import PackingOptions, pack
from tests.delg_training.tiny_sets import (
    NUM_CLASSES,
    TINY_CONFIG,
    draw_jpegs,
    pack_tiny_set,
    tiny_model,
)  # fmt: skip
from tests.drills.interruptions import Outcome, Stage, all_files

WEIGHTS = "delf_weights"


def write_pictures(inputs: Path) -> None:
    names = [Path(path).stem for path in draw_jpegs(inputs / "jpg", 6)]
    lines = ["id,url,landmark_id", *(f"{name},u,{i % 3}" for i, name in enumerate(names))]
    (inputs / "train.csv").write_text("\n".join(lines) + "\n")


def pack_pictures(inputs: Path, out: Path) -> None:
    pack(
        PackingOptions(
            train_directory=f"{inputs}/jpg/", output_directory=str(out), num_shards=2,
            train_csv_path=str(inputs / "train.csv"), workers=1,
        )
    )  # fmt: skip


def train(inputs: Path, out: Path) -> None:
    dataset: dict[str, Any] = {
        "train_file_pattern": f"{inputs}/tfrecord/train*", "validation_file_pattern": None,
        "num_classes": NUM_CLASSES, "batch_size": 4, "image_size": 33,
    }  # fmt: skip
    experiment.ex.run(
        config_updates={
            "logdir": str(out), "max_iters": 4, "initial_lr": 0.05, "checkpoint_every": 1,
            "model": TINY_CONFIG, "dataset": dataset,
        }
    )  # fmt: skip


def weights(out: Path) -> Outcome:
    """The weights; summaries hold times."""
    return {name: value for name, value in all_files(out).items() if name.startswith(WEIGHTS)}


STAGES = {
    "delg_packing": Stage(write_pictures, pack_pictures),
    "delg_weights": Stage(
        lambda _: None, lambda _, out: save_weights(tiny_model(), out / "w"),
        drills=("kill", "pair"),
    ),
    "train_delg": Stage(
        lambda inputs: pack_tiny_set(inputs), train, weights, ("kill",)
    ),
}  # fmt: skip
