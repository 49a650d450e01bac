"""Revisited Oxford / Paris: ground truth; AP, mAP, mP@k, mR@k for easy, medium and hard.

The metric is that of the benchmark's own evaluator (Radenovic et al., CVPR'18): the trapezoidal AP
over a ranking from which the ignored images are taken out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from utils.matlab_files import load_matlab
from utils.paths import require_file
from utils.pickles import load_foreign

KINDS = ("easy", "hard", "junk")
CODES = {"easy": 1, "hard": 2, "junk": 3}  # of a gallery image for one query; 0 = negative
PROTOCOLS = {  # (positives, ignored)
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
BLOCK_NUMBERS = 4_000_000  # ranks or gallery images that are held at once, as int64 and bytes
MAX_UNKNOWN_GALLERY = 2**28  # largest index that is believed when nobody tells the gallery's size


class FrozenList(list):
    """A list that refuses every change; equal to, and joined like, the plain one."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the ground truth cannot be changed; make a copy with list(...)")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse

    def __reduce__(self) -> tuple:
        return FrozenList, (list(self),)


class FrozenDict(dict):
    """A dict that refuses every change."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the ground truth cannot be changed; make a copy with dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple:
        return FrozenDict, (dict(self),)


@dataclass(frozen=True, eq=False)
class GroundTruth(Mapping[str, FrozenList]):
    """Ground truth of one set; also reads like the dict of the published pickles."""

    imlist: FrozenList  # gallery names without extension
    qimlist: FrozenList  # query names without extension
    gnd: FrozenList  # per query a dict: bbx [x1, y1, x2, y2]; easy, hard, junk: gallery indices

    def __getitem__(self, key: str) -> FrozenList:
        if key not in iter(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        """Number of keys, as of the dict."""
        return len(fields(self))


# ---------------------------------------------------------------------------- ground truth


def load_ground_truth(path: str | Path) -> GroundTruth:
    """Read and check `gnd_*.pkl`, or `gnd_*.mat` (Matlab counts from 1; here from 0).

    ValueError, naming the file, when keys are missing, numbers of queries differ, indices exceed
    the gallery, or one image stands in two lists of a query.
    """
    path = require_file(path, "download the ground truth of this set (see data/README.md)")
    raw = _load_matlab(path) if path.suffix == ".mat" else load_foreign(path)
    try:
        return _make_ground_truth(raw)
    except ValueError as error:
        raise ValueError(
            f"{path} is no ground truth of the Revisited form: {error}; get the file again"
        ) from error


def _load_matlab(path: Path) -> dict[str, Any]:
    """The content of a Matlab ground truth in the form of the pickled one."""
    content = load_matlab(path, "get the file again")
    try:
        return {
            "imlist": content["imlist"],
            "qimlist": content["qimlist"],
            "gnd": [
                {
                    "bbx": np.ravel(entry["bbx"]).astype(np.float64).tolist(),
                    **{kind: _from_one(entry[kind]) for kind in KINDS},
                }
                for entry in content["gnd"]
            ],
        }
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} lacks a part of a ground truth (imlist, qimlist, gnd with bbx, easy, hard, "
            f"junk): {error}; get the file again"
        ) from error


def _from_one(indices: Any) -> np.ndarray:
    """(N,) int64 indices counted from 0, of whole numbers counted from 1."""
    flat = np.ravel(indices)
    if flat.dtype.kind not in "iuf" or not (np.abs(flat) < 2**53).all() or (flat % 1).any():
        raise ValueError(f"indices are {flat[:5]}, expected whole numbers from 1")
    return flat.astype(np.int64) - 1


def _make_ground_truth(raw: Any) -> GroundTruth:
    """The checked form of the raw dict; ValueErrors say what is wrong, not where."""
    if not isinstance(raw, Mapping) or not {"imlist", "qimlist", "gnd"} <= set(raw):
        found = sorted(map(str, raw)) if isinstance(raw, Mapping) else type(raw).__name__
        raise ValueError(f"expected a dict with imlist, qimlist and gnd, found {found}")
    names = {key: _checked_names(raw[key], key) for key in ("imlist", "qimlist")}
    lists = _checked_lists(raw["gnd"], len(names["imlist"]))
    if len(lists) != len(names["qimlist"]):
        raise ValueError(f"{len(names['qimlist'])} names in qimlist, but {len(lists)} in gnd")
    entries = []
    for q, (entry, indices) in enumerate(zip(raw["gnd"], lists, strict=True)):
        frozen = {kind: FrozenList(indices[kind].tolist()) for kind in KINDS}
        if "bbx" in entry:
            frozen["bbx"] = FrozenList(_checked_box(entry["bbx"], q))
        entries.append(FrozenDict({**entry, **frozen}))
    return GroundTruth(names["imlist"], names["qimlist"], FrozenList(entries))


def _checked_names(names: Any, key: str) -> FrozenList:
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is not a list of names")
    return FrozenList(names)


def _checked_box(box: Any, q: int) -> list[float]:
    """[x1, y1, x2, y2] of query `q`, numbers kept as they are."""
    box = box.tolist() if isinstance(box, np.ndarray) else box
    numbers = isinstance(box, list | tuple) and all(
        isinstance(x, int | float | np.number) and np.isfinite(x) for x in box
    )
    if not numbers or len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"bbx of query {q} is {box!r}, expected [x1, y1, x2, y2] in pixels")
    return list(box)


def _checked_lists(entries: Any, n_gallery: int | None) -> list[dict[str, np.ndarray]]:
    """Per query its easy, hard and junk indices as int64 arrays; in range and without repeats."""
    if not isinstance(entries, list | tuple):
        raise ValueError(
            f"gnd is a {type(entries).__name__}, expected a list with a dict per query"
        )
    checked = []
    for q, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not set(KINDS) <= set(entry):
            raise ValueError(f"query {q} of gnd is not a dict with easy, hard and junk")
        lists = {kind: _index_array(entry[kind], f"{kind} of query {q}") for kind in KINDS}
        joined = np.concatenate(list(lists.values()))
        limit = MAX_UNKNOWN_GALLERY if n_gallery is None else n_gallery
        if joined.size and (joined.min() < 0 or joined.max() >= limit):
            wrong = joined.min() if joined.min() < 0 else joined.max()
            raise ValueError(
                f"query {q} refers to gallery image {wrong}, but the gallery has {limit} images"
            )
        if len(np.unique(joined)) != len(joined):
            raise ValueError(f"query {q} names a gallery image twice among easy, hard and junk")
        checked.append(lists)
    return checked


def _index_array(values: Any, what: str) -> np.ndarray:
    """(N,) int64 of a list, tuple or array of integers."""
    problem = ValueError(f"{what} is not a list of gallery indices")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:  # lists of unequal length, say
        raise problem from error
    if array.size == 0 and array.ndim:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max() >= 2**62:
        raise problem
    return array.astype(np.int64)


# ---------------------------------------------------------------------------- metric


def evaluate_ranks(
    ranks: np.ndarray,
    gnd: GroundTruth | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """mAP, mP@k, mR@k and AP per query for easy, medium and hard; fractions.

    `ranks`: (Q, K) integers, row q = gallery indices of query q, nearest first: the whole ranking
    or its head (array or memory map, read once). `gnd`: what `load_ground_truth` gives, the raw
    dict, or its list of dicts alone. Returns {protocol: {"map": float, "mp" and "mr": (len(ks),)
    float64, "ap": (Q,) float64}}. Queries without positives have AP NaN and count nowhere;
    positives that the list lacks count as not found (a list without any: AP 0, P@k 0). P@k divides
    by the position of the last positive when this is below k, R@k by the number of positives.
    ValueError for indices outside the gallery or twice in a row.
    """
    ranks, ks = np.asanyarray(ranks), tuple(ks)
    if not ks or any(not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise ValueError(f"ks is {ks}, expected numbers of results >= 1")
    names = gnd.get("imlist") if isinstance(gnd, Mapping) else None
    n_gallery = None if names is None else len(names)
    lists = _checked_lists(gnd.get("gnd") if isinstance(gnd, Mapping) else gnd, n_gallery)
    if ranks.ndim != 2 or ranks.dtype.kind not in "iu" or len(ranks) != len(lists):
        raise ValueError(
            f"ranks is {ranks.dtype} of shape {ranks.shape}, expected integers of shape "
            f"({len(lists)}, K): a row of gallery indices for each query of the ground truth"
        )
    found = _find_relevant(ranks, lists, n_gallery)
    n_of_kind = {kind: np.array([len(entry[kind]) for entry in lists]) for kind in KINDS}
    return {
        protocol: _protocol_metrics(found, n_of_kind, positive, ignored, ks)
        for protocol, (positive, ignored) in PROTOCOLS.items()
    }


def _find_relevant(
    ranks: np.ndarray, lists: list[dict[str, np.ndarray]], n_gallery: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the images of the ground truth stand: query, position (0-based) and code, each (M,).

    Sorted by query, then position. Reads the ranks in blocks of rows and checks them on the way.
    """
    if n_gallery is None:  # as large as the largest index says
        in_lists = max((a.max() for entry in lists for a in entry.values() if a.size), default=0)
        n_gallery = 1 + max(int(ranks.max(initial=0)), int(in_lists))
        if n_gallery > MAX_UNKNOWN_GALLERY:
            raise ValueError(f"ranks refer to gallery image {n_gallery - 1}")
    rows = max(1, BLOCK_NUMBERS // max(n_gallery, ranks.shape[1], 1))
    found = []
    for start in range(0, len(ranks), rows):
        found.append(_find_in_block(ranks[start : start + rows], lists, n_gallery, start))
    empty = np.zeros(0, np.int64)
    queries, positions, codes = zip(*found, strict=True) if found else ((empty,),) * 3
    return np.concatenate(queries), np.concatenate(positions), np.concatenate(codes)


def _find_in_block(
    block: np.ndarray, lists: list[dict[str, np.ndarray]], n_gallery: int, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_find_relevant` of the rows from `start` on, by a table of codes (row, gallery image)."""
    n_rows, n_columns = block.shape
    if block.size == 0:
        return (np.zeros(0, np.int64),) * 3
    if block.min() < 0 or block.max() >= n_gallery:
        outside = (block < 0) | (block >= n_gallery)
        q, column = np.argwhere(outside)[0]
        raise ValueError(
            f"ranks of query {start + q} hold {block[q, column]} at position {column}, but the "
            f"gallery has {n_gallery} images: was the ranking made for another set?"
        )
    offsets = n_gallery * np.arange(n_rows, dtype=np.int64)[:, None]
    keys = (block.astype(np.int64, copy=False) + offsets).reshape(-1)
    seen = np.zeros(n_rows * n_gallery, np.bool_)
    seen[keys] = True
    distinct = np.count_nonzero(seen.reshape(n_rows, n_gallery), axis=1)
    if (distinct != n_columns).any():
        q = int(np.flatnonzero(distinct != n_columns)[0])
        values, counts = np.unique(block[q], return_counts=True)
        raise ValueError(
            f"ranks of query {start + q} name gallery image {values[counts > 1][0]} twice; "
            "a ranking holds every image once"
        )
    table = seen.view(np.uint8)
    table[:] = 0
    for row, entry in enumerate(lists[start : start + n_rows]):
        for kind, indices in entry.items():
            table[row * n_gallery + indices] = CODES[kind]
    codes = table[keys]
    hits = np.flatnonzero(codes != 0)
    rows, positions = np.divmod(hits, n_columns)
    return rows + start, positions, codes[hits].astype(np.int64)


def _protocol_metrics(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_of_kind: dict[str, np.ndarray],
    positive: tuple[str, ...],
    ignored: tuple[str, ...],
    ks: tuple[int, ...],
) -> dict[str, Any]:
    """The results of one protocol; see `evaluate_ranks`."""
    queries, positions, codes = found
    n_positives = np.sum([n_of_kind[kind] for kind in positive], axis=0)
    n_queries = len(n_positives)
    is_positive = np.isin(codes, [CODES[kind] for kind in positive])
    is_ignored = np.isin(codes, [CODES[kind] for kind in ignored])
    firsts = np.searchsorted(queries, np.arange(n_queries + 1))  # of each query in `found`
    ignored_before = _count_before(is_ignored, firsts)
    index = _count_before(is_positive, firsts)[is_positive]  # j = 0, 1, ... of each query
    at = (positions - ignored_before)[is_positive]  # p_j, ignored images taken out
    query = queries[is_positive]

    counted = n_positives > 0
    divisor = np.where(counted, n_positives, 1)
    left = np.where(at == 0, 1.0, index / np.maximum(at, 1))
    right = (index + 1) / (at + 1)
    sums = np.bincount(query, weights=left + right, minlength=n_queries)
    ap = np.where(counted, sums / (2 * divisor), np.nan)

    last = np.zeros(n_queries, np.int64)  # 1-based position of the last positive, 0 if none
    np.maximum.at(last, query, at + 1)
    precisions, recalls = [], []
    for k in ks:
        hits = np.bincount(query[at < k], minlength=n_queries)
        precisions.append(hits / np.minimum(np.maximum(last, 1), k))
        recalls.append(hits / divisor)
    if not counted.any():
        nothing = np.full(len(ks), np.nan)
        return {"map": float("nan"), "mp": nothing, "mr": nothing.copy(), "ap": ap}
    mp, mr = (np.array(values)[:, counted].mean(axis=1) for values in (precisions, recalls))
    return {"map": float(ap[counted].mean()), "mp": mp, "mr": mr, "ap": ap}


def _count_before(marked: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """(M,) number of marked entries of the same query before each entry.

    `firsts`: (Q + 1,) where each query's entries start, and M.
    """
    before = np.concatenate([[0], np.cumsum(marked)])
    return before[:-1] - np.repeat(before[firsts[:-1]], np.diff(firsts))
