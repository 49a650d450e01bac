"""Damaged files end in an error that names them, or are read: never in anything else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drills.damage_kinds import BY_SUFFIX, damage
from tests.drills.payloads import make_payloads
from tests.drills.reading import Format, drill, require
from tests.drills.runs import (
    MODULES,
    TENSORFLOW,
    all_defects,
    format_reports,
    list_formats,
    run_mutations,
)

FEW, ALL = 8, 10_000


def test_damaged_files_are_refused_by_name_or_read() -> None:
    """A few files of every format; the marker slow has thousands."""
    reports = run_mutations(FEW, MODULES)
    assert all_defects(reports) == []
    assert len(reports) > 40
    assert sum(report["refused"] for report in reports) > 300


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused_by_name_or_read() -> None:
    names = list_formats([*MODULES, TENSORFLOW])
    count = -(-ALL // len(names))
    reports = [
        report
        for module in (*MODULES, TENSORFLOW)
        for report in run_mutations(count, [n for n in names if n.startswith(f"{module}:")], seed=1)
    ]
    assert all_defects(reports) == [], format_reports(reports)
    assert sum(report["mutations"] for report in reports) >= ALL


# ---------------------------------------------------------------------------- the drill itself


def number_format(read: Any, **options: Any) -> Format:
    """A JSON file with one number."""
    return Format(
        lambda folder: (folder / "n.json").write_text("[17]"), ("n.json",), read, **options
    )


def careless(folder: Path) -> Any:
    return json.loads((folder / "n.json").read_bytes())


def careful(folder: Path) -> Any:
    try:
        found = careless(folder)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"n.json is damaged: {error}") from error
    if not isinstance(found, list) or not all(type(x) is int for x in found):
        raise ValueError(f"n.json holds {found}")
    return found


def test_drill_finds_a_careless_reader() -> None:
    report = drill("n", number_format(careless), 60, 0)
    assert any("without naming the file" in kind for kind in report.kinds)
    assert any(
        "RecursionError" in kind for kind in drill("n", number_format(careless), 300, 1).kinds
    )


def test_drill_finds_nothing_in_a_careful_reader() -> None:
    report = drill("n", number_format(careful), 200, 0)
    assert report.defects == []
    assert min(report.refused, report.other) > 5


def test_other_content_in_spite_of_a_record_is_a_defect() -> None:
    report = drill("n", number_format(careful, exact=True), 200, 0)
    assert set(report.kinds) == {"read as other content in spite of a record"}


def test_content_against_the_contract_is_a_defect() -> None:
    def read(folder: Path) -> Any:
        found = careful(folder)
        require(all(x >= 0 for x in found), "a negative number")
        return found

    report = drill("n", number_format(read), 300, 0)
    assert set(report.kinds) == {"read against its contract: a negative number"}


@pytest.mark.filterwarnings("ignore")
def test_drill_finds_a_reader_that_runs_code_and_one_that_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsafe(folder: Path) -> Any:
        return repr(np.load(folder / "n.npy", allow_pickle=True))

    def make(folder: Path) -> None:
        np.save(folder / "n.npy", np.arange(3))

    report = drill("n", Format(make, ("n.npy",), unsafe), 0, 0)
    assert any("code of the file was run" in kind for kind in report.kinds)

    def endless(folder: Path) -> Any:
        while careless(folder) != [17]:
            pass

    monkeypatch.setattr("tests.drills.reading.SECONDS", 1)
    report = drill("n", number_format(endless), 3, 4)
    assert report.kinds


def test_greedy_reader_is_a_defect() -> None:
    def greedy(folder: Path) -> Any:
        try:
            return careful(folder)
        except ValueError as error:
            raise ValueError("n.json") from MemoryError(error)

    report = drill("n", number_format(greedy), 20, 0)
    assert any("more memory" in kind for kind in report.kinds)


@pytest.mark.parametrize("suffix", sorted({*BY_SUFFIX, ".bin"} - {".pt", ".pth", ".safetensors"}))
def test_damage_depends_on_its_seed_alone_and_changes_the_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    contents = {".npy": np.save, ".npz": np.savez, ".zip": np.savez}
    if suffix in contents:
        with path.open("wb") as file:
            contents[suffix](file, np.arange(9))
    elif suffix == ".pkl":
        path.write_bytes(b"\x80\x03]q\x00(K\x01K\x02e.")
    else:
        path.write_text('{"a": [1, 2], "b": "text"}\n')
    data = path.read_bytes()
    changed = set()
    for seed in range(30):
        first, second = (damage(path.name, data, np.random.default_rng(seed)) for _ in range(2))
        assert first == second
        changed.add(first[1])
    assert len(changed - {data}) > 20


def test_payloads_really_run_where_they_are_let(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "marker"
    for kind, content in make_payloads(marker).items():
        if kind.startswith("pickle"):
            pickle.loads(content)
            assert marker.exists(), kind
            marker.unlink()
