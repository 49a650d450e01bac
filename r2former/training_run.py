"""One training run of either stage: mine, train, measure, keep the best; interruptible."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Transform
from r2former.datasets.triplets import GroupOptions, Groups, count_batches, make_batches
from r2former.frozen import FrozenGroups, FrozenImages
from r2former.optimisation import Schedule, set_rate
from r2former.run_state import Progress, RunParts, load_run, save_model, save_run
from r2former.training import Guard, Stage, StepResult, train_batches
from utils.interruption import Stop, deferred_interrupts
from utils.paths import require_file

logger = logging.getLogger(__name__)

LAST, BEST, BEST_GLOBAL = "last_model.pth", "best_model.pth", "best_model_global.pth"
GLOBAL = "global "  # before the name of a recall: that without reranking


@dataclass(frozen=True)
class RunOptions:
    """Options of a training run; see the experiments for their meaning."""

    epochs_num: int
    patience: int
    rounds: int  # of mining, per epoch
    kept_by: str  # metric that decides: "R@1"
    mine_every_epoch: bool
    log_every: int  # steps between console lines
    checkpoint_every: int  # steps between writes of last_model.pth; 0: after rounds and epochs
    max_minutes: float | None
    seed: int
    pin_memory: bool = True


@dataclass(frozen=True)
class TrainingImages:
    """The training set and how its groups are read."""

    places: PlaceSet
    others: Transform
    queries: Transform
    groups: GroupOptions
    frozen: FrozenImages | None = None  # what a fixed backbone gives of them

    def make_groups(self, triplets: np.ndarray) -> Groups | FrozenGroups:
        """Of triplets (G, T), to be read in batches."""
        if self.frozen is not None:
            return FrozenGroups(self.places, triplets, self.frozen)
        return Groups(self.places, triplets, self.others, self.queries)


Measure = Callable[[], dict[str, float]]  # recalls by name, percent
LogScalar = Callable[[str, float, float], None]  # name, value, step


class TrainingRun:
    """`last_model.pth` in the run's folder holds all that an exact continuation needs;
    `best_model.pth` has the best recall so far, `best_model_global.pth` the best without reranking.
    """

    def __init__(
        self,
        parts: RunParts,
        images: TrainingImages,
        stage: Stage,
        schedule: Schedule,
        measure: Measure,
        log_scalar: LogScalar,
        options: RunOptions,
        folder: Path,
        setup: dict[str, Any],
        guard: Guard,
    ) -> None:
        self.parts, self.progress = parts, parts.progress
        self.images, self.stage, self.schedule = images, stage, schedule
        self.measure, self.log_scalar = measure, log_scalar
        self.options, self.folder, self.setup, self.guard = options, folder, setup, guard
        self.last, self.ranks = folder / LAST, stage.ranks
        self.started = time.monotonic()
        self.window: list[StepResult] = []
        self.window_started = time.monotonic()

    def start(self, continue_from: str | None, continue_run: bool) -> None:
        """Take up an interrupted run where asked for; else set an older one's file aside."""
        path = None
        if continue_from is not None:
            path = require_file(continue_from, f"give the {LAST} of a run")
        elif continue_run and self.last.is_file():
            path = self.last
        if path is not None:
            load_run(path, self.parts, self.setup)
            logger.info("continuing %s: %s", path, self._where())
        elif self.ranks.is_first and self.last.is_file():
            kept = self.last.with_name(f"previous_{LAST}")
            self.last.replace(kept)
            logger.warning("%s of an earlier run is kept as %s", self.last, kept.name)

    def run(self) -> Progress:
        """Train to the end; an interrupt is raised again after a word on how to go on."""
        self.started = time.monotonic() - self.progress.seconds
        try:
            while not self._at_end():
                if not self._train_epoch():
                    break
                self._measure()
        except KeyboardInterrupt:
            if self.last.is_file():
                logger.warning(
                    "interrupted: %s; go on with the same command and continue_run=True "
                    "(or continue_from=%s)",
                    self._where(), self.last,
                )  # fmt: skip
            raise
        return self.progress

    def _where(self) -> str:
        done = self.progress
        return f"epoch {done.epochs_done}, round {done.round}, step {done.step}"

    def _at_end(self) -> bool:
        progress, options = self.progress, self.options
        if not progress.evaluated:
            self._measure()
        if progress.not_improved_num >= options.patience:
            logger.info("no better %s for %d epochs: ending", options.kept_by, options.patience)
            return True
        return progress.epochs_done >= options.epochs_num or self.ranks.any(self._out_of_time())

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False when the time budget ended it early."""
        progress = self.progress
        rate = self.schedule.at(progress.epochs_done)
        set_rate(self.parts.optimizer, rate)
        while progress.round < self.options.rounds:
            if progress.step == 0:
                self._mine()
            stop = self._train_round()
            if stop:
                return self._stop_early(stop)
            progress.round, progress.step = progress.round + 1, 0
            if progress.round < self.options.rounds:
                self._save()
        progress.epochs_done, progress.round = progress.epochs_done + 1, 0
        # saved before measuring: an interrupt there costs nothing
        progress.evaluated = False
        self._save()
        return True

    def _mine(self) -> None:
        """New triplets by the current weights; the first process decides for all."""
        progress = self.progress
        if self._keeps_triplets():
            progress.round_seed += 1
            return
        begun = time.monotonic()
        triplets = self.parts.miner.mine(self.parts.draws).triplets
        own = torch.from_numpy(triplets).to(self.ranks.device) * int(self.ranks.is_first)
        progress.triplets = self.ranks.sum_(own).cpu().numpy()
        progress.round_seed = int(self.parts.draws.python.getrandbits(62))
        logger.info("mined %d queries in %.1f s", len(triplets), time.monotonic() - begun)

    def _keeps_triplets(self) -> bool:
        """Published reranker training mined once if one round made an epoch."""
        keeps = self.options.rounds == 1 and not self.options.mine_every_epoch
        return keeps and bool(len(self.progress.triplets))

    def _train_round(self) -> Stop:
        """The rest of the current round."""
        progress, images = self.progress, self.images
        groups = images.make_groups(progress.triplets)
        batches = make_batches(
            groups, images.groups, progress.step, progress.round_seed, self.options.pin_memory
        )
        self.window, self.window_started = [], time.monotonic()
        with deferred_interrupts() as interrupts:
            stop = train_batches(
                self.parts.net,
                self.parts.optimizer,
                batches,
                self.stage,
                self._after_step,
                lambda: interrupts.wish(self._out_of_time()),
            )
            stop = interrupts.after_last_step(stop, self.ranks)
        self._tell()
        return stop

    def _stop_early(self, stop: Stop) -> bool:
        """After a step that was the last one for now."""
        self._save()
        if stop == Stop.TIME:
            logger.info("max_minutes=%s is over: measuring and ending", self.options.max_minutes)
            self._measure()
            return False
        raise KeyboardInterrupt

    def _after_step(self, result: StepResult) -> None:
        progress, options = self.progress, self.options
        self.window.append(result)
        progress.step += 1
        progress.total_steps += 1
        if progress.step % options.log_every == 0:
            self._tell()
        if options.checkpoint_every and progress.total_steps % options.checkpoint_every == 0:
            self._tell()
            self._save()

    def _tell(self) -> None:
        """Check and log the steps since the last time; a run that fell apart ends here."""
        if not self.window:
            return
        sums = torch.stack([result.sums for result in self.window]).cpu().double().numpy()
        groups = sum(result.groups for result in self.window)
        negatives = self.window[0].negatives
        loss, triplet_right = float(sums[:, 0].mean()), sums[:, 1].sum() / (groups * negatives)
        pair_right, spread = (
            sums[:, 2].sum() / (groups * (1 + negatives)),
            sums[:, 3].sum() / groups,
        )
        word = self.guard.check_steps(self.progress.total_steps, loss, spread, self.parts.net)
        if word is not None:
            logger.warning("%s", word)
        steps = count_batches(self.progress.triplets, self.images.groups.train_batch_size)
        within = (self.progress.round + self.progress.step / max(1, steps)) / self.options.rounds
        position = self.progress.epochs_done + within
        rate = groups / max(1e-9, time.monotonic() - self.window_started)
        logger.info(
            "epoch %.3f  loss %.4f  triplets %.3f  pairs %.3f  spread %.3f  lr %.3g  %.1f groups/s",
            position, loss, triplet_right, pair_right, spread,
            self.parts.optimizer.param_groups[0]["lr"], rate,
        )  # fmt: skip
        for name, value in (("loss", loss), ("triplets", triplet_right), ("pairs", pair_right)):
            self.log_scalar(f"train.{name}", float(value), position)
        self.window, self.window_started = [], time.monotonic()

    def _measure(self) -> None:
        """Recalls of the current weights; the best ones are kept at once."""
        progress = self.progress
        metrics = self.measure()
        epoch = progress.epochs_done + (1 if progress.round or progress.step else 0)
        logger.info("epoch %d: %s", epoch, "  ".join(f"{k} {v:.1f}" for k, v in metrics.items()))
        for name, value in metrics.items():
            self.log_scalar(f"val.{name}", value, epoch)
        recall = metrics[self.options.kept_by]
        of_global = metrics.get(GLOBAL + self.options.kept_by, recall)
        before, progress.metrics = progress.best, metrics
        progress.not_improved_num += 1
        better_global = of_global > progress.best_global
        progress.best_global = max(of_global, progress.best_global)
        if recall > progress.best:
            progress.best, progress.best_epoch = recall, epoch
            progress.best_metrics, progress.not_improved_num = metrics, 0
            self._keep(BEST)
        if better_global and GLOBAL + self.options.kept_by in metrics:
            self._keep(BEST_GLOBAL)
        progress.evaluated = True
        self._save()
        self.guard.check_recall(epoch, self.options.kept_by, recall, before)

    def _recalls(self) -> list[float]:
        return [value for name, value in self.progress.metrics.items() if name.startswith("R@")]

    def _keep(self, name: str) -> None:
        if self.ranks.is_first:
            save_model(self.folder / name, self.parts, self._recalls())

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        if self.ranks.is_first:
            save_run(self.last, self.parts, self._recalls(), self.setup)


def count_rounds(queries_per_epoch: int, cache_refresh_rate: int) -> int:
    """Rounds of mining in an epoch."""
    if cache_refresh_rate < 1 or queries_per_epoch < 1 or queries_per_epoch % cache_refresh_rate:
        raise ValueError(
            f"queries_per_epoch={queries_per_epoch} must be a multiple of cache_refresh_rate="
            f"{cache_refresh_rate}"
        )
    return queries_per_epoch // cache_refresh_rate


def check_recall_values(recall_values: list[int], save_best: int) -> str:
    """Name of the metric that decides, "R@1" of index 0."""
    if not 0 <= save_best < len(recall_values) or min(np.asarray(recall_values)) < 1:
        raise ValueError(
            f"save_best is {save_best}, expected an index into recall_values {list(recall_values)}"
        )
    return f"R@{recall_values[save_best]}"
