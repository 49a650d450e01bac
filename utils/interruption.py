"""What the exact resumption of a torch run needs: random states, the same options; early ends."""

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.stopping import (
    Interrupts,
    Stop,
    deferred_interrupts,
    describe_options,
    keep_previous,
)

__all__ = [
    "Interrupts",
    "Stop",
    "deferred_interrupts",
    "keep_previous",
    "random_states",
    "require_same_run",
    "set_random_states",
]


def require_same_run(
    path: Path,
    saved: Mapping[str, Any],
    needed: Collection[str],
    setup: Mapping[str, Any],
    folder: str,
    entry: str = "setup",
    from_weights: bool = True,
) -> None:
    """ValueError unless the checkpoint `path` is one of an interrupted run with these options.

    `saved`: what it holds, with its options as the entry `entry`; `needed`: entries of such a file.
    `folder`: name of the option that says where checkpoints go. `from_weights`: whether resume=
    starts a new run from the weights of a file.
    """
    missing = set(needed) - set(saved)
    if missing:
        what = "no checkpoint of an interrupted run"
        remedy = (
            ". To start from its weights alone, use resume= instead of continue_from="
            if from_weights
            else " of this code"
        )
        raise ValueError(f"{path} lacks {sorted(missing)}: {what}{remedy}")
    differing = describe_options(saved[entry], setup)
    if differing:
        weights = " (from its weights: resume=)" if from_weights else ""
        raise ValueError(
            f"{path} was made with other options ({differing}); give the same ones, or start anew "
            f"in another {folder}{weights}"
        )


def random_states() -> dict[str, Any]:
    """States of the generators of Python, numpy and torch, in types that a checkpoint may hold."""
    kind, words, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, inner, gauss = random.getstate()
    return {
        "python": [version, list(inner), gauss],
        "numpy": [
            kind,
            torch.tensor(np.asarray(words).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put the generators into the states that `random_states` gave."""
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, words, *rest = states["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
