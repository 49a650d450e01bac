"""The reference data folders end to end: global ranking, expansion, neighbour table, reranking."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrt_gld.evaluate_revisited import ex as evaluate_revisited
from rrt_gld.tools.prepare_topk_gldv2 import ex as topk_gldv2
from rrt_gld.tools.prepare_topk_revisited import ex as topk_revisited
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_gld.data_folders import write_golden_folder
from tests.rrt_gld.golden_models import golden_matcher
from utils.checkpoints import save_checkpoint
from utils.descriptors import write_global
from utils.knn import load_nn_inds

SYSTEM = "rrt_gld"
FOLDER = ("folder_manifest.json", "folder_outputs.npz")
MANIFEST = load_manifest(SYSTEM, FOLDER[0])["cases"]
OUTPUTS = load_outputs(SYSTEM, FOLDER[1])


def cases(kind: str) -> list[str]:
    return cases_of_kind(SYSTEM, kind, FOLDER[0])


EVALUATIONS = cases("complete evaluation on a miniature data folder (published model size)")
EXPANSIONS = cases("global retrieval from files, with and without query expansion")
TABLES = cases("training neighbour table from files")
FEAT = "feat"


def global_options(folder: Path, **changes: Any) -> dict[str, Any]:
    options = {
        "dataset_name": folder.name,
        "data_dir": str(folder),
        "feature_name": FEAT,
        "gnd_name": "gnd.pkl",
    }
    return {**options, **changes}


@pytest.mark.parametrize("case", EVALUATIONS)
def test_complete_evaluation_equals_reference(case, tmp_path):
    entry = MANIFEST[case]
    write_golden_folder(tmp_path, case, entry)
    run = topk_revisited.run(config_updates=global_options(tmp_path))
    assert run.result == entry["global_result"]
    table = load_nn_inds(tmp_path / f"nn_inds_{FEAT}.pkl")
    np.testing.assert_array_equal(table, OUTPUTS[f"{case}/nn_inds"])
    # without "optim", and with a name that a data-parallel wrapper would give
    save_checkpoint(tmp_path / "weights.pt", state=golden_matcher(entry).state_dict())
    dataset = {
        "name": "set",
        "desc_name": FEAT,
        "test_data_dir": str(tmp_path),
        "test_txt": ["test_query.txt", "test_gallery.txt"],
        "test_gnd_file": "gnd.pkl",
        "max_sequence_len": entry["max_sequence_len"],
    }
    run = evaluate_revisited.run(
        named_configs=["model.RRT"],
        config_updates={
            "dataset": dataset,
            "resume": str(tmp_path / "weights.pt"),
            "cpu": True,
            "temp_dir": str(tmp_path / "out"),
        },
    )
    assert run.result == {**entry["reranked_result"], "top_k": 100}
    with np.load(tmp_path / "out/rrt_set_ranks.npz") as file:
        saved = dict(file)
    reference = OUTPUTS[f"{case}/scores"]
    scored = reference[tuple(saved["pairs"].T)]
    np.testing.assert_allclose(saved["scores"], scored, rtol=0, atol=3e-4)
    rows = np.arange(len(reference))[:, None]
    for name in ("medium", "hard"):
        expected = OUTPUTS[f"{case}/{name}"].astype(np.int64)
        gaps = np.abs(reference[rows, saved[name]] - reference[rows, expected])
        assert (gaps[saved[name] != expected] < 1e-3).all()


@pytest.mark.parametrize("case", EXPANSIONS)
def test_query_expansion_equals_reference(case, tmp_path):
    entry = MANIFEST[case]
    write_golden_folder(tmp_path, case, entry)
    path = tmp_path / f"nn_inds_{FEAT}.pkl"
    run = topk_revisited.run(config_updates=global_options(tmp_path))
    assert run.result == entry["results"]["plain"]
    np.testing.assert_array_equal(load_nn_inds(path), OUTPUTS[f"{case}/nn_inds"])
    expansion = {"use_aqe": True, "aqe_params": entry["aqe_params"]}
    # the table of the plain ranking is not replaced without being asked to
    with pytest.raises(ValueError, match=r"nn_inds_feat\.pkl holds another ranking.*overwrite"):
        topk_revisited.run(config_updates=global_options(tmp_path, **expansion))
    np.testing.assert_array_equal(load_nn_inds(path), OUTPUTS[f"{case}/nn_inds"])
    options = global_options(tmp_path, overwrite=True, **expansion)
    run = topk_revisited.run(config_updates=options)
    assert run.result == entry["results"]["aqe"]
    np.testing.assert_array_equal(load_nn_inds(path), OUTPUTS[f"{case}/nn_inds_aqe"])


def test_ranking_can_be_measured_without_a_table(tmp_path):
    case = EXPANSIONS[0]
    write_golden_folder(tmp_path, case, MANIFEST[case])
    topk_revisited.run(config_updates=global_options(tmp_path, save_nn_inds=False))
    assert not (tmp_path / f"nn_inds_{FEAT}.pkl").exists()
    wrong = global_options(tmp_path, use_aqe=True, aqe_params={"kk": 3})
    with pytest.raises(ValueError, match="aqe_params has keys"):
        topk_revisited.run(config_updates=wrong)


def write_training_folder(folder: Path, case: str, feat: str = FEAT) -> None:
    entry = MANIFEST[case]
    (folder / f"delg_{feat}").mkdir(parents=True)
    stems = [f"t{i:04d}" for i in range(entry["n"])]
    for i, stem in enumerate(stems):
        vector = array(f"{case}/{i}/global", (entry["dim"],))
        write_global(folder / f"delg_{feat}" / f"{stem}.delg_global", vector)
    lines = [f"train/a/b/c/{stem}.jpg,{i % 7},640,480" for i, stem in enumerate(stems)]
    (folder / "train.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("case", TABLES)
def test_training_table_equals_reference(case, tmp_path):
    write_training_folder(tmp_path, case)
    options = {"data_dir": str(tmp_path), "feature_name": FEAT, "block_rows": 60}
    topk_gldv2.run(config_updates=options)
    table = load_nn_inds(tmp_path / f"nn_inds_{FEAT}.pkl")
    np.testing.assert_array_equal(table, OUTPUTS[f"{case}/nn_inds"])
    blocks = sorted(path.name for path in tmp_path.glob(f"{FEAT}_nn_*.pkl"))
    assert blocks == [f"{FEAT}_nn_{start:09d}.pkl" for start in (0, 60, 120)]
    # a second call reads the table; descriptors that changed since are noticed
    topk_gldv2.run(config_updates=options)
    write_global(tmp_path / f"delg_{FEAT}/t0003.delg_global", np.ones(12, dtype=np.float32))
    with pytest.raises(ValueError, match=r"nn_inds_feat\.pkl was made from .*overwrite=True"):
        topk_gldv2.run(config_updates=options)
    topk_gldv2.run(config_updates={**options, "overwrite": True})
    assert (load_nn_inds(tmp_path / f"nn_inds_{FEAT}.pkl") != table).any()


def test_interrupted_table_goes_on_with_the_next_block(tmp_path, monkeypatch):
    case = TABLES[0]
    write_training_folder(tmp_path, case)
    options = {"data_dir": str(tmp_path), "feature_name": FEAT, "block_rows": 60}
    from utils import knn

    save_block = knn.save_block
    saved: list[Path] = []

    def stops_after_two(path, *rest):
        if len(saved) == 2:
            raise KeyboardInterrupt
        save_block(path, *rest)
        saved.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(knn, "save_block", stops_after_two)
        with pytest.raises(KeyboardInterrupt):
            topk_gldv2.run(config_updates=options)
    assert not (tmp_path / f"nn_inds_{FEAT}.pkl").exists()
    before = {path: path.stat().st_mtime_ns for path in saved}
    topk_gldv2.run(config_updates=options)
    assert {path: path.stat().st_mtime_ns for path in saved} == before, "finished work is kept"
    table = load_nn_inds(tmp_path / f"nn_inds_{FEAT}.pkl")
    np.testing.assert_array_equal(table, OUTPUTS[f"{case}/nn_inds"])
    assert not list(tmp_path.glob("*.part*"))
