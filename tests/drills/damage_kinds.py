"""Seeded damage to files: bytes, text, numbers in headers, entries of containers.

Containers (zip, npy, safetensors) are also taken apart, damaged inside and put together again with
right checksums, so that the damage reaches the reader behind them. Pickles, JSON and checkpoints
are also changed as trees: a value somewhere in them becomes another one.
"""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np

from tests.drills.tree_damage import change_tree

Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]
HEAD = 256  # bytes in which headers lie
HUGE = (2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 0)
ODD_FLOATS = (np.nan, np.inf, -np.inf, 1e38, -1.0)
PAGE = b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n"


def _place(data: bytes, rng: Rng) -> int:
    """A byte; half of them in the head."""
    limit = HEAD if rng.random() < 0.5 else len(data)
    return int(rng.integers(max(1, min(limit, len(data)))))


def _range(data: bytes, rng: Rng) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + int(rng.integers(1, 65)))


# ---------------------------------------------------------------------------- bytes


def flip_bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        changed[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def change_bytes(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        changed[_place(data, rng)] = int(rng.integers(256))
    return bytes(changed)


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: _place(data, rng)]


def insert(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def append(data: bytes, rng: Rng) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 65)))


def remove(data: bytes, rng: Rng) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def duplicate(data: bytes, rng: Rng) -> bytes:
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def fill(data: bytes, rng: Rng) -> bytes:
    """Zeros, or all bits set."""
    start, stop = _range(data, rng)
    return data[:start] + bytes([int(rng.choice([0, 255]))]) * (stop - start) + data[stop:]


def swap_fields(data: bytes, rng: Rng) -> bytes:
    """Two words of the head change places."""
    width = int(rng.choice([1, 2, 4, 8]))
    words = min(len(data), HEAD) // width
    if words < 2:
        return flip_bits(data, rng)
    first, second = sorted(rng.choice(words, 2, replace=False) * width)
    changed = bytearray(data)
    changed[first : first + width], changed[second : second + width] = (
        changed[second : second + width],
        changed[first : first + width],
    )
    return bytes(changed)


def huge_count(data: bytes, rng: Rng) -> bytes:
    """A word becomes a number beyond every file, in either byte order or as a varint."""
    at, value = _place(data, rng), int(rng.choice(np.array(HUGE, dtype=np.uint64)))
    form = str(rng.choice(["<I", ">I", "<Q", ">Q", "varint"]))
    if form == "varint":
        word = bytes([0xFF] * int(rng.integers(1, 9)) + [0x7F])
    else:
        word = struct.pack(form, value % 2**32 if form.endswith("I") else value)
    return data[:at] + word + data[at + len(word) :]


def odd_number(data: bytes, rng: Rng) -> bytes:
    """NaN, infinity and the like in place of four or eight bytes."""
    form = str(rng.choice(["<f", "<d"]))
    word = struct.pack(form, float(rng.choice(ODD_FLOATS)))
    at = _place(data, rng)
    return data[:at] + word + data[at + len(word) :]


def replace_all(data: bytes, rng: Rng) -> bytes:
    """Another file in its place."""
    others = (b"", b"\n", b"hello\n", PAGE, b"\0" * len(data), rng.bytes(len(data)), b"PK\3\4")
    return others[int(rng.integers(len(others)))]


BYTES: tuple[Damage, ...] = (
    *(flip_bits, change_bytes, truncate, insert, append, remove, duplicate, fill, swap_fields),
    *(huge_count, odd_number, replace_all),
)

# ---------------------------------------------------------------------------- text

CELLS = (
    *(b"", b"-1", b"0", b"1", b"1.5", b"nan", b"inf", b"-inf", b"1e400", b"99999999", b"x"),
    *(
        b"9" * 30,
        b"9" * 5000,
        b"\xff\xfe",
        b"\0",
        b'"',
        b"' OR 1",
        b"a" * 200_000,
        "\u0663".encode(),
    ),
    *(b"../../../x", b",", b"\r", "\u2028".encode(), b"True", b"None", b" "),
)
SEPARATORS = re.compile(rb"([,\s:]+)")


def change_cell(data: bytes, rng: Rng) -> bytes:
    """One word between separators becomes another."""
    parts = SEPARATORS.split(data)
    parts[2 * int(rng.integers((len(parts) + 1) // 2))] = CELLS[int(rng.integers(len(CELLS)))]
    return b"".join(parts)


def change_separators(data: bytes, rng: Rng) -> bytes:
    """A separator is left out, repeated, or another."""
    parts = SEPARATORS.split(data)
    if len(parts) < 3:
        return change_cell(data, rng)
    at = 2 * int(rng.integers(len(parts) // 2)) + 1
    parts[at] = [b"", parts[at] * 2, b",", b" ", b"\n", b"\t", b";", b"\r\n"][int(rng.integers(8))]
    return b"".join(parts)


def change_lines(data: bytes, rng: Rng) -> bytes:
    """A line is left out, repeated, moved, or another."""
    lines = data.splitlines(keepends=True) or [b""]
    at, other = (int(i) for i in rng.integers(len(lines), size=2))
    kind = int(rng.integers(5))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = CELLS[int(rng.integers(len(CELLS)))] + b"\n"
    else:
        lines = lines[at:]
    return b"".join(lines)


def change_number(data: bytes, rng: Rng) -> bytes:
    """A decimal number becomes another; finds shapes in the headers of npy and safetensors too."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return flip_bits(data, rng)
    match = found[int(rng.integers(len(found)))]
    others = (b"-1", b"0", b"7", b"99999999999", b"1" + b"0" * 30, b"1e3", b"NaN", b"None", b"0x1")
    return data[: match.start()] + others[int(rng.integers(len(others)))] + data[match.end() :]


TEXT: tuple[Damage, ...] = (
    *BYTES,
    *(change_cell, change_separators, change_lines) * 4,
    change_number,
)

# ---------------------------------------------------------------------------- trees


def change_json(data: bytes, rng: Rng) -> bytes:
    """A value somewhere in a JSON text; or brackets without end."""
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(change_tree(json.loads(data), rng)).encode()


def change_json_line(data: bytes, rng: Rng) -> bytes:
    """`change_json` of one line."""
    lines = data.splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = change_json(lines[at], rng)
    return b"".join(line + b"\n" for line in lines)


def change_pickle(data: bytes, rng: Rng) -> bytes:
    """A value somewhere in a pickle of ours, written in any protocol."""
    return pickle.dumps(change_tree(pickle.loads(data), rng), protocol=int(rng.integers(2, 6)))


def change_checkpoint(data: bytes, rng: Rng) -> bytes:
    """A value somewhere in a file of torch, written in the form that it had."""
    import torch

    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    out = io.BytesIO()
    is_zip = data[:2] == b"PK"
    torch.save(change_tree(content, rng), out, _use_new_zipfile_serialization=is_zip)
    return out.getvalue()


# ---------------------------------------------------------------------------- containers

DTYPES = (b"<f8", b"<f4", b">f4", b"<f2", b"|O", b"<U9", b"<i8", b"|b1", b"<M8[D]", b"|V4", b"|S0")


def change_npy(data: bytes, rng: Rng) -> bytes:
    """Another type or shape in the header, its length kept right; or odd values in the data."""
    length = struct.unpack_from("<H", data, 8)[0]
    header, body = data[10 : 10 + length], data[10 + length :]
    kind = int(rng.integers(3))
    if kind == 0:
        header = re.sub(rb"'descr': '[^']*'", b"'descr': '%s'" % rng.choice(DTYPES), header)
    elif kind == 1:
        header = change_number(header, rng)
    else:
        at = 8 * int(rng.integers(max(1, len(body) // 8)))
        word = struct.pack("<q", int(rng.choice([-1, 2**31, 2**62])))
        word = word if rng.random() < 0.5 else struct.pack("<f", float(rng.choice(ODD_FLOATS)))
        body = body[:at] + word + body[at + len(word) :]
    return data[:8] + struct.pack("<H", len(header)) + header + body


def change_member(data: bytes, rng: Rng) -> bytes:
    """One member of a zip file, put back with its right checksum; or without it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    names = sorted(members, key=lambda name: not name.endswith("data.pkl"))
    name = names[0] if rng.random() < 0.4 else str(rng.choice(names))
    if rng.random() < 0.1:
        del members[name]
    else:
        kinds: Sequence[Damage] = (
            (*BYTES, change_npy, change_npy) if name.endswith(".npy") else BYTES
        )
        members[name] = kinds[int(rng.integers(len(kinds)))](members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


def change_safetensors(data: bytes, rng: Rng) -> bytes:
    """The JSON header, its length kept right."""
    length = struct.unpack_from("<Q", data)[0]
    header = change_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


# ---------------------------------------------------------------------------- by kind of file

ZIPPED = (*BYTES, *(change_member,) * 8)
CHECKPOINT = (*ZIPPED, *(change_checkpoint,) * 8)
BY_SUFFIX: dict[str, tuple[Damage, ...]] = {
    **dict.fromkeys((".csv", ".txt", ".pbtxt"), TEXT),
    ".json": (*BYTES, change_cell, change_number, *(change_json,) * 10),
    ".jsonl": (*BYTES, change_cell, change_lines, *(change_json_line,) * 8),
    ".pkl": (*BYTES, *(change_pickle,) * 8),
    ".npy": (*BYTES, *(change_npy,) * 6),
    **dict.fromkeys((".npz", ".zip"), ZIPPED),
    **dict.fromkeys((".pt", ".pth"), CHECKPOINT),
    ".safetensors": (*BYTES, *(change_safetensors,) * 6),
}


def damage(name: str, data: bytes, rng: Rng) -> tuple[str, bytes]:
    """Name of a kind of damage that suits a file of this name, and the damaged content."""
    kinds = BY_SUFFIX.get(PurePath(name).suffix, BYTES)
    if kinds is CHECKPOINT and data[:2] != b"PK":  # the form before torch 1.6
        kinds = (*BYTES, *(change_checkpoint,) * 6)
    chosen = kinds[int(rng.integers(len(kinds)))] if data else insert
    return chosen.__name__, chosen(data, rng)
