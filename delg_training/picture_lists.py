"""Which pictures to extract: plain lists, lines of Google Landmarks, Revisited Oxford and Paris."""

from pathlib import Path

from delg_training.extraction_run import Picture
from delg_training.image_loading import Box
from utils.revisited import load_ground_truth
from utils.text_files import read_text

IMAGE_SETS = ("query", "index")


def _lines(path: str | Path, content: str) -> list[str]:
    text = read_text(path, f"it is a text file with {content} per line")
    lines = [line.rstrip() for line in text.splitlines()]
    found = [line for line in lines if line]
    if any("\0" in line for line in found):
        raise ValueError(f"{path} is no text file: it holds a zero byte")
    if not found:
        raise ValueError(f"{path} names no picture; it is a text file with {content} per line")
    return found


def list_paths(list_images_path: str | Path) -> list[Picture]:
    """The pictures of a list with one path per line, in its order."""
    paths = [Path(line) for line in _lines(list_images_path, "the path of a picture")]
    return [Picture(path.stem, path) for path in paths]


def list_landmarks(dataset_file_path: str | Path, images_dir: str | Path) -> list[Picture]:
    """The pictures of a list `relative/path.jpg,label,width,height` below `images_dir`."""
    lines = _lines(dataset_file_path, "relative/path.jpg,label,width,height")
    paths = [Path(images_dir) / line.split(",")[0] for line in lines]
    return [Picture(path.stem, path) for path in paths]


def list_revisited(
    dataset_file_path: str | Path, images_dir: str | Path, image_set: str
) -> list[Picture]:
    """Queries with their boxes, or index pictures, of a ground truth (`.mat` or `.pkl`)."""
    if image_set not in IMAGE_SETS:
        raise ValueError(f"image_set is {image_set!r}, expected one of {', '.join(IMAGE_SETS)}")
    truth = load_ground_truth(dataset_file_path)
    folder = Path(images_dir)
    if image_set == "index":
        return [Picture(name, folder / f"{name}.jpg") for name in truth.imlist]
    absent = [n for n, g in zip(truth.qimlist, truth.gnd, strict=True) if "bbx" not in g]
    if absent:
        raise ValueError(f"{dataset_file_path} has no box (bbx) of the query {absent[0]}")
    boxes: list[Box] = [tuple(map(float, entry["bbx"])) for entry in truth.gnd]  # type: ignore[misc]
    return [
        Picture(name, folder / f"{name}.jpg", box)
        for name, box in zip(truth.qimlist, boxes, strict=True)
    ]
