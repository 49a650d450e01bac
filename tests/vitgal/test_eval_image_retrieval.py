"""From pictures to rows: ranking, extraction, reranking, report; and bad input on the way."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run_folder import check_record, observed
from tests.vitgal import tiny_set
from utils.paths import hash_file
from utils.result_files import load_lists, protocol_differences
from utils.revisited import evaluate_ranks, load_ground_truth
from vitgal.eval_image_retrieval import ex as evaluate
from vitgal.extract_local_features import ex as extract
from vitgal.stores import CompactStore, PublishedStore

NUM_RERANK = 4


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    root = tiny_set.write_tiny_set(tmp_path_factory.mktemp("vitgal"))
    tiny_set.write_weights(root / "weights.pth")
    run_global(root)
    run_extract(root)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy to damage; lists and records name the copy's pictures."""
    copy = Path(shutil.copytree(original, tmp_path / "set"))
    listed = copy / "rank/rerank_path.txt"
    listed.write_text(listed.read_text().replace(str(original), str(copy)))
    return copy


def options(root: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": tiny_set.dataset(root, **changes.pop("dataset", {})),
        "model": {**tiny_set.MODEL, **changes.pop("model", {})},
        "weight_path": str(root / "weights.pth"),
        "descriptor_output_dir": str(root / "local/D"),
        "location_output_dir": str(root / "local/L"),
        **changes,
    }


def run_global(root: Path, **changes: Any) -> dict[str, Any]:
    changes = {
        "save_global_rank": str(root / "rank/global_rank.npy"),
        "descriptor_dir": str(root / "descriptors"), "num_rerank": NUM_RERANK, **changes,
    }  # fmt: skip
    return evaluate.run(config_updates=options(root, changes)).result


def run_extract(root: Path, **changes: Any) -> dict[str, Any]:
    changes = {
        "list_extract_paths": str(root / "rank/rerank_path.txt"), "image_size": 96, **changes,
    }  # fmt: skip
    return extract.run(config_updates=options(root, changes)).result


def run_rerank(root: Path, **changes: Any) -> dict[str, Any]:
    changes = {"load_precomputed_global_rank": True, "do_reranking": True, "num_processes": 1,
               "max_distance": 0.05, **changes}  # fmt: skip
    return run_global(root, **changes)


def test_global_ranking_and_list_as_published(original: Path) -> None:
    ranks = np.load(original / "rank/global_rank.npy")
    assert (ranks.shape, ranks.dtype) == ((6, 2), np.int64)
    gnd = load_ground_truth(original / "tiny" / tiny_set.GND)
    result = run_global(original)  # reads what is there
    expected = evaluate_ranks(ranks.T, gnd)
    assert result["M_map"] == pytest.approx(100 * expected["medium"]["map"], abs=0.006)
    assert result["H_mp"] == [
        pytest.approx(100 * value, abs=0.006) for value in expected["hard"]["mp"]
    ]
    lines = (original / "rank/rerank_path.txt").read_text().splitlines()
    assert len(lines) == 2 * (1 + NUM_RERANK)
    assert lines[0] == f"{original.as_posix()}/tiny/jpg/q0.jpg 4 3 60 50"
    best = original / f"tiny/jpg/d{ranks[0, 0]}.jpg"
    assert lines[1] == f"{best.as_posix()} -1 -1 -1 -1"


def test_local_features_are_named_by_the_path_below_the_data(original: Path) -> None:
    names = {path.name for path in (original / "local/D").glob("*.npy")}
    assert "tiny__jpg__q0.jpg.npy" in names
    store = PublishedStore(original / "local/D", original / "local/L", original)
    found = store.load(str(original / "tiny/jpg/q0.jpg"))
    # the crop is 56 x 47 pixels: at 96 its base size is 80 x 96
    assert found.locations.max(axis=0).tolist() <= [80, 96]
    assert 1 <= len(found.locations) <= 1000


def test_reranking_orders_the_head_by_inliers(original: Path) -> None:
    result = run_rerank(original)
    assert "pydegensac" in result["verification"]
    ranks = np.load(original / "rank/global_rank.npy").T
    with np.load(original / "rank/rerank_counts.npz") as counts:
        inliers = counts["inliers"]
        assert inliers.shape == (2, NUM_RERANK)
        assert len(np.unique(inliers)) > 1
        assert str(counts["verification"]) == result["verification"]
        np.testing.assert_array_equal(counts["head"], ranks[:, :NUM_RERANK])
    gnd = load_ground_truth(original / "tiny" / tiny_set.GND)
    for row, count in zip(ranks, inliers, strict=True):
        row[:NUM_RERANK] = row[:NUM_RERANK][np.argsort(-count, kind="stable")]
    for letter, key in (("M", "medium"), ("H", "hard")):
        expected = 100 * evaluate_ranks(ranks, gnd)[key]["map"]
        assert result[f"{letter}_map"] == pytest.approx(expected, abs=0.006)


def test_rows_carry_protocol_interval_and_gain(original: Path) -> None:
    run = evaluate.run(
        config_updates=options(
            original,
            {"save_global_rank": str(original / "rank/global_rank.npy"), "do_reranking": True,
             "load_precomputed_global_rank": True, "num_rerank": NUM_RERANK, "num_processes": 1},
        )
    )  # fmt: skip
    rows = {row["metric"]: row for row in run.info["rows"]}
    assert set(rows) == {"M_map", "H_map", "M_gain", "H_gain"}
    assert all(row["interval"] is not None for row in rows.values())
    assert "seed 0, 16 px" in rows["M_map"]["protocol"]
    assert rows["M_map"]["expected"] is None


def test_both_stages_leave_a_complete_record(root: Path, tmp_path: Path) -> None:
    with observed(evaluate, tmp_path / "runs_a") as run_folder:
        before = check_record(run_folder, run_global(root, overwrite=True))
    with observed(evaluate, tmp_path / "runs_b") as run_folder:
        metrics = run_rerank(root, report=str(tmp_path / "index.html"))
        after = check_record(run_folder, metrics)
    assert protocol_differences(before.protocol, after.protocol) == []
    method = after.content["method"]
    assert method["checkpoint_sha256"] == hash_file(root / "weights.pth")[:16]
    assert method["num_rerank"] == NUM_RERANK
    assert "not recorded" not in method.values()
    np.testing.assert_array_equal(after.values["M_map_global"], before.values["M_map"])
    assert len(load_lists(run_folder)[1]) == 2
    assert (run_folder / after.content["matches"][0]["file"]).is_file()


def test_scores_and_page_are_written(root: Path) -> None:
    run_rerank(root, save_rank=str(root / "scores.txt"), report=str(root / "index.html"))
    text = (root / "scores.txt").read_text()
    assert text.count("M: mAP") == text.count("H: mAP") == 2
    page = (root / "index.html").read_text()
    assert "ViTGaL on tiny" in page
    assert "matches agree with one homography" in page


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_compact_store_gives_nearly_the_same_counts(root: Path, kind: str) -> None:
    plain = run_rerank(root)
    with np.load(root / "rank/rerank_counts.npz") as file:
        expected = file["inliers"]
    compact = str(root / "compact")
    assert run_extract(root, compact_store=compact, compact_kind=kind)["extracted"] > 0
    assert CompactStore(compact, root).kind == kind
    result = run_rerank(root, compact_store=compact)
    with np.load(root / "rank/rerank_counts.npz") as file:
        assert np.abs(file["inliers"] - expected).max() <= max(3, 0.1 * expected.max())
    assert result["M_map"] == pytest.approx(plain["M_map"], abs=20)


def test_distractors_are_ranked_streamed_and_reranked(root: Path) -> None:
    with_1m = {"name": "tiny_1m", "r1m_path": str(root / "r1m")}
    result = run_global(root, dataset=with_1m, save_global_rank=str(root / "rank_1m/rank.npz"))
    full = run_global(root, dataset=with_1m, save_global_rank=str(root / "rank_1m/rank.npy"))
    assert result == full
    ranks = np.load(root / "rank_1m/rank.npy")
    assert sorted(ranks[:, 0].tolist()) == list(range(6 + tiny_set.DISTRACTORS))
    listed = (root / "rank_1m/rerank_path.txt").read_text()
    assert "/r1m/" in listed
    run_extract(root, dataset=with_1m, list_extract_paths=str(root / "rank_1m/rerank_path.txt"))
    reranked = run_rerank(root, dataset=with_1m, save_global_rank=str(root / "rank_1m/rank.npz"))
    assert 0 < reranked["M_map"] <= 100
    assert len(list((root / "descriptors").glob("distractors_*.npy"))) == 1, "used for both"


def test_multiscale_and_kept_aspect_are_other_descriptors(root: Path) -> None:
    path = root / "descriptors"
    before = len(list(path.glob("*.npy")))
    run_global(root, multiscale=True, save_global_rank=str(root / "m/rank.npy"))
    run_global(root, dataset={"keep_aspec_ratio": True}, save_global_rank=str(root / "k/rank.npy"))
    assert len(list(path.glob("*.npy"))) == before + 4


def test_interrupted_extraction_goes_on(root: Path) -> None:
    (root / "local/L/tiny__jpg__q1.jpg.npy").unlink()
    assert run_extract(root)["extracted"] == 1
    assert run_extract(root)["extracted"] == 0
    assert run_extract(root, overwrite=True)["extracted"] == run_extract(root)["images"]


def test_extraction_without_a_list_takes_whole_folders(root: Path) -> None:
    result = run_extract(
        root, list_extract_paths=None, image_folders=str(root / "r1m"), official_names=True
    )
    assert result["extracted"] == tiny_set.DISTRACTORS
    with pytest.raises(FileNotFoundError, match="no picture"):
        run_extract(root, list_extract_paths=None, image_folders=str(root / "local"))


# ---------------------------------------------------------------------------- bad input


def test_local_file_missing_for_a_ranked_image_is_named(root: Path) -> None:
    victim = next((root / "local/D").glob("tiny__jpg__d*.npy"))
    victim.unlink()
    image = victim.name.removesuffix(".npy").rpartition("__")[2]
    with pytest.raises(FileNotFoundError, match=rf"1 of \d images have no local.*\n.*/{image}"):
        run_rerank(root)


def test_global_ranks_of_another_set_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="made from set 'tiny' instead of 'other'"):
        run_rerank(root, dataset={"name": "other"})
    path = root / "rank/global_rank.npy"
    path.with_name("global_rank.npy.json").unlink()
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match=r"holds int64 \(5, 2\), expected integers \(6, 2\)"):
        run_rerank(root)


def test_ranking_of_other_weights_is_not_reused(root: Path) -> None:
    tiny_set.write_weights(root / "weights.pth", seed=1)
    with pytest.raises(ValueError, match=r"made from weights .* instead of .*overwrite=True"):
        run_global(root)
    run_global(root, overwrite=True)
    record = json.loads((root / "rank/global_rank.npy.json").read_text())
    assert record["set"] == "tiny"


def test_features_of_other_weights_or_settings_are_not_mixed(root: Path) -> None:
    with pytest.raises(ValueError, match=r"features made with num_points 1000 instead of 50"):
        run_extract(root, num_points=50)
    tiny_set.write_weights(root / "weights.pth", seed=1)
    with pytest.raises(ValueError, match=r"features made with weights"):
        run_extract(root)


def test_wrong_variant_of_a_checkpoint_is_named(root: Path) -> None:
    tiny_set.write_weights(root / "weights.pth", depth=2)
    for run in (run_extract, run_global):
        with pytest.raises(ValueError, match=r"weights.pth is of another variant: it has 2 blocks"):
            run(root, overwrite=True)


def test_ranking_of_another_variant_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="made from model 'tiny' instead of 'large'"):
        run_rerank(root, model={"name": "large"})


def test_untrained_weights_are_called_that(root: Path) -> None:
    run = evaluate.run(
        config_updates=options(
            root,
            {"weight_path": None, "save_global_rank": str(root / "u/rank.npy"), "num_rerank": 2,
             "descriptor_dir": str(root / "descriptors")},
        )
    )  # fmt: skip
    assert "UNTRAINED" in run.info["rows"][0]["protocol"]


def test_more_images_than_there_are_cannot_be_reranked(root: Path) -> None:
    with pytest.raises(ValueError, match="num_rerank is 7, expected 1 to 6"):
        run_global(root, num_rerank=7)


def test_unreadable_picture_of_the_set_is_named(root: Path) -> None:
    (root / "tiny/jpg/d3.jpg").write_text("<html>")
    with pytest.raises(ValueError, match=r"d3.jpg is not a picture"):
        run_global(root, save_global_rank=str(root / "new/rank.npy"))


def test_strict_without_an_expected_value_proves_nothing(root: Path) -> None:
    with pytest.raises(ValueError, match="no row has an expected value"):
        run_global(root, strict=True)
