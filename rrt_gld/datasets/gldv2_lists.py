"""Line lists and ground truth of Google Landmarks v2, from its images and tables."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rrt_gld.datasets.line_lists import WHOLE_NUMBER, write_line_list
from rrt_gld.datasets.revisited_lists import UNKNOWN, read_sizes
from utils.paths import atomic_write
from utils.text_files import read_csv

DOWNLOAD = "data/README.md says where Google Landmarks v2 comes from"
USAGES = ("Public", "Private", "Ignored")


class Solution(NamedTuple):
    """One test image of the retrieval solution file."""

    query: str
    positives: list[str]  # index images, in the order of the file
    usage: str


def write_gldv2_lists(
    data_dir: str | Path,
    train_file: str = "train_clean.txt",
    test_file: str = "test_query.txt",
    index_file: str = "test_gallery.txt",
    gnd_file: str = "gnd_gld.pkl",
    require_resolution: bool = True,
) -> dict[str, int]:
    """Write the training list, and the test lists with their ground truth.

    The ground truth has two parts, `public` and `private`, each with imlist, qimlist and gnd as of
    the Revisited sets; all positives of a query stand in `easy`.
    """
    data_dir = Path(data_dir)
    train_labels = load_landmark_ids(data_dir / "meta" / "train.csv")
    index_labels = load_landmark_ids(data_dir / "meta" / "index_image_to_landmark.csv")
    solution = load_solution(data_dir / "meta" / "retrieval_solution_v2.1.csv")
    train, index = list_images(data_dir, "train"), list_images(data_dir, "index")
    test = {path.stem: path for path in list_images(data_dir, "test")}
    _require_known([entry.query for entry in solution], test, "queries without an image in test/")
    _require_known([path.stem for path in train], train_labels, "images not in meta/train.csv")
    _require_known(
        [path.stem for path in index],
        index_labels,
        "images not in meta/index_image_to_landmark.csv",
    )
    query_labels = [index_labels[entry.positives[0]] for entry in solution]
    for file, paths, labels in (
        (train_file, train, [train_labels[path.stem] for path in train]),
        (test_file, [test[entry.query] for entry in solution], query_labels),
        (index_file, index, [index_labels[path.stem] for path in index]),
    ):
        sizes = read_sizes(paths, DOWNLOAD) if require_resolution else [UNKNOWN] * len(paths)
        names = [path.relative_to(data_dir).as_posix() for path in paths]
        write_line_list(data_dir / file, names, labels, sizes)
    gnd = make_ground_truth(solution, [path.stem for path in index])
    atomic_write(data_dir / gnd_file, pickle.dumps(gnd, protocol=3))
    return {"train": len(train), "queries": len(solution), "gallery": len(index)}


def list_images(data_dir: Path, part: str) -> list[Path]:
    """All jpg files at any depth below a part of the set, sorted; FileNotFoundError for none."""
    found = (data_dir / part).rglob("*.jpg")
    paths = sorted(path for path in found if not path.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"no jpg file below {data_dir / part}; {DOWNLOAD}")
    return paths


def _rows(path: Path) -> Iterator[list[str]]:
    """Rows of a csv file without its header."""
    rows = read_csv(path, DOWNLOAD)
    next(rows, None)
    yield from (cells for _, cells in rows if cells)


def load_landmark_ids(path: Path) -> dict[str, int]:
    """Image id (first column) -> landmark id (last column)."""
    found: dict[str, int] = {}
    for row in _rows(path):
        if len(row) < 2 or not WHOLE_NUMBER.fullmatch(row[-1]):
            raise ValueError(
                f"{path}: the last column holds no landmark id in {','.join(row)[:200]!r}; "
                f"{DOWNLOAD}"
            )
        found[row[0]] = int(row[-1])
    return found


def load_solution(path: Path) -> list[Solution]:
    """Queries that count; ValueError for an unknown usage or a query without positives."""
    found = []
    for number, row in enumerate(_rows(path), start=2):
        if len(row) != 3 or row[2] not in USAGES:
            raise ValueError(
                f"{path}, line {number}: {row}, expected id, ids of positives, one of {USAGES}"
            )
        if row[2] == "Ignored":
            continue
        if not row[1].split():
            raise ValueError(f"{path}, line {number}: query {row[0]} has no positives")
        found.append(Solution(row[0], row[1].split(), row[2]))
    return found


def make_ground_truth(solution: list[Solution], gallery: list[str]) -> dict[str, Any]:
    """{"public": ..., "private": ...} over the gallery, in its order."""
    position = {name: i for i, name in enumerate(gallery)}
    positives = [name for entry in solution for name in entry.positives]
    _require_known(positives, position, "positives without an image in index/")
    parts = {}
    for usage in ("Public", "Private"):
        entries = [entry for entry in solution if entry.usage == usage]
        easy = [sorted({position[name] for name in entry.positives}) for entry in entries]
        parts[usage.lower()] = {
            "imlist": gallery,
            "qimlist": [entry.query for entry in entries],
            "gnd": [{"easy": part, "hard": [], "junk": []} for part in easy],
        }
    return parts


def _require_known(names: list[str], known: Any, what: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        first = ", ".join(missing[:10])
        raise ValueError(f"{len(missing)} {what}: {first}; fetch the set again")
