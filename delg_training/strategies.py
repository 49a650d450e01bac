"""Which devices train: one, all GPUs of this machine, or several machines."""

import json
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

TF_CONFIG_HINT = (
    'TF_CONFIG in the environment, such as {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def _task() -> dict[str, Any]:
    try:
        return json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG is no JSON ({error}); expected {TF_CONFIG_HINT}") from error


def is_chief() -> bool:
    """Whether this process writes the results: the first of several machines, or the only one."""
    task = _task()
    return task.get("type", "worker") in ("chief", "worker") and not task.get("index", 0)


def observe_chief_only(options: dict[str, Any]) -> None:
    """For sacred's `option_hook`: only the chief writes a run folder."""
    if not is_chief():
        options["--unobserved"] = True


def make_strategy(
    multi_worker: bool = False, devices: Sequence[str] | None = None
) -> tf.distribute.Strategy:
    """One replica per GPU of this machine, on the CPU without one; nothing to choose.

    `multi_worker`: the replicas of all machines named by TF_CONFIG, one process per machine; to be
    called before anything else asks TensorFlow for a device. `devices`: these of this machine.
    """
    if multi_worker:
        if not _task():
            raise ValueError(f"multi_worker=True needs {TF_CONFIG_HINT}")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if devices is None:
        devices = [gpu.name.split(":", 1)[1] for gpu in tf.config.list_physical_devices("GPU")]
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    return tf.distribute.get_strategy()
