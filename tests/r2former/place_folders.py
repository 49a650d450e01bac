"""Small place sets on disk, drawn here."""

from pathlib import Path

import numpy as np
from PIL import Image

from r2former.datasets.place_set import PlaceSet
from r2former.datasets.vg_folder import load_folders


def draw_places(root: Path, queries: int = 5, places: int = 4, views: int = 2) -> PlaceSet:
    """Places 100 m apart with `views` database images each; query q is at place q modulo theirs.

    Images of a place show its pattern with noise, 40 x 56 pixels.
    """
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (places, 5, 7, 3))
    for folder, owners in (
        ("database", np.repeat(np.arange(places), views)),
        ("queries", np.arange(queries) % places),
    ):
        (root / folder).mkdir(parents=True)
        for i, place in enumerate(owners.tolist()):
            image = patterns[place].repeat(8, 0).repeat(8, 1) + generator.normal(0, 12, (40, 56, 3))
            east, north = 500_000.0 + 100 * place + i % 3, 4_000_000.0
            name = f"@{east:.2f}@{north:.2f}@17@T@{folder[0]}{i:03d}@.jpg"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / folder / name)
    return load_folders(root / "database", root / "queries", "drawn")
