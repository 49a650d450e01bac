"""Retrieval and re-ranking: reference metrics, a plain loop, files on disk to rows, bad input."""

import json

import numpy as np
import pytest

from delg_training import retrieval, retrieval_rows
from delg_training.geometric_verification import Verification
from delg_training.perform_retrieval import ex
from delg_training.result_record import describe_scales, read_origin
from delg_training.retrieval import (
    FeatureFolders,
    choose_heads,
    compute_similarities,
    load_global,
    measure,
    rank,
    rank_after_verification,
    rerank,
)
from delg_training.retrieval_metrics import format_metrics, read_metrics, write_metrics
from delg_training.retrieval_rows import PUBLISHED, choose_expected, load_row, to_metrics
from tests.delg_training.feature_folders import NUM_GALLERY, make_folder
from tests.golden_recipe import load_manifest
from tests.run_folder import check_record, observed
from utils.descriptors import read_global, write_global
from utils.result_files import load_lists
from utils.results import OUTSIDE_TOLERANCE
from utils.revisited import FrozenList, GroundTruth

SYSTEM = "delg"
REVISITED = load_manifest(SYSTEM, "misc.json")["revisited"]
KS = tuple(REVISITED["pr_ranks"])
FIELDS = {"map": "map", "mp": "mean_precisions", "mr": "mean_recalls", "ap": "average_precisions"}
SETTINGS = Verification(1.0, 10.0)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


def reference_results() -> dict:
    gnd, ranks = REVISITED["ground_truth"], np.array(REVISITED["ranks"])
    names = FrozenList(str(i) for i in range(ranks.shape[1]))
    truth = GroundTruth(names, FrozenList(str(q) for q in range(len(gnd))), FrozenList(gnd))
    return measure(dict.fromkeys(REVISITED["results"], ranks), truth, KS)


@pytest.mark.parametrize("protocol", REVISITED["results"])
def test_metrics_equal_the_reference(protocol):
    found, expected = reference_results()[protocol], REVISITED["results"][protocol]
    for key, name in FIELDS.items():
        values = np.array(expected[name], dtype=np.float64)  # null: a query without positives
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=1e-6, err_msg=key)


def test_metrics_file_equals_the_reference_to_the_byte(golden_dir, tmp_path):
    results = {key: reference_results()[key] for key in ("medium", "hard")}
    path = tmp_path / "metrics.txt"
    write_metrics(path, results, KS)
    assert path.read_bytes() == (golden_dir / SYSTEM / "metrics.txt").read_bytes()


def test_metrics_file_is_read_again(tmp_path):
    results = reference_results()
    results["hard_after_gv"] = {"map": 1.0, "mp": np.ones(3), "mr": np.zeros(3)}
    path = tmp_path / "metrics.txt"
    write_metrics(path, results, KS)
    found = read_metrics(path)
    assert list(found) == ["easy", "hard", "hard_after_gv", "medium"]
    assert found["hard_after_gv"] == {"map": 100, "ks": [1, 5, 10], "mp": [100] * 3, "mr": [0] * 3}
    assert found["medium"]["map"] == round(100 * results["medium"]["map"], 2)
    np.testing.assert_allclose(found["medium"]["mr"], 100 * results["medium"]["mr"], atol=0.005)
    path.write_text(format_metrics(results, KS).replace("  mP@k", "  mQ@k", 1))
    with pytest.raises(ValueError, match=r"metrics.txt, line 1: not a protocol"):
        read_metrics(path)


def test_metrics_file_does_not_follow_the_print_options_of_the_caller():
    results = reference_results()
    expected = format_metrics(results, KS)
    with np.printoptions(precision=1, suppress=True):
        assert format_metrics(results, KS) == expected


# ---------------------------------------------------------------------------- ranking


def plain_order(similarities, inliers) -> list[int]:
    """As published: a stable sort of (inliers, similarity) in reverse."""
    order = range(len(similarities))
    return sorted(order, key=lambda i: (inliers[i], similarities[i]), reverse=True)


def test_reranked_lists_equal_a_stable_sort_by_inliers_and_similarity():
    rng = np.random.default_rng(0)
    similarities = rng.integers(0, 4, (5, 30)).astype(np.float32)  # many ties
    pairs = np.array([(q, i) for q in range(5) for i in rng.permutation(30)[:12]])
    inliers = rng.integers(0, 3, len(pairs))
    found = rerank(similarities, pairs, inliers)
    for q in range(5):
        counts = np.zeros(30, int)
        for (query, image), count in zip(pairs, inliers, strict=True):
            counts[image] = count if query == q else counts[image]
        assert found[q].tolist() == plain_order(similarities[q], counts)


def test_ties_of_the_global_ranking_go_to_the_lower_index():
    np.testing.assert_array_equal(rank(np.array([[1.0, 2.0, 1.0, 2.0]])), [[1, 3, 0, 2]])


def test_heads_leave_out_the_junk_of_their_protocol(folder):
    """Query 0: easy 0, hard 1 and 2, junk 3."""
    ranks = np.tile(np.arange(NUM_GALLERY), (3, 1))
    medium = choose_heads(ranks, folder.gnd, "medium", 5)
    hard = choose_heads(ranks, folder.gnd, "hard", 5)
    assert medium[medium[:, 0] == 0, 1].tolist() == [0, 1, 2, 4, 5]
    assert hard[hard[:, 0] == 0, 1].tolist() == [1, 2, 4, 5, 6]
    everything = choose_heads(ranks, folder.gnd, "hard", 100)
    assert np.bincount(everything[:, 0]).tolist() == [NUM_GALLERY - 2] * 3


def test_a_pair_verified_for_one_protocol_alone_does_not_count_in_the_other(folder, tmp_path):
    """Easy images are in Medium's heads only: in the Hard list they have no inliers."""
    folders = FeatureFolders(folder.features, folder.features)
    similarities = compute_similarities(folders, folder.gnd, False)
    after = rank_after_verification(
        similarities, folder.gnd, folders, SETTINGS, tmp_path / "t.npz", 100, 1, False
    )
    for q in range(3):
        easy, first, second, junk = range(4 * q, 4 * q + 4)
        assert after["medium"][q, :3].tolist() == [easy, first, second]
        assert after["hard"][q, :2].tolist() == [first, second]
        for protocol, none in (("medium", [junk]), ("hard", [easy, junk])):
            others = [
                i for i in after[protocol][q] if i in none or i not in range(4 * q, 4 * q + 4)
            ]
            left = similarities[q, others]
            assert (np.diff(left[-8:]) <= 0).all(), "unverified images keep their order"


@pytest.mark.parametrize("block", [4096, 4])
def test_similarities_are_inner_products(folder, monkeypatch, block):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    folders = FeatureFolders(folder.features, folder.features)
    found = compute_similarities(folders, folder.gnd, False)
    q, i = (
        np.stack([read_global(folder.features / f"{name}.delg_global") for name in names])
        for names in (folder.gnd.qimlist, folder.gnd.imlist)
    )
    np.testing.assert_allclose(found, q @ i.T, rtol=1e-5, atol=1e-5)


def test_an_image_too_small_to_be_described_is_similar_to_nothing(folder):
    write_global(folder.features / "i5.delg_global", np.zeros(0, np.float32))
    folders = FeatureFolders(folder.features, folder.features)
    assert (compute_similarities(folders, folder.gnd, False)[:, 5] == 0).all()
    for name in folder.gnd.qimlist:
        write_global(folder.features / f"{name}.delg_global", np.zeros(0, np.float32))
    with pytest.raises(ValueError, match=r"no query has a global descriptor.*use_global_features"):
        compute_similarities(folders, folder.gnd, False)


def test_global_descriptors_of_two_models_are_refused(folder):
    write_global(folder.features / "i5.delg_global", np.ones(7, np.float32))
    paths = [folder.features / f"i{i}.delg_global" for i in range(8)]
    with pytest.raises(ValueError, match=r"i5.delg_global holds .* 7 numbers, others have 24"):
        load_global(paths, None)


def test_k_beyond_the_gallery_is_refused(folder):
    ranks = np.tile(np.arange(NUM_GALLERY), (3, 1))
    with pytest.raises(ValueError, match=r"k is 15, but there are only 14"):
        measure({"medium": ranks}, folder.gnd, (1, 15))


# ---------------------------------------------------------------------------- from files to rows


def run(folder, tmp_path, **options):
    updates = {
        "dataset_file_path": str(folder.gnd_path),
        "query_features_dir": str(folder.features),
        "output_dir": str(tmp_path / "out"),
        "num_processes": 1,
        **options,
    }
    return ex.run(config_updates=updates)


def test_files_to_rows(folder, tmp_path, capsys):
    metrics = run(folder, tmp_path, use_geometric_verification=True).result
    file = read_metrics(tmp_path / "out/metrics.txt")
    assert list(file) == ["hard", "hard_after_gv", "medium", "medium_after_gv"]
    assert metrics["M_map"] == file["medium"]["map"] < 60
    assert metrics["M_map_gv"] == file["medium_after_gv"]["map"] == 100
    assert metrics["H_mR@10_gv"] == file["hard_after_gv"]["mr"][2] == 100
    printed = capsys.readouterr().out
    assert "M_gain" in printed
    assert (tmp_path / "out/inliers.npz").is_file()


def test_global_retrieval_alone_needs_no_local_features(folder, tmp_path):
    for path in folder.features.glob("*.delg_local"):
        path.unlink()
    metrics = run(folder, tmp_path).result
    assert set(read_metrics(tmp_path / "out/metrics.txt")) == {"medium", "hard"}
    assert not [key for key in metrics if key.endswith("_gv")]


def test_inliers_are_counted_anew_on_request(folder, tmp_path):
    run(folder, tmp_path, use_geometric_verification=True)
    options = {"use_geometric_verification": True, "ransac_residual_threshold": 3.0}
    with pytest.raises(ValueError, match=r"inliers.npz was made from something else"):
        run(folder, tmp_path, **options)
    assert run(folder, tmp_path, overwrite=True, **options).result["M_map_gv"] == 100


def test_a_table_of_inliers_holds_for_the_same_features_alone(folder, tmp_path):
    """Of the same descriptors whatever the last bit of their products is, which threads decide."""
    folders = FeatureFolders(folder.features, folder.features)
    similarities, table = compute_similarities(folders, folder.gnd, False), tmp_path / "t.npz"
    rest = (folder.gnd, folders, SETTINGS, table, 5, 1, False)
    before = rank_after_verification(similarities, *rest)
    after = rank_after_verification(np.nextafter(similarities, np.float32(9)), *rest)
    np.testing.assert_array_equal(before["hard"], after["hard"])
    write_global(folder.features / "i5.delg_global", np.ones(24, np.float32))
    with pytest.raises(ValueError, match=r"t.npz was made from something else \(global descr"):
        rank_after_verification(similarities, *rest)


def test_missing_features_are_named(folder, tmp_path):
    (folder.features / "i7.delg_global").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 17 files .*\n.*i7.delg_global"):
        run(folder, tmp_path)


# ---------------------------------------------------------------------------- the record

ORIGIN = {
    "model": "0123abcd",
    "config": {
        "image_scales": [0.25, 0.5, 1.0],
        "max_image_size": 1024,
        "delf_global_config": {"image_scales_ind": [1, 2]},
    },
}


def test_a_run_leaves_its_record(folder, tmp_path):
    (folder.features / "extracted.json").write_text(json.dumps(ORIGIN))
    with observed(ex, tmp_path / "logs") as logs:
        metrics = run(folder, tmp_path, use_geometric_verification=True).result
    maps = {"M_map", "H_map", "M_map_gv", "H_map_gv"}
    result = check_record(logs, metrics, whole=set(metrics) - maps)
    assert {*maps, "M_gain", "H_gain"} < {row.metric for row in result.rows}
    assert set(result.values) == {*maps, "M_map_gv_global", "H_map_gv_global"}
    np.testing.assert_array_equal(result.values["M_map_gv_global"], result.values["M_map"])
    assert result.protocol["gallery"] == NUM_GALLERY
    assert result.protocol["scales"] == describe_scales(ORIGIN)
    method = result.content["method"]
    assert method["checkpoint_sha256"] == "0123abcd"
    assert method["num_to_rerank"] == 100
    ap_name, lists = load_lists(logs)
    assert (ap_name, len(lists)) == ("AP (Medium)", 3)
    first = next(entry for entry in lists if entry.name == "q0")
    assert [hit.name for hit in first.after[:3]] == ["i0", "i1", "i2"]
    assert [hit.label for hit in first.after[:3]] == ["easy", "hard", "hard"]
    assert (first.ap_after, list(first.query_box)) == (1.0, [0, 0, 9, 9])


def test_the_record_tells_one_set_of_features_from_another(folder, tmp_path):
    """Digest of the files that were used: the local ones count where they are verified alone."""

    def digest(name: str, **options) -> str:
        with observed(ex, tmp_path / name) as logs:
            metrics = run(folder, tmp_path, overwrite=True, **options).result
        kept = check_record(logs, metrics, whole=set(metrics) - {"M_map", "H_map"})
        return kept.content["method"]["descriptor_files"]

    before = digest("1"), digest("2")
    (folder.features / "i13.delg_local").unlink()
    assert digest("3") == before[0] == before[1]
    write_global(folder.features / "i5.delg_global", np.ones(24, np.float32))
    assert digest("4") != before[0]


def test_scales_in_words(tmp_path):
    assert describe_scales(ORIGIN) == "global 0.5, 1; local 0.25, 0.5, 1; longer side at most 1024"
    every = {"image_scales": [0.5, 2], "max_image_size": -1, "delf_global_config": {}}
    every["delf_global_config"]["image_scales_ind"] = []
    assert describe_scales({"config": every}) == "global 0.5, 2; local 0.5, 2"
    assert describe_scales(read_origin(tmp_path)) == "those of the descriptors"
    (tmp_path / "extracted.json").write_text('{"descriptor": "sift"}')
    assert describe_scales(read_origin(tmp_path)) == "those of the descriptors"


@pytest.mark.parametrize("text", ["{", "3", "[1]"])
def test_a_damaged_record_of_the_features_is_named_before_the_work(folder, tmp_path, text):
    (folder.features / "extracted.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"extracted.json (is no whole JSON file|holds a) .*overwrite=True"
    ):
        run(folder, tmp_path)
    assert not (tmp_path / "out").exists()


def test_other_settings_than_the_published_ones_are_not_the_table_s_row(table, folder, tmp_path):
    scripts = []
    for name, threshold in (("published", 20.0), ("other", 10.0)):
        options = {"use_geometric_verification": True, "ransac_residual_threshold": threshold}
        with observed(ex, tmp_path / name) as logs:
            run(folder, tmp_path, row="eval_small", overwrite=True, **options)
        scripts.append(json.loads((logs / "result.json").read_text())["script"])
    assert scripts == ["eval_small", None]


# ---------------------------------------------------------------------------- expected values


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "expected.csv"
    path.write_text(
        "script,metric,value,tolerance,source\n"
        "eval_small,M_map,10.0,0.1,own\neval_small,M_map_gv,100.0,0.1,own\n"
    )
    monkeypatch.setattr(retrieval_rows, "EXPECTED", path)
    return path


def test_expected_values_of_verification_hold_for_the_published_settings_alone(table):
    assert set(choose_expected("eval_small", PUBLISHED, 100)) == {"M_map", "M_map_gv"}
    for settings, top in ((PUBLISHED, 50), (Verification(0.9, 20.0), 100)):
        assert set(choose_expected("eval_small", settings, top)) == {"M_map"}
    assert load_row(None) == {}
    with pytest.raises(ValueError, match=r"row is 'eval_large', but .*eval_small"):
        load_row("eval_large")


def test_strict_run_ends_with_code_3_outside_the_tolerance(table, folder, tmp_path):
    with pytest.raises(SystemExit) as end:
        run(folder, tmp_path, row="eval_small", strict=True)
    assert end.value.code == OUTSIDE_TOLERANCE


def test_metrics_are_named_by_protocol_cutoff_and_stage():
    values = {"map": 0.123456, "mp": np.array([0.5, 1.0]), "mr": np.array([0.25, 0.75])}
    assert to_metrics({"hard_after_gv": values}, (1, 5)) == {
        "H_map_gv": 12.35,
        **{"H_mP@1_gv": 50.0, "H_mP@5_gv": 100.0, "H_mR@1_gv": 25.0, "H_mR@5_gv": 75.0},
    }
    assert json.dumps(to_metrics({"medium": values}, (1, 5)))  # plain floats
