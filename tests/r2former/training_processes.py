"""Runs short trainings in this process: for tests that start several of them.

python -m tests.r2former.training_processes FILE     # a JSON list of [stage, options]
"""

import json
import sys
from pathlib import Path

import torch

from tests.r2former.short_runs import EXPERIMENTS
from utils.distributed import observe_first_rank_only


def run_all(file: Path) -> None:
    """Carry out the runs of the file, one after the other."""
    torch.set_num_threads(1)
    for stage, options in json.loads(file.read_text()):
        flags: dict = {"--file_storage": str(file.with_suffix(f".{stage}"))}
        observe_first_rank_only(flags)
        EXPERIMENTS[stage].run(config_updates=options, options=flags)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
