"""Pre-computed hard negatives (`msls_v2_deit_hard_final.npy`): made, written, read."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from r2former.datasets.place_set import PlaceSet, Positives
from utils.array_files import load_array, save_array
from utils.knn import search
from utils.paths import atomic_write
from utils.text_files import read_json_object

logger = logging.getLogger(__name__)

INIT, FINAL = 500, 200  # columns: first search, kept after the soft positives went
NO_IMAGE = -1  # fills short rows
REMEDY = "make it with python -m r2former.precompute_mining (scripts/mine_global.sh)"


def compute_hard_init(
    queries: np.ndarray, database: np.ndarray, width: int = INIT, device: str | None = None
) -> np.ndarray:
    """(Q, width) int32: database indices by descending inner product with each query."""
    k = min(width, len(database))
    return search(queries, database, k, metric="ip", device=device)[1].astype(np.int32)


def compute_hard_final(init: np.ndarray, soft: Positives, width: int = FINAL) -> np.ndarray:
    """(Q, width) int32: `init` without soft positives, order kept; short rows end with -1."""
    if len(init) != len(soft):
        raise ValueError(f"{len(init)} rows for {len(soft)} queries")
    stride = 1 + max(int(init.max(initial=0)), int(soft.indices.max(initial=0)))
    row = np.arange(len(init), dtype=np.int64)
    banned = np.repeat(row, soft.counts) * stride + soft.indices
    bad = np.isin(init + row[:, None] * stride, banned)
    order = np.argsort(bad, axis=1, kind="stable")[:, :width]
    final = np.full((len(init), width), NO_IMAGE, np.int32)
    kept = np.take_along_axis(init, order, axis=1)
    final[:, : kept.shape[1]] = np.where(np.take_along_axis(bad, order, axis=1), NO_IMAGE, kept)
    return final


def save_list(path: str | Path, rows: np.ndarray, origin: dict[str, Any]) -> Path:
    """Write `rows` and, beside it as <name>.json, what it was made from."""
    path = Path(path)
    _record(path).unlink(missing_ok=True)  # of an older list: must not vouch for this one
    save_array(path, rows)
    atomic_write(_record(path), json.dumps(origin, indent=1).encode())
    return path


def load_list(path: str | Path, places: PlaceSet) -> np.ndarray:
    """(Q, >= 1) list for the training queries of `places`.

    With a record it must be of this very set; a released file, without one, is checked by its
    shape and its largest index. ValueError for a list of another set.
    """
    path = Path(path)
    rows = load_array(path, REMEDY)
    q, n = len(places.query_paths), len(places.database_paths)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or len(rows) != q or not rows.shape[1]:
        raise ValueError(
            f"{path} is {rows.dtype} of shape {rows.shape}, expected integers ({q}, >= 1) for the "
            f"{q} training queries of {places.name}: it was made for another set; {REMEDY}"
        )
    if rows.max() >= n or rows.min() < NO_IMAGE:
        raise ValueError(
            f"{path} names database image {rows.max() if rows.max() >= n else rows.min()}, "
            f"{places.name} has {n}: it was made for another set; {REMEDY}"
        )
    if _record(path).is_file():
        _compare(path, read_json_object(_record(path), REMEDY), places.origin())
    return rows


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _compare(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = [key for key in expected if found.get(key) != expected[key]]
    if differing:
        raise ValueError(
            f"{path} was made for other images: {', '.join(differing)} differ from this set's; "
            f"{REMEDY}"
        )


def write_lists(
    path: Path,
    queries: np.ndarray,
    database: np.ndarray,
    soft: Positives,
    origin: dict[str, Any],
    widths: tuple[int, int] = (INIT, FINAL),
    keep_all: bool = False,
) -> None:
    """Search, take soft positives out, write; `keep_all`: every stage, named as published."""
    if min(widths) < 1:
        raise ValueError(f"hard_init, hard_final are {widths}, expected at least 1 each")
    init = compute_hard_init(queries, database, widths[0])
    final = compute_hard_final(init, soft, widths[1])
    short = int((final[:, -1] < 0).sum())
    logger.info("%d of %d rows are shorter than %d", short, len(final), widths[1])
    save_list(path, final, origin)
    if keep_all:
        parts = {"hard_init": init, "reference_feature": database, "query_feature": queries}
        for name, rows in parts.items():
            save_list(path.with_name(path.name.replace("hard_final", name)), rows, origin)
