"""Which images a test set of the Revisited form consists of: queries, gallery, distractors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.paths import require_file, require_files
from utils.revisited import GroundTruth, load_ground_truth
from utils.text_files import read_text

HINT = "data/README.md says where images and ground truth come from"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DISTRACTOR_LIST = "revisitop1m.txt"  # beside or above the folder of the distractors


@dataclass(frozen=True)
class TestImages:
    """Paths of a test set; gallery index i < len(gallery) is a benchmark image, others follow."""

    __test__ = False  # the name is not that of a pytest class

    name: str  # roxford5k, rparis6k, ...
    data_path: Path  # paths below are relative to it and written with "/"
    queries: list[str]
    boxes: np.ndarray  # (Q, 4) int32: x1, y1, x2, y2 of each query, truncated
    gallery: list[str]  # benchmark images in the order of the ground truth
    distractor_path: Path | None  # folder that the distractors' paths are relative to
    distractors: list[str]  # empty without distractors
    ground_truth: GroundTruth

    @property
    def num_database(self) -> int:
        """Gallery images, distractors included."""
        return len(self.gallery) + len(self.distractors)

    def database_path(self, index: int) -> Path:
        """File of gallery image `index`, of the benchmark or of the distractors."""
        if index < len(self.gallery):
            return self.data_path / self.gallery[index]
        assert self.distractor_path is not None
        return self.distractor_path / self.distractors[index - len(self.gallery)]


def load_test_lists(
    name: str, data_path: str | Path, folder: str, gnd: str, r1m_path: str | Path | None = None
) -> TestImages:
    """The images of `<data_path>/<folder>/jpg`, in the order of `<data_path>/<folder>/<gnd>`.

    `r1m_path`: folder of distractors, searched with its subfolders; None or "None": none. Raises
    FileNotFoundError that counts missing images, ValueError for queries without a box.
    """
    root = Path(data_path)
    truth = load_ground_truth(require_file(root / folder / gnd, HINT))
    queries, gallery = (
        [f"{folder}/jpg/{image}.jpg" for image in names] for names in (truth.qimlist, truth.imlist)
    )
    require_files([root / path for path in (*queries, *gallery)], HINT)
    boxless = [
        image for image, entry in zip(truth.qimlist, truth.gnd, strict=True) if "bbx" not in entry
    ]
    if boxless:
        raise ValueError(
            f"{root / folder / gnd}: {len(boxless)} queries have no box 'bbx' ({boxless[0]}, ...)"
        )
    boxes = np.array([entry["bbx"] for entry in truth.gnd], dtype=np.float64).reshape(-1, 4)
    with_distractors = r1m_path is not None and str(r1m_path) != "None"
    distractor_path = Path(str(r1m_path)) if with_distractors else None
    return TestImages(
        name=name,
        data_path=root,
        queries=queries,
        boxes=boxes.astype(np.int32),
        gallery=gallery,
        distractor_path=distractor_path,
        distractors=list_distractors(distractor_path) if distractor_path else [],
        ground_truth=truth,
    )


def list_distractors(folder: Path) -> list[str]:
    """Paths of all distractors relative to `folder`: as `revisitop1m.txt` lists them, else sorted.

    The list may name images with or without the folder's own name in front.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist; {HINT}, or set dataset.r1m_path=None to do without "
            "distractors"
        )
    for record in (folder / DISTRACTOR_LIST, folder.parent / DISTRACTOR_LIST):
        if record.is_file():
            lines = [line.strip() for line in read_text(record, HINT).splitlines() if line.strip()]
            if any("\0" in line for line in lines):
                raise ValueError(f"{record} is no list of images (it holds a zero byte); {HINT}")
            return [line.removeprefix("./").removeprefix(f"{folder.name}/") for line in lines]
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); {HINT}")
    return names
