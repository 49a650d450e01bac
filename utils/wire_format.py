"""The protocol-buffer wire format: fields, varints and lists of them. Knows no message."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
WIRE_TYPES = {VARINT: "varint", FIXED64: "64-bit", LENGTH_DELIMITED: "bytes", FIXED32: "32-bit"}
MAX_VARINT_BYTES = 10  # 64 bits in groups of 7


class WireError(ValueError):
    """The bytes are not what the format asks for; `offset` is where in the file."""

    def __init__(self, offset: int, problem: str) -> None:
        super().__init__(f"{problem} at byte {offset}")
        self.offset = offset


class Field(NamedTuple):
    """One field: bytes [start, end) hold its value, without tag and length; `value` if a varint."""

    number: int
    wire_type: int
    start: int
    end: int
    value: int

    def expect(self, wire_type: int, name: str) -> None:
        """WireError unless the field is of this wire type."""
        if self.wire_type != wire_type:
            found, wanted = WIRE_TYPES[self.wire_type], WIRE_TYPES[wire_type]
            raise WireError(self.start, f"{name} is a {found} field, expected {wanted}")


def read_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The varint at `start` (unsigned, below 2^64) and the position after it."""
    value = 0
    for i in range(MAX_VARINT_BYTES):
        if start + i >= end:
            raise WireError(start, "a number is cut off")
        byte = data[start + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & (2**64 - 1), start + i + 1
    raise WireError(start, f"a number is longer than {MAX_VARINT_BYTES} bytes")


def read_fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in bytes [start, end), in the order of the file."""
    while start < end:
        tag, position = read_varint(data, start, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or wire_type not in WIRE_TYPES:
            raise WireError(start, f"field {number} of wire type {wire_type}")
        value = 0
        if wire_type == VARINT:
            value, after = read_varint(data, position, end)
        elif wire_type == LENGTH_DELIMITED:
            length, position = read_varint(data, position, end)
            after = position + length
        else:
            after = position + (8 if wire_type == FIXED64 else 4)
        if after > end:
            raise WireError(
                start,
                f"field {number} announces {after - position} bytes, but {end - position} are left",
            )
        yield Field(number, wire_type, position, after, value)
        start = after


def read_float(data: bytes, start: int) -> float:
    """The 32-bit float at `start`."""
    return struct.unpack_from("<f", data, start)[0]


def unpack_varints(data: bytes, start: int, end: int) -> np.ndarray:
    """(N,) uint64: the packed varints in bytes [start, end), without a Python loop."""
    if start == end:
        return np.zeros(0, np.uint64)
    groups = np.frombuffer(data, np.uint8, count=end - start, offset=start)
    last = groups < 0x80  # True = last byte of a number
    if not last[-1]:
        raise WireError(end - 1, "a number is cut off")
    firsts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(firsts, len(groups)))
    if lengths.max() > MAX_VARINT_BYTES:
        offset = start + int(firsts[lengths.argmax()])
        raise WireError(offset, f"a number is longer than {MAX_VARINT_BYTES} bytes")
    shifts = 7 * (np.arange(len(groups)) - np.repeat(firsts, lengths))
    parts = (groups & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.bitwise_or.reduceat(parts, firsts)


def pack_varints(values: ArrayLike) -> bytes:
    """(N,) unsigned integers below 2^64 as packed varints, without a Python loop."""
    column = np.asarray(values, dtype=np.uint64).reshape(-1, 1)
    shifts = np.arange(0, 7 * MAX_VARINT_BYTES, 7, dtype=np.uint64)
    rest = column >> shifts  # (N, 10) what is left to write at each byte
    written = rest > 0
    written[:, 0] = True  # a zero takes one byte
    more = np.zeros_like(written)
    more[:, :-1] = written[:, 1:]
    groups = (rest & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
    return groups[written].tobytes()


def tag_of(number: int, wire_type: int) -> bytes:
    """The bytes that start a field."""
    return pack_varints([number << 3 | wire_type])


def length_delimited_head(number: int, length: int) -> bytes:
    """Tag and length of a field of `length` bytes."""
    return tag_of(number, LENGTH_DELIMITED) + pack_varints([length])


def length_delimited(number: int, payload: bytes) -> bytes:
    """A whole field that holds `payload`."""
    return length_delimited_head(number, len(payload)) + payload
