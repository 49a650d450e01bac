"""Files of detected boxes (`.boxes`): one `Boxes` message of package `delf.protos`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.paths import atomic_write, require_file
from utils.wire_format import (
    FIXED32,
    LENGTH_DELIMITED,
    VARINT,
    Field,
    WireError,
    length_delimited,
    pack_varints,
    read_fields,
    read_float,
    tag_of,
)

FLOATS = ("ymin", "xmin", "ymax", "xmax", "score")  # fields 1 to 5 of a Box
CLASS_INDEX = 6
REMEDY = "the file is damaged or of another kind: detect the boxes again"


class Boxes(NamedTuple):
    """Boxes of one image."""

    corners: np.ndarray  # (N, 4) float32: ymin, xmin, ymax, xmax
    scores: np.ndarray  # (N,) float32
    class_indices: np.ndarray  # (N,) int32


def write_boxes(path: str | Path, boxes: Boxes) -> None:
    """Write boxes in the given order; all six fields of each, zeros too.

    ValueError for arrays that do not belong together or are not finite.
    """
    corners, scores = (np.asarray(part, np.float32) for part in boxes[:2])
    classes = np.asarray(boxes.class_indices, np.int32)
    n = len(scores)
    if corners.shape != (n, 4) or scores.shape != (n,) or classes.shape != (n,):
        raise ValueError(
            f"{path} is not written: corners {corners.shape}, scores {scores.shape}, class indices "
            f"{classes.shape}, expected (N, 4), (N,) and (N,)"
        )
    floats = np.concatenate([corners, scores[:, None]], axis=1)
    if not np.isfinite(floats).all():
        raise ValueError(f"{path} is not written: NaN or infinity among the boxes")
    tags = [tag_of(number, FIXED32) for number in range(1, len(FLOATS) + 1)]
    class_tag = tag_of(CLASS_INDEX, VARINT)
    messages = []
    for row, kind in zip(floats.astype("<f4"), classes, strict=True):
        parts = [tag + value.tobytes() for tag, value in zip(tags, row, strict=True)]
        # a negative int32 is written as 64 bits
        number = pack_varints([int(kind) & (2**64 - 1)])
        messages.append(length_delimited(1, b"".join(parts) + class_tag + number))
    atomic_write(path, b"".join(messages))


def read_boxes(path: str | Path) -> Boxes:
    """The boxes of a file; absent fields are 0, unknown ones are skipped; empty: no boxes.

    ValueError, naming the file, for damaged or other files.
    """
    path = require_file(path, "detect the boxes of this image first")
    data = path.read_bytes()
    try:
        fields = [field for field in read_fields(data, 0, len(data)) if field.number == 1]
        floats = np.zeros((len(fields), len(FLOATS)), np.float32)
        classes = np.zeros(len(fields), np.int32)
        for i, field in enumerate(fields):
            field.expect(LENGTH_DELIMITED, "box")
            classes[i] = _read_box(data, field, floats[i])
    except WireError as error:
        raise ValueError(f"{path} cannot be read: {error}; {REMEDY}") from error
    if not np.isfinite(floats).all():
        raise ValueError(f"{path} holds NaN or infinity; {REMEDY}")
    return Boxes(floats[:, :4].copy(), floats[:, 4].copy(), classes)


def _read_box(data: bytes, box: Field, floats: np.ndarray) -> int:
    """Fill in the five floats of one box; returns its class index."""
    class_index = 0
    for part in read_fields(data, box.start, box.end):
        if 1 <= part.number <= len(FLOATS):
            part.expect(FIXED32, FLOATS[part.number - 1])
            floats[part.number - 1] = read_float(data, part.start)
        elif part.number == CLASS_INDEX:
            part.expect(VARINT, "class_index")
            class_index = (part.value & (2**32 - 1)) - (part.value & 2**31) * 2
    return class_index
