"""Ranks started by torchrun: sums, shares of scores, and a clean end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from utils.distributed import Ranks
from utils.paths import REPO_ROOT

SCRIPT = """
import os
import numpy as np
import torch
from utils.distributed import exchange_step, start_ranks, stop_ranks
from utils.stopping import Stop

def threads():
    tasks = os.listdir("/proc/self/task")
    return sorted(open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks)

ranks = start_ranks(cpu=True)
model = torch.nn.Linear(3, 2)
torch.nn.init.constant_(model.weight, float(ranks.rank))
torch.optim.AdamW(model.parameters())  # imports much of torch while the group exists
ranks.broadcast_state(model)
assert float(model.weight.sum()) == 0.0, "the weights are those of rank 0"
assert ranks.sum_(torch.tensor(1.0 + ranks.rank)) == 3.0
assert ranks.any(ranks.rank == 1) and not ranks.any(False)
shares = np.array([0, 1, 1, 0])
mine = np.array([10.0, 11.0, 12.0, 13.0], np.float32)[shares == ranks.rank]
assert ranks.gather_scores(mine, shares).tolist() == [10.0, 11.0, 12.0, 13.0]
assert any("gloo" in name for name in threads()), "the check below would see nothing"
model.weight.grad = torch.full((2, 3), 1.0 + ranks.rank)
if ranks.rank:
    model.bias.grad = torch.ones(2)
wish = Stop.TIME if ranks.rank else Stop.NO
figures, stop = exchange_step(model, torch.tensor([1.0, ranks.rank]), wish, ranks)
assert (figures.tolist(), stop) == ([2.0, 1.0], Stop.TIME)
assert model.weight.grad.eq(3).all() and model.bias.grad.eq(1).all(), "one rank's gradient counts"
model.bias.grad = None
_, stop = exchange_step(model, figures, Stop.INTERRUPT if ranks.is_first else wish, ranks)
assert stop == Stop.INTERRUPT and model.bias.grad is None, "no rank has it: the optimiser skips it"
stop_ranks()
left = [name for name in threads() if "gloo" in name]
assert not left, f"threads of the group outlive it: {left}"
print(f"rank {ranks.rank} done", flush=True)
"""


def test_two_ranks_share_and_leave_no_thread_behind(tmp_path: Path) -> None:
    """A thread left behind may ask for the interpreter while it ends, and abort the process."""
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run(
        [sys.executable, *launcher, str(script)], env=environment, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(f"rank {rank} done" in done.stdout for rank in (0, 1))


def test_a_single_process_keeps_what_it_has() -> None:
    ranks = Ranks()
    assert ranks.is_first
    assert ranks.any(True)
    assert not ranks.any(False)
    scores = np.array([1.0, 2.0], np.float32)
    assert ranks.gather_scores(scores, np.zeros(2, np.int64)) is scores
    assert float(ranks.sum_(torch.tensor(2.0))) == 2.0


def test_shares_of_ranks_add_up(monkeypatch):
    """Rank 1 of 2 has rows 1, 3, 5; the sum over ranks, played here, brings those of rank 0."""
    full = np.arange(12, dtype=np.float32).reshape(6, 2)
    mine = np.where(np.arange(6)[:, None] % 2 == 1, full, np.float32(99))  # 99: never written

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        others = torch.from_numpy(full.copy())
        others[1::2] = 0
        return tensor + others

    monkeypatch.setattr(Ranks, "sum_", sum_)
    Ranks(1, 2).share_rows(mine)
    np.testing.assert_array_equal(mine, full)
