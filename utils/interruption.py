"""What the exact resumption of a torch run needs: random states, the same options; early ends.

What a checkpoint says of a run is checked before a run goes on with it.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    "naming_damage",
    "random_states",
    "require_same_run",
    "restore_progress",
    "set_random_states",
    "split_batches",
]

# what parts of a run were seen to raise when they are given damaged states
DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError),
    OverflowError,
)


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
    with naming_damage(path):
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


# ---------------------------------------------------------------------------- damaged checkpoints


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Errors of the block, which gives a run what `path` holds, become ValueErrors that name it."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path} is no checkpoint of this run, or a damaged one ({type(error).__name__}: "
            f"{error}); go on from an older one (last_previous.*, if there is one) or start anew"
        ) from error


def restore_progress(progress: object, saved: Mapping[str, Any]) -> None:
    """Give the fields of `progress` the values `saved`; ValueError for other names or types."""
    known = vars(progress)
    if saved.keys() != known.keys():
        raise ValueError(f"progress has the entries {sorted(saved)}, expected {sorted(known)}")
    for name, default in known.items():
        value = saved[name]
        kinds = (int, float) if isinstance(default, float) else type(default)
        as_bool = isinstance(value, bool) is isinstance(default, bool)
        too_low = type(default) is int and isinstance(value, int) and value < -1
        if not isinstance(value, kinds) or not as_bool or too_low:
            raise ValueError(f"progress has {name} {value!r}, expected a value like {default!r}")
    for name, value in saved.items():
        setattr(progress, name, value)


def split_batches(rows: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """`rows` (N, ...) in pieces of the `sizes`; ValueError unless they sum up to N."""
    if not all(type(size) is int and size > 0 for size in sizes) or sum(sizes) != len(rows):
        raise ValueError(f"batches of {list(sizes)[:10]} for {len(rows)} drawn items")
    return np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
