"""`metrics.txt` of a retrieval: written and read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.paths import atomic_write
from utils.text_files import read_text

FILE_NAME = "metrics.txt"

Results = Mapping[str, Mapping[str, Any]]  # what `delg_training.retrieval.measure` gives


def to_percent(values: Any) -> Any:
    """Fractions as tabulated: percent with two decimals."""
    return np.around(100 * np.asarray(values, np.float64), 2)


def format_metrics(results: Results, ks: Sequence[int]) -> str:
    """Four lines per protocol, in alphabetical order; the form that other tools read again."""
    lines = []
    with np.printoptions(precision=8, suppress=False, linewidth=75, floatmode="maxprec"):
        cutoffs = np.array2string(np.asarray(ks))
        for name in sorted(results):
            values = results[name]
            lines += [
                name,
                f"  mAP={float(to_percent(values['map']))}",
                f"  mP@k{cutoffs} {np.array2string(to_percent(values['mp']))}",
                f"  mR@k{cutoffs} {np.array2string(to_percent(values['mr']))}",
            ]
    return "".join(f"{line}\n" for line in lines)


def write_metrics(path: Path, results: Results, ks: Sequence[int]) -> None:
    """Write `metrics.txt`."""
    atomic_write(path, format_metrics(results, ks).encode())


BLOCK = re.compile(
    r"(?P<name>\S+)\n  mAP=(?P<map>\S+)\n  mP@k\[(?P<ks>[^]]*)\] \[(?P<mp>[^]]*)\]\n"
    r"  mR@k\[(?P=ks)\] \[(?P<mr>[^]]*)\]\n?"
)


def read_metrics(path: str | Path) -> dict[str, dict[str, Any]]:
    """Protocol -> {"map": float, "ks": [int], "mp": [float], "mr": [float]}, percent.

    ValueError, naming the file, for what is not in that form.
    """
    text = read_text(path, "python -m delg_training.perform_retrieval writes it")
    results: dict[str, dict[str, Any]] = {}
    position = 0
    while position < len(text):
        block = BLOCK.match(text, position)
        if block is None:
            line = text.count("\n", 0, position) + 1
            raise ValueError(
                f"{path}, line {line}: not a protocol of a metrics file; write it anew"
            )
        numbers = {key: [float(x) for x in block[key].split()] for key in ("mp", "mr")}
        ks = [int(k) for k in block["ks"].split()]
        results[block["name"]] = {"map": float(block["map"]), "ks": ks, **numbers}
        position = block.end()
    return results
