"""The photographs of a search: what lies in a folder, and by what a changed one is recognised."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rrt_gld.sift import Box
from utils.paths import require_files
from utils.revisited import GroundTruth, load_ground_truth


class Photograph(NamedTuple):
    """A picture file. `key`: changes whenever its descriptors have to be made anew."""

    name: str  # relative to its folder
    path: Path
    box: Box | None  # x1, y1, x2, y2 in pixels crop it; None: the whole
    key: str


class RevisitedSet(NamedTuple):
    """A set in the layout of Revisited Oxford."""

    name: str
    queries: list[Photograph]
    gallery: list[Photograph]
    gnd: GroundTruth


def make_photograph(path: Path, folder: Path, box: Box | None = None) -> Photograph:
    """The key is made of the file's place in its folder, size and time, and of the box."""
    status = path.stat()
    name = path.relative_to(folder).as_posix()
    key = f"{name}|{status.st_size}|{status.st_mtime_ns}|{box}"
    return Photograph(name, path, box, key)


def list_photographs(where: Path) -> list[Photograph]:
    """The photograph `where`, or all below the folder `where`, sorted; hidden ones are left out.

    FileNotFoundError when there is none.
    """
    from rrt_gld.tools.extract_sift import list_pictures  # here: workers need no sacred

    if where.is_file():
        return [make_photograph(where, where.parent)]
    if not where.is_dir():
        raise FileNotFoundError(
            f"{where} is neither a photograph nor a folder; give one that exists"
        )
    found = list_pictures(where, None, None, unique_stems=False)
    return [make_photograph(picture.path, where) for picture in found]


def load_revisited_set(folder: Path) -> RevisitedSet:
    """Queries with their boxes, gallery and ground truth of `folder`: gnd_*.pkl, jpg/.

    FileNotFoundError without ground truth or photographs, ValueError with several ground truths.
    """
    truths = sorted(folder.glob("gnd_*.pkl"))
    if not truths:
        raise FileNotFoundError(
            f"no ground truth gnd_*.pkl in {folder}; python -m data.make_mini landmarks draws a set"
        )
    if len(truths) > 1:
        raise ValueError(f"{folder} holds {len(truths)} ground truths, leave one: {truths[:10]}")
    gnd = load_ground_truth(truths[0])
    gallery = _photographs_of(folder, gnd.imlist, [None] * len(gnd.imlist))
    boxes = [tuple(entry["bbx"]) if "bbx" in entry else None for entry in gnd.gnd]
    return RevisitedSet(
        folder.resolve().name, _photographs_of(folder, gnd.qimlist, boxes), gallery, gnd
    )


def _photographs_of(
    folder: Path, names: Sequence[str], boxes: Sequence[Box | None]
) -> list[Photograph]:
    paths = require_files([folder / "jpg" / f"{name}.jpg" for name in names], "bring the pictures")
    return [make_photograph(path, folder, box) for path, box in zip(paths, boxes, strict=True)]
