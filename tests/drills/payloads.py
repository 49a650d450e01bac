"""Files that would run code if a reader let them: each would create a marker file."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class MarkerOnLoad:
    """Unpickling it creates the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class SystemOnLoad(MarkerOnLoad):
    """Unpickling it has a shell create the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch '{self.marker}'",)


def make_payloads(marker: Path) -> dict[str, bytes]:
    """Kind of file -> its bytes."""
    objects: list[Any] = [MarkerOnLoad(marker), SystemOnLoad(marker)]
    found = {}
    for number, thing in enumerate(objects):
        for protocol in (0, 2, 4):
            nested = {"state": {"w": [thing]}, "imlist": thing}
            found[f"pickle {number} protocol {protocol}"] = pickle.dumps(nested, protocol)
        array = np.empty(2, dtype=object)
        array[:] = [thing, 1]
        single = io.BytesIO()
        np.save(single, array, allow_pickle=True)
        found[f"npy {number}"] = single.getvalue()
        several = io.BytesIO()
        np.savez(several, origin=array, mean=array, names=array, head=array, positions=array)
        found[f"npz {number}"] = several.getvalue()
        found[f"checkpoint {number}"] = _checkpoint(pickle.dumps({"state": thing}, 2))
    return found


def _checkpoint(content: bytes) -> bytes:
    """A zip file as torch.save writes it, with this pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return out.getvalue()
