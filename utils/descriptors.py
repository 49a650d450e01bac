"""DELF / DELG feature files (`.delg_global`, `.delg_local`, `.delf`, `.datum`) <-> numpy.

A file is one proto2 message (package `delf.protos`) without a header: DatumProto for a vector or a
matrix, DelfFeatures for local features. Local features of one width are records of one length, so
the reader takes the file as an array of structs. Whatever does not fit (fields in another order,
lists that are not packed, absent floats, unknown fields) is parsed field by field. Neither protoc
nor protobuf is needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from utils.paths import atomic_write, require_file
from utils.wire_format import (
    FIXED32,
    LENGTH_DELIMITED,
    VARINT,
    Field,
    WireError,
    length_delimited,
    length_delimited_head,
    pack_varints,
    read_fields,
    read_float,
    read_varint,
    tag_of,
    unpack_varints,
)

REMEDY = "the file is damaged or of another kind: extract it again"
MAX_FILE_BYTES = 2**31  # protocol buffers end there
MAX_DIMENSIONS = 32
HEAD_BYTES = 64  # more than enough to find the width of the first descriptor
MESSAGE_1 = tag_of(1, LENGTH_DELIMITED)[0]
FLOAT_FIELDS = {2: "x", 3: "y", 4: "scale", 5: "orientation", 6: "strength"}  # of DelfFeature
FLOAT_TAGS = b"".join(tag_of(number, FIXED32) for number in FLOAT_FIELDS)

T = TypeVar("T")


def _no_orientations() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Local features of one image, best first. Converted to float32 and checked when made."""

    locations: np.ndarray  # (N, 2) pixels, (y, x)
    scales: np.ndarray  # (N,) 1 / pyramid scale
    descriptors: np.ndarray  # (N, D)
    attention: np.ndarray  # (N,) the detector's score
    orientations: np.ndarray = field(default_factory=_no_orientations)  # (N,); left out = zeros

    def __post_init__(self) -> None:
        """Convert and check; an extractor's empty results, all of shape (0,), are accepted."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused on writing
            arrays = {name: np.asarray(getattr(self, name), np.float32) for name in ARRAYS}
        n = arrays["scales"].size
        if arrays["orientations"].shape == (0,):
            arrays["orientations"] = np.zeros(n, np.float32)
        if n == 0 and arrays["locations"].size == 0:
            arrays["locations"] = arrays["locations"].reshape(0, 2)
        if n == 0 and arrays["descriptors"].ndim == 1:
            arrays["descriptors"] = arrays["descriptors"].reshape(0, 0)
        width = arrays["descriptors"].shape[-1] if arrays["descriptors"].ndim else 0
        shapes = {"locations": (n, 2), "descriptors": (n, width)}
        for name, value in arrays.items():
            expected = shapes.get(name, (n,))
            if value.shape != expected:
                raise ValueError(
                    f"{name} of the local features has shape {value.shape}, expected {expected}"
                )
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Number of features N."""
        return len(self.scales)


ARRAYS = ("locations", "scales", "descriptors", "attention", "orientations")


# ---------------------------------------------------------------------------- reading


def read_global(path: str | Path, dim: int | None = None) -> np.ndarray:
    """(D,) float32 global descriptor; (0,) where the image was too small to extract one.

    With `dim`, another width is an error. ValueError, naming the file, for what is damaged, not a
    vector of floats or not finite.
    """
    vector = read_datum(path)
    if vector.ndim != 1 or vector.dtype != np.float32:
        raise _bad_file(path, f"{vector.dtype} of shape {vector.shape} instead of a float vector")
    if dim is not None and len(vector) != dim:
        raise _bad_file(path, f"a global descriptor of {len(vector)} numbers, expected {dim}")
    return vector


def read_local(
    path: str | Path, dim: int | None = None, max_features: int | None = None
) -> LocalFeatures:
    """Local features in the order of the file (best first); only the first `max_features`.

    An empty file is an image without features: arrays of length 0, descriptors (0, dim or 0).
    With `dim`, another width is an error. ValueError, naming the file, for what is damaged or not
    finite.
    """
    if max_features is not None and max_features < 0:
        raise ValueError(f"max_features is {max_features}, expected a number >= 0 or None")
    features = _with_file(path, lambda file, size: _read_features(file, size, max_features))
    if features is None:
        empty = np.zeros(0, np.float32)
        return LocalFeatures(empty, empty, np.zeros((0, dim or 0), np.float32), empty)
    width = features.descriptors.shape[1]
    if dim is not None and width != dim:
        raise _bad_file(path, f"descriptors of width {width}, expected {dim}")
    for name in ARRAYS:
        if not _all_finite(getattr(features, name)):
            raise _bad_file(path, f"NaN or infinity among its {name}")
    return features


def count_local(path: str | Path, dim: int | None = None) -> int:
    """Number of features in a local file, from its size where its records have one length."""

    def count(file: BinaryIO, size: int) -> tuple[int, int | None]:
        width = _width_of_first(file.read(HEAD_BYTES), size)
        if width is not None and size % _record_layout(width).dtype.itemsize == 0:
            return size // _record_layout(width).dtype.itemsize, width
        file.seek(0)
        return len(_feature_fields(file.read())), None

    n, width = _with_file(path, count)
    if dim is not None and width is not None and width != dim:
        raise _bad_file(path, f"descriptors of width {width}, expected {dim}")
    return n


def read_datum(path: str | Path) -> np.ndarray:
    """The array of a DatumProto in its stored shape: float32, or uint32 if it holds integers."""
    array = _with_file(path, lambda file, size: _parse_datum(data := file.read(), _whole(data)))
    if not _all_finite(array):
        raise _bad_file(path, "NaN or infinity")
    return array


def read_datum_pair(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays of a DatumPairProto, as `read_datum` gives them."""

    def parse(file: BinaryIO, size: int) -> list[np.ndarray]:
        data = file.read()
        parts: dict[int, list[Field]] = {1: [], 2: []}
        for part in read_fields(data, 0, size):
            if part.number in parts:
                part.expect(LENGTH_DELIMITED, "an array of the pair")
                parts[part.number].append(part)
        return [_parse_datum(data, fields) for fields in parts.values()]

    first, second = _with_file(path, parse)
    if not (_all_finite(first) and _all_finite(second)):
        raise _bad_file(path, "NaN or infinity")
    return first, second


def _with_file(path: str | Path, parse: Callable[[BinaryIO, int], T]) -> T:
    """What `parse(file, size)` makes of the file; its errors become ValueErrors with the path."""
    path = require_file(path, "extract the features of this image first")
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, 2)
        if size >= MAX_FILE_BYTES:
            raise _bad_file(path, f"{size} bytes, and features end below {MAX_FILE_BYTES}")
        file.seek(0)
        try:
            return parse(file, size)
        except WireError as error:
            raise ValueError(f"{path} cannot be read: {error}; {REMEDY}") from error


def _bad_file(path: str | Path, found: str) -> ValueError:
    return ValueError(f"{path} holds {found}; {REMEDY}")


def _all_finite(array: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity; a finite sum of squares saves the second look."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        surely = array.dtype != np.float32 or np.isfinite(np.dot(flat, flat))
    return bool(surely or np.isfinite(flat).all())


# ---------------------------------------------------------------------------- records of one length


class _RecordLayout(NamedTuple):
    """What a feature looks like on disk if its writer used no liberty of the format."""

    head: bytes  # (H,) all before the descriptor
    dtype: np.dtype  # head, descriptor, then a tag and a float for each of FLOAT_FIELDS


@lru_cache(maxsize=16)
def _record_layout(width: int) -> _RecordLayout:
    """The record of a descriptor with `width` numbers; 555 bytes for 128."""
    datum_head = _datum_head((width,), 4 * width)
    datum_length = len(datum_head) + 4 * width
    descriptor_head = length_delimited_head(1, datum_length)
    length = len(descriptor_head) + datum_length + 5 * len(FLOAT_FIELDS)
    head = length_delimited_head(1, length) + descriptor_head + datum_head
    tail = [
        (name, code)
        for value in FLOAT_FIELDS.values()
        for name, code in ((f"{value}_tag", "u1"), (value, "<f4"))
    ]
    fields = [("head", "u1", (len(head),)), ("descriptor", "<f4", (width,)), *tail]
    return _RecordLayout(head, np.dtype(fields))


def _width_of_first(head: bytes, size: int) -> int | None:
    """Width of the first descriptor if the file starts as ours do, else None."""
    position = 0
    try:
        for _ in ("feature", "its descriptor", "its shape", "its dim"):  # each is field 1
            if head[position : position + 1] != bytes([MESSAGE_1]):
                return None
            _, position = read_varint(head, position + 1, len(head))
        width, _ = read_varint(head, position, len(head))
    except WireError:
        return None
    return width if 4 * width < size else None


def _read_features(file: BinaryIO, size: int, max_features: int | None) -> LocalFeatures | None:
    """The first features of the file; None if it is empty (their width is unknown then)."""
    if size == 0:
        return None
    width = _width_of_first(file.read(HEAD_BYTES), size)
    file.seek(0)
    if width is not None:
        layout = _record_layout(width)
        n, rest = divmod(size, layout.dtype.itemsize)
        if rest == 0:
            n = n if max_features is None else min(n, max_features)
            records = np.fromfile(file, layout.dtype, count=n)
            if len(records) == n and _is_of_layout(records, layout):
                return _features_of_records(records)
            file.seek(0)
    return _parse_features(file.read(), max_features)


def _is_of_layout(records: np.ndarray, layout: _RecordLayout) -> bool:
    """Whether the tags and lengths of all records are those of the layout."""
    raw = records.view(np.uint8).reshape(len(records), layout.dtype.itemsize)
    heads, tags = raw[:, : len(layout.head)], raw[:, -5 * len(FLOAT_TAGS) :: 5]
    n = len(records)
    return heads.tobytes() == layout.head * n and tags.tobytes() == FLOAT_TAGS * n


def _features_of_records(records: np.ndarray) -> LocalFeatures:
    return LocalFeatures(
        locations=np.stack([records["y"], records["x"]], axis=1),
        scales=records["scale"].copy(),
        descriptors=np.ascontiguousarray(records["descriptor"]),
        attention=records["strength"].copy(),
        orientations=records["orientation"].copy(),
    )


# ---------------------------------------------------------------------------- field by field


def _whole(data: bytes) -> list[Field]:
    """The whole file as the one part of a message."""
    return [Field(0, LENGTH_DELIMITED, 0, len(data), 0)]


def _feature_fields(data: bytes) -> list[Field]:
    """Where each feature lies; a file that ends too early fails here, however few are wanted."""
    fields = [part for part in read_fields(data, 0, len(data)) if part.number == 1]
    for part in fields:
        part.expect(LENGTH_DELIMITED, "feature")
    return fields


def _parse_features(data: bytes, max_features: int | None) -> LocalFeatures:
    """DelfFeatures, with all the liberties of the format."""
    fields = _feature_fields(data)
    floats = np.zeros((len(fields[:max_features]), len(FLOAT_FIELDS)), np.float32)
    descriptors: list[np.ndarray] = []
    for row, feature in zip(floats, fields[:max_features], strict=True):
        parts = []
        for part in read_fields(data, feature.start, feature.end):
            if part.number == 1:
                part.expect(LENGTH_DELIMITED, "descriptor")
                parts.append(part)
            elif part.number in FLOAT_FIELDS:
                part.expect(FIXED32, FLOAT_FIELDS[part.number])
                row[part.number - 2] = read_float(data, part.start)
        if not parts:
            raise WireError(feature.start, "a feature without descriptor")
        descriptor = _parse_datum(data, parts).reshape(-1)
        if descriptors and len(descriptor) != len(descriptors[0]):
            raise WireError(
                feature.start,
                f"a descriptor of {len(descriptor)} numbers after one of {len(descriptors[0])}",
            )
        descriptors.append(descriptor)
    x, y, scales, orientations, strengths = floats.T
    stacked = np.stack(descriptors) if descriptors else np.zeros((0, 0), np.float32)
    return LocalFeatures(np.stack([y, x], axis=1), scales, stacked, strengths, orientations)


def _parse_datum(data: bytes, parts: list[Field]) -> np.ndarray:
    """DatumProto, float32 or uint32; several parts are merged, as the format has it."""
    dims: list[np.ndarray] = []
    values: dict[int, list[np.ndarray]] = {}  # one entry: the list that came last
    for part in (inner for outer in parts for inner in read_fields(data, outer.start, outer.end)):
        if part.number not in (1, 2, 3):
            continue
        part.expect(LENGTH_DELIMITED, "shape or list of values")
        if part.number == 1:
            dims.append(_parse_list(data, part, VARINT))
        else:
            parsed = _parse_list(data, part, FIXED32 if part.number == 2 else VARINT)
            values = {part.number: [*values.get(part.number, []), parsed]}
    start = parts[0].start if parts else 0
    if not values:
        raise WireError(start, "an array without values")
    kind, lists = values.popitem()
    flat = np.concatenate(lists)
    if kind == 3 and flat.size and flat.max() >= 2**32:
        raise WireError(start, "an integer beyond 32 bits")
    shape = tuple(int(size) for size in np.concatenate([*dims, np.zeros(0, np.uint64)]))
    if len(shape) > MAX_DIMENSIONS or max(shape, default=0) >= 2**31:
        raise WireError(start, "an array of impossible shape")
    if math.prod(shape) != flat.size:
        raise WireError(start, f"{flat.size} values for an array of shape {shape}")
    return flat.reshape(shape).astype(np.float32 if kind == 2 else np.uint32)


def _parse_list(data: bytes, message: Field, wire_type: int) -> np.ndarray:
    """Field 1 of a list message, packed or not: (N,) float32 for FIXED32, uint64 for VARINT."""
    pieces = [np.zeros(0, np.float32 if wire_type == FIXED32 else np.uint64)]
    for part in read_fields(data, message.start, message.end):
        if part.number != 1:
            continue
        if part.wire_type != LENGTH_DELIMITED:
            part.expect(wire_type, "a value of a list")
        length = part.end - part.start
        if wire_type == VARINT:
            pieces.append(unpack_varints(data, part.start, part.end))
        elif length % 4:
            raise WireError(part.start, f"a list of floats of {length} bytes")
        else:
            pieces.append(np.frombuffer(data, "<f4", count=length // 4, offset=part.start))
    return np.concatenate(pieces)


# ---------------------------------------------------------------------------- writing


def write_global(path: str | Path, vector: np.ndarray) -> None:
    """Write a (D,) global descriptor as float32; (0,) for an image too small to extract one."""
    vector = np.asarray(vector)
    if vector.ndim != 1 or vector.dtype.kind != "f":
        raise ValueError(
            f"{path} is not written: a global descriptor is a vector of floats, "
            f"not {vector.dtype} of shape {vector.shape}"
        )
    write_datum(path, vector)


def write_local(path: str | Path, features: LocalFeatures) -> None:
    """Write local features, in the given order; an image without features is an empty file."""
    for name in ARRAYS:
        if not _all_finite(getattr(features, name)):
            raise ValueError(f"{path} is not written: NaN or infinity among the {name}")
    layout = _record_layout(features.descriptors.shape[1])
    records = np.empty(len(features), layout.dtype)
    records["head"] = np.frombuffer(layout.head, np.uint8)
    records["descriptor"] = features.descriptors
    columns = {
        "x": features.locations[:, 1],
        "y": features.locations[:, 0],
        "scale": features.scales,
        "orientation": features.orientations,
        "strength": features.attention,
    }
    for tag, name in zip(FLOAT_TAGS, FLOAT_FIELDS.values(), strict=True):
        records[f"{name}_tag"] = tag
        records[name] = columns[name]
    atomic_write(path, records.tobytes())


def write_datum(path: str | Path, array: np.ndarray) -> None:
    """Write an array as DatumProto: floats as float32, unsigned integers as uint32."""
    atomic_write(path, _encode_datum(path, np.asarray(array)))


def write_datum_pair(path: str | Path, first: np.ndarray, second: np.ndarray) -> None:
    """Write two arrays as DatumPairProto."""
    encoded = [_encode_datum(path, np.asarray(array)) for array in (first, second)]
    atomic_write(path, length_delimited(1, encoded[0]) + length_delimited(2, encoded[1]))


def _encode_datum(path: str | Path, array: np.ndarray) -> bytes:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = array.astype("<f4")
        if not np.isfinite(floats).all():
            raise ValueError(f"{path} is not written: NaN, or a number beyond float32")
        return _datum_head(array.shape, floats.nbytes) + floats.tobytes()
    if array.dtype.kind == "u":
        if array.size and array.max() >= 2**32:
            raise ValueError(f"{path} is not written: an integer beyond 32 bits")
        packed = pack_varints(array)
        return _datum_head(array.shape, len(packed), number=3) + packed
    raise ValueError(f"{path} is not written: {array.dtype}, expected floats or unsigned integers")


def _datum_head(shape: tuple[int, ...], length: int, number: int = 2) -> bytes:
    """All bytes of a DatumProto before its values (`length` bytes of field `number`)."""
    dims = pack_varints(np.array(shape, np.uint64))
    shape_message = length_delimited(1, dims) if shape else b""
    list_head = length_delimited_head(1, length) if length else b""
    return (
        length_delimited(1, shape_message)
        + length_delimited_head(number, len(list_head) + length)
        + list_head
    )
