"""A tiny training set in the layout of Google Landmarks v2: a class is a pattern of colours."""

from pathlib import Path

import cv2
import numpy as np

from vitgal.datasets.gldv2 import image_path

CLASSES, VIEWS = 6, 5


def write_train_folder(folder: Path) -> Path:
    """train/a/b/c/<id>.png of 40 x 48 pixels and train.csv; returns the folder."""
    rng = np.random.default_rng(0)
    lines = ["id,landmark_id"]
    for c in range(CLASSES):
        pattern = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        for v in range(VIEWS):
            name = f"{c}{v}c{c * VIEWS + v:013x}"
            noisy = cv2.resize(pattern, (48, 40), interpolation=cv2.INTER_NEAREST).astype(int)
            noisy = np.clip(noisy + rng.normal(0, 10, noisy.shape), 0, 255).astype(np.uint8)
            path = folder / image_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), noisy)
            lines.append(f"{name},{100 + c}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder
