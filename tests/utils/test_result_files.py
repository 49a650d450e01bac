"""The record of an evaluation: complete, read back the same, refused where it cannot be right."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacred import Experiment

from tests.run_folder import MACHINE, PROTOCOL, check_record, observed
from utils.machine import describe_device, describe_run, library_versions, peak_memory
from utils.paths import hash_file, hash_files, hash_names
from utils.report_parts import Hit, MatchPicture, RankedList
from utils.result_files import (
    LISTS,
    RESULT,
    VALUES,
    Record,
    describe_checkpoint,
    finish,
    load_lists,
    load_result,
    make_protocol,
    protocol_differences,
    read_row,
)
from utils.results import Row, make_gain_row, make_intervals, make_rows

QUERIES = ["a/q0.jpg", "a/q1.jpg", "a/q2.jpg"]
APS = np.array([0.0, 50.0, np.nan])


def protocol(**changes: Any) -> Any:
    options = {"crop": "query box", "scales": "one", "k": [1, 5], "junk": "none", **changes}
    return make_protocol("set", QUERIES, ["g0.jpg", "g1.jpg"], **options)


def record(**changes: Any) -> Record:
    hits = [Hit("g0.jpg", "g0", "easy", 0.5), Hit("g1.jpg", "g1", "negative")]
    lists = [RankedList("a/q0.jpg", (1, 2, 3, 4), hits, hits[::-1], 0.25, 0.75)]
    options: dict[str, Any] = {
        "protocol": protocol(), "method": {"top_k": np.int64(7), "file": Path("x")},
        "names": QUERIES, "values": {"M_map": APS, "M_map_global": APS / 2}, "lists": lists,
    }  # fmt: skip
    return Record(**{**options, **changes})


def run_experiment(folder: Path, rows: list[Row], made: Record, strict: bool = False) -> Path:
    """A run of sacred that measures nothing and finishes as evaluations do."""
    ex = Experiment("made_up", save_git_info=False)
    ex.add_config(seed=0)

    @ex.main
    def main(_run: Any) -> None:
        finish(_run, rows, made, "eval_x", strict)

    with observed(ex, folder) as run_folder:
        ex.run()
    return run_folder


def test_record_is_complete_and_comes_back_the_same(tmp_path: Path) -> None:
    rows = make_rows({"M_map": 25.0}, {}, "words", make_intervals({"M_map": APS}))
    picture = MatchPicture("pair", np.zeros((8, 9, 3), np.uint8), "3 matches")
    folder = run_experiment(tmp_path, rows, record(matches=[picture]))
    result = check_record(folder, {"M_map": 25.0})
    assert result.rows == rows
    assert result.names == QUERIES
    np.testing.assert_array_equal(result.values["M_map"], APS)
    assert result.content["script"] == "eval_x"
    assert result.content["method"] == {"top_k": 7, "file": "x"}
    assert result.content["matches"] == [
        {"file": "match_1.jpg", "title": "pair", "caption": "3 matches"}
    ]
    assert (folder / "match_1.jpg").stat().st_size > 100
    ap_name, (entry,) = load_lists(folder)
    assert (ap_name, entry.query_box, entry.change) == ("AP", [1.0, 2.0, 3.0, 4.0], 0.5)
    assert [hit.name for hit in entry.after] == ["g1", "g0"]
    assert entry.before[0] == Hit("g0.jpg", "g0", "easy", 0.5)


def test_pictures_are_found_from_another_folder(tmp_path: Path, monkeypatch) -> None:
    hits = [Hit("docs/report.png", "report"), Hit("gone.jpg", "gone")]
    made = record(lists=[RankedList("docs/report.png", None, hits, hits)])
    folder = run_experiment(tmp_path, [Row("M_map", 25.0)], made)
    monkeypatch.chdir(tmp_path)
    (entry,) = load_lists(folder)[1]
    assert Path(entry.query_path).is_file()
    assert Path(entry.before[0].path).is_file()
    assert entry.before[1].path == "gone.jpg", "named as it was"


def test_strict_run_outside_its_tolerance_leaves_its_record_and_ends_with_3(tmp_path: Path) -> None:
    rows = [Row("M_map", 25.0, 26.0, 0.1, source="own")]
    with pytest.raises(SystemExit) as ended:
        run_experiment(tmp_path, rows, record(), strict=True)
    assert ended.value.code == 3
    assert load_result(tmp_path).rows[0].within is False


def test_newest_run_of_a_script_is_taken(tmp_path: Path) -> None:
    for measured in (25.0, 25.001):
        run_experiment(tmp_path, [Row("M_map", measured)], record())
    (tmp_path / "10").mkdir()  # a run that got nowhere
    assert load_result(tmp_path).rows[0].measured == 25.001
    assert load_result(tmp_path / "1").rows[0].measured == 25.0


def test_row_that_is_not_the_mean_of_its_queries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"says 30\.0.*average 25\.0000"):
        run_experiment(tmp_path, [Row("M_map", 30.0)], record())


def test_values_and_names_must_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 queries"):
        record(values={"M_map": APS[:2]})
    with pytest.raises(ValueError, match="2 names, but the protocol has 3"):
        record(names=QUERIES[:2], values={})


def test_protocols_differ_in_words() -> None:
    first = vars(protocol())
    assert protocol_differences(first, vars(protocol())) == []
    assert protocol_differences(first, vars(protocol(k=[1]))) == [], "each metric names its cutoff"
    other = vars(protocol(junk="left out", distractors=5))
    assert protocol_differences(first, other) == [
        "gallery: 2 / 7",
        f"gallery names: {first['gallery_names']} / {other['gallery_names']}",
        "junk: none / left out",
    ]
    moved = make_protocol("x", ["b/q2.png", "q1", "q0"], ["g1", "g0"], crop="query box",
                          scales="one", k=[1], junk="none")  # fmt: skip
    assert protocol_differences(first, vars(moved)) == [], "folders and order do not count"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (RESULT, "{", "damaged result"),
        (RESULT, '{"format": 1, "rows": [{}], "protocol": {}}', "no result of this version"),
        (RESULT, None, "-F logs/<script>"),
        (VALUES, "PK", "damaged result"),
        (VALUES, None, "-F logs/<script>"),
        (LISTS, '{"lists": [{}]}', "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = run_experiment(tmp_path, [Row("M_map", 25.0)], record())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    read = load_lists if name == LISTS else load_result
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(folder)


def test_other_format_is_refused(tmp_path: Path) -> None:
    folder = run_experiment(tmp_path, [Row("M_map", 25.0)], record())
    content = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ValueError, match="no result of this version"):
        load_result(folder)


def test_rows_of_older_runs_are_read() -> None:
    entry = {"metric": "m", "measured": 1.0, "interval": {"py/tuple": [0, 2]}, "within": None}
    assert read_row(entry) == Row("m", 1.0, interval=(0.0, 2.0))


def test_gain_row_by_hand() -> None:
    row = make_gain_row("M", [10.0, np.nan, 30.0], [20.0, np.nan, 60.0], "words")
    assert row is not None
    assert (row.metric, row.measured, row.interval) == ("M_gain", 20.0, (10.0, 30.0))
    assert make_gain_row("M", [np.nan], [np.nan], "words") is None
    assert set(make_intervals({"a": [1.0, 2.0], "b": [np.nan]})) == {"a"}


def test_machine_is_described(tmp_path: Path) -> None:
    assert {"python", "numpy", "torch"} <= set(library_versions())
    assert "cores (cpu)" in describe_device()
    assert peak_memory()["process"] > 10
    assert set(describe_run(object())) == MACHINE
    assert set(vars(protocol())) == PROTOCOL


def test_hashes_tell_files_apart(tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.bin" for k in range(100)]
    for k, file in enumerate(files):
        file.write_bytes(bytes([k, 1, 2]))
    first = hash_files(files)
    assert hash_files(files) == first
    files[0].write_bytes(b"\x07\x01\x02")  # of the sample
    second = hash_files(files)
    files[99].write_bytes(b"longer")  # outside the sample, by its size
    assert len({first, second, hash_files(files)}) == 3
    assert describe_checkpoint(files[1])["checkpoint_sha256"] == hash_file(files[1])
    assert describe_checkpoint(None)["weights"] == "UNTRAINED"
    assert hash_names(["a", "b"]) != hash_names(["ab"])
