"""Matlab 5 files (.mat) of numbers, text, cells and structures, read without trusting them.

A damaged file ends scipy's reader, and with it the process, by a segmentation fault; here every
length is checked against the bytes that are there.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.paths import require_file

HEADER = 128  # bytes; the last four: version and byte order
MATRIX, COMPRESSED = 14, 15  # kinds of elements
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4  # classes of matrices
NUMERIC = range(6, 16)
MAX_DEPTH = 16  # cells and structures within each other
MAX_DIMENSIONS = 32
MAX_UNPACKED = 1 << 30  # bytes of a compressed element


class _Element(NamedTuple):
    kind: int
    data: memoryview


def load_matlab(path: str | Path, remedy: str) -> dict[str, Any]:
    """Variables by name: arrays, strings, lists (cells), lists of dicts (structures).

    Cells and structures of any shape become flat lists, column after column; text of several rows
    a list of strings without the blanks at their ends. ValueError, with the path and `remedy`, for
    damaged and other files.
    """
    path = require_file(path, remedy)
    data = path.read_bytes()
    try:
        return _read_variables(data)
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable Matlab 5 file: {error}; {remedy}") from error


def _read_variables(data: bytes) -> dict[str, Any]:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if len(data) < HEADER or order is None or data[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("it does not begin as one")
    found = {}
    reader = _Reader(order)
    for element in reader.split(memoryview(data)[HEADER:]):
        if element.kind == COMPRESSED:
            (element,) = reader.split(memoryview(_unpack(element.data)))
        name, value = reader.read_matrix(element, 0)
        found[name] = value
    return found


def _unpack(data: memoryview) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, MAX_UNPACKED)
    if not unpacker.eof:
        raise ValueError("a compressed variable is cut off or too large")
    return content


class _Reader:
    """Reads elements of one byte order."""

    def __init__(self, order: str) -> None:
        self.order = order

    def split(self, data: memoryview) -> list[_Element]:
        """The elements that lie behind each other in `data`."""
        found, at = [], 0
        while at < len(data):
            kind, length = struct.unpack_from(f"{self.order}II", data, at)
            at += 8
            if kind >> 16:  # short form: the length beside the kind, the data behind both
                kind, length, start, step = kind & 0xFFFF, kind >> 16, at - 4, 0
                if length > 4:
                    raise ValueError(f"a short element of {length} bytes")
            else:
                start, step = at, length if kind == COMPRESSED else -(-length // 8) * 8
            if start + length > len(data):
                raise ValueError(f"an element announces {length} bytes, {len(data) - at} are left")
            found.append(_Element(kind, data[start : start + length]))
            at += step
        return found

    def read_matrix(self, element: _Element, depth: int) -> tuple[str, Any]:
        """Name and value of a matrix element."""
        if element.kind != MATRIX or depth > MAX_DEPTH:
            raise ValueError(f"an element of kind {element.kind} at depth {depth}")
        if not len(element.data):
            return "", np.zeros((0, 0))
        flags, shape, name, *parts = self._parts(self.split(element.data), 3)
        kind = self._first(flags) & 0xFF
        dimensions = tuple(int(length) for length in self.numbers(shape))
        if min(dimensions, default=-1) < 0 or len(dimensions) > MAX_DIMENSIONS:
            raise ValueError(f"a variable of shape {dimensions}")
        return self.text(name), self._read_value(kind, dimensions, parts, depth)

    def _read_value(
        self, kind: int, shape: tuple[int, ...], parts: list[_Element], depth: int
    ) -> Any:
        count = math.prod(shape)
        if kind == CELL:
            return [self.read_matrix(part, depth + 1)[1] for part in self._parts(parts, count)]
        if kind == STRUCT:
            return self._read_structs(count, parts, depth)
        if kind == CHAR:
            return self._read_text(shape, self._parts(parts, 1)[0])
        if kind not in NUMERIC:
            raise ValueError(f"a variable of class {kind}, which holds no plain data")
        numbers = self.numbers(self._parts(parts, 1)[0])
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers for an array of shape {shape}")
        return numbers.reshape(shape, order="F").copy()

    def _read_structs(self, count: int, parts: list[_Element], depth: int) -> list[dict[str, Any]]:
        length, names, *values = self._parts(parts, 2)
        width, text = self._first(length), bytes(names.data)
        if width < 1 or len(text) % width:
            raise ValueError(f"names of fields of {width} bytes")
        fields = [
            text[at : at + width].split(b"\0")[0].decode("latin-1")
            for at in range(0, len(text), width)
        ]
        if len(values) < count * len(fields) or count > len(values):
            raise ValueError(f"{len(values)} values for {count} structures of {len(fields)} fields")
        read = iter(self.read_matrix(value, depth + 1)[1] for value in values)
        return [{field: next(read) for field in fields} for _ in range(count)]

    def _read_text(self, shape: tuple[int, ...], part: _Element) -> str | list[str]:
        text = self.text(part)
        if len(text) != math.prod(shape):
            raise ValueError(f"{len(text)} characters for text of shape {shape}")
        rows = shape[0]
        if rows <= 1:
            return text
        return [text[row::rows].rstrip() for row in range(rows)]

    def _first(self, part: _Element) -> int:
        found = self.numbers(part)
        if not len(found):
            raise ValueError("an element without numbers")
        return int(found[0])

    def numbers(self, part: _Element) -> np.ndarray:
        """(N,) of an element of numbers."""
        code = NUMBERS.get(part.kind)
        if code is None:
            raise ValueError(f"an element of kind {part.kind} in place of numbers")
        dtype = np.dtype(self.order + code)
        if len(part.data) % dtype.itemsize:
            raise ValueError(f"{len(part.data)} bytes of numbers of {dtype.itemsize} bytes")
        return np.frombuffer(part.data, dtype).astype(dtype.newbyteorder("="))

    def text(self, part: _Element) -> str:
        """The characters of an element."""
        code = TEXTS.get(part.kind)
        if code is None:
            raise ValueError(f"an element of kind {part.kind} in place of text")
        if code.startswith("utf-") and code != "utf-8":
            code += "-le" if self.order == "<" else "-be"
        return bytes(part.data).decode(code)

    @staticmethod
    def _parts(parts: list[_Element], count: int) -> list[_Element]:
        if len(parts) < count or (count and not parts):
            raise ValueError(f"{len(parts)} parts of a variable, expected {count}")
        return parts
