"""Rows of numbers on disk: float32 as they are, float16, int8, or one bit per number.

All but float32 keep the direction of a row alone: what is read has unit length. One bit tells on
which side of a dimension's mean a number lies; it is read as the mean plus or minus the mean
distance from it, both learned from the first rows.
"""

from dataclasses import dataclass

import numpy as np

KINDS = ("float32", "float16", "int8", "1bit")
FIELDS = {"float32": ("<f4", 1), "float16": ("<f2", 1), "int8": ("i1", 1), "1bit": ("u1", 8)}
LARGEST = 127  # of int8; -128 is not used


def check_kind(kind: str) -> str:
    """The kind; ValueError lists the choices."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return kind


def normalise_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows of unit length; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, np.float32(1))


def learn_levels(rows: np.ndarray) -> np.ndarray:
    """(2, D) float32 of rows (N, D): per dimension the mean, and the mean distance from it."""
    mean = rows.mean(axis=0, dtype=np.float64)
    return np.stack([mean, np.abs(rows - mean).mean(axis=0)]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RowCodec:
    """Encodes and decodes rows of `width` numbers."""

    kind: str
    width: int
    levels: np.ndarray | None = None  # (2, width) of `learn_levels`; needed by 1bit alone

    @property
    def field(self) -> tuple[str, str, tuple[int]]:
        """Field of a numpy record that holds an encoded row."""
        code, numbers = FIELDS[self.kind]
        return "code", code, (-(-self.width // numbers),)

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """(N, width) float32 -> (N, C) codes."""
        if self.kind == "float32":
            return rows.astype("<f4")
        rows = normalise_rows(rows.astype(np.float32))
        if self.kind == "float16":
            return rows.astype("<f2")
        if self.kind == "int8":
            largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
            return np.rint(rows * (LARGEST / np.where(largest > 0, largest, 1))).astype("i1")
        return np.packbits(rows > self._levels[0], axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(N, C) codes -> (N, width) float32; unit rows unless the kind is float32."""
        if self.kind == "float32":
            return np.array(codes, dtype=np.float32)
        if self.kind != "1bit":
            return normalise_rows(codes.astype(np.float32))
        mean, deviation = self._levels
        signs = np.unpackbits(codes, axis=1, count=self.width).astype(np.float32)
        return normalise_rows(mean + (2 * signs - 1) * deviation)

    @property
    def _levels(self) -> np.ndarray:
        assert self.levels is not None  # a store of this kind learns them first
        return self.levels
