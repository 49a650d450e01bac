"""Containers in which one value somewhere has become another: what no checksum would notice."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PLAIN: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**40, 2**70, 0.5, -0.0, float("nan"), float("inf"), 1e300),
    *("", "text", "\ud83d\ude00", "../x", [], {}, [[[]]], [1, 2], {"a": 1}, ["a", None]),
)
MAX_ELEMENTS = 1 << 16  # larger arrays are not drawn


def change_tree(value: Any, rng: np.random.Generator) -> Any:
    """`value` with one entry at any depth changed, left out or repeated; copies what it changes."""
    if isinstance(value, Mapping) and value and rng.random() < 0.93:
        return _change_mapping(value, rng)
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        entries = list(value)
        at = int(rng.integers(len(entries)))
        kind = rng.random()
        if kind < 0.1:
            del entries[at]
        elif kind < 0.2:
            entries.insert(at, entries[at])
        else:
            entries[at] = change_tree(entries[at], rng)
        return tuple(entries) if type(value) is tuple else entries
    if isinstance(value, np.ndarray):
        return _change_array(value, rng)
    if hasattr(value, "numpy") and hasattr(value, "layout"):  # a tensor; torch is not imported here
        return _change_tensor(value, rng)
    return _other(value, rng)


def _change_mapping(value: Mapping[Any, Any], rng: np.random.Generator) -> dict[Any, Any]:
    keys, entries = list(value), dict(value)
    key = keys[int(rng.integers(len(keys)))]
    kind = rng.random()
    if kind < 0.12:
        del entries[key]
    elif kind < 0.2:
        entries["unknown"] = entries.pop(key)
    elif kind < 0.25:
        entries["more"] = entries[key]
    else:
        entries[key] = change_tree(entries[key], rng)
    return entries


def _other(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, str) and rng.random() < 0.4:
        return value[: int(rng.integers(len(value) + 1))] + str(rng.choice(["", "\0", "/", "x"]))
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        changed = [value + 1, value - 1, -value, float(value), str(value), value * 10]
        return changed[int(rng.integers(len(changed)))]
    return PLAIN[int(rng.integers(len(PLAIN)))]


def _change_array(array: np.ndarray, rng: np.random.Generator) -> Any:
    kind = int(rng.integers(8))
    if kind == 0:
        return array[:-1] if array.ndim else PLAIN[int(rng.integers(len(PLAIN)))]
    if kind == 1:
        return array.reshape(-1)
    if kind == 2:
        return array.T.copy()
    if kind == 3:
        dtypes = ("f4", "f8", "i2", "i8", "u1", "?", "U3", "c8", "O")
        with np.errstate(all="ignore"):
            try:
                return array.astype(str(rng.choice(dtypes)))
            except (ValueError, TypeError):
                return array[None]
    if kind == 4 or not array.size or array.size > MAX_ELEMENTS:
        return PLAIN[int(rng.integers(len(PLAIN)))]
    changed = array.copy()
    odd = (-1, 2**31, 2**62) if array.dtype.kind in "iu" else (np.nan, np.inf, -1, 1e300)
    try:
        with np.errstate(all="ignore"):
            changed.reshape(-1)[int(rng.integers(array.size))] = odd[int(rng.integers(len(odd)))]
    except (ValueError, TypeError, OverflowError):
        return array[::-1].copy()
    return changed


def _change_tensor(tensor: Any, rng: np.random.Generator) -> Any:
    import torch

    found = _change_array(tensor.numpy(), rng)
    if not isinstance(found, np.ndarray):
        return found
    try:
        return torch.from_numpy(np.ascontiguousarray(found))
    except TypeError:  # a type that torch does not have
        return tensor.to(torch.float64)
