"""Where each record of a set of TFRecord shards lies, so that any order can be read from them.

A record is its length (8 bytes), a checksum of it (4), the content, a checksum of that (4). Only
lengths are read here; the checksum of the content is not looked at when it is read.
"""

import glob
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HEADER, FOOTER = 12, 4  # bytes around the content
SHARD_NAME = re.compile(r"(?P<split>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})")
REMEDY = "run python -m delg_training.build_image_dataset again"
THREADS = 16


def find_shards(pattern: str) -> list[Path]:
    """Files of the glob `pattern`, sorted; FileNotFoundError where a numbered shard is missing."""
    files = [Path(name) for name in sorted(glob.glob(pattern)) if os.path.isfile(name)]
    if not files:
        raise FileNotFoundError(
            f"no file matches {pattern}; {REMEDY}, or correct dataset.train_file_pattern and "
            "dataset.validation_file_pattern"
        )
    for file in files:
        match = SHARD_NAME.fullmatch(file.name)
        if match is None:
            continue
        count = int(match["count"])
        names = [f"{match['split']}-{i:05d}-of-{count:05d}" for i in range(count)]
        absent = [name for name in names if not (file.parent / name).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{len(absent)} of {count} shards are not there: {', '.join(absent[:5])} in "
                f"{file.parent}; {REMEDY}"
            )
    return files


def _scan(path: Path) -> np.ndarray:
    """(n, 2) int64: offset and length of the content of each record of one file."""
    size, position = path.stat().st_size, 0
    spans: list[tuple[int, int]] = []
    with path.open("rb", buffering=0) as file:
        while position < size:
            file.seek(position)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if position + HEADER + length + FOOTER > size:
                raise ValueError(
                    f"{path} is cut off or no TFRecord file: record {len(spans)} at byte "
                    f"{position} would end behind the file's {size} bytes; {REMEDY}"
                )
            spans.append((position + HEADER, length))
            position += HEADER + length + FOOTER
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


@dataclass
class RecordIndex:
    """All records of the shards, numbered through in the order of the sorted files."""

    files: list[Path]
    file_of: np.ndarray  # (N,) int32
    spans: np.ndarray  # (N, 2) int64: offset, length
    _open: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, record: int) -> bytes:
        """The content of one record; may be called from several threads."""
        number = int(self.file_of[record])
        if number not in self._open:
            opened = os.open(self.files[number], os.O_RDONLY)
            if self._open.setdefault(number, opened) != opened:
                os.close(opened)  # another thread was quicker
        offset, length = self.spans[record]
        return os.pread(self._open[number], int(length), int(offset))

    def name(self, record: int) -> str:
        """What to call a record in a message."""
        number = int(self.file_of[record])
        return f"record {record - int((self.file_of < number).sum())} of {self.files[number]}"

    def close(self) -> None:
        """Close the files."""
        for number in list(self._open):
            os.close(self._open.pop(number))


def index_records(pattern: str) -> RecordIndex:
    """Look through all shards of the glob `pattern`; ValueError when there is no record."""
    files = find_shards(pattern)
    with ThreadPoolExecutor(THREADS) as pool:
        spans = list(pool.map(_scan, files))
    counts = [len(part) for part in spans]
    if not sum(counts):
        raise ValueError(f"the {len(files)} files of {pattern} hold no record; {REMEDY}")
    file_of = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    return RecordIndex(files, file_of, np.concatenate(spans))
