"""Rankings: the worked example, bounded memory against the full table, files of other sets."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden_recipe import array, load_manifest, load_outputs
from tests.vitgal.golden_pairs import unit_rows
from utils import knn
from utils.revisited import FrozenList, GroundTruth, evaluate_ranks
from vitgal import global_ranking, rank_files
from vitgal.global_ranking import GlobalRanking, from_full_ranks, rank_database
from vitgal.rank_files import (
    ListedImage,
    SetSize,
    full_rank_file,
    load_ranking,
    make_rerank_list,
    read_rerank_list,
    save_ranking,
    write_rerank_list,
)

SYSTEM, FILE = "vitgal", "rerank_toy.npz"
ENTRY = load_manifest(SYSTEM)["files"][FILE]["case"]
CASE, N, NQ, R = (ENTRY[key] for key in ("name", "N", "NQ", "R"))
PREFIX = f"vitgal/rerank/{CASE}"
LETTERS = {"M": "medium", "H": "hard"}


def toy_gnd() -> list[dict[str, list[int]]]:
    entries = []
    for q in range(NQ):
        p = np.argsort(array(f"{PREFIX}/gnd{q}", (N,)), kind="stable").tolist()
        entries.append({"easy": p[0:3], "hard": p[3:8], "junk": p[8:12]})
    entries[1]["easy"] = []
    entries[-1]["hard"] = []
    return entries


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    return load_outputs(SYSTEM, FILE)


def test_reranked_head_equals_the_worked_example(toy: dict[str, np.ndarray]) -> None:
    orders = [array(f"{PREFIX}/order{q}", (N,)) for q in range(NQ)]
    ranks = np.stack([np.argsort(order, kind="stable") for order in orders])
    np.testing.assert_array_equal(ranks.T, toy["ranks"])
    inliers = np.maximum(0, np.floor(4 * array(f"{PREFIX}/inliers", (NQ, R)))).astype(np.int64)
    np.testing.assert_array_equal(inliers, toy["inliers"])
    before = from_full_ranks(ranks, N)
    after = before.reorder_head(inliers)
    np.testing.assert_array_equal(after.head.T, toy["ranks_after"])
    np.testing.assert_array_equal(after.listed().T, toy["ranks_after"][: after.listed().shape[1]])
    names = GroundTruth(
        FrozenList(f"d{i}" for i in range(N)),
        FrozenList(f"q{i}" for i in range(NQ)),
        FrozenList(toy_gnd()),
    )
    for number, ranking in enumerate((before, after)):
        measured, stage = ranking.measure(names), ("before", "after")[number]
        for letter, key in LETTERS.items():
            found = measured[key]
            np.testing.assert_allclose(found["map"], toy[f"map_{letter}"][number], atol=1e-12)
            np.testing.assert_allclose(found["ap"], toy[f"ap_{letter}_{stage}"], atol=1e-12)
            np.testing.assert_allclose(found["mp"], toy[f"mpk_{letter}_{stage}"], atol=1e-12)


def test_leaving_junk_to_the_end_as_the_release_does_gives_the_same_map(toy) -> None:
    for letter, key in LETTERS.items():
        own, theirs = (
            evaluate_ranks(toy[name].T, toy_gnd())[key]["map"]
            for name in ("ranks_after", "ranks_after_reference")
        )
        assert own == pytest.approx(theirs, abs=1e-12)
        assert own == pytest.approx(float(toy[f"map_{letter}"][1]), abs=1e-12)


def vectors(name: str, n: int) -> np.ndarray:
    rows = unit_rows(array(f"vitgal/test/{name}", (n, 8)))
    rows[n // 2] = rows[0]  # an exact tie
    if name == "r":
        rows[3] = vectors("g", 50)[7]  # and one of a distractor with a gallery image
    return rows


def test_scores_are_those_of_the_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the order of a sum decides how it is rounded: made frequent here."""
    queries, tile = vectors("q", 6), vectors("t", 300)
    values, columns = knn.search(queries, tile, 300, progress=False)
    for double in (global_ranking.DOUBLE, 1e-9):
        monkeypatch.setattr(global_ranking, "DOUBLE", double)
        found = global_ranking.score_tile(queries, tile)
        np.testing.assert_array_equal(np.take_along_axis(found, columns, axis=1), values)
        ranked = np.sort(global_ranking.rank_keys(found, 0), axis=1) & global_ranking.INDEX
        np.testing.assert_array_equal(ranked, columns)


def test_descriptors_of_two_models_are_not_ranked() -> None:
    with pytest.raises(ValueError, match="descriptors of two models"):
        rank_database(np.ones((2, 3), "f4"), np.ones((4, 5), "f4"), progress=False)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_ranking, "TILE", 37)
    monkeypatch.setattr(global_ranking, "KEY_BUDGET", 8 * 200 * 2)  # two queries at a time
    monkeypatch.setattr(rank_files, "BLOCK", 19)


@pytest.mark.parametrize("n_distractors", [0, 150])
def test_blockwise_ranking_equals_the_full_table(small_blocks, tmp_path, n_distractors) -> None:
    queries, gallery = vectors("q", 5), vectors("g", 50)
    distractors = vectors("r", n_distractors) if n_distractors else None
    everything = (
        np.concatenate([gallery, vectors("r", n_distractors)]) if n_distractors else gallery
    )
    scores = (queries.astype(np.float64) @ everything.T.astype(np.float64)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")
    path = tmp_path / "global_rank.npy"
    with full_rank_file(path, len(everything), 5) as full:
        whole = rank_database(queries, gallery, distractors, 20, full, progress=False)
    found = rank_database(queries, gallery, distractors, 20, progress=False)
    np.testing.assert_array_equal(found.head, whole.head)
    np.testing.assert_array_equal(found.positions, whole.positions)
    np.testing.assert_array_equal(found.head, expected[:, :20])
    np.testing.assert_array_equal(found.positions, np.argsort(expected, axis=1)[:, :50])
    published = np.load(path)
    assert published.dtype == np.int64
    np.testing.assert_array_equal(published, expected.T)
    listed = found.listed()
    benchmark = listed < 50
    np.testing.assert_array_equal(benchmark, (expected < 50)[:, : listed.shape[1]])
    np.testing.assert_array_equal(listed[benchmark], expected[:, : listed.shape[1]][benchmark])


def test_measure_among_distractors_equals_the_full_table(small_blocks) -> None:
    queries, gallery, distractors = vectors("q", 5), vectors("g", 50), vectors("r", 150)
    ranking = rank_database(queries, gallery, distractors, 20, progress=False)
    scores = queries @ np.concatenate([gallery, distractors]).T
    full = np.argsort(-scores, axis=1, kind="stable")
    gnd = [{"easy": [q], "hard": [q + 10, q + 11], "junk": [q + 20]} for q in range(5)]
    truth = GroundTruth([""] * 50, [""] * 5, gnd)  # type: ignore[arg-type]
    counts = np.arange(100).reshape(5, 20) % 7
    order = np.argsort(-counts, axis=1, kind="stable")
    reranked = full.copy()
    reranked[:, :20] = np.take_along_axis(full[:, :20], order, axis=1)
    for found, expected in ((ranking, full), (ranking.reorder_head(counts), reranked)):
        for key, values in evaluate_ranks(expected, gnd).items():
            np.testing.assert_array_equal(found.measure(truth)[key]["ap"], values["ap"])
            np.testing.assert_array_equal(found.measure(truth)[key]["mp"], values["mp"])


def test_equal_counts_keep_the_global_order() -> None:
    ranking = from_full_ranks(np.array([[4, 2, 0, 3, 1]]), 5)
    after = ranking.reorder_head(np.array([[1, 5, 1, 5]]))
    assert after.head.tolist() == [[2, 3, 4, 0, 1]]
    assert after.positions.tolist() == [[3, 4, 0, 1, 2]]


def test_scores_of_other_lists_are_refused() -> None:
    ranking = from_full_ranks(np.array([[1, 0]]), 2)
    for shape in ((2, 1), (1, 3)):
        with pytest.raises(ValueError, match="scores are"):
            ranking.reorder_head(np.zeros(shape, np.int64))


# ---------------------------------------------------------------------------- files


def some_ranking(n_database: int = 60) -> tuple[np.ndarray, GlobalRanking]:
    rng = np.random.default_rng(0)
    full = np.stack([rng.permutation(n_database) for _ in range(4)])
    return full, from_full_ranks(full, 50, 30)


def save(path: Path, full: np.ndarray, ranking: GlobalRanking, made_from: dict) -> None:
    with full_rank_file(path, full.shape[1], len(full)) as array_:
        if array_ is not None:
            array_[:] = full.T
    save_ranking(path, ranking, made_from)


SIZE = SetSize(4, 50, 60)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_both_formats_come_back(small_blocks, tmp_path: Path, suffix: str) -> None:
    full, ranking = some_ranking()
    path = tmp_path / f"r/global_rank.{suffix}"
    save(path, full, ranking, {"set": "a"})
    found = load_ranking(path, SIZE, {"set": "a"}, head=30)
    np.testing.assert_array_equal(found.head, ranking.head)
    np.testing.assert_array_equal(found.positions, ranking.positions)
    assert found.n_database == 60
    path.with_name(path.name + ".json").unlink()  # a released file has no record
    np.testing.assert_array_equal(load_ranking(path, SIZE, {"set": "b"}).positions, found.positions)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_ranking_of_another_set_is_refused(tmp_path: Path, suffix: str) -> None:
    full, ranking = some_ranking()
    path = tmp_path / f"global_rank.{suffix}"
    save(path, full, ranking, {"set": "a", "gallery": "x"})
    with pytest.raises(
        ValueError, match="made from gallery 'x' instead of 'y': it was made for an"
    ):
        load_ranking(path, SIZE, {"set": "a", "gallery": "y"})
    for size in (SetSize(5, 50, 60), SetSize(4, 40, 50), SetSize(4, 50, 50)):
        with pytest.raises(ValueError, match=r"another set"):
            load_ranking(path, size)


def test_published_ranking_that_names_an_image_twice_is_refused(tmp_path: Path) -> None:
    full, _ = some_ranking()
    path = tmp_path / "global_rank.npy"
    for change, message in ((full[0, 1], "every gallery image once"), (60, r"outside 0..59")):
        wrong = full.copy()
        wrong[0, 0] = change
        np.save(path, wrong.T)
        with pytest.raises(ValueError, match=message):
            load_ranking(path, SIZE)


def test_damaged_and_missing_rankings_are_named(tmp_path: Path) -> None:
    for suffix in ("npy", "npz"):
        path = tmp_path / f"global_rank.{suffix}"
        with pytest.raises(FileNotFoundError, match=r"eval_\*_global.sh"):
            load_ranking(path, SIZE)
        path.write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=rf"global_rank.{suffix} is no"):
            load_ranking(path, SIZE)
    with pytest.raises(ValueError, match=r"expected a name ending in .npy"):
        load_ranking(tmp_path / "global_rank.pkl", SIZE)


def test_interrupted_search_leaves_no_ranking(tmp_path: Path) -> None:
    path = tmp_path / "global_rank.npy"
    with pytest.raises(KeyboardInterrupt), full_rank_file(path, 10, 2):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_rerank_list_as_published(tmp_path: Path) -> None:
    boxes = np.array([[1, 2, 30, 40]], np.int32)
    images = make_rerank_list(["d/q 1.jpg"], boxes, [["d/b.jpg", "d/a.jpg"]])
    path = tmp_path / "rerank_path.txt"
    write_rerank_list(path, images)
    assert path.read_text() == "d/q 1.jpg 1 2 30 40\nd/b.jpg -1 -1 -1 -1\nd/a.jpg -1 -1 -1 -1\n"
    assert read_rerank_list(path) == [
        ListedImage("d/a.jpg", None), ListedImage("d/b.jpg", None),
        ListedImage("d/q 1.jpg", (1, 2, 30, 40)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg -1 -1 -1 -1\nb.jpg 1 2 3\n", "line 2: expected 'path x1 y1 x2 y2'"),
        ("a.jpg 1 2 3 x\n", "line 1"),
        ("a.jpg -1 -1 -1 -1\na.jpg 1 2 30 40\n", "line 2: a.jpg is listed with boxes"),
        ("\n", "lists no image"),
    ],
)
def test_bad_rerank_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rerank_path.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"rerank_path.txt.*{message}"):
        read_rerank_list(path)
