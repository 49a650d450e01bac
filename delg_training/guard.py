"""Says when training does not learn, and stops it when it falls apart."""

import logging
import math
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

STANDING = 0.02  # a loss this near to ln(classes) has not moved from it
SIGMAS = 3.0  # of chance, above which an accuracy is more than chance


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Window:
    """Means over the steps since the last report."""

    losses: dict[str, float]  # desc, attn, recon, total
    correct: dict[str, float]  # images that the classifiers desc and attn get right
    images: int

    def accuracy(self, head: str) -> float:
        """Fraction of right answers of a classifier."""
        return self.correct[head] / max(1, self.images)


@dataclass
class Guard:
    """Watches both classifiers; the complaint of each is told once."""

    num_classes: int
    patience: int = 5000  # steps before standing still is worth a word
    told: set[str] = field(default_factory=set, init=False)

    def check(self, step: int, window: Window) -> None:
        """`window` ends with update number `step`; raises TrainingDivergedError."""
        if not all(math.isfinite(value) for value in window.losses.values()):
            raise TrainingDivergedError(
                f"step {step}: losses {window.losses} are not finite; lower initial_lr or raise "
                "warmup_steps, and go on from the last checkpoint (the same command does)"
            )
        for head in ("desc", "attn") if step >= self.patience else ():
            if head not in self.told and (reason := self.complaint(head, window)):
                self.told.add(head)
                logger.warning(
                    "step %d: the %s classifier has learnt nothing: %s. Check that the labels of "
                    "the shards are 0 to %d and shuffled (build_image_dataset does both), that "
                    "imagenet_checkpoint is given, and try another initial_lr",
                    step, {"desc": "global", "attn": "local"}[head], reason, self.num_classes - 1,
                )  # fmt: skip

    def complaint(self, head: str, window: Window) -> str | None:
        """What says that a classifier guesses; None when it does not."""
        chance = math.log(self.num_classes)
        if abs(window.losses[head] - chance) < STANDING:
            return f"its loss {window.losses[head]:.3f} stands at ln({self.num_classes}) classes"
        expected = window.images / self.num_classes
        if window.correct[head] <= expected + SIGMAS * math.sqrt(expected):
            return (
                f"its accuracy {100 * window.accuracy(head):.3f} % stands at chance, "
                f"{100 / self.num_classes:.3f} %"
            )
        return None
