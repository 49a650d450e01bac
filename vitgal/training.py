"""Steps of training and the accuracy of a network: plain functions on explicit arguments."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from utils.distributed import Ranks
from utils.divergence import require_finite
from utils.interruption import Stop
from vitgal.losses import ComputeLoss

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
# images (B, 3, H, W), labels (B,); where images come as two views, links (B / 2, N), see two_views
Batch = tuple[Tensor, ...]


def choose_precision(name: str | None, device: torch.device) -> torch.dtype | None:
    """What the forward pass computes in; None: float32.

    `name` None: fp16 on a GPU, as published, float32 on a CPU.
    """
    if name is None:
        return torch.float16 if device.type == "cuda" else None
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}, expected None or one of {list(PRECISIONS)}")
    return PRECISIONS[name]


def make_scaler(device: torch.device, precision: torch.dtype | None) -> GradScaler:
    """Scales the loss in half precision, where small gradients would vanish; else does nothing."""
    return GradScaler(device.type, enabled=precision == torch.float16)


@dataclass
class StepResult:
    """Sums over the images of all processes."""

    parts: dict[str, Tensor]  # of the loss, (): "loss" and, for the autoencoder, "ce" and "mse"
    correct: Tensor  # () images whose own class has the largest logit
    images: Tensor  # () how many there were
    stop: Stop  # the same in all processes: INTERRUPT when one asks for it, else TIME


@dataclass(frozen=True)
class Stepper:
    """What a step needs beside its batch."""

    model: nn.Module  # as called: wrapped for several processes
    compute_loss: ComputeLoss
    optimizer: Optimizer
    scaler: GradScaler
    ranks: Ranks
    precision: torch.dtype | None = None
    clip_grad: float | None = None  # the total gradient 2-norm is clipped to this

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Parts of the mean loss of a batch, its logits and its labels."""
        device = self.ranks.device
        images, labels, *more = (part.to(device, non_blocking=True) for part in batch)
        enabled = self.precision is not None
        with torch.autocast(device.type, dtype=self.precision, enabled=enabled):
            outputs = self.model(images, labels)
            parts = self.compute_loss(outputs, labels, *more)
        return parts, outputs["logits"].detach(), labels

    def step(self, batch: Batch, stop: Stop = Stop.NO) -> StepResult:
        """One step on the mean loss over the batches of all processes.

        `stop`: what this process asks for; the answer is common to all.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts, logits, labels = self.forward(batch)
        self.scaler.scale(parts["loss"]).backward()
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self._sum_up(parts, logits, labels, stop)

    def _sum_up(
        self, parts: dict[str, Tensor], logits: Tensor, labels: Tensor, stop: Stop
    ) -> StepResult:
        """The sums of all processes, in one exchange."""
        asked = [float(stop == kind) for kind in (Stop.TIME, Stop.INTERRUPT)]
        sums = torch.stack(
            [
                *(part.detach().float() * len(labels) for part in parts.values()),
                (logits.argmax(dim=1) == labels).sum().float(),
                torch.tensor(float(len(labels)), device=logits.device),
                *(torch.tensor(flag, device=logits.device) for flag in asked),
            ]
        )
        if self.ranks.world > 1:
            self.ranks.sum_(sums)
            stop = Stop.INTERRUPT if sums[-1] > 0 else Stop.TIME if sums[-2] > 0 else Stop.NO
        *values, correct, images, _, _ = sums
        return StepResult(dict(zip(parts, values, strict=True)), correct, images, stop)


def train_one_epoch(
    stepper: Stepper,
    batches: Iterable[Batch],
    before_step: Callable[[], None],
    after_step: Callable[[StepResult], None],
    asks_to_stop: Callable[[], Stop],
) -> Stop:
    """Steps over `batches`, this process's share of an epoch.

    `asks_to_stop` is asked before each step, and all processes stop together after a step before
    which one of them asked; the answer is why.
    """
    stepper.model.train()
    for batch in batches:
        before_step()
        result = stepper.step(batch, asks_to_stop())
        after_step(result)
        if result.stop:
            return result.stop
    return Stop.NO


def evaluate_accuracy(stepper: Stepper, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss, and top-1 and top-5 accuracy in percent, over the batches of all processes.

    Logits of the retrieval network contain the margin of the true class: its accuracies are
    pessimistic, as published.
    """
    stepper.model.eval()
    sums = torch.zeros(4, device=stepper.ranks.device, dtype=torch.float64)  # loss, top 1, 5, count
    with torch.no_grad():
        for batch in batches:
            parts, logits, labels = stepper.forward(batch)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            loss, images = parts["loss"].double() * len(labels), len(labels)
            sums += torch.stack([loss, best[:, :1].sum(), best.sum(), loss.new_tensor(images)])
    total, top1, top5, count = stepper.ranks.sum_(sums).tolist()
    if not count:
        return {"loss": math.nan, "top1": math.nan, "top5": math.nan}
    return {"loss": total / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}


@dataclass
class Guard:
    """Stops a training that falls apart, and says when one does not learn."""

    patience: int = 2000  # steps before a loss that has not fallen is worth a word
    least: float = 0.02  # share of the first loss that must be gone by then
    first: float | None = field(default=None, init=False)
    told: bool = field(default=False, init=False)

    def check(self, step: int, mean_loss: float, model: nn.Module) -> None:
        """`mean_loss` since the last check, at global step `step`; raises TrainingDivergedError."""
        require_finite(step, mean_loss, model, "clip_grad=1.0 or precision=float32")
        if self.first is None:
            self.first = mean_loss
        if step >= self.patience and mean_loss > (1 - self.least) * self.first and not self.told:
            self.told = True
            logger.warning(
                "step %d: the mean loss %.3f stands where it began (%.3f): nothing was learnt. "
                "Look at lr, at the labels of the split and at the start (pretrained)",
                step, mean_loss, self.first,
            )  # fmt: skip
