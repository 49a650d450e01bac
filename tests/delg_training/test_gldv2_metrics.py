"""Metrics of Google Landmarks v2: reference answers, cases done by hand, files good and bad."""

import csv

import numpy as np
import pytest

from delg_training.evaluate_gldv2 import ex
from delg_training.gldv2_files import (
    RECOGNITION,
    RETRIEVAL,
    Prediction,
    read_predictions,
    read_solution,
)
from delg_training.gldv2_metrics import (
    compute_first_hit,
    compute_gap,
    compute_map,
    compute_precisions,
    compute_top1,
    find_hits,
)
from tests.golden_recipe import load_manifest

TOY = load_manifest("delg", "misc.json")["gld_metrics"]
CLOSE = {"rel": 1e-5, "abs": 1e-6}
SOLUTION_COLUMNS = {RECOGNITION: "landmarks", RETRIEVAL: "images"}


def toy_predictions() -> dict[str, Prediction]:
    predictions = TOY["recognition_predictions"]
    return {image: Prediction(p["class"], p["score"]) for image, p in predictions.items()}


def test_recognition_equals_the_reference():
    predictions, solution = toy_predictions(), TOY["recognition_solution"]
    assert compute_gap(predictions, solution) == pytest.approx(TOY["gap"], **CLOSE)
    without = compute_gap(predictions, solution, ignore_non_landmarks=True)
    assert without == pytest.approx(TOY["gap_ignoring_non_landmark"], **CLOSE)
    assert compute_top1(predictions, solution) == pytest.approx(TOY["top1"], **CLOSE)


def test_retrieval_equals_the_reference():
    predictions, solution = TOY["retrieval_predictions"], TOY["retrieval_solution"]
    sizes = [len(truth) for truth in solution.values()]
    hits = find_hits(predictions, solution)
    assert compute_map(hits, sizes) == pytest.approx(TOY["map100"], **CLOSE)
    top5 = compute_map(find_hits(predictions, solution, 5), sizes)
    assert top5 == pytest.approx(TOY["map5"], **CLOSE)
    precisions = compute_precisions(hits)
    assert {k: precisions[int(k) - 1] for k in TOY["mean_precision_at"]} == pytest.approx(
        TOY["mean_precision_at"], **CLOSE
    )
    first = compute_first_hit(hits)
    assert first == pytest.approx((TOY["mean_position"], TOY["median_position"]), **CLOSE)


def test_gap_by_hand():
    """Order b (wrong), a, c; then precision 1/2 at rank 2, 2/3 at rank 3, over 2 landmark images.

    c has no landmark in the solution: wrong at rank 3. Without it nothing changes for a.
    """
    solution = {"a": [1], "b": [2], "c": []}
    predictions = {"a": Prediction(1, 0.5), "b": Prediction(1, 0.9), "c": Prediction(1, 0.1)}
    assert compute_gap(predictions, solution) == pytest.approx(1 / 2 / 2)
    wrong_first = predictions | {"c": Prediction(7, 1.0)}
    assert compute_gap(wrong_first, solution) == pytest.approx(1 / 3 / 2)
    assert compute_gap(wrong_first, solution, True) == pytest.approx(1 / 2 / 2)
    assert compute_gap({}, solution) == 0


def test_equal_scores_go_by_image_id():
    solution = {"a": [1], "b": [1]}
    wrong_a = {"b": Prediction(1, 0.5), "a": Prediction(2, 0.5)}
    wrong_b = {"b": Prediction(2, 0.5), "a": Prediction(1, 0.5)}
    assert compute_gap(wrong_a, solution) == pytest.approx(1 / 2 / 2)
    assert compute_gap(wrong_b, solution) == pytest.approx(1 / 2)


def test_repeated_ids_count_once_and_keep_their_rank():
    """Ranks 2 and 5 are the first correct ones; rank 3 repeats the first."""
    solution = {"q": ["x", "y"], "r": ["x"]}
    hits = find_hits({"q": ["a", "x", "x", "b", "y"]}, solution)
    assert np.flatnonzero(hits[0]).tolist() == [1, 4]
    assert not hits[1].any(), "a query without predictions"
    assert compute_map(hits, [2, 1]) == pytest.approx((1 / 2 + 2 / 5) / 2 / 2)
    assert compute_first_hit(hits) == ((2 + 101) / 2, (2 + 101) / 2)
    assert compute_precisions(hits)[99] == pytest.approx(2 / 100 / 2)


def test_hits_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    names = [f"i{i}" for i in range(40)]
    solution = {f"q{q}": list(rng.choice(names, 6, replace=False)) for q in range(20)}
    predictions = {q: list(rng.choice(names, rng.integers(1, 130))) for q in solution}
    hits = find_hits(predictions, solution)
    for row, (query, truth) in zip(hits, solution.items(), strict=True):
        seen: set[str] = set()
        for rank, image in enumerate(predictions[query][:100]):
            assert row[rank] == (image in truth and image not in seen)
            seen.add(image)
        assert not row[len(predictions[query]) :].any()


def test_predictions_beyond_the_solution_are_refused():
    with pytest.raises(ValueError, match=r"1 predictions are not in the solution, e\.g\. 'z'"):
        find_hits({"z": ["x"]}, {"q": ["x"]})
    with pytest.raises(ValueError, match="the solution is empty"):
        compute_gap({}, {})


# ---------------------------------------------------------------------------- files


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


SOLUTION = [["a", "1 2", "Public"], ["b", "", "Private"], ["c", "3", "Ignored"]]


def solution_file(folder, task=RECOGNITION, rows=SOLUTION):
    return write_csv(folder / "solution.csv", [["id", SOLUTION_COLUMNS[task], "Usage"], *rows])


def test_solutions_are_read(tmp_path):
    found = read_solution(solution_file(tmp_path), RECOGNITION)
    assert found == ({"a": [1, 2]}, {"b": []}, {"c"})
    found = read_solution(solution_file(tmp_path, RETRIEVAL), RETRIEVAL)
    assert found == ({"a": ["1", "2"]}, {"b": [""]}, {"c"}), "an empty list is one empty name"


def test_predictions_are_read(tmp_path):
    solution = read_solution(solution_file(tmp_path), RECOGNITION)
    rows = [["id", "landmarks"], ["a", "7 0.25"], [], ["b", ""], ["c", "no matter"]]
    path = write_csv(tmp_path / "predictions.csv", rows)
    assert read_predictions(path, solution, RECOGNITION) == ({"a": (7, 0.25)}, {})
    rows = [["id", "images"], ["b", "x y "], ["a", "z"]]
    path = write_csv(tmp_path / "predictions.csv", rows)
    assert read_predictions(path, solution, RETRIEVAL) == ({"a": ["z"]}, {"b": ["x", "y"]})


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([*SOLUTION, ["a", "9", "Private"]], "line 5: a stands there twice"),
        ([["a", "1", "Secret"]], "line 2: Usage is 'Secret', expected one of Public, Private"),
        ([["a", "one", "Public"]], "line 2: 'one' is not of the form"),
        ([["a", "1"]], "line 2: 2 cells, expected 3"),
    ],
)
def test_bad_solutions_are_refused(tmp_path, rows, complaint):
    with pytest.raises(ValueError, match=f"solution.csv, {complaint}"):
        read_solution(solution_file(tmp_path, rows=rows), RECOGNITION)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (["a", "1"], "'1' is not of the form '<landmark> <score>'"),
        (["a", "1 2 3"], "'1 2 3' is not of the form"),
        (["a", "1 high"], "'1 high' is not of the form"),
        (["z", "1 0.5"], "z is not in the solution"),
    ],
)
def test_bad_predictions_are_refused(tmp_path, row, complaint):
    solution = read_solution(solution_file(tmp_path), RECOGNITION)
    path = write_csv(tmp_path / "predictions.csv", [["id", "landmarks"], row])
    with pytest.raises(ValueError, match=f"predictions.csv, line 2: {complaint}"):
        read_predictions(path, solution, RECOGNITION)
    path = write_csv(tmp_path / "predictions.csv", [["id", "landmarks"], *[["a", "1 0.5"]] * 2])
    with pytest.raises(ValueError, match="line 3: a stands there twice"):
        read_predictions(path, solution, RECOGNITION)


def test_wrong_task_and_wrong_header_are_refused(tmp_path):
    path = solution_file(tmp_path, RETRIEVAL)
    with pytest.raises(ValueError, match=r"columns are .*'images'.*expected .*'landmarks'"):
        read_solution(path, RECOGNITION)
    with pytest.raises(ValueError, match="task is 'reranking', expected one of recognition, retr"):
        read_solution(path, "reranking")


@pytest.mark.parametrize("task", [RECOGNITION, RETRIEVAL])
def test_files_to_rows(tmp_path, capsys, task):
    column, truth = SOLUTION_COLUMNS[task], TOY[f"{task}_solution"]
    answers = TOY[f"{task}_predictions"]
    if task == RECOGNITION:
        answers = {i: (p["class"], p["score"]) for i, p in answers.items()}
    rows = [[i, " ".join(map(str, part)), "Public"] for i, part in truth.items()]
    solution = write_csv(
        tmp_path / "s.csv", [["id", column, "Usage"], *rows, ["o", "1", "Private"]]
    )
    rows = [[i, " ".join(map(str, part))] for i, part in answers.items()]
    predictions = write_csv(tmp_path / "p.csv", [["id", column], *rows])
    options = {"task": task, "solution_path": str(solution), "predictions_path": str(predictions)}
    found = ex.run(config_updates=options).result
    if task == RECOGNITION:
        assert found["Public_GAP"] == round(100 * TOY["gap"], 2)
        assert found["Private_Top1"] == 0
    else:
        assert found["Public_mAP@100"] == round(100 * TOY["map100"], 2)
        assert found["Public_median_position"] == TOY["median_position"]
    assert "Public_" in capsys.readouterr().out
