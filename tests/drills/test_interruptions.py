"""Killed, out of space, or two at once: what is written in the end is the same."""

from pathlib import Path

import pytest

from tests.drills.interruptions import Stage, run_stages
from tests.drills.runs import run_interruptions

STAGES, TRAINING = "tests.drills.stages", "tests.drills.stages_training"
TENSORFLOW = "tests.drills.stages_tensorflow"
QUICK = ("knn_cache", "rrt_sop_features", "vitgal_compact_int8", "vitgal_published", "search_index")
ALL = ("kill", "disk", "pair")


def test_stages_that_are_cut_short_go_on_to_the_same_bytes() -> None:
    """Few ways to be cut for each kind of writer; the marker slow has all stages and trainings."""
    reports = run_interruptions(1, ALL, [f"{STAGES}:{name}" for name in QUICK])
    assert [(r["name"], r["drill"], r["defects"]) for r in reports if r["defects"]] == []
    assert len(reports) == len(QUICK) * len(ALL)
    assert sum(r["cut"] for r in reports) > 15


@pytest.mark.slow
def test_every_writing_stage_goes_on_to_the_same_bytes() -> None:
    reports = run_interruptions(12, ALL, [STAGES])
    reports += run_interruptions(4, ALL, [TRAINING]) + run_interruptions(4, ALL, [TENSORFLOW])
    assert [(r["name"], r["drill"], r["defects"]) for r in reports if r["defects"]] == []
    assert len(reports) > 60


# ---------------------------------------------------------------------------- the drill itself


def write_slowly(_: Path, out: Path) -> None:
    """Neither in one step nor from where it stood."""
    path = out / "numbers.txt"
    if not path.is_file():
        with path.open("w") as file:
            for number in range(300):
                file.write(f"{number}\n")
                file.flush()


def append_always(_: Path, out: Path) -> None:
    with (out / "numbers.txt").open("a") as file:
        file.write("1\n")


BAD = {
    "half_written": Stage(lambda _: None, write_slowly),
    "written_twice": Stage(lambda _: None, append_always),
}


@pytest.mark.parametrize("drill", ALL)
def test_drill_finds_careless_writers(monkeypatch: pytest.MonkeyPatch, drill: str) -> None:
    import tests.drills.interruptions as module

    monkeypatch.setattr(module, "STAGES", BAD, raising=False)
    name = "tests.drills.interruptions:" + ("written_twice" if drill == "pair" else "half_written")
    (report,) = run_stages([name], [drill], 3, 0)
    assert report.defects
