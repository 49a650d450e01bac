"""Checkpoints as safetensors with a card, and back: tensors byte for byte, everything else too.

    FILE.safetensors        every tensor of the checkpoint, wherever it stands in it
    FILE.safetensors.json   the card: what else the checkpoint holds and where each tensor belongs,
                            shapes and types, sha256 of both files

A safetensors file runs no code and can be read without this code or torch. One without a card
(somebody else's) is a plain state dict.
"""

import argparse
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from utils.paths import atomic_path, atomic_write, hash_file, require_file
from utils.text_files import read_json

SUFFIX = ".safetensors"
FORMAT = 1  # of the card
REMEDY = "convert the checkpoint again, or fetch both files again"
PLAIN = (bool, int, str, type(None))


def card_path(path: Path) -> Path:
    """Where the card of a safetensors file lies: `<file>.json`."""
    return path.with_name(path.name + ".json")


# ---------------------------------------------------------------------------- there


class _Taken:
    """Tensors met while a checkpoint is described."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def describe(self, value: Any, place: str) -> Any:
        """A JSON form of `value`; its tensors go to `tensors` under the name of their place."""
        if isinstance(value, Tensor):
            name = self._free_name(place)
            if value.layout != torch.strided or value.is_quantized:
                raise ValueError(f"{name} is {value.layout}: safetensors holds dense tensors only")
            # a copy each: safetensors refuses tensors that share their storage
            self.tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, PLAIN):
            return value
        return self._describe_container(value, place)

    def _free_name(self, place: str) -> str:
        """`place`, with a number where two places are spelt alike ("a.b" and "b" within "a")."""
        name, count = place, 1
        while name in self.tensors:
            count += 1
            name = f"{place}#{count}"
        return name

    def _describe_container(self, value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            entries = [
                [self.describe(key, place), self.describe(entry, f"{place}.{key}".lstrip("."))]
                for key, entry in value.items()
            ]
            return {"ordered" if isinstance(value, OrderedDict) else "dict": entries}
        if isinstance(value, argparse.Namespace):
            return {"namespace": self.describe(vars(value), place)}
        if isinstance(value, torch.Size):
            return {"size": list(value)}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self.describe(v, f"{place}.{k}") for k, v in enumerate(value)]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, set):
            return {"set": [self.describe(v, place) for v in sorted(value, key=repr)]}
        raise ValueError(
            f"{place or 'the checkpoint'} is a {type(value).__name__}, which a card cannot hold; "
            "save tensors, numbers, strings and plain containers only"
        )


def to_safetensors(content: Mapping[str, Any], path: Path, source: Path | None = None) -> Path:
    """Write the checkpoint `content` as `path` and its card; returns `path`.

    `source`: the file that it was read from, whose name and hash the card keeps. ValueError names
    what cannot be written.
    """
    taken = _Taken()
    structure = taken.describe(content, "")
    with atomic_path(path) as temporary:
        # not save_file: it has a temporary file of its own, which a kill would leave
        temporary.write_bytes(save(taken.tensors))
        digest = hash_file(temporary)
    card = {
        "format": FORMAT,
        "source": None if source is None else source.name,
        "source_sha256": None if source is None else hash_file(source),
        "safetensors_sha256": digest,
        "written_by": {"torch": torch.__version__, "safetensors": safetensors.__version__},
        "parameters": sum(tensor.numel() for tensor in taken.tensors.values()),
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in taken.tensors.items()
        },
        "structure": structure,
    }
    text = json.dumps(card, indent=1, allow_nan=False) + "\n"
    atomic_write(card_path(path), text.encode())
    return path


# ---------------------------------------------------------------------------- and back


def _restore(entry: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_Taken.describe` made `entry` of."""
    if not isinstance(entry, dict):
        return entry
    ((kind, value),) = entry.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "float":
        return float.fromhex(value)
    if kind in ("dict", "ordered"):
        pairs = [(_restore(key, tensors), _restore(part, tensors)) for key, part in value]
        return OrderedDict(pairs) if kind == "ordered" else dict(pairs)
    if kind == "namespace":
        return argparse.Namespace(**_restore(value, tensors))
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "size":
        return torch.Size(value)
    makers: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}
    return makers[kind](_restore(part, tensors) for part in value)


def from_safetensors(path: str | Path) -> dict[str, Any]:
    """What the checkpoint held; without a card the tensors by name.

    ValueError, with the file and a remedy, for files that are damaged or do not belong together.
    """
    path = require_file(path, "give the path of a .safetensors file")
    try:
        tensors = load_file(path)
    except Exception as error:  # the library has errors of its own
        raise ValueError(f"{path} is no whole safetensors file ({error}); {REMEDY}") from error
    card = card_path(path)
    if not card.is_file():
        return dict(tensors)
    try:
        described = read_json(card, REMEDY)
        version, digest = described["format"], described["safetensors_sha256"]
        structure = described["structure"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{card} is no card of a checkpoint ({error}); {REMEDY}") from error
    if version != FORMAT or digest != hash_file(path):
        raise ValueError(f"{card} is not the card of {path.name} as it is now; {REMEDY}")
    try:
        content = _restore(structure, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{card} has a damaged structure ({error}); {REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{card} describes a {type(content).__name__}, expected a dict; {REMEDY}")
    return content
