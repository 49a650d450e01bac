"""Random states that the exact resumption of a torch run needs; how it is ended early."""

import random
from typing import Any

import numpy as np
import torch

from utils.stopping import Interrupts, Stop, deferred_interrupts, keep_previous

__all__ = [
    "Interrupts",
    "Stop",
    "deferred_interrupts",
    "keep_previous",
    "random_states",
    "set_random_states",
]


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
