"""The drills in processes of their own, and tables of what came of them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.paths import REPO_ROOT
from utils.results import align

MODULES = (
    *("tests.drills.formats_utils", "tests.drills.formats_lists", "tests.drills.formats_stores"),
    "tests.drills.formats_runs",
)
TENSORFLOW = "tests.drills.formats_tensorflow"  # in a process without torch
SINGLE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TQDM_DISABLE": "1",
}
HEADER = ("format", "damaged", "refused", "same", "other", "defects")
Report = Mapping[str, Any]  # of tests.drills.reading.Report


def start(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` with one thread, its output kept."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPO_ROOT, env={**os.environ, **SINGLE}, capture_output=True, text=True,
    )  # fmt: skip


def run_mutations(count: int, names: Iterable[str], seed: int = 0) -> list[Report]:
    """Damage each format `count` times; `names`: MODULE or MODULE:FORMAT, all in one process.

    A process that does not survive a file is a defect of the format that it was reading; what is
    named behind that one is read by another process.
    """
    names, reports = list(names), []
    while names:
        found = _run_process(count, names, seed)
        reports += found
        read = {report["name"] for report in found}
        rest = [name for name in names if ":" in name and name.partition(":")[2] not in read]
        names = rest if len(rest) < len(names) else []
    return reports


def _run_process(count: int, names: Sequence[str], seed: int) -> list[Report]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reports.json"
        done = start("tests.drills.reading", str(count), str(seed), str(out), *names)
        reports: list[Report] = json.loads(out.read_text()) if out.is_file() else []
        if done.returncode == 0:
            return reports
        trace = out.with_suffix(".trace")
        what = trace.read_text() if trace.is_file() else f"{names[0].partition(':')[2]}: start"
        end = f"exit code {done.returncode} at {what}\n{done.stderr[-2000:]}"
        broken = dict.fromkeys(HEADER[1:], 0) | {"name": what.split(":")[0], "defects": [end]}
        return [*reports, {**broken, "mutations": 0, "kinds": {end[:100]: 1}}]


def list_formats(modules: Iterable[str]) -> list[str]:
    """MODULE:FORMAT of every format, asked in a process of its own."""
    code = (
        "import importlib, sys\n"
        "for m in sys.argv[1:]:\n"
        "    print(*(f'{m}:{f}' for f in importlib.import_module(m).FORMATS), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        cwd=REPO_ROOT, env={**os.environ, **SINGLE}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in done.stdout.split() if ":" in line]


def format_reports(reports: Iterable[Report]) -> str:
    """A line per format and their sum."""
    cells = [
        [report["name"], *(int(report[key]) for key in ("mutations", "refused", "same", "other")),
         sum(report["kinds"].values())]
        for report in reports
    ]  # fmt: skip
    total = [
        "all formats",
        *(sum(column) for column in zip(*(row[1:] for row in cells), strict=True)),
    ]
    return align(HEADER, [[str(cell) for cell in row] for row in (*cells, total)], range(1, 6))


def all_defects(reports: Iterable[Report]) -> list[str]:
    """Every kept defect, with its format."""
    return [f"{report['name']}: {text}" for report in reports for text in report["defects"]]


# ---------------------------------------------------------------------------- interruptions


def run_interruptions(rounds: int, drills: Sequence[str], names: Iterable[str]) -> list[Report]:
    """Cut every stage short in `rounds` ways of each drill; `names`: MODULE or MODULE:STAGE."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reports.json"
        module = "tests.drills.interruptions"
        done = start(module, str(out), str(rounds), "0", ",".join(drills), *names)
        reports: list[Report] = json.loads(out.read_text()) if out.is_file() else []
        if done.returncode:
            end = f"exit code {done.returncode}: {done.stderr[-2000:]}"
            broken = {"name": "?", "drill": ",".join(drills), "runs": 0, "cut": 0}
            reports = [*reports, {**broken, "defects": [end]}]
        return reports


def format_interruptions(reports: Iterable[Report]) -> str:
    """A line per stage and drill."""
    rows = [
        [r["name"], r["drill"], str(r["runs"]), str(r["cut"]), str(len(r["defects"]))]
        for r in reports
    ]
    return align(("stage", "drill", "runs", "cut short", "defects"), rows, range(2, 5))
