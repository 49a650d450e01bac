"""Two processes that train together, as two machines would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from delg_training.models.weights import SUFFIX
from tests.delg_training.tiny_sets import NUM_CLASSES, TINY_CONFIG, pack_tiny_set
from tests.source_tree import ROOT


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(pattern: str, logdir: Path, task: int, ports: list[int]) -> subprocess.Popen[str]:
    workers = [f"127.0.0.1:{port}" for port in ports]
    cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": task}}
    options = [
        *("multi_worker=True", "max_iters=3", "report_every=2", f"logdir={logdir}"),
        f"dataset.train_file_pattern={pattern}",
        f"dataset.validation_file_pattern={pattern.replace('train*', 'validation*')}",
        *(f"dataset.num_classes={NUM_CLASSES}", "dataset.batch_size=4", "dataset.image_size=33"),
        *(f"model.{key}={value}" for key, value in TINY_CONFIG.items()),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "delg_training.experiment", "with", *options],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": json.dumps(cluster), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    pattern = pack_tiny_set(tmp_path)
    for _ in range(2):  # started again when all is done, they end at once
        ports = free_ports(2)
        processes = [start(pattern, tmp_path / "run", task, ports) for task in (0, 1)]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        for process, output in zip(processes, outputs, strict=True):
            assert process.returncode == 0, output[-4000:]
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [
        "delf_tf2-ckpt",
        "delf_weights.data-00000-of-00001",
        "delf_weights.index",
        "options.json",
        "train_logs",
    ]
    reader = tf.train.load_checkpoint(str(tmp_path / "run" / "delf_tf2-ckpt" / "ckpt-3"))
    assert reader.get_tensor("optimizer/iter" + SUFFIX) == 3
    weights = reader.get_tensor("model/cosine_weights" + SUFFIX)
    assert np.isfinite(weights).all()
