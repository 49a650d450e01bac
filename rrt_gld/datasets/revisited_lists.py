"""Line lists of the Revisited sets, byte for byte as published; sizes of images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from rrt_gld.datasets.line_lists import write_line_list
from utils.paths import require_file, require_files
from utils.revisited import load_ground_truth

Size = tuple[int, int]  # width, height in pixels
UNKNOWN: Size = (0, 0)
READERS = 8  # threads; reading a header is mostly waiting


def read_size(path: Path) -> Size:
    """Width and height from the image's header; ValueError when it is no image."""
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}); fetch it again") from error


def read_sizes(paths: Sequence[Path], hint: str) -> list[Size]:
    """Sizes of all images; missing ones are counted and named in one error with `hint`."""
    require_files(paths, hint)
    with ThreadPoolExecutor(READERS) as pool:
        sizes = pool.map(read_size, paths, chunksize=64)
        return list(tqdm(sizes, "image sizes", total=len(paths), unit="image"))


def compute_box_size(box: Sequence[float]) -> Size:
    """Size of [x1, y1, x2, y2]: [136.5, 34.1, 648.5, 955.7] -> (513, 922)."""
    x1, y1, x2, y2 = box
    return int(x2 - x1 + 1), int(y2 - y1 + 1)


def compute_labels(names: Sequence[str]) -> list[int]:
    """Index of each name's prefix (all but the last `_`-part) among the sorted prefixes."""
    prefixes = [name.rsplit("_", 1)[0] for name in names]
    number = {prefix: i for i, prefix in enumerate(sorted(set(prefixes)))}
    return [number[prefix] for prefix in prefixes]


def write_revisited_lists(
    data_dir: str | Path,
    gnd_file: str,
    test_file: str = "test_query.txt",
    index_file: str = "test_gallery.txt",
    query_size: str = "box",
    require_resolution: bool = True,
) -> dict[str, int]:
    """Write both line lists of `<data_dir>/jpg` in the order of the ground truth.

    Args:
        query_size: `box` (features come from the crop) or `image`, as in the published list of
            Paris.
        require_resolution: read every image's size; else sizes that no box gives are 0,0, which is
            harmless as long as positions are unused.

    Returns the numbers of queries and gallery images.
    """
    if query_size not in ("box", "image"):
        raise ValueError(f"query_size is {query_size!r}, expected 'box' or 'image'")
    data_dir = Path(data_dir)
    hint = "data/README.md says where the ground truth comes from"
    gnd = load_ground_truth(require_file(data_dir / gnd_file, hint))
    queries, gallery = list(gnd.qimlist), list(gnd.imlist)
    labels = compute_labels(queries + gallery)
    boxed = query_size == "box"
    measured = gallery if boxed else queries + gallery
    if require_resolution:
        files = [data_dir / "jpg" / f"{name}.jpg" for name in measured]
        sizes = read_sizes(files, "fetch the images, or set require_resolution=False")
    else:
        sizes = [UNKNOWN] * len(measured)
    if boxed:
        sizes = [compute_box_size(entry["bbx"]) for entry in gnd.gnd] + sizes
    n = len(queries)
    for file, names, part in (
        (test_file, queries, slice(n)),
        (index_file, gallery, slice(n, None)),
    ):
        paths_in_list = [f"jpg/{name}.jpg" for name in names]
        write_line_list(data_dir / file, paths_in_list, labels[part], sizes[part])
    return {"queries": len(queries), "gallery": len(gallery)}
