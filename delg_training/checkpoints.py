"""What a training run writes to disk, and how it goes on from there.

Below the run's folder: `delf_tf2-ckpt/ckpt-<step>` (network and optimiser, the last ten and one
every three hours), `delf_weights` (the network alone, which the exporters read), `options.json`.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.weights import (
    RUN_PREFIX,
    assign_from_checkpoint,
    holds_key,
    named_variables,
    save_weights,
)
from delg_training.optimisation import Momentum
from utils.paths import atomic_write
from utils.stopping import describe_options
from utils.text_files import read_json_object

logger = logging.getLogger(__name__)

FOLDER, WEIGHTS, OPTIONS = "delf_tf2-ckpt", "delf_weights", "options.json"
KEPT, HOURS = 10, 3
CHECKPOINT = re.compile(r"ckpt-(\d+)\.index")


def latest_checkpoint(logdir: Path) -> Path | None:
    """Prefix of the checkpoint with the most steps; None without any."""
    names = [path.name for path in (logdir / FOLDER).glob("ckpt-*.index")]
    steps = [int(match[1]) for match in map(CHECKPOINT.fullmatch, names) if match]
    return logdir / FOLDER / f"ckpt-{max(steps)}" if steps else None


def restore(path: Path, model: Delf, optimizer: Momentum) -> None:
    """Network, momentum and step counter from a checkpoint of ours or of the published code."""
    variables = dict(named_variables(model))
    slots = dict(named_variables(optimizer.momentum))
    keys = {RUN_PREFIX + name: variable for name, variable in variables.items()}
    keys["optimizer/iter"] = optimizer.iter
    ours = holds_key(path, f"optimizer/momentum/{next(iter(slots))}")
    for name, slot in slots.items():
        published = f"{RUN_PREFIX}{name}/.OPTIMIZER_SLOT/optimizer/momentum"
        keys[f"optimizer/momentum/{name}" if ours else published] = slot
    assign_from_checkpoint(keys, path)


class RunFiles:
    """The folder of one run."""

    def __init__(
        self, logdir: str | Path, model: Delf, optimizer: Momentum, chief: bool = True
    ) -> None:
        """`chief`: False on further machines, which must take part in saving; theirs is removed."""
        self.logdir, self.model, self.optimizer = Path(logdir), model, optimizer
        self.chief = chief
        self._target = self.logdir if chief else self.logdir / f".other_machine_{id(self)}"
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer),
            str(self._target / FOLDER),
            max_to_keep=KEPT,
            keep_checkpoint_every_n_hours=HOURS,
        )

    @property
    def weights(self) -> Path:
        """Prefix of the file of weights."""
        return self.logdir / WEIGHTS

    def restore_latest(self, setup: dict[str, Any]) -> bool:
        """Go on from the last checkpoint, if there is one.

        `setup`: plain options which a run and its continuation must share; ValueError otherwise.
        """
        path = latest_checkpoint(self.logdir)
        if path is None:
            if self.chief:
                text = json.dumps(setup, indent=1, sort_keys=True)
                atomic_write(self.logdir / OPTIONS, text.encode())
            return False
        self._require_same(setup)
        restore(path, self.model, self.optimizer)
        self._write_weights()  # killed between the two files of a save, they are of another step
        logger.info("continuing from %s", path)
        return True

    def _require_same(self, setup: dict[str, Any]) -> None:
        file = self.logdir / OPTIONS
        if not file.is_file():
            logger.warning("%s does not exist: cannot tell whether the options agree", file)
            return
        then = read_json_object(file, "delete it to go on with these options")
        now = json.loads(json.dumps(setup))
        differing = describe_options(then, now)
        if differing:
            raise ValueError(
                f"{self.logdir} holds a run with other options ({differing}); give the "
                f"same ones, another logdir, or delete {file} to go on with these"
            )

    def save(self, step: int) -> None:
        """Write checkpoint and weights after `step` updates; all machines together."""
        self._manager.save(checkpoint_number=step)
        self._write_weights()

    def _write_weights(self) -> None:
        """All machines together."""
        save_weights(self.model, self._target / WEIGHTS)
        if not self.chief:
            shutil.rmtree(self._target, ignore_errors=True)
