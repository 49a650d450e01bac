"""Several processes started by torchrun; a single process is the reference.

Each rank takes its share of every global batch and of the pairs in evaluation; gradients are
summed, so that the steps equal those of a single process up to summation order.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

# Imported before any group exists: its functions keep the group of that moment as a default. Some
# optimisers import it late; the group's threads would then outlive `stop_ranks` and could abort the
# process at its exit.
from torch.distributed.nn import functional as _functional  # noqa: F401

from utils.stopping import Stop

CPU = torch.device("cpu")
GATHERED = 1 << 28  # bytes that ranks exchange at a time


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on some rank."""
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)) > 0)

    def broadcast_state(self, module: torch.nn.Module) -> None:
        """Give every rank the weights of rank 0."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def share_rows(self, array: np.ndarray) -> None:
        """Give every rank the rows of all: row i is from rank i modulo their number; in place."""
        flat = array.reshape(len(array), -1)
        step = max(1, GATHERED // (flat.shape[1] * flat.itemsize))
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            others = np.arange(start, start + len(part)) % self.world != self.rank
            part[others] = 0
            part[:] = self.sum_(torch.from_numpy(part).to(self.device).float()).cpu().numpy()

    def gather_scores(self, mine: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """(P,) float32 of all ranks from each one's part; `shares` (P,) says whose a pair is."""
        if self.world == 1:
            return mine
        scores = torch.zeros(len(shares), device=self.device)
        scores[torch.from_numpy(shares == self.rank).to(self.device)] = torch.from_numpy(mine).to(
            self.device
        )
        return self.sum_(scores).cpu().numpy()


def exchange_step(
    module: nn.Module, figures: Tensor, stop: Stop, ranks: Ranks
) -> tuple[Tensor, Stop]:
    """Sum gradients and `figures` (n,) of a step over the ranks, and agree on an early end.

    A parameter without a gradient on every rank keeps none: the optimiser must skip it. `stop`:
    what this rank asks for; INTERRUPT counts before TIME.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    asked = torch.tensor([stop == Stop.TIME, stop == Stop.INTERRUPT], device=ranks.device)
    used = torch.tensor([p.grad is not None for p in parameters], device=ranks.device)
    sums = ranks.sum_(torch.cat([figures.detach(), asked.to(figures), used.to(figures)]))
    figures, asked, used = sums.split([len(figures), 2, len(parameters)])
    grads = []
    for parameter, flag in zip(parameters, used.tolist(), strict=True):
        if flag > 0:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
    flat = ranks.sum_(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
    out_of_time, interrupted = asked.tolist()
    return figures, Stop.INTERRUPT if interrupted else Stop.TIME if out_of_time else Stop.NO


def start_ranks(cpu: bool) -> Ranks:
    """Join the processes that torchrun started, or a single one; picks the device.

    `cpu` True: CPU and gloo even where there is a GPU.
    """
    on_gpu = torch.cuda.is_available() and not cpu
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    return Ranks(int(os.environ.get("RANK", "0")), world, device)


def stop_ranks() -> None:
    """Leave the group of processes, where there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def observe_first_rank_only(options: dict) -> None:
    """For sacred's `option_hook`: only rank 0 writes a run folder."""
    if int(os.environ.get("RANK", "0")) > 0:
        options["--unobserved"] = True
