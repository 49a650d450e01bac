"""Where the reference answers lie, and the recipe that rebuilds their inputs and weights."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden")).resolve()

_spec = importlib.util.spec_from_file_location("golden_recipe_file", GOLDEN_DIR / "recipe.py")
assert _spec is not None
assert _spec.loader is not None
_recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_recipe)
array = _recipe.array
weight = _recipe.weight


def load_manifest(system: str, name: str = "manifest.json") -> dict[str, Any]:
    """The manifest of one system's reference answers."""
    return json.loads((GOLDEN_DIR / system / name).read_text())


def load_outputs(system: str, name: str = "outputs.npz") -> dict[str, np.ndarray]:
    """All arrays of one file of reference answers."""
    with np.load(GOLDEN_DIR / system / name, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def cases_of_kind(system: str, kind: str, name: str = "manifest.json") -> list[str]:
    """Names of the manifest's cases of one kind, in its order."""
    cases = load_manifest(system, name)["cases"]
    return [case for case, entry in cases.items() if entry["kind"] == kind]
