"""Two processes share an evaluation out and find what one finds."""

import json
import os
import subprocess
import sys

import pytest

from r2former import evaluate as entry
from tests.r2former.place_folders import draw_places
from tests.r2former.small_runs import make_tiny, options, write_checkpoint
from tests.source_tree import ROOT


def as_words(updates: dict, prefix: str = "") -> list[str]:
    """Nested updates as words of a command line."""
    words = []
    for key, value in updates.items():
        if isinstance(value, dict):
            words += as_words(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={value}")
    return words


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_two_processes_find_what_one_finds(tmp_path):
    draw_places(tmp_path / "set")
    path = write_checkpoint(tmp_path / "tiny.pth", make_tiny())
    updates = options(tmp_path / "set", tmp_path / "out", resume=str(path), save_lists=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "r2former.evaluate", "-F", str(tmp_path / "runs"), "with", *as_words(updates),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shared = json.loads((tmp_path / "runs" / "1" / "run.json").read_text())["result"]
    lists = (tmp_path / "out" / "rerank.csv").read_text()
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["global.csv", "rerank.csv"], "shared files are removed"
    alone = entry.ex.run(config_updates=updates).result
    assert shared == alone
    rows = [line.split(",")[:3] for line in lists.splitlines()]
    again = (tmp_path / "out" / "rerank.csv").read_text().splitlines()
    assert rows == [line.split(",")[:3] for line in again]
