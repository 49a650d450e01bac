"""Sets in the layout of the VG benchmark: images named by their position.

    <datasets_folder>/<name>/images/{train,val,test}/{database,queries}/**/*.jpg
    @0584300.21@4477010.98@17@T@...@.jpg    field 1 easting, field 2 northing, in metres

Also any two folders of one's own, with such names or without.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2former.datasets.place_set import PlaceSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SHOWN = 5  # file names that an error message shows
NAMING = "@easting@northing@...@.jpg (UTM, metres)"
PROTOCOL = "all queries; one without a positive counts as missed"
NOTE = -2  # field of the file name, between @, that holds notes such as night_sideways
NIGHT, SIDEWAYS = "night", "sideways"


def list_images(folder: str | Path) -> list[str]:
    """Every image below `folder`, links followed, sorted by the whole path.

    FileNotFoundError when there is no such folder, ValueError when it holds no image.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; expected <datasets_folder>/<name>/images/<split>/"
            "{database,queries}/, see data/README.md"
        )
    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise ValueError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return sorted(found)


def read_positions(paths: Sequence[str], folder: str | Path) -> np.ndarray | None:
    """(N, 2) float64 easting and northing from the file names; None where none has the form.

    Only the file name is looked at: a folder may hold an "@". ValueError when some names have the
    form and others do not, or a number cannot be read.
    """
    fields = [os.path.basename(path).split("@") for path in paths]
    named = [len(parts) >= 3 and parts[0] == "" for parts in fields]
    if not any(named):
        return None
    bad = [path for path, is_named in zip(paths, named, strict=True) if not is_named]
    if bad:
        raise _bad_names(folder, bad, len(paths))
    try:
        positions = np.array([parts[1:3] for parts in fields], dtype=np.float64)
    except ValueError:
        bad = [p for p, parts in zip(paths, fields, strict=True) if not _are_numbers(parts[1:3])]
        raise _bad_names(folder, bad, len(paths)) from None
    if not np.isfinite(positions).all():
        bad = [paths[int(i)] for i in np.flatnonzero(~np.isfinite(positions).all(axis=1))]
        raise _bad_names(folder, bad, len(paths))
    return positions


def load_vg_set(
    datasets_folder: str | Path, name: str, split: str, with_weights: bool = False
) -> PlaceSet:
    """One split; ValueError where file names give no position.

    `with_weights`: read the notes night and sideways, which mining=msls_weighted needs.
    """
    root = Path(datasets_folder) / name / "images" / split
    made = load_folders(root / "database", root / "queries", f"{name} {split}", str(root))
    if not made.has_positions:
        paths = made.database_paths if made.database_utm is None else made.query_paths
        raise _bad_names(root, paths, len(paths))
    if not with_weights:
        return made
    return PlaceSet(**{**vars(made), "query_weights": read_weights(made.query_paths)})


def load_folders(
    database: str | Path, queries: str | Path, name: str = "own folders", root: str = ""
) -> PlaceSet:
    """Any two folders of images; without positions only ranked lists can be made of it."""
    database_paths, query_paths = list_images(database), list_images(queries)
    return PlaceSet(
        name,
        PROTOCOL,
        database_paths,
        query_paths,
        read_positions(database_paths, database),
        read_positions(query_paths, queries),
        root=root,
    )


def read_weights(query_paths: Sequence[str]) -> np.ndarray:
    """(Q,) weights for drawing queries by the notes in their file names; they sum up to 1."""
    notes = [os.path.basename(path).split("@")[NOTE] for path in query_paths]
    night = np.array([NIGHT in note for note in notes])
    sideways = np.array([SIDEWAYS in note for note in notes])
    if not (night.any() or sideways.any()):
        raise ValueError(
            f"no query says night or sideways in the second last @ field of its name "
            f"({query_paths[0]}): mining=msls_weighted needs MSLS; use mining=partial"
        )
    weights = compute_weights(night, sideways)
    return weights / weights.sum()


def compute_weights(night: np.ndarray, sideways: np.ndarray) -> np.ndarray:
    """(Q,) 1 + Q / n_night at night + Q / n_sideways for views to the side; not normalised."""
    weights = np.ones(len(night))
    for flags in (night, sideways):
        if flags.any():
            weights = weights + np.where(flags, len(flags) / flags.sum(), 0.0)
    return weights


def _are_numbers(parts: Sequence[str]) -> bool:
    try:
        return all(np.isfinite(float(part)) for part in parts)
    except ValueError:
        return False


def _bad_names(folder: str | Path, bad: Sequence[str], total: int) -> ValueError:
    shown = "".join(f"\n  {path}" for path in bad[:SHOWN])
    return ValueError(
        f"{folder}: {len(bad)} of {total} file names give no position; name every image "
        f"{NAMING}, or evaluate the two folders without recalls. First of them:{shown}"
    )
