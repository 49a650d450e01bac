"""Networks with the weights of the reference answers."""

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.golden_recipe import GOLDEN_DIR, array, weight

SYSTEM = "vitgal"
SCALED = {"gamma": 10, "gamma1": 10, "gamma2": 10, "gamma3": 10, "temperature": 40}


def fill(module: nn.Module) -> nn.Module:
    """Give a module the weights of the recipe, by the names of its entries."""
    state = {}
    for name, value in module.state_dict().items():
        factor = np.float32(SCALED.get(name.rpartition(".")[2], 1))
        numbers = np.asarray(weight(name, tuple(value.shape)))
        state[name] = torch.from_numpy(numbers if numbers.ndim == 0 else numbers * factor)
    module.load_state_dict(state)
    return module


def golden_image(name: str, shape: list[int]) -> torch.Tensor:
    return torch.from_numpy(array(f"{SYSTEM}/{name}", tuple(shape)))


def load_json(name: str) -> Any:
    return json.loads((GOLDEN_DIR / SYSTEM / name).read_text())


def layout(variant: str, kind: str) -> list[tuple[str, list[int], str]]:
    """(name, shape, dtype) of a published file's entries, in its order."""
    return [tuple(entry) for entry in load_json(f"layout_{variant}_{kind}.json")]


def layout_of(module: nn.Module) -> list[tuple[str, list[int], str]]:
    return [
        (name, list(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in module.state_dict().items()
    ]
