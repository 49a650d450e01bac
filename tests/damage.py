"""Damage to the bytes of a file, for tests of readers."""

import numpy as np


def mutate(data: bytes, rng: np.random.Generator, head: int | None = None) -> bytes:
    """One to three changed, inserted or missing pieces; with `head`, most in the first so many."""
    changed = bytearray(data)
    kind = rng.integers(4)
    for _ in range(rng.integers(1, 4)):
        first = head is not None and rng.random() < 0.7
        at = int(rng.integers(min(len(changed), head) if head and first else len(changed)))
        if kind <= 1:
            changed[at] = int(rng.integers(256))
        elif kind == 2:
            changed[at:at] = rng.bytes(int(rng.integers(1, 4)))
        else:
            del changed[at : at + int(rng.integers(1, 4))]
    return bytes(changed)
