"""Training steps of both stages: plain functions on explicit arguments.

With several processes each holds its share of a global batch; the steps are those of a single
process up to the order of summation.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rrt_sop.datasets.batches import Batch
from rrt_sop.losses import LN2, contrastive_loss, nearest_is_right, pair_loss
from rrt_sop.models.network import RerankNet
from rrt_sop.models.superpoint import SuperPointNet
from utils.distributed import Ranks, exchange_step
from utils.divergence import TrainingDivergedError, require_finite
from utils.interruption import Stop

logger = logging.getLogger(__name__)

Net = RerankNet | SuperPointNet


@dataclass(frozen=True)
class GlobalStage:
    """Contrastive loss on the normalised global features of the whole batch.

    Every process puts its features among those of all others and takes the loss of the global
    batch; its gradient with respect to its own features is exact, so that the sum of the parameter
    gradients over the processes is that of a single one.
    """

    temperature: float = 0.05
    chunk: int | None = None  # images per pass; None: all at once
    autocast: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    unit: int = 1  # images that stay together when a batch is shared out
    items: str = "images"

    def __post_init__(self) -> None:
        if self.temperature <= 0 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(
                f"temperature is {self.temperature}, chunk is {self.chunk}: expected > 0, and None "
                "or at least 1"
            )

    def count(self, batch: Batch) -> int:
        """Items that the sums of a global batch are over."""
        return len(batch.labels)

    def backward(self, net: Net, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adds the gradients; loss times B, and images whose nearest other one is of their label.

        The sums are those of the whole batch, on the first process; zero on the others.
        """
        chunked = self.chunk is not None and batch.images is not None
        own = None
        if batch.images is not None:
            with torch.set_grad_enabled(not chunked):
                own = torch.cat([self._embed(net, part) for part in self._parts(batch.images)])
            if chunked:
                own.requires_grad_()
        features = self._gather(net, own, batch)
        loss = contrastive_loss(features, batch.labels, self.temperature)
        if own is not None:
            loss.backward()
        if chunked:
            self._backward_chunks(net, batch, own)
        if not self.ranks.is_first:
            return loss.new_zeros(()), loss.new_zeros(())
        with torch.no_grad():
            correct = nearest_is_right(features, batch.labels).sum()
        return loss.detach() * len(batch.labels), correct

    def _parts(self, images: Tensor) -> tuple[Tensor, ...]:
        return images.split(self.chunk) if self.chunk is not None else (images,)

    def _embed(self, net: Net, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            features = net.embed_global(images)
        return nn.functional.normalize(features.float(), dim=1)

    def _gather(self, net: Net, own: Tensor | None, batch: Batch) -> Tensor:
        """(B, D) features of the global batch; those of this process keep their gradient."""
        if self.ranks.world == 1:
            assert own is not None
            return own
        shape = len(batch.labels), net.num_global_features
        features = torch.zeros(shape, device=self.ranks.device)
        if own is not None:
            features[batch.places] = own.detach()
        self.ranks.sum_(features)
        return features if own is None else features.index_copy(0, batch.places, own)

    def _backward_chunks(self, net: Net, batch: Batch, own: Tensor | None) -> None:
        """A second pass by parts, with the gradients of the features from the first."""
        assert batch.images is not None
        assert own is not None
        assert own.grad is not None
        gradients = own.grad.split(self.chunk or len(own))
        for part, gradient in zip(self._parts(batch.images), gradients, strict=True):
            self._embed(net, part).backward(gradient)


@dataclass(frozen=True)
class RerankStage:
    """Mean binary cross entropy of the matcher on (anchor, positive) and (anchor, negative).

    The global batch holds triplets, flattened; local maps are computed once per image.
    """

    autocast: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    stored: bool = False  # batches hold outputs of the frozen backbone instead of images
    unit: int = 3
    items: str = "pairs"

    def count(self, batch: Batch) -> int:
        """Pairs of the global batch."""
        return 2 * (len(batch.labels) // 3)

    def backward(self, net: Net, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adds the gradients of the mean over the global batch; sums over this process's pairs."""
        if batch.images is None:
            return batch.labels.new_zeros(()).float(), batch.labels.new_zeros(())
        kind = batch.images.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.autocast):
            maps = self._local_maps(net, batch.images)
            logits = triplet_logits(net.matcher, maps)
        loss, correct = pair_loss(logits.float())
        (loss / self.count(batch)).backward()
        return loss.detach(), correct

    def _local_maps(self, net: Net, images: Tensor) -> Tensor:
        if not self.stored:
            return net.embed_local(images)
        assert isinstance(net, RerankNet)  # `make_frozen_views` takes no other network
        return net.local_map(images)


Stage = GlobalStage | RerankStage


def triplet_logits(matcher: nn.Module, maps: Tensor) -> Tensor:
    """(3T, C, h, w) maps -> (2T,) logits: (anchor, positive) pairs, then (anchor, negative)."""
    anchors, positives, negatives = maps[0::3], maps[1::3], maps[2::3]
    return matcher(torch.cat([anchors, anchors]), torch.cat([positives, negatives]))


@dataclass
class StepResult:
    """Sums over the global batch."""

    loss: Tensor  # ()
    correct: Tensor  # ()
    count: int  # items that the sums are over
    stop: Stop  # the same on all ranks: INTERRUPT when one of them asks for it, else TIME
    grad_norm: Tensor | None = None  # () before clipping; None without clipping


def train_step(
    net: Net,
    optimizer: Optimizer,
    batch: Batch,
    stage: Stage,
    max_norm: float = 0.0,
    stop: Stop = Stop.NO,
) -> StepResult:
    """One step on the mean loss over the global batch.

    `max_norm` > 0 clips the total gradient 2-norm. `stop`: what this process asks for; the answer
    is common to all.
    """
    ranks = stage.ranks
    optimizer.zero_grad(set_to_none=True)
    batch = batch.to(ranks.device)
    loss, correct = stage.backward(net, batch)
    if ranks.world > 1:
        sums, stop = exchange_step(net, torch.stack([loss.float(), correct.float()]), stop, ranks)
        loss, correct = sums
    norm = nn.utils.clip_grad_norm_(net.parameters(), max_norm) if max_norm > 0 else None
    optimizer.step()
    return StepResult(loss, correct, stage.count(batch), stop, norm)


def check_batch_norms(net: Net, stage: Stage) -> None:
    """ValueError where batch normalisation over the batch would give other steps than meant.

    Shares or parts of a batch have other statistics than the whole, and in a frozen backbone the
    running statistics would move.
    """
    if not isinstance(net, RerankNet):
        return
    batchwise = not net.set_bn_eval or isinstance(net.norm_layer, nn.BatchNorm1d)
    chunked = isinstance(stage, GlobalStage) and stage.chunk is not None
    if batchwise and (stage.ranks.world > 1 or chunked):
        raise ValueError(
            "batch normalisation over the batch (model.set_bn_eval=False or "
            "model.norm_layer='batch') needs the whole batch in one pass of one process; use one "
            "process without chunk, or model.set_bn_eval=True"
        )
    frozen = not any(p.requires_grad for p in net.layer4.parameters())
    if frozen and not net.set_bn_eval:
        raise ValueError(
            "model.set_bn_eval=False would move the running statistics of a frozen backbone; use "
            "model.set_bn_eval=True with model.freeze_backbone=True"
        )


@dataclass
class Guard:
    """Says when training does not learn, and stops it when it falls apart."""

    level: float | None = LN2  # loss of a network that tells nothing apart; None: unknown
    patience: int = 5000  # steps before a loss at that level is worth a word
    margin: float = 0.01  # the loss counts as "at the level" within this share of it
    ceiling: float = 5 * LN2  # a mean loss above this has fallen apart
    told: bool = field(default=False, init=False)

    def check(self, step: int, mean_loss: float, model: nn.Module) -> None:
        """`mean_loss` since the last check, at global step `step`; raises TrainingDivergedError."""
        require_finite(step, mean_loss, model, "max_norm=0.1 or autocast=False")
        if mean_loss > self.ceiling:
            raise TrainingDivergedError(
                f"step {step}: mean loss {mean_loss:.3f}, expected at most {self.ceiling:.3f}; "
                "lower lr or set max_norm=0.1, and go on from the last good checkpoint"
            )
        if self.level is None or step < self.patience or self.told:
            return
        if abs(mean_loss - self.level) < self.margin * self.level:
            self.told = True
            logger.warning(
                "step %d: the mean loss %.3f still stands at %.3f, that of a network that tells "
                "nothing apart. A plateau of some hundred steps is usual, of thousands is not: "
                "try another seed or lr, or check that labels, images and neighbour table belong "
                "together",
                step, mean_loss, self.level,
            )  # fmt: skip


# told of every step
AfterStep = Callable[[StepResult], None]


def train_one_epoch(
    net: Net,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    stage: Stage,
    after_step: AfterStep,
    asks_to_stop: Callable[[], Stop],
    max_norm: float = 0.0,
) -> Stop:
    """Steps over this process's shares of the global batches.

    `asks_to_stop` is asked before each step, and all ranks stop together after a step before which
    one of them asked; the answer is why.
    """
    net.train()
    for batch in batches:
        result = train_step(net, optimizer, batch, stage, max_norm, asks_to_stop())
        after_step(result)
        if result.stop:
            return result.stop
    return Stop.NO
