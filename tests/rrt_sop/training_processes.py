"""Runs experiments with the thin backbone in this process: for tests that start several of them.

python -m tests.rrt_sop.training_processes FILE     # a JSON list of [stage, options]
"""

import json
import sys
from pathlib import Path

import torch

from rrt_sop import experiment_global, experiment_rerank
from tests.rrt_sop.small_networks import use_thin_backbone
from utils.distributed import observe_first_rank_only

EXPERIMENTS = {"global": experiment_global.ex, "rerank": experiment_rerank.ex}


def run_all(file: Path) -> None:
    """Carry out the runs of the file, one after the other."""
    torch.set_num_threads(1)
    use_thin_backbone()
    for stage, options in json.loads(file.read_text()):
        flags: dict = {"--file_storage": str(file.with_suffix(f".{stage}"))}
        observe_first_rank_only(flags)
        EXPERIMENTS[stage].run(config_updates=options, options=flags)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
