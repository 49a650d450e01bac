"""Runs all drills and writes what came of them; exit code 1 when there is a defect.

    python -m tests.drills.run [--count 10000] [--rounds 12] [--seed 0] [--out logs/drills]

`<out>/mutations.txt` has a line per format of file, `<out>/interruptions.txt` one per writing stage
and drill; both end with the defects in words.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tests.drills.runs import (
    MODULES,
    TENSORFLOW,
    Report,
    all_defects,
    format_interruptions,
    format_reports,
    list_formats,
    run_interruptions,
    run_mutations,
)  # fmt: skip
from utils.paths import REPO_ROOT, atomic_write

DRILLS = ("kill", "disk", "pair")
STAGES = {  # module: by how many the rounds are divided
    "tests.drills.stages": 1,
    "tests.drills.stages_training": 3,
    "tests.drills.stages_tensorflow": 3,
}


def write(path: Path, table: str, reports: Sequence[Report]) -> int:
    """Write a table with its defects, and show it; returns how many defects there are."""
    defects = all_defects(reports)
    text = f"{table}\n" + "".join(f"\n{defect}" for defect in defects)
    atomic_write(path, f"{text}\n".encode())
    sys.stdout.write(f"{text}\n{path}\n\n")
    return len(defects)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=10_000, help="damaged files in all (10000)")
    parser.add_argument("--rounds", type=int, default=12, help="ways to cut a stage short (12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REPO_ROOT / "logs/drills")
    options = parser.parse_args(argv)
    names = list_formats([*MODULES, TENSORFLOW]) if options.count else []
    count = -(-options.count // max(1, len(names)))
    reports: list[Report] = []
    for module in tqdm([*MODULES, TENSORFLOW] if names else [], "damaged files", unit="module"):
        own = [name for name in names if name.startswith(f"{module}:")]
        reports += run_mutations(count, own, options.seed)
    found = write(options.out / "mutations.txt", format_reports(reports), reports) if names else 0
    cut: list[Report] = []
    for module, share in tqdm(
        STAGES.items() if options.rounds else (), "interruptions", unit="module"
    ):
        cut += run_interruptions(max(1, options.rounds // share), DRILLS, [module])
    if cut:
        found += write(options.out / "interruptions.txt", format_interruptions(cut), cut)
    return int(found > 0)


if __name__ == "__main__":
    raise SystemExit(main())
