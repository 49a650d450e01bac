"""Mapillary Street-Level Sequences: the lists of the official toolkit (task im2im, all images).

    <datasets_folder>/<name>/{train_val,test}/<city>/{query,database}/{images/<key>.jpg,*.csv}

The csv files are scanned once per split and kept in one file, which is checked against them.
Positives follow from the positions by a k-d tree, each city on its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2former.datasets.msls_scan import CitySide, load_scan
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.vg_folder import compute_weights

logger = logging.getLogger(__name__)

CITIES = {
    "train": (
        *("trondheim", "london", "boston", "melbourne", "amsterdam", "helsinki", "tokyo"),
        *("toronto", "saopaulo", "moscow", "zurich", "paris", "bangkok", "budapest", "austin"),
        *("berlin", "ottawa", "phoenix", "goa", "amman", "nairobi", "manila"),
    ),
    "val": ("cph", "sf"),
    "test": ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala"),
}
SPLITS = tuple(CITIES)
PROTOCOLS = ("official", "all_queries")


@dataclass(frozen=True)
class Msls:
    """One split before any query is left out for want of a positive."""

    places: PlaceSet
    night: np.ndarray  # (Q,) bool
    sideways: np.ndarray  # (Q,) bool: taken neither forward nor backward


def load_msls(
    datasets_folder: str | Path,
    name: str,
    split: str,
    cities: Sequence[str] | None = None,
    cache_folder: str | Path | None = None,
    check_images: bool = True,
) -> Msls:
    """The images of one split in the published order, panoramas left out.

    `cities`: default those of the published split. `cache_folder`: where the scan is kept; default
    the folder of the set. `check_images`: see at the first scan that every image is there.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    root = Path(datasets_folder) / name
    chosen = tuple(CITIES[split] if cities is None else cities)
    sides = load_scan(root, split, chosen, Path(cache_folder or root), check_images)
    kept = [(q, d) for q, d in sides if len(q.keys) and len(d.keys)]
    if not kept:
        raise ValueError(f"{root}: no city of {', '.join(chosen)} has both queries and database")
    queries, database = [q for q, _ in kept], [d for _, d in kept]
    located = split != "test"
    places = PlaceSet(
        f"{name} {split}",
        "every query image",
        _paths(root, database),
        _paths(root, queries),
        np.concatenate([side.utm for side in database]) if located else None,
        np.concatenate([side.utm for side in queries]) if located else None,
        _groups(database),
        _groups(queries),
        root=str(root),
    )
    night, sideways = (
        np.concatenate([getattr(side, flag) for side in queries]) for flag in ("night", "sideways")
    )
    return Msls(places, night, sideways)


def load_msls_test_set(
    datasets_folder: str | Path,
    name: str,
    split: str,
    radius: float,
    protocol: str = "official",
    cities: Sequence[str] | None = None,
    cache_folder: str | Path | None = None,
) -> PlaceSet:
    """The queries that count: official ones have a positive within `radius`; or all of them."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {PROTOCOLS}")
    places = load_msls(datasets_folder, name, split, cities, cache_folder).places
    if not places.has_positions:
        return _named(places, "every query; the challenge holds the positions")
    if protocol == "all_queries":
        return _named(
            places, "all queries; one without a positive counts as missed; positives in its city"
        )
    kept = places.with_positives_only(radius)
    return _named(
        kept, f"official: queries with a positive within {radius:g} m; positives in its city"
    )


def load_msls_train_set(
    datasets_folder: str | Path,
    name: str,
    radius: float,
    cities: Sequence[str] | None = None,
    cache_folder: str | Path | None = None,
) -> PlaceSet:
    """Training queries with a positive within `radius`, with weights of night and side views."""
    scanned = load_msls(datasets_folder, name, "train", cities, cache_folder)
    keep = np.flatnonzero(scanned.places.positives(radius).counts)
    kept = scanned.places.with_positives_only(radius)
    weights = compute_weights(scanned.night[keep], scanned.sideways[keep])
    protocol = f"queries with a positive within {radius:g} m"
    return PlaceSet(
        **{**vars(kept), "protocol": protocol, "query_weights": weights / weights.sum()}
    )


def _paths(root: Path, sides: list[CitySide]) -> list[str]:
    return [
        f"{root}/{side.folder}/images/{key}.jpg" for side in sides for key in side.keys.astype(str)
    ]


def _groups(sides: list[CitySide]) -> np.ndarray:
    return np.repeat(np.arange(len(sides)), [len(side.keys) for side in sides])


def _named(places: PlaceSet, protocol: str) -> PlaceSet:
    return PlaceSet(**{**vars(places), "protocol": protocol})
