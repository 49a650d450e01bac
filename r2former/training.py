"""Training steps of both stages: plain functions on explicit arguments.

A step has the loss of a whole batch of B groups (query, positive, n negatives). Its groups are
dealt out to the processes, and each takes its own in parts (`groups_per_pass`): gradients add up to
those of one pass of one process, so that the published batch fits any memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from r2former.datasets.triplets import GroupBatch
from r2former.losses import (
    CRITERIA,
    IN_BATCH,
    RERANK_LOSSES,
    global_terms,
    in_batch_terms,
    rerank_terms,
    total_loss,
)
from r2former.models.network import R2Former
from utils.distributed import Ranks, exchange_step
from utils.divergence import TrainingDivergedError, require_finite
from utils.interruption import Stop


@dataclass
class Sums:
    """What a step counts, over the groups of this process (then of all): () tensors."""

    loss: Tensor  # this share of the loss of the batch
    global_right: Tensor  # (query, negative) pairs farther apart than (query, positive)
    rerank_right: Tensor  # pairs on the right side of P = 1/2; 0 in the global stage
    spread: Tensor  # sum over groups of d(query, last negative): 0 when all images are alike

    def stack(self) -> Tensor:
        """(4,) float32."""
        return torch.stack([part.detach().float() for part in vars(self).values()])


@dataclass(frozen=True)
class Passes:
    """How the groups of a process go through the network."""

    groups_per_pass: int | None = None  # None: all at once
    autocast: bool = False  # forward in bfloat16

    def __post_init__(self) -> None:
        if self.groups_per_pass is not None and self.groups_per_pass < 1:
            raise ValueError(
                f"groups_per_pass is {self.groups_per_pass}, expected None or at least 1"
            )

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """(b, T, 3, H, W) in pieces."""
        return images.split(self.groups_per_pass) if self.groups_per_pass else (images,)

    def cast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast)


@dataclass(frozen=True)
class GlobalStage:
    """Global descriptors alone, by `criterion`."""

    criterion: str = "triplet"
    margin: float = 0.1
    passes: Passes = field(default_factory=Passes)
    ranks: Ranks = field(default_factory=Ranks)
    fix: bool = False
    temperature: float = 0.07  # of in_batch

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion is {self.criterion!r}, expected one of {CRITERIA}")
        check_in_batch(self.criterion, self.temperature, self.passes, self.ranks)

    def terms(
        self, net: nn.Module, images: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor, None]:
        """Descriptors (b, T, D), global terms (b, n) and no rerank logits."""
        with self.passes.cast(images.device):
            features = net(images.flatten(0, 1))
        features = features.float().unflatten(0, images.shape[:2])
        return features, choose_terms(self, features, places), None

    def backward(
        self, net: nn.Module, images: Tensor, count: int, places: Tensor | None = None
    ) -> Sums:
        """Adds the gradients of the groups (b, T, 3, H, W) of a batch of `count` groups."""
        return _backward(self, net, images, count, places)


@dataclass(frozen=True)
class RerankStage:
    """Descriptors, local features and reranker together; `fix`: the latter two alone."""

    fix: bool = True
    finetune: bool = False  # the rerank loss flows into the backbone too
    rerank_loss: str = "ce"
    margin: float = 0.1
    passes: Passes = field(default_factory=Passes)
    ranks: Ranks = field(default_factory=Ranks)
    criterion: str = "triplet"
    temperature: float = 0.07  # of criterion in_batch

    def __post_init__(self) -> None:
        if self.rerank_loss not in RERANK_LOSSES:
            raise ValueError(
                f"rerank_loss is {self.rerank_loss!r}, expected one of {RERANK_LOSSES}"
            )
        if self.criterion not in ("triplet", IN_BATCH):
            raise ValueError(
                f"criterion is {self.criterion!r}: reranking trains with 'triplet' (or "
                f"{IN_BATCH!r}); the others go with r2former.experiment_global"
            )
        check_in_batch(self.criterion, self.temperature, self.passes, self.ranks)
        if self.fix and self.finetune:
            raise ValueError("fix=1 freezes the backbone that finetune=1 trains; choose one")

    def terms(
        self, net: R2Former, images: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Descriptors (b, T, D), global terms (b, n) or None, logits (b, 1 + n, 2).

        `images`: (b, T, 3, H, W), or (b, T, L) of `R2Former.pack`.
        """
        slots, flat = images.shape[1], images.flatten(0, 1)
        with self.passes.cast(images.device):
            if flat.dim() == 2:  # packed, of a network that is fixed
                features, local = net.unpack(flat)
            else:
                features, local = net(flat, detach_local=not self.finetune)
            local = local.unflatten(0, images.shape[:2])
            queries = local[:, :1].expand(-1, slots - 1, -1, -1).flatten(0, 1)
            logits = net.rerank(queries, local[:, 1:].flatten(0, 1))
        features = features.float().unflatten(0, images.shape[:2])
        of_global = None if self.fix else choose_terms(self, features, places)
        return features, of_global, logits.float().unflatten(0, (len(images), slots - 1))

    def backward(
        self, net: R2Former, images: Tensor, count: int, places: Tensor | None = None
    ) -> Sums:
        """Adds the gradients of the groups (b, T, 3, H, W) of a batch of `count` groups."""
        return _backward(self, net, images, count, places)


Stage = GlobalStage | RerankStage


def check_in_batch(criterion: str, temperature: float, passes: Passes, ranks: Ranks) -> None:
    """ValueError where in_batch would not see the whole batch."""
    if criterion != IN_BATCH:
        return
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected more than 0")
    if ranks.world > 1 or passes.groups_per_pass is not None:
        raise ValueError(
            "criterion=in_batch compares all images of a batch; use one process without "
            "groups_per_pass"
        )


def choose_terms(stage: Stage, features: Tensor, places: Tensor | None) -> Tensor:
    """(b, n) global terms of descriptors (b, T, D) by the criterion of a stage."""
    if stage.criterion == IN_BATCH:
        if places is None:
            raise ValueError("criterion=in_batch needs the places of the images")
        return in_batch_terms(features, places, stage.temperature)
    return global_terms(features, stage.criterion, stage.margin)


def _backward(
    stage: Stage, net: nn.Module, images: Tensor, count: int, places: Tensor | None
) -> Sums:
    made = []
    for part in stage.passes.parts(images):
        # a criterion that looks at places has the batch in one part
        features, of_global, logits = stage.terms(net, part, places)  # type: ignore[arg-type]
        of_rerank = None
        if logits is not None:
            assert isinstance(stage, RerankStage)
            of_rerank = rerank_terms(logits, stage.rerank_loss, stage.margin)
        loss = total_loss(of_global, of_rerank, count)
        loss.backward()
        made.append(_count(loss, features.detach(), logits).stack())
    return Sums(*torch.stack(made).sum(dim=0))


@torch.no_grad()
def _count(loss: Tensor, features: Tensor, logits: Tensor | None) -> Sums:
    distance = (features[:, :1] - features[:, 1:]).norm(dim=-1)  # (b, 1 + n)
    right = (distance[:, 1:] > distance[:, :1]).sum()
    rerank_right = right.new_zeros(())
    if logits is not None:
        same = logits[..., 1] > logits[..., 0]
        rerank_right = same[:, 0].sum() + (~same[:, 1:]).sum()
    return Sums(loss, right, rerank_right, distance[:, -1].sum())


@dataclass
class StepResult:
    """Figures of the whole batch."""

    sums: Tensor  # (4,) as `Sums.stack`
    groups: int
    negatives: int
    stop: Stop  # the same on all ranks


def train_step(
    net: nn.Module, optimizer: Optimizer, batch: GroupBatch, stage: Stage, stop: Stop = Stop.NO
) -> StepResult:
    """One step on a batch. `stop`: what this process asks for; the answer is common to all."""
    ranks = stage.ranks
    optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(4, device=ranks.device)
    if batch.images is not None:
        images = batch.images.to(ranks.device, non_blocking=True)
        places = None if batch.places is None else batch.places.to(ranks.device)
        sums = stage.backward(net, images, batch.count, places).stack()  # type: ignore[arg-type]
    if ranks.world > 1:
        sums, stop = exchange_step(net, sums, stop, ranks)
    optimizer.step()
    return StepResult(sums, batch.count, batch.slots - 2, stop)


def check_batch_norms(net: nn.Module, stage: Stage) -> None:
    """ValueError where batch normalisation over parts of a batch would give other steps."""
    batchwise = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    shared = stage.ranks.world > 1 or stage.passes.groups_per_pass is not None
    if batchwise and shared and not stage.fix:
        raise ValueError(
            "batch normalisation (of a CNN, or of model.stem=conv) needs the whole batch in one "
            "pass of one process; use one process without groups_per_pass, or a DeiT without it"
        )


@dataclass
class Guard:
    """Stops a training that falls apart: end to end it is known to fall from 55 to 8 points."""

    smallest_spread: float = 0.02  # mean distance of queries and negatives, of at most 2
    smallest_share: float = 0.5  # of the best recall so far
    told: bool = field(default=False, init=False)

    def check_steps(self, step: int, loss: float, spread: float, net: nn.Module) -> str | None:
        """After some steps; a word on descriptors that are nearly alike, once."""
        require_finite(step, loss, net, "autocast=False")
        if spread >= self.smallest_spread or self.told:
            return None
        self.told = True
        return (
            f"step {step}: queries and their negatives are {spread:.4f} apart on average, of at "
            "most 2: all images are becoming alike. Lower lr, or start from a trained global model"
        )

    def check_recall(self, epoch: int, name: str, recall: float, best: float) -> None:
        """After an evaluation, in percent."""
        if recall < self.smallest_share * best:
            raise TrainingDivergedError(
                f"epoch {epoch}: {name} fell to {recall:.1f} from {best:.1f}: the training has "
                "collapsed. The best weights are kept; go on from them (resume=) with a lower lr, "
                "or from a trained global model, or set collapse_share=0 to go on regardless"
            )


AfterStep = Callable[[StepResult], None]


def train_batches(
    net: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[GroupBatch],
    stage: Stage,
    after_step: AfterStep,
    asks_to_stop: Callable[[], Stop],
) -> Stop:
    """Steps over the batches; all ranks stop together after a step before which one asked."""
    net.train(not stage.fix)
    for batch in batches:
        result = train_step(net, optimizer, batch, stage, asks_to_stop())
        after_step(result)
        if result.stop:
            return result.stop
    return Stop.NO
