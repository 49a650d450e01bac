"""Descriptors of one set of images: checked at once, read when needed, ragged in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rrt_gld.datasets.line_lists import load_line_list
from utils.array_files import load_arrays, take_arrays
from utils.descriptors import LocalFeatures, count_local, read_global, read_local
from utils.nn_tables import hash_names
from utils.paths import require_files
from utils.revisited import GroundTruth

# Edges in double precision on purpose. The extractor writes float32 scales, and those of 1/sqrt(2),
# sqrt(2) and 2 sqrt(2) lie a hair BELOW these edges: 4 -> 6, 2.83 -> 4, 2 -> 4, 1.41 -> 2, 1 -> 2,
# 0.71 -> 0, 0.5 -> 0. The released weights were trained with that map; a nearest-scale map or
# float32 edges would silently ruin them.
SCALE_EDGES = np.array([0.5, 0.70710677, 1.0, 1.41421354, 2.0, 2.82842708, 4.0], dtype=np.float64)


def compute_published_scale_inds(scales: np.ndarray) -> np.ndarray:
    """(n,) float32 scales -> (n,) int64 in 0..6: number of edges <= scale, less one.

    Scales below 0.5 give 0 (the published rule gives -1 there and crashes).
    """
    inds = np.searchsorted(SCALE_EDGES, scales.astype(np.float64), side="right") - 1
    return np.maximum(inds, 0)


def compute_nearest_scale_inds(scales: np.ndarray) -> np.ndarray:
    """(n,) scales -> (n,) int64 in 0..6, nearest on a log scale; for weights trained with it."""
    exponents = 2.0 * np.log2(np.maximum(scales.astype(np.float64), 1e-6) / SCALE_EDGES[0])
    return np.clip(np.rint(exponents), 0, len(SCALE_EDGES) - 1).astype(np.int64)


SCALE_MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "published": compute_published_scale_inds,
    "nearest": compute_nearest_scale_inds,
}


class Item(NamedTuple):
    """One image without padding: what the matcher reads of it."""

    global_: np.ndarray  # (D_global,) float32, as stored
    local: np.ndarray  # (n, D) float32, best first, n <= max_sequence_len
    scales: np.ndarray  # (n,) int64 scale index 0..6
    positions: np.ndarray  # (n, 2) float32, (x / width, y / height)


class ItemImages(Protocol):
    """Images that the matcher can read: an `ImageSet`, or rows of another store."""

    def load_item(self, i: int) -> Item:
        """Image i without padding."""


class LocalImages(Protocol):
    """Images whose local features can be verified."""

    def load_local(self, i: int) -> LocalFeatures:
        """The local features that are used of image i."""


class ImageSet:
    """The images of a line list, with their files in `<data_dir>/delg_<desc_name>/`."""

    def __init__(
        self,
        data_dir: str | Path,
        txt: str,
        desc_name: str,
        max_sequence_len: int = 500,
        local_dim: int = 128,
        global_dim: int | None = None,
        local_mean: str | Path | None = None,
        scale_map: str = "published",
        with_locals: bool = True,
    ) -> None:
        """Read the list and see that every descriptor file exists.

        Args:
            txt: line list, relative to `data_dir`.
            max_sequence_len: only the first (strongest) that many local features are used.
            local_dim, global_dim: widths of the descriptors, checked against the files; a
                `global_dim` of None takes that of the first file.
            local_mean: .npz file with a key `mean` (local_dim,): taken off every local descriptor,
                which is then L2-normalised (SIFT-like descriptors are not centred; DELG's are).
            scale_map: `published` (needed by the released weights) or `nearest`.
            with_locals: False when only global descriptors are needed.

        Raises:
            FileNotFoundError: the list or descriptor files are missing (counted, ten named).
            ValueError: a malformed list, an unknown `scale_map`, a mean of another width.
        """
        if scale_map not in SCALE_MAPS:
            raise ValueError(f"scale_map is {scale_map!r}, expected one of {list(SCALE_MAPS)}")
        if max_sequence_len < 1:
            raise ValueError(f"max_sequence_len is {max_sequence_len}, expected at least 1")
        self.txt = Path(data_dir) / txt
        self.paths, self.labels, self.sizes = load_line_list(self.txt)
        self.stems = [Path(path).stem for path in self.paths]
        self.folder = Path(data_dir) / f"delg_{desc_name}"
        self.max_sequence_len = max_sequence_len
        self.local_dim = local_dim
        self.global_dim = global_dim
        self.local_mean = None if local_mean is None else _load_mean(local_mean, local_dim)
        self.to_scale_inds = SCALE_MAPS[scale_map]
        self._require_descriptor_files(with_locals)

    def __len__(self) -> int:
        return len(self.paths)

    def global_path(self, i: int) -> Path:
        return self.folder / f"{self.stems[i]}.delg_global"

    def local_path(self, i: int) -> Path:
        return self.folder / f"{self.stems[i]}.delg_local"

    def _require_descriptor_files(self, with_locals: bool) -> None:
        # one listing of the folder instead of two stat calls per image
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        wanted = [self.global_path(i) for i in range(len(self))]
        wanted += [self.local_path(i) for i in range(len(self))] if with_locals else []
        missing = [path for path in wanted if path.name not in there]
        require_files(
            missing,
            f"{len(missing)} of the {len(wanted)} descriptor files of {self.txt} are missing: "
            "extract them first (delg_scripts/extract_*.sh or rrt_gld.tools.extract_sift)",
        )

    def require_names(self, names: Sequence[str], source: str | Path) -> None:
        """ValueError unless the list holds exactly the images `names` of `source`, in order."""
        if self.stems != list(names):
            raise ValueError(
                f"{self.txt} ({len(self)} images) and {source} ({len(names)} names) list different "
                "images; remake the list with python -m rrt_gld.tools.prepare_data"
            )

    def global_descriptors(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """(N, D) float32 as stored, of all images or of `rows`; ValueError on unequal widths."""
        rows = range(len(self)) if rows is None else rows
        first = read_global(self.global_path(rows[0]), dim=self.global_dim)
        vectors = np.empty((len(rows), len(first)), dtype=np.float32)
        vectors[0] = first
        for position, i in enumerate(rows[1:], start=1):
            vectors[position] = read_global(self.global_path(i), dim=len(first))
        return vectors

    def count_local(self, i: int) -> int:
        """How many local features of image i are used."""
        return min(count_local(self.local_path(i), self.local_dim), self.max_sequence_len)

    def load_local(self, i: int) -> LocalFeatures:
        """The local features that are used of image i, as stored."""
        return read_local(
            self.local_path(i), dim=self.local_dim, max_features=self.max_sequence_len
        )

    def load_local_item(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`local`, `scales` and `positions` of an Item."""
        features = self.load_local(i)
        local = np.asarray(features.descriptors, dtype=np.float32).reshape(-1, self.local_dim)
        if self.local_mean is not None:
            local = center(local, self.local_mean)
        # stored as (y, x); sizes are (width, height), 0 where prepare_data did not read them
        positions = features.locations[:, ::-1] / np.where(self.sizes[i] > 0, self.sizes[i], np.inf)
        positions = positions.astype(np.float32)
        return local, self.to_scale_inds(features.scales), positions

    def load_item(self, i: int) -> Item:
        """Image i without padding; an empty local file gives n = 0."""
        return Item(read_global(self.global_path(i), self.global_dim), *self.load_local_item(i))


def describe_origin(desc_name: str, queries: ImageSet, gallery: ImageSet) -> dict[str, str]:
    """What a neighbour table records of its making, and a reader asks for."""
    return {
        "descriptors": desc_name,
        "queries": f"{len(queries)} images, names {hash_names(queries.stems)[:16]}",
        "gallery": f"{len(gallery)} images, names {hash_names(gallery.stems)[:16]}",
    }


class EvalSet(NamedTuple):
    """What an evaluation works on."""

    queries: ImageSet
    gallery: ImageSet
    nn_inds: np.ndarray  # (Q, K) int64 global ranking
    gnd: GroundTruth


def _load_mean(path: str | Path, width: int) -> np.ndarray:
    remedy = "python -m rrt_gld.tools.extract_sift writes it; or set local_mean=None"
    arrays = load_arrays(path, remedy)
    if "mean" not in arrays or arrays["mean"].shape != (width,):
        found = {key: value.shape for key, value in arrays.items()}
        raise ValueError(f"{path} holds {found}, expected a key 'mean' of shape ({width},)")
    return take_arrays(path, arrays, {"mean": "f 1"}, remedy)[0].astype(np.float32)


def center(local: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Rows (N, D) less `mean` (D,), then of unit length."""
    centered = local - mean
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    return centered / np.maximum(norms, np.float32(1e-12))
