"""The report of all runs: which run stands for a row, what is said, both forms."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.utils.test_report import Page, make_list
from tests.utils.test_result_files import QUERIES, protocol, record, run_experiment
from utils import report
from utils.report_curves import chart, number, reduce_curve, sparkline
from utils.report_logs import look_closely, make_report
from utils.report_parts import MatchPicture
from utils.report_runs import Curve, System, choose_run, find_runs, find_systems, other_options
from utils.results import Expected, Row

EXPECTED = {"eval_x": {"M_map": Expected(26.0, 2.0, "own")},
            "eval_y": {"M_map": Expected(75.5, 0.1, "paper")}}  # fmt: skip


def write_training(folder: Path, status: str = "COMPLETED") -> None:
    folder.mkdir(parents=True)
    losses = {"steps": list(range(1000)), "values": (1 / (1 + np.arange(1000))).tolist()}
    scalars = {"train.loss": losses, "val.R@1": {"steps": [1, 2, 3], "values": [10.0, 30.0, 20.0]}}
    (folder / "metrics.json").write_text(json.dumps(scalars))
    (folder / "config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"status": status, "start_time": "2026-01-02T03"}))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """One row within its tolerance, with lists and a match; older runs; one training."""
    folder = tmp_path / "logs"
    rows = [Row("M_map", 25.0, 26.0, 2.0, "top 100", "own", (0.0, 50.0))]
    lists = [make_list(tmp_path, "worse", 0.9, 0.4), make_list(tmp_path, "better", 0.1, 0.7)]
    picture = MatchPicture("a <pair>", np.full((20, 30, 3), 128, np.uint8), "3 | matches")
    made = record(lists=lists, matches=[picture])
    run_experiment(folder / "eval_x", [Row("M_map", 25.0)], made)
    run_experiment(folder / "eval_x", rows, made)
    write_training(folder / "train_x" / "1", "FAILED")
    write_training(folder / "train_x" / "2")
    return folder


@pytest.fixture
def systems(tmp_path: Path) -> list[System]:
    script = tmp_path / "system/scripts/eval_x.sh"
    return [System("system", EXPECTED, {"eval_x": script, "eval_y": script.with_stem("eval_y")})]


def test_runs_are_found_with_rows_curves_and_records(logs: Path) -> None:
    runs = find_runs([logs])
    assert [run.name for run in runs] == ["eval_x/1", "eval_x/2", "train_x/1", "train_x/2"]
    assert [len(run.rows) for run in runs] == [1, 1, 0, 0]
    assert {curve.name for curve in runs[3].trained} == {"train.loss", "val.R@1"}
    assert runs[2].status == "FAILED"
    assert find_runs([logs / "train_x" / "2"])[0].name == "train_x/2"
    with pytest.raises(ValueError, match="no run"):
        find_runs([logs / "eval_x" / "_sources"])
    with pytest.raises(FileNotFoundError, match="is no folder"):
        find_runs([logs / "nowhere"])


def test_run_with_the_tables_protocol_stands_for_its_row(logs: Path) -> None:
    """A newer run with other options does not take its place."""
    content = json.loads((logs / "eval_x/2/result.json").read_text())
    newer = logs / "eval_x/3"
    newer.mkdir()
    for file in (logs / "eval_x/2").iterdir():
        newer.joinpath(file.name).write_bytes(file.read_bytes())
    (newer / "result.json").write_text(json.dumps({**content, "script": None}))
    runs = [run for run in find_runs([logs]) if run.script == "eval_x"]
    script = logs / "eval_x.sh"
    chosen = choose_run(runs, script)
    assert chosen is not None
    assert chosen.number == 2
    assert choose_run([], script) is None


def test_options_that_the_script_does_not_give_are_named(
    logs: Path, systems: list[System], tmp_path: Path
) -> None:
    script = systems[0].scripts["eval_x"]
    script.parent.mkdir(parents=True)
    script.write_text('python -m x \\\n    with top_k=100 "$@"\n')
    for place, options in ((1, ["top_k=100"]), (2, ["top_k=20", "strict=True"])):
        path = logs / f"eval_x/{place}/run.json"
        content = json.loads(path.read_text())
        content["meta"]["options"] = {"UPDATE": options}
        path.write_text(json.dumps(content))
    runs = find_runs([logs / "eval_x"])
    assert [other_options(run, script) for run in runs] == [[], ["top_k=20"]]
    assert tables_of(logs, systems)["system"].note == "eval_x/2 is unlike its script: top_k=20."
    untabled = [replace(run, result=None, rows=[Row("m", 1.0)]) for run in runs]
    chosen = choose_run(untabled, script)
    assert chosen is not None
    assert chosen.number == 1, "the newer one had another top_k"


def tables_of(logs: Path, systems: list[System]) -> dict[str, Any]:
    made = make_report(find_runs([logs]), systems, logs / "report.html", 6)
    return {table.title: table for table in made.tables}


def test_rows_stand_against_what_is_expected_now(logs: Path, systems: list[System]) -> None:
    tables = tables_of(logs, systems)
    (line,) = tables["system"].cells
    texts = [cell if isinstance(cell, str) else cell.text for cell in line]
    assert texts == [
        "eval_x", "M_map", "26.00", "25.00", "-1.00", "2.00", "ok", "0.0 to 50.0", "own", "A",
        "run 2",
    ]  # fmt: skip
    assert line[0].target == "../system/scripts/eval_x.sh"
    assert line[-1].target == "eval_x/2/config.json"
    assert tables["Not run here: 1 scripts"].cells == [["system", "eval_y", "M_map 75.5", "paper"]]
    assert [line[0] for line in tables["Other runs"].cells] == ["eval_x/1"]
    stricter = {"eval_x": {"M_map": Expected(26.0, 0.5, "own")}}
    changed = [System("system", stricter, systems[0].scripts)]
    assert "OUTSIDE" in tables_of(logs, changed)["system"].cells[0]


def test_secondary_metrics_are_counted_and_shown_only_where_something_is_expected(
    logs: Path, systems: list[System]
) -> None:
    rows = [Row("M_map", 25.0), Row("M_mP@1_gv", 91.0), Row("H_mR@5", 12.0), Row("mAP@5", 30.0)]
    run_experiment(logs / "eval_y", rows, record())
    expected = {"eval_y": {"mAP@5": Expected(30.0, 0.5, "paper")}}
    table = tables_of(logs, [System("system", expected, systems[0].scripts)])["system"]
    assert [line[1] for line in table.cells if line[0].text == "eval_y"] == ["M_map", "mAP@5"]
    assert "2 more values (mAP@k, mP@k, mR@k) are in the result.json" in table.note


def test_rows_of_two_protocols_are_said_to_be_of_two(logs: Path, systems: list[System]) -> None:
    assert tables_of(logs, systems)["system"].note == ""
    other = record(protocol=protocol(junk="left out"), lists=())
    run_experiment(logs / "eval_y", [Row("M_map", 25.0)], other)
    tables = tables_of(logs, systems)
    assert "protocols A, B do not measure the same thing: they differ in junk" in (
        tables["system"].note
    )
    assert [line[0] for line in tables["Protocols"].cells] == ["A", "B"]
    (pair,) = tables["Runs on the same queries"].cells
    assert pair[:4] == ["eval_x", "eval_y", "M_map", "+0.00"]
    assert pair[-1] == "DIFFER: junk"


def test_a_run_with_rows_before_and_after_verification_is_looked_at_after_it(
    tmp_path: Path,
) -> None:
    before, after = np.array([10.0, 40.0, np.nan]), np.array([30.0, 30.0, np.nan])
    values = {"M_map": before, "M_map_gv": after, "M_map_gv_global": before}
    made = replace(record(), values=values)
    run_experiment(tmp_path / "eval_x", [Row("M_map", 25.0), Row("M_map_gv", 30.0)], made)
    part = look_closely(find_runs([tmp_path])[0], tmp_path / "report.html", 2)
    assert part is not None
    assert (part.metric, sorted(change for _, change in part.changes)) == ("M_map_gv", [-10, 20])


def test_page_and_markdown_hold_everything(logs: Path, monkeypatch, systems: list[System]) -> None:
    monkeypatch.setattr(report, "find_systems", lambda: systems)
    assert report.main([str(logs)]) == 0
    page = Page(logs / "report.html")
    outside = [a for a in page.addresses() if not a.startswith(("data:", "#"))]
    assert all(not a.startswith(("http", "/", "file")) for a in outside), "links are relative"
    files = {(logs / a).resolve() for a in outside if a.endswith("config.json")}
    assert files
    assert all(file.is_file() for file in files)
    assert "<script" not in page.source
    assert {"system", "Training curves", "eval_x: what reranking changed"} <= set(page.texts)
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert len(set(anchors)) == len(anchors)
    assert len(page.all("polyline")) == 2
    assert len(page.all("figure", "tile")) == 16
    assert "a <pair>" in page.texts
    assert page.texts.index("Queries most improved") < page.texts.index("Queries most worsened")
    text = (logs / "report.md").read_text()
    for part in ("## system", "| 26.00 | 25.00 | -1.00 |", "train\\_loss", "[config.json](",
                 "**better**", "Most improved"):  # fmt: skip
        assert part.replace("\\_", ".") in text, part
    lines = [line for line in text.splitlines() if line.startswith("| [eval_x]")]
    assert len(lines) == 1


def test_change_counts_every_query_not_the_shown_ones(logs: Path, systems: list[System]) -> None:
    made = make_report(find_runs([logs]), systems, logs / "report.html", 2)
    (part,) = made.parts
    # AP of the queries: 0, 50, none; before: half of it
    assert part.changes == [("q0", 0.0), ("q1", 25.0)]
    assert len(QUERIES) == 3
    assert [len(section.lists) for section in part.sections] == [1, 1]


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 1
    assert "run a script first" in capsys.readouterr().err
    assert report.main(["compare", str(tmp_path), str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_curves_by_hand() -> None:
    steps, values = reduce_curve(Curve("c", [1, 2, 3, 4], [1, 3, 5, float("nan")]), points=2)
    assert steps.tolist() == [1.5, 3.0]
    assert values.tolist() == [2.0, 5.0]
    assert sparkline(Curve("c", [0, 1, 2], [0, 7, 3.5])) == "▁█▅"
    assert chart(Curve("c", [0], [float("inf")])) == ""
    drawn = chart(Curve("<c>", list(range(5000)), list(range(5000))))
    assert "&lt;c&gt;" in drawn
    assert drawn.count(",") < 300, "thinned out"
    assert [number(v) for v in (0, 0.69314, 46.53, 12345, 1e-6)] == [
        "0", "0.693", "46.5", "12345", "1e-06",
    ]  # fmt: skip


def test_every_table_of_the_repository_is_found() -> None:
    found = {system.name: system for system in find_systems()}
    assert {"rrt_gld", "rrt_sop", "vitgal", "r2former"} <= set(found)
    for system in found.values():
        assert set(system.expected) <= set(system.scripts)
