"""Small folders in the layout of Stanford Online Products, with images that can be told apart."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from rrt_sop.datasets.list_file import write_list_file
from utils.nn_tables import save_nn_inds


def write_image(path: Path, colour: np.ndarray, rng: np.random.Generator, size: int) -> None:
    """A square of one colour (3,) with a little noise, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = colour + rng.normal(0, 12, (size, size, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def write_products(
    folder: Path,
    train_classes: int = 8,
    test_classes: int = 5,
    images: int = 3,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Official lists (`Ebay_*.txt`), list files (train.txt, test.txt) and images; returns folder.

    Every class has a colour of its own and `images` images; paths look like the official ones.
    """
    rng = np.random.default_rng(seed)
    class_id = image_id = 0
    for split, count in (("train", train_classes), ("test", test_classes)):
        lines, names, ids = ["image_id class_id super_class_id path"], [], []
        for _ in range(count):
            class_id += 1
            colour = rng.uniform(20, 235, 3)
            for view in range(images):
                image_id += 1
                name = f"chair_final/{class_id:05d}_{view}.png"
                write_image(folder / name, colour, rng, size)
                lines.append(f"{image_id} {class_id} 1 {name}")
                names.append(name)
                ids.append(class_id - 1)
        (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
        write_list_file(folder / f"{split}.txt", names, ids)
    return folder


def zip_folder(folder: Path, archive: Path, top: str = "Stanford_Online_Products") -> Path:
    """The official lists and images of `folder` as a zip with one folder at its top."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.mkdir(top)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in ("train.txt", "test.txt"):
                content.write(path, f"{top}/{path.relative_to(folder)}")
    return archive


def write_random_table(path: Path, count: int, columns: int, seed: int = 0) -> np.ndarray:
    """A neighbour table (count, columns) without record: random other images in each row."""
    rng = np.random.default_rng(seed)
    order = np.argsort(rng.random((count, count)) + 2.0 * np.eye(count), axis=1)
    table = order[:, :columns].astype(np.int64)
    save_nn_inds(path, table, {})
    path.with_name(path.name + ".json").unlink()
    return table
