"""The entry points end to end on drawn folders; files that they write."""

import csv

import numpy as np
import pytest

from r2former import evaluate as entry
from r2former import match_pair
from r2former.datasets.place_set import PlaceSet
from r2former.evaluation import Evaluation, Ranking
from r2former.match_pictures import find_matches
from r2former.ranked_lists import write_ranked_lists
from r2former.rows import load_row, make_gain_rows
from tests.r2former.place_folders import draw_places
from tests.r2former.small_runs import MODEL, make_tiny, options, write_checkpoint
from tests.run_folder import check_record, observed
from utils.paths import hash_file
from utils.result_files import load_lists, load_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    draw_places(root / "set")
    write_checkpoint(root / "tiny.pth", make_tiny())
    write_checkpoint(root / "global.pth", make_tiny().backbone)
    return root


def run(updates):
    return entry.ex.run(config_updates=updates)


def test_checkpoint_is_measured_before_and_after_reranking(folder, tmp_path, capsys):
    changes = {"resume": str(folder / "tiny.pth"), "page": True, "save_lists": True}
    done = run(options(folder / "set", tmp_path / "out", **changes))
    result = done.result
    assert {"R@1", "R@1_global", "R@5", "mAP@5", "top_k"} <= set(result)
    assert 0 <= result["R@1"] <= 100
    printed = capsys.readouterr().out
    assert "5 queries, 8 database images, radius 25 m, 32 x 48" in printed
    assert "R@1_gain" in printed
    assert set(done.info["seconds"]) >= {"extraction per image", "reranking per query"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "global.csv", "page.html", "rerank.csv",
    ]  # fmt: skip
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Strongest matches" in page
    assert "mutual matches, score" in page


def test_evaluation_leaves_a_complete_record(folder, tmp_path):
    changes = {"resume": str(folder / "tiny.pth"), "page": True}
    with observed(entry.ex, tmp_path / "runs") as run_folder:
        done = run(options(folder / "set", tmp_path / "out", **changes))
        result = check_record(run_folder, done.result)
    assert result.protocol["scales"] == "32 x 48 pixels"
    assert result.content["method"]["checkpoint_sha256"] == hash_file(folder / "tiny.pth")
    measured = {row.metric for row in result.rows if not row.metric.endswith("_gain")}
    assert {"R@1", "R@1_global", "mAP@5", "mAP@5_global"} <= measured
    assert measured == set(result.values)
    assert len(load_lists(run_folder)[1]) == 5
    assert (run_folder / result.content["matches"][0]["file"]).is_file()


def test_global_file_needs_rerank_false(folder, tmp_path):
    changes = {"resume": str(folder / "global.pth")}
    with pytest.raises(ValueError, match=r"global model only.*rerank=False"):
        run(options(folder / "set", tmp_path, **changes))
    result = run(options(folder / "set", tmp_path, rerank=False, **changes)).result
    full = {"resume": str(folder / "tiny.pth")}
    again = run(options(folder / "set", tmp_path, rerank=False, **full)).result
    assert result == again
    assert "R@1_global" not in result


def test_untrained_and_missing_weights(folder, tmp_path):
    assert "R@1" in run(options(folder / "set", tmp_path, untrained=True)).result
    with pytest.raises(ValueError, match="resume is not set"):
        run(options(folder / "set", tmp_path))
    with pytest.raises(ValueError, match="row is 'eval_nowhere'"):
        run(options(folder / "set", tmp_path, untrained=True, row="eval_nowhere"))


def test_row_counts_only_where_the_protocol_is_the_tables(folder, tmp_path, capsys):
    """Four candidates are not a hundred; with them nothing is expected, and strict says so."""
    changes = {"untrained": True, "row": "eval_msls_val", "strict": True}
    changes["dataset"] = {"recall_values": [1, 5, 10]}
    with pytest.raises(ValueError, match="no row has an expected value"):
        run(options(folder / "set", tmp_path / "a", **changes))
    assert "89.7" not in capsys.readouterr().out
    changes["dataset"] = {"recall_values": [1, 5, 10]}
    with pytest.raises(SystemExit) as stopped:
        run({**options(folder / "set", tmp_path / "b", **changes), "top_k": 100})
    assert stopped.value.code == 3
    assert "89.7" in capsys.readouterr().out


def test_folders_without_positions_give_ranked_lists(tmp_path):
    draw_places(tmp_path / "set")
    for path in (tmp_path / "set").rglob("*.jpg"):
        path.rename(path.with_name(path.name.replace("@", "_")))
    with observed(entry.ex, tmp_path / "runs") as run_folder:
        done = run(options(tmp_path / "set", tmp_path / "out", untrained=True, page=True))
    assert set(done.result) == {"top_k"}
    kept = load_result(run_folder)
    assert (kept.rows, kept.values, len(kept.names)) == ([], {}, 5)
    with (tmp_path / "out" / "rerank.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 4
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "4"]
    values = [float(row["value"]) for row in rows[:4]]
    assert values == sorted(values, reverse=True)
    assert (tmp_path / "out" / "page.html").is_file()


def test_challenge_file_is_as_the_toolkit_reads_it(tmp_path):
    places = PlaceSet(
        "msls test", "every query", ["a/k1.jpg", "a/k2.jpg"], ["a/q1.jpg"],
        query_group=np.zeros(1, int), database_group=np.zeros(2, int),
    )  # fmt: skip
    ranking = Ranking(np.array([[1, 0]]), np.zeros((1, 2), np.float32))
    found = Evaluation("", ranking, ranking, {})
    paths = write_ranked_lists(tmp_path, places, found)
    assert [path.name for path in paths] == ["global.csv", "rerank.csv"]
    lines = paths[1].read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:4])
    assert lines[4:] == ["q1 k2 k1"]


def test_gain_rows_by_hand():
    """Two of four queries right before, three after: 25 points."""
    before, after = (
        Ranking(np.zeros((4, 3), int), np.zeros((4, 3)), None, np.array(first), {"R@1": 0.0})
        for first in ([0, 0, 3, 1], [0, 0, 0, 1])
    )
    rows = make_gain_rows(Evaluation("", before, after, {}), "p")
    assert [(row.metric, row.measured) for row in rows] == [("R@1_gain", 25.0)]
    assert load_row("eval_msls_val")["R@1"].value == 89.7


def test_matches_are_mutual_nearest_neighbours():
    """Rows 0 and 1 of the query both like row 1 of the other best, which prefers row 1."""
    a = np.array([[0.1, 0.2, 1, 1.0, 0.2], [0.3, 0.4, 1, 1.0, 0.0]])
    b = np.array([[0.0, 0.0, 1, -1.0, 0.0], [0.5, 0.25, 1, 2.0, 0.0]])
    found = find_matches(a, b, 40)
    np.testing.assert_allclose(found.query, [[12, 16]])
    np.testing.assert_allclose(found.database, [[20, 10]])
    np.testing.assert_allclose(found.similarity, [1.0])


def test_pair_is_drawn(folder, tmp_path):
    images = sorted((folder / "set").rglob("*.jpg"))
    updates = {
        "resume": str(folder / "tiny.pth"), "query_image": str(images[0]), "cpu": True,
        "database_image": str(images[1]), "output_dir": str(tmp_path / "out"),
        "model": MODEL, "dataset": {"resize": [32, 48]},
    }  # fmt: skip
    result = match_pair.ex.run(config_updates=updates).result
    assert 0 < result["matches"] <= 20
    assert (tmp_path / "out" / "match_pair.jpg").stat().st_size > 500
    with pytest.raises(FileNotFoundError, match="give an image"):
        match_pair.ex.run(config_updates={**updates, "query_image": "gone.jpg"})
