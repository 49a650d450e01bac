"""The Revisited metric: golden cases, a naive evaluator on random lists, cases done by hand."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from utils.revisited import KINDS, PROTOCOLS, GroundTruth, evaluate_ranks, load_ground_truth

# the reference answers, and the folder of the real ground truths below REFERENCE_DATA
SYSTEM, GROUND_TRUTHS = "rrt_gld", "rrt"
RANKING = cases_of_kind(SYSTEM, "global ranking + revisited metric")
RERANKING = cases_of_kind(SYSTEM, "reranking protocol with a given score table")
LETTERS = {"easy": "E", "medium": "M", "hard": "H"}
REAL_SETS = {  # file: (queries, gallery, easy, hard, junk, queries without easy)
    "oxford5k/gnd_roxford5k.pkl": (70, 4993, 3029, 2497, 1356, [11, 66]),
    "paris6k/gnd_rparis6k.pkl": (70, 6322, 6874, 10350, 7153, []),
}


def naive_evaluate(ranks: np.ndarray, gnd: list[dict], ks: tuple[int, ...]) -> dict[str, Any]:
    """The rules of the benchmark, one query and one position at a time."""
    results = {}
    for protocol, (positive, ignored) in PROTOCOLS.items():
        aps, precisions, recalls = [], [], []
        for row, entry in zip(ranks, gnd, strict=True):
            wanted = {i for kind in positive for i in entry[kind]}
            dropped = {i for kind in ignored for i in entry[kind]}
            if not wanted:
                aps.append(np.nan)
                continue
            kept = [image for image in row if image not in dropped]
            places = [p for p, image in enumerate(kept) if image in wanted]
            ap = 0.0
            for j, p in enumerate(places):
                left = 1.0 if p == 0 else j / p
                ap += (left + (j + 1) / (p + 1)) / (2 * len(wanted))
            aps.append(ap)
            at_k = []
            for k in ks:
                last = min(places[-1] + 1, k) if places else k
                at_k.append(sum(p + 1 <= last for p in places) / last)
            precisions.append(at_k)
            recalls.append([sum(p < k for p in places) / len(wanted) for k in ks])
        mp, mr = (
            np.mean(values, axis=0) if values else np.full(len(ks), np.nan)
            for values in (precisions, recalls)
        )
        mean = np.nanmean(aps) if precisions else np.nan
        results[protocol] = {"map": mean, "mp": mp, "mr": mr, "ap": np.array(aps)}
    return results


def random_gnd(rng: np.random.Generator, n_queries: int, n_gallery: int) -> list[dict]:
    """Lists of unequal length, some of them empty."""
    gnd = []
    for _ in range(n_queries):
        shares = rng.choice([0.0, 0.05, 0.3], 3)
        kind = rng.choice(4, n_gallery, p=[*shares, 1 - shares.sum()])
        gnd.append({name: np.flatnonzero(kind == i).tolist() for i, name in enumerate(KINDS)})
    return gnd


def make_raw(gnd: list[dict], n_gallery: int) -> dict[str, Any]:
    """The dict of a ground-truth pickle."""
    return {
        "imlist": [f"gallery_{i:06d}" for i in range(n_gallery)],
        "qimlist": [f"query_{i:06d}" for i in range(len(gnd))],
        "gnd": [{"bbx": [0.5, 1, 20, 30.25], **entry} for entry in gnd],
    }


def write_pickle(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=3))
    return path


def assert_results_equal(found: dict, expected: dict, atol: float = 1e-12) -> None:
    assert list(found) == list(expected) == list(PROTOCOLS)
    for protocol, values in expected.items():
        for key, value in values.items():
            np.testing.assert_allclose(found[protocol][key], value, rtol=0, atol=atol)


# ---------------------------------------------------------------------------- metric

HAND_GND = [  # gallery of 8 images
    {"easy": [2], "hard": [5], "junk": [1]},
    {"easy": [], "hard": [], "junk": [3]},  # no positives at all
    {"easy": [0, 7], "hard": [], "junk": []},
]
HAND_RANKS = np.array([[1, 4, 2, 5, 0], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])


def test_metric_by_hand():
    found = evaluate_ranks(HAND_RANKS, HAND_GND, ks=(1, 3))
    # query 0 without junk 1: [4, 2, 5, 0]. medium: positions 1, 2; AP = (0/1 + 1/2 + 1/2 + 2/3)/4
    # easy, without 1 and 5: [4, 2, 0]: position 1, AP = (0 + 1/2)/2; hard, without 1 and 2:
    # [4, 5, 0]: the same. query 2: no positive in the list, AP 0 and P@k 0; query 1 is not counted
    nan = np.nan
    np.testing.assert_allclose(found["medium"]["ap"], [5 / 12, nan, 0])
    np.testing.assert_allclose(found["easy"]["ap"], [1 / 4, nan, 0])
    np.testing.assert_allclose(found["hard"]["ap"], [1 / 4, nan, nan])  # query 2 has no hard one
    assert found["medium"]["map"] == pytest.approx(5 / 24)
    assert found["hard"]["map"] == pytest.approx(1 / 4)
    # P@1 of query 0 is 0; P@3 in medium: the last positive is 3rd, 2 of 3; in easy and hard the
    # last positive is 2nd, so 1 of 2 and not 1 of 3
    np.testing.assert_allclose(found["medium"]["mp"], [0, 2 / 3 / 2])
    np.testing.assert_allclose(found["easy"]["mp"], [0, 1 / 2 / 2])
    np.testing.assert_allclose(found["hard"]["mp"], [0, 1 / 2])


def test_perfect_ranking_has_ap_one():
    gnd = [{"easy": [3, 1], "hard": [4], "junk": [0]}]
    found = evaluate_ranks(np.array([[0, 3, 1, 4, 2, 5]]), gnd)
    for protocol in PROTOCOLS:
        assert found[protocol]["map"] == pytest.approx(1.0, abs=1e-15)
        np.testing.assert_allclose(found[protocol]["mp"], [1, 1, 1])


def test_positives_missing_from_the_list_still_count():
    gnd = [{"easy": [0, 1, 2, 3], "hard": [], "junk": []}]
    assert evaluate_ranks(np.array([[0]]), gnd)["easy"]["map"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("seed", range(40))
def test_random_lists_equal_the_naive_evaluator(seed):
    rng = np.random.default_rng(seed)
    n_queries, n_gallery = int(rng.integers(1, 15)), int(rng.integers(1, 200))
    n_columns = int(rng.integers(0, n_gallery + 1)) if seed % 2 else n_gallery
    gnd = random_gnd(rng, n_queries, n_gallery)
    ranks = np.stack([rng.permutation(n_gallery)[:n_columns] for _ in range(n_queries)])
    ranks = ranks.astype(rng.choice(["int16", "int32", "int64", "uint32", "uint64"]))
    ks = (1, 2, 5, 10, 300)
    expected = naive_evaluate(ranks, gnd, ks)
    assert_results_equal(evaluate_ranks(ranks, make_raw(gnd, n_gallery), ks), expected)
    assert_results_equal(evaluate_ranks(ranks, gnd, ks), expected)  # the list of dicts alone


def test_blocks_of_any_size_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    gnd = random_gnd(rng, 11, 50)
    ranks = np.stack([rng.permutation(50) for _ in range(11)])
    expected = evaluate_ranks(ranks, gnd)
    for numbers in (1, 120, 500):  # 1, 2 and 10 rows at once
        monkeypatch.setattr("utils.revisited.BLOCK_NUMBERS", numbers)
        assert_results_equal(evaluate_ranks(ranks, gnd), expected, atol=0)


def test_memory_map_and_sliced_array_give_the_same(tmp_path):
    rng = np.random.default_rng(1)
    gnd = random_gnd(rng, 6, 40)
    ranks = np.stack([rng.permutation(40) for _ in range(6)])
    np.save(tmp_path / "ranks.npy", ranks.T)
    mapped = np.load(tmp_path / "ranks.npy", mmap_mode="r").T
    assert_results_equal(evaluate_ranks(mapped, gnd), evaluate_ranks(ranks, gnd), atol=0)


def test_ranks_are_left_as_they_are():
    ranks = HAND_RANKS.copy()
    ranks.setflags(write=False)
    evaluate_ranks(ranks, HAND_GND)
    np.testing.assert_array_equal(ranks, HAND_RANKS)


def test_set_without_any_positive_has_no_mean():
    found = evaluate_ranks(np.array([[0, 1]]), [{"easy": [], "hard": [], "junk": [1]}])
    assert np.isnan(found["medium"]["map"])
    assert np.isnan(found["medium"]["mp"]).all()


def test_bad_ranks_are_refused():
    raw = make_raw(HAND_GND, 8)
    for bad in (8, -1, 2**40):
        ranks = HAND_RANKS.copy()
        ranks[1, 3] = bad
        with pytest.raises(ValueError, match=rf"query 1 hold {bad} at position 3.* 8 images"):
            evaluate_ranks(ranks, raw)
    ranks = HAND_RANKS.copy()
    ranks[2, 4] = 1
    with pytest.raises(ValueError, match="query 2 name gallery image 1 twice"):
        evaluate_ranks(ranks, raw)
    for wrong in (HAND_RANKS[:2], HAND_RANKS[0], HAND_RANKS.astype(float), HAND_RANKS > 1):
        with pytest.raises(ValueError, match=r"expected integers of shape \(3, K\)"):
            evaluate_ranks(wrong, raw)
    with pytest.raises(ValueError, match="refer to gallery image"):
        evaluate_ranks(np.full((3, 1), 2**40), HAND_GND)
    wrong_ks: list[Any] = [(), (0,), (1, 2.5)]
    for ks in wrong_ks:
        with pytest.raises(ValueError, match="ks is"):
            evaluate_ranks(HAND_RANKS, raw, ks)


def test_raw_ground_truth_of_another_set_is_refused():
    with pytest.raises(ValueError, match=r"query 0 refers to gallery image 5, .* 4 images"):
        evaluate_ranks(np.array([[0], [1], [2]]), make_raw(HAND_GND, 4))
    wrong_gnd: list[Any] = [{"imlist": []}, [1, 2, 3], "gnd"]
    for wrong in wrong_gnd:
        with pytest.raises(ValueError, match=r"gnd|ranks"):
            evaluate_ranks(HAND_RANKS, wrong)


# ---------------------------------------------------------------------------- ground truth


def test_ground_truth_reads_like_the_pickled_dict(tmp_path):
    raw = make_raw(HAND_GND, 8)
    gnd = load_ground_truth(write_pickle(tmp_path / "gnd_x.pkl", raw))
    assert isinstance(gnd, GroundTruth)
    assert gnd == raw
    assert dict(gnd) == raw
    assert list(gnd) == ["imlist", "qimlist", "gnd"]
    assert gnd["imlist"] is gnd.imlist
    assert gnd["gnd"][2]["easy"] + gnd.gnd[0]["hard"] == [0, 7, 5]
    assert gnd.gnd[0]["bbx"] == [0.5, 1, 20, 30.25]
    with pytest.raises(KeyError):
        gnd["queries"]
    expected = evaluate_ranks(HAND_RANKS, raw)
    assert_results_equal(evaluate_ranks(HAND_RANKS, gnd), expected, atol=0)


def test_ground_truth_cannot_be_changed_by_accident(tmp_path):
    gnd = load_ground_truth(write_pickle(tmp_path / "gnd_x.pkl", make_raw(HAND_GND, 8)))
    changes = [
        lambda: gnd.imlist.append("x"),
        lambda: gnd.gnd[0]["easy"].remove(2),
        lambda: gnd.gnd[0]["easy"].__setitem__(0, 1),
        lambda: gnd.gnd[0].update(easy=[]),
        lambda: gnd.gnd[0].__setitem__("easy", []),
        lambda: gnd.gnd.sort(),
        lambda: gnd.qimlist.__iadd__(["x"]),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="cannot be changed; make a copy"):
            change()
    with pytest.raises(AttributeError):
        gnd.imlist = []  # type: ignore[misc, assignment]
    assert gnd == make_raw(HAND_GND, 8)


def test_ground_truth_can_be_copied_and_sent_to_a_worker(tmp_path):
    gnd = load_ground_truth(write_pickle(tmp_path / "gnd_x.pkl", make_raw(HAND_GND, 8)))
    for other in (pickle.loads(pickle.dumps(gnd)), copy.deepcopy(gnd)):
        assert other == gnd
        with pytest.raises(TypeError):
            other.imlist.clear()


def test_matlab_ground_truth_counts_from_one(tmp_path):
    from scipy.io import savemat

    gnd = [
        {"easy": [2], "hard": [5, 6], "junk": []},
        {"easy": [], "hard": [0], "junk": [1, 7, 3]},
    ]
    for n_queries in (2, 1):  # one query: Matlab has no list of one
        raw = make_raw(gnd[:n_queries], 8)
        struct = np.zeros(n_queries, [(key, object) for key in ("bbx", *KINDS)])
        for row, entry in zip(struct, raw["gnd"], strict=True):
            row["bbx"] = np.array(entry["bbx"])
            for kind in KINDS:
                row[kind] = np.array(entry[kind], dtype=np.float64) + 1
        names = {key: np.array(raw[key], dtype=object) for key in ("imlist", "qimlist")}
        savemat(tmp_path / "gnd_x.mat", {"gnd": struct, **names})
        assert load_ground_truth(tmp_path / "gnd_x.mat") == raw


def with_entry(**changed: object) -> dict[str, Any]:
    raw = make_raw(HAND_GND, 8)
    raw["gnd"][1] = {**raw["gnd"][1], **changed}
    return raw


BAD = {  # name: (content, what the message says)
    "a list": ([1, 2], "expected a dict with imlist, qimlist and gnd, found list"),
    "a key is missing": ({"imlist": [], "gnd": []}, r"found \['gnd', 'imlist'\]"),
    "names are numbers": ({**make_raw(HAND_GND, 8), "imlist": [1] * 8}, "imlist is not a list"),
    "queries are missing": ({**make_raw(HAND_GND, 8), "qimlist": ["a"]}, "1 names .* but 3 in gnd"),
    "index beyond the gallery": (with_entry(hard=[8]), "query 1 .* image 8, .* has 8 images"),
    "negative index": (with_entry(hard=[-1]), "query 1 refers to gallery image -1"),
    "index is a fraction": (with_entry(easy=[0.5]), "easy of query 1 is not a list of gallery"),
    "index is huge": (with_entry(easy=[2**70]), "easy of query 1 is not a list of gallery"),
    "list is a number": (with_entry(easy=3), "easy of query 1 is not a list of gallery indices"),
    "two lists share an image": (with_entry(easy=[3]), "query 1 names a gallery image twice"),
    "an image twice": (with_entry(easy=[4, 4]), "query 1 names a gallery image twice"),
    "kind is missing": ({**make_raw([{"ok": []}], 8)}, "query 0 of gnd is not a dict with easy"),
    "box of three numbers": (with_entry(bbx=[1, 2, 3]), "bbx of query 1"),
    "box inside out": (with_entry(bbx=[5, 2, 3, 9]), "bbx of query 1"),
    "box with NaN": (with_entry(bbx=[1, 2, np.nan, 9]), "bbx of query 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_ground_truth_is_refused(tmp_path, case):
    content, message = BAD[case]
    path = write_pickle(tmp_path / "gnd_x.pkl", content)
    with pytest.raises(ValueError, match=rf"gnd_x\.pkl .*{message}.*; get the file again"):
        load_ground_truth(path)


def test_damaged_or_missing_file_is_named(tmp_path):
    for suffix in (".pkl", ".mat"):
        path = tmp_path / f"gnd_x{suffix}"
        with pytest.raises(FileNotFoundError, match=r"gnd_x.* does not exist; download"):
            load_ground_truth(path)
        path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
        with pytest.raises(ValueError, match=r"gnd_x.*get .* again"):
            load_ground_truth(path)


# ---------------------------------------------------------------------------- reference data


@pytest.mark.data
@pytest.mark.parametrize("name", REAL_SETS)
def test_real_ground_truth_has_the_published_counts(reference_data, name):
    gnd = load_ground_truth(reference_data / GROUND_TRUTHS / name)
    counts = [sum(len(entry[kind]) for entry in gnd.gnd) for kind in KINDS]
    without_easy = [q for q, entry in enumerate(gnd.gnd) if not entry["easy"]]
    assert (len(gnd.qimlist), len(gnd.imlist), *counts, without_easy) == REAL_SETS[name]
    assert gnd == pickle.loads((reference_data / GROUND_TRUTHS / name).read_bytes())


def planted_similarities(case: str, entry: dict, gnd: GroundTruth) -> np.ndarray:
    """(Q, G) float64 similarities, as the manifest describes them."""
    d = entry["d"]
    queries = array(f"{case}/query", (len(gnd.qimlist), d)).astype(np.float64)
    gallery = array(f"{case}/gallery", (len(gnd.imlist), d)).astype(np.float64)
    for q, lists in enumerate(gnd.gnd):
        for kind, weight in (entry["planted"] or {}).items():
            gallery[lists[kind]] += weight * queries[q]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    return queries @ gallery.T


def assert_metrics(found: dict, expected: np.ndarray) -> None:
    measured = [found["map"], *found["mp"]]
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-12)


@pytest.mark.data
@pytest.mark.parametrize("case", RANKING)
def test_golden_rankings(reference_data, case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    gnd = load_ground_truth(reference_data / GROUND_TRUTHS / entry["ground_truth"])
    ranks = np.argsort(-planted_similarities(case, entry, gnd), axis=1, kind="stable")
    np.testing.assert_array_equal(ranks[:, :20], outputs[f"{case}/ranks20"])
    found = evaluate_ranks(ranks, gnd)
    for protocol, letter in LETTERS.items():
        expected = outputs[f"{case}/{letter}_aps"]
        np.testing.assert_allclose(found[protocol]["ap"], expected, rtol=0, atol=1e-12)
        assert_metrics(found[protocol], outputs[f"{case}/{letter}_map_mp"])


@pytest.mark.data
@pytest.mark.parametrize("case", RERANKING)
def test_golden_reranked_lists(reference_data, case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    gnd = load_ground_truth(reference_data / GROUND_TRUTHS / entry["ground_truth"])
    ranks = np.argsort(-planted_similarities(case, entry, gnd), axis=1, kind="stable")
    scores = array(f"{case}/scores", ranks.shape)
    for q, lists in enumerate(gnd.gnd):
        for kind, weight in entry["score_planted"].items():
            scores[q, lists[kind]] += np.float32(weight)
    for protocol, moved in (("medium", ("junk",)), ("hard", ("junk", "easy"))):
        reranked = []
        for q, lists in enumerate(gnd.gnd):
            aside = np.isin(ranks[q], [i for kind in moved for i in lists[kind]])
            row = np.concatenate([ranks[q][~aside], ranks[q][aside]])
            order = np.argsort(-scores[q, row[:100]], kind="stable")
            reranked.append(np.concatenate([row[:100][order], row[100:]]))
        np.testing.assert_array_equal(
            np.array(reranked)[:, :100], outputs[f"{case}/{protocol}_top100"]
        )
        found = evaluate_ranks(np.array(reranked), gnd)[protocol]
        assert_metrics(found, outputs[f"{case}/{LETTERS[protocol]}_map_mp"])
