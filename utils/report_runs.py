"""Run folders of sacred below logs/, read for the report: rows, curves, what was recorded.

A run is `<logs>/<script>/<number>/` with config.json, run.json, metrics.json, info.json, and since
there are records (`utils.result_files`) result.json and more. The name of the script's folder
tells which row of which table it is.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.paths import REPO_ROOT
from utils.result_files import RESULT, StoredResult, load_result, read_row
from utils.results import Expected, Row, load_expected

logger = logging.getLogger(__name__)

DEEPEST = 3  # levels below a given folder that are searched for runs


@dataclass(frozen=True)
class Curve:
    """One scalar over a run."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    script: str
    status: str  # COMPLETED, FAILED (exit code 3 too), RUNNING, ...
    started: str
    rows: Sequence[Row]
    curves: Sequence[Curve]
    result: StoredResult | None = field(repr=False, default=None)
    options: Sequence[str] = ()  # of its command line, behind "with"

    @property
    def number(self) -> int:
        """Sacred's number of the run; 0 for a folder without one."""
        return int(self.folder.name) if self.folder.name.isdigit() else 0

    @property
    def name(self) -> str:
        """`eval_mini_rerank/2`."""
        return f"{self.script}/{self.folder.name}" if self.number else self.script

    @property
    def is_tabled(self) -> bool:
        """Whether it followed the protocol of its table's row."""
        if self.result is not None:
            return self.result.content.get("script") is not None
        return any(row.expected is not None for row in self.rows)

    @cached_property
    def trained(self) -> list[Curve]:
        """Curves of a training, with enough points to see something."""
        kinds = ("train.", "val.")
        return [c for c in self.curves if c.name.startswith(kinds) and len(c.steps) > 1]


def _read_json(path: Path) -> Any:
    """Content of a file of sacred; None where there is none, or one that was cut short."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        logger.warning("%s is no JSON (%s): left out of the report", path, error)
        return None


def _read_curves(content: Any) -> list[Curve]:
    """Scalars of metrics.json; values that are no numbers are left out."""
    curves = []
    for name, entry in sorted((content or {}).items()):
        pairs = [
            (float(step), float(value))
            for step, value in zip(entry["steps"], entry["values"], strict=False)
            if isinstance(step, int | float) and isinstance(value, int | float)
        ]
        if pairs:
            curves.append(Curve(name, *(list(part) for part in zip(*pairs, strict=True))))
    return curves


def read_run(folder: Path) -> Run:
    """One run folder. What a run did not get to is empty; a damaged record is an error.

    ValueError, with the folder and the remedy.
    """
    try:
        return _read_run(folder)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if str(folder) in str(error):
            raise
        raise ValueError(
            f"{folder} is no run folder of sacred, or a damaged one ({type(error).__name__}: "
            f"{error}); remove it, and run the script again if it is needed"
        ) from error


def _read_run(folder: Path) -> Run:
    started = _read_json(folder / "run.json") or {}
    result = load_result(folder) if (folder / RESULT).is_file() else None
    if result is not None:
        rows = result.rows
    else:
        info = _read_json(folder / "info.json") or {}
        rows = [read_row(entry) for entry in info.get("rows", [])]
    script = folder.parent.name if folder.name.isdigit() else folder.name
    curves = _read_curves(_read_json(folder / "metrics.json"))
    status, when = started.get("status", "RECORDED"), str(started.get("start_time", ""))[:16]
    options = started.get("meta", {}).get("options", {}).get("UPDATE") or []
    if not isinstance(status, str) or not all(isinstance(text, str) for text in options):
        raise ValueError(f"its status is {status!r}, the options of its command line {options!r}")
    return Run(folder, script, status, when.replace("T", " "), rows, curves, result, options)


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """All runs in the folders, by script and number. ValueError when there is none at all."""
    roots = [Path(folder) for folder in folders]
    for folder in roots:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; give that of the runs, such as logs/")
    found: dict[Path, None] = {}
    for folder in roots:
        for level in range(DEEPEST):
            pattern = "*/" * level + "config.json"
            found.update(dict.fromkeys(path.parent for path in folder.glob(pattern)))
    paths = [path for path in found if path.name != "_sources"]
    if not paths:
        raise ValueError(
            f"{', '.join(map(str, roots))}: no run (a folder with config.json); run a script "
            "first, such as rrt_gld/rrt_scripts/eval_mini_global.sh"
        )
    runs = [read_run(path) for path in tqdm(paths, "runs", unit="run", disable=None)]
    return sorted(runs, key=lambda run: (run.script, run.number))


@dataclass(frozen=True)
class System:
    """One folder with a results table: its expected values and its row scripts by name."""

    name: str
    expected: Mapping[str, Mapping[str, Expected]]
    scripts: Mapping[str, Path]


def find_systems(root: Path = REPO_ROOT) -> list[System]:
    """Every folder of the repository that has an expected.csv."""
    systems = []
    for table in sorted(root.glob("*/expected.csv")):
        scripts = {path.stem: path for path in sorted(table.parent.glob("*scripts/*.sh"))}
        systems.append(System(table.parent.name, load_expected(table), scripts))
    return systems


HARMLESS = ("strict=", "overwrite=", "page=", "report=", "save_", "cpu=", "dataset.num_workers=")


def other_options(run: Run, script: Path) -> list[str]:
    """Options of a run that its script does not give, but for those that change no number."""
    own = script.read_text(encoding="utf-8").split() if script.is_file() else []
    return [text for text in run.options if text not in own and not text.startswith(HARMLESS)]


def choose_run(runs: Sequence[Run], script: Path) -> Run | None:
    """The run that stands for a script: the newest with the table's protocol.

    Where there is none: the newest with no other options than the script's, then the newest.
    """
    measured = [run for run in runs if run.rows]
    tabled = [run for run in measured if run.is_tabled]
    plain = [run for run in measured if not other_options(run, script)]
    found = tabled or plain or measured
    return found[-1] if found else None


def judged_rows(run: Run, expected: Mapping[str, Expected]) -> list[Row]:
    """Rows of a run against what is expected now, which may have changed since it ran."""
    if not run.is_tabled:
        return list(run.rows)
    rows = []
    for row in run.rows:
        value, tolerance, source = expected.get(row.metric, (None, None, None))
        rows.append(
            Row(row.metric, row.measured, value, tolerance, row.protocol, source, row.interval)
        )
    return rows
