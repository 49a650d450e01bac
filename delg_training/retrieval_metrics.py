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
        try:
            results[block["name"]] = _read_block(block)
        except ValueError as error:
            line = text.count("\n", 0, position) + 1
            raise ValueError(f"{path}, line {line}: {error}; write it anew") from error
        position = block.end()
    return results


def _read_block(block: re.Match[str]) -> dict[str, Any]:
    """The numbers of one protocol; ValueError unless they are cutoffs and percentages."""
    numbers = {key: [float(x) for x in block[key].split()] for key in ("mp", "mr")}
    ks, mean = [int(k) for k in block["ks"].split()], float(block["map"])
    if min(ks, default=1) < 1 or any(len(values) != len(ks) for values in numbers.values()):
        raise ValueError(f"{block['name']} has the cutoffs {ks} for other numbers of values")
    strange = [x for x in (mean, *numbers["mp"], *numbers["mr"]) if not 0 <= x <= 100]
    if strange:  # a NaN is not between either
        raise ValueError(f"{block['name']} has {strange[0]}, expected percentages")
    return {"map": mean, "ks": ks, **numbers}
