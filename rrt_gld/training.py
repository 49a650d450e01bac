"""Training steps of the reranking transformer: plain functions on explicit arguments."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from rrt_gld.datasets.pairs import TripletBatch
from utils.distributed import Ranks
from utils.divergence import TrainingDivergedError, require_finite
from utils.interruption import Stop

logger = logging.getLogger(__name__)

LN2 = math.log(2.0)  # loss of a matcher that answers 1/2 to every pair


def pair_logits(model: nn.Module, batch: TripletBatch) -> Tensor:
    """(2T,) logits of T triplets: (anchor, positive) pairs first, then (anchor, negative)."""
    twice = [torch.cat([part, part]) for part in batch.anchors]
    return model(*twice, *batch.partners)


def make_labels(logits: Tensor) -> Tensor:
    """(2T,) targets of `pair_logits`: 1 for the first half, 0 for the second."""
    half = len(logits) // 2
    return torch.cat([logits.new_ones(half), logits.new_zeros(half)])


def compute_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the binary cross entropies of (2T,) logits, and how many are on the right side."""
    labels = make_labels(logits)
    loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    # sigmoid > 0.5 exactly where the logit is positive
    return loss, ((logits > 0) == (labels > 0.5)).sum()


@dataclass
class StepResult:
    """Sums over the global batch."""

    loss: Tensor  # () sum of the losses of the pairs
    correct: Tensor  # () pairs on the right side
    stop: Stop  # the same on all ranks: INTERRUPT when one of them asks for it, else TIME
    grad_norm: Tensor | None  # () before clipping; None without clipping


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: TripletBatch | None,
    num_pairs: int,
    max_norm: float = 0.0,
    autocast: bool = False,
    ranks: Ranks | None = None,
    stop: Stop = Stop.NO,
) -> StepResult:
    """One step on the mean loss over the global batch of `num_pairs` pairs.

    `batch`: this rank's share of the triplets, None when it has none. `max_norm` > 0 clips the
    total gradient 2-norm. `autocast` runs the forward pass in bfloat16 where torch allows. `stop`:
    what this rank asks for; the answer is common to all.
    """
    ranks = ranks or Ranks()
    optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(4, device=ranks.device)  # loss, correct, ranks that ask for either stop
    if stop:
        sums[1 + stop] = 1.0
    if batch is not None:
        batch = batch.to(ranks.device)
        with torch.autocast(ranks.device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = pair_logits(model, batch)
        loss, correct = compute_loss(logits.float())
        (loss / num_pairs).backward()
        sums[0], sums[1] = loss.detach(), correct
    if ranks.world > 1:
        _sum_gradients(model, sums, ranks)
        stop = Stop.INTERRUPT if sums[3] > 0 else Stop.TIME if sums[2] > 0 else Stop.NO
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm) if max_norm > 0 else None
    optimizer.step()
    return StepResult(sums[0], sums[1], stop, norm)


def _sum_gradients(model: nn.Module, sums: Tensor, ranks: Ranks) -> None:
    """Sum all gradients and `sums` over the ranks in one exchange."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    parts = [sums, *(p.grad for p in parameters if p.grad is not None)]
    flat = ranks.sum_(torch.cat([part.flatten() for part in parts]))
    start = 0
    for part in parts:
        part.copy_(flat[start : start + part.numel()].view_as(part))
        start += part.numel()


@dataclass
class Guard:
    """Says when training does not learn, and stops it when it falls apart."""

    patience: int = 5000  # steps before a loss at ln 2 is worth a word
    margin: float = 0.01  # the loss counts as "at ln 2" within this
    ceiling: float = 5 * LN2  # a mean loss above this has fallen apart
    told: bool = field(default=False, init=False)

    def check(self, step: int, mean_loss: float, model: nn.Module) -> None:
        """`mean_loss` since the last check, at global step `step`; raises TrainingDivergedError."""
        require_finite(step, mean_loss, model, "max_norm=0.1 or autocast=False")
        if mean_loss > self.ceiling:
            raise TrainingDivergedError(
                f"step {step}: mean loss {mean_loss:.3f}, far above ln 2 = {LN2:.3f}; lower lr or "
                "set max_norm=0.1, and go on from the last good checkpoint"
            )
        if step >= self.patience and abs(mean_loss - LN2) < self.margin and not self.told:
            self.told = True
            logger.warning(
                "step %d: the mean loss %.3f still stands at ln 2: the matcher has learnt nothing. "
                "A plateau of some hundred steps is usual, of thousands is not: try another seed, "
                "a lower lr, or check that labels and neighbour table belong together",
                step, mean_loss,
            )  # fmt: skip


# told the sums over a step's pairs, and how many pairs it had
AfterStep = Callable[[StepResult, int], None]


def train_one_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[TripletBatch | None, int]],
    after_step: AfterStep,
    asks_to_stop: Callable[[], Stop],
    max_norm: float = 0.0,
    autocast: bool = False,
    ranks: Ranks | None = None,
) -> Stop:
    """Steps over `batches`: this rank's share and the pairs of the whole batch.

    `asks_to_stop` is asked before each step, and all ranks stop together after a step before which
    one of them asked; the answer is why. `after_step(result, num_pairs)` is told of every step.
    """
    model.train()
    for batch, num_pairs in batches:
        result = train_step(
            model, optimizer, batch, num_pairs, max_norm, autocast, ranks, asks_to_stop()
        )
        after_step(result, num_pairs)
        if result.stop:
            return result.stop
    return Stop.NO
