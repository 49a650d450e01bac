"""What the generated sets have in common: a record of what was drawn, workers, a picture sheet."""

import argparse
import json
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from utils.paths import atomic_write
from utils.text_files import read_json_object

REMEDY = "choose another --out, or --overwrite"
Drawn = TypeVar("Drawn")


def make_side(
    options: argparse.Namespace,
    folder: Path,
    version: int,
    sizes: dict[str, int],
    draw: Callable[[Path, argparse.Namespace], None],
) -> None:
    """Draw one folder of a set unless the same one is there; refuse to mix it with another one."""
    record = folder / "drawn.json"
    wanted = {"version": version, "seed": options.seed, **sizes}
    if record.exists():
        found = {} if options.overwrite else read_json_object(record, REMEDY)
        if found.get("made_from") != wanted and not options.overwrite:
            raise ValueError(
                f"{folder} holds a set drawn with {found.get('made_from')}, wanted {wanted}; "
                + REMEDY
            )
        if found.get("complete") is True and not options.overwrite:
            tqdm.write(f"{folder}: already drawn, kept")
            return
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(record, {"made_from": wanted, "complete": False})
    draw(folder, options)
    _write_json(record, {"made_from": wanted, "complete": True})
    tqdm.write(f"{folder}: {sizes}, seed {options.seed}; look at {folder / 'sheet.jpg'}")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode())


def write_picture(path: Path, picture: np.ndarray, quality: int) -> None:
    """Save (H, W, 3) BGR as a JPEG of that quality, whatever the ending of `path`."""
    ok, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"OpenCV could not encode {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data.tobytes())


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _start_worker() -> None:
    _single_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers


def draw_all(
    draw: Callable[[int], Drawn], count: int, workers: int, what: str, unit: str
) -> list[Drawn]:
    """`draw(0..count-1)` by all workers, in order, with a progress bar in `unit`s."""
    bar = partial(tqdm, total=count, desc=what, unit=unit, smoothing=0.05)
    if workers <= 1:
        _single_thread()
        return list(bar(map(draw, range(count))))
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        return list(bar(pool.imap(draw, range(count), chunksize=4)))


def draw_sheet(
    rows: Sequence[Sequence[tuple[Path, str]]],
    path: Path,
    side: int = 160,
    tall: int | None = None,
) -> None:
    """A picture of pictures, each with its caption.

    `side`: pixels across; `tall`: pixels from the top of a picture to its caption, `side` unless
    all pictures are wider than high.
    """
    tall = side if tall is None else tall
    sheet = np.full((len(rows) * (tall + 18), max(map(len, rows)) * side, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, (file, caption) in enumerate(row):
            picture = cv2.imread(str(file))
            if picture is None:
                raise ValueError(f"{file} cannot be read back; draw the set again (--overwrite)")
            scale = (side - 4) / max(picture.shape[:2])
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            y, x = r * (tall + 18), c * side
            sheet[y : y + small.shape[0], x : x + small.shape[1]] = small
            cv2.putText(
                sheet,
                caption,
                (x + 2, y + tall + 12),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.45,
                (0, 0, 0),
                1,
                cv2.LINE_AA,
            )
    write_picture(path, sheet, 85)
