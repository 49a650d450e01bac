"""Evaluation end to end on bad input and with each option; the geometric yardstick beside it."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrt_gld import rows
from rrt_gld.evaluate_geometric import ex as evaluate_geometric
from rrt_gld.evaluate_revisited import ex as evaluate_revisited
from rrt_gld.models.matcher import Matcher
from rrt_gld.tools.prepare_topk_revisited import ex as topk_revisited
from tests.rrt_gld.data_folders import write_random_test_folder
from tests.run_folder import check_record, observed
from utils.checkpoints import save_checkpoint
from utils.knn import load_nn_inds, save_nn_inds
from utils.paths import hash_file
from utils.result_files import load_lists, protocol_differences

FEAT = "feat"
TABLE = f"nn_inds_{FEAT}.pkl"
SIZES: dict[str, Any] = {"nhead": 2, "num_encoder_layers": 2, "dim_feedforward": 32}
MODEL = {"name": "tiny", "num_global_features": 24, "num_local_features": 16, **SIZES}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_random_test_folder(folder)
    options = {"dataset_name": "set", "feature_name": FEAT, "gnd_name": "gnd.pkl"}
    topk_revisited.run(config_updates={**options, "data_dir": str(folder)})
    torch.manual_seed(0)
    model = Matcher(d_global=24, d_model=16, **SIZES)
    save_checkpoint(folder / "weights.pt", state=model.state_dict())
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "set"))


def dataset(folder: Path) -> dict[str, Any]:
    return {
        "name": "set",
        "desc_name": FEAT,
        "test_data_dir": str(folder),
        "test_txt": ["test_query.txt", "test_gallery.txt"],
        "test_gnd_file": "gnd.pkl",
        "max_sequence_len": 9,
    }


def evaluate(folder: Path, **changes: Any) -> Any:
    options = {
        "dataset": {**dataset(folder), **changes.pop("dataset", {})},
        "model": MODEL,
        "resume": str(folder / "weights.pt"),
        "cpu": True,
        "temp_dir": str(folder / "out"),
    }
    return evaluate_revisited.run(config_updates={**options, **changes})


def measure_geometric(folder: Path, **changes: Any) -> Any:
    options = {"dataset": dataset(folder), "local_dim": 16, "temp_dir": str(folder / "out")}
    return evaluate_geometric.run(config_updates={**options, **changes})


def test_top_k_is_recorded_and_bounds_the_head(original, folder):
    full, short = evaluate(folder).result, evaluate(folder, top_k=3).result
    assert (full["top_k"], short["top_k"]) == (100, 3)
    with np.load(folder / "out/tiny_set_ranks.npz") as file:
        medium, pairs, top_k = file["medium"], file["pairs"], file["top_k"]
    assert top_k == 3
    table = load_nn_inds(original / TABLE)
    assert len(pairs) <= 2 * 3 * len(table)
    # behind the head the junk-free order of the global ranking is kept
    assert set(medium[0]) == set(table[0])


def test_visdom_options_are_accepted(folder):
    run = evaluate(folder, visdom_port=8097, visdom_freq=5, cudnn_flag="deterministic")
    assert run.result == evaluate(folder).result


def test_bf16_is_offered_and_close(folder):
    exact, reduced = evaluate(folder).result, evaluate(folder, precision="bf16").result
    assert abs(exact["M_map"] - reduced["M_map"]) < 20  # 96 pairs of an untrained matcher
    with pytest.raises(ValueError, match="precision is 'half'"):
        evaluate(folder, precision="half")


def test_rows_show_protocol_and_interval(folder, capsys):
    run = evaluate(folder)
    medium = run.info["rows"][0]
    assert medium["metric"] == "M_map"
    assert medium["measured"] == run.result["M_map"]
    assert medium["interval"][0] <= medium["measured"] <= medium["interval"][1]
    assert "top 100 reranked" in medium["protocol"]
    evaluate(folder, resume=None)
    assert "UNTRAINED" in capsys.readouterr().out


def test_every_row_leaves_a_complete_record(folder, tmp_path):
    """Global, reranked and geometric: one protocol, the same queries, hashes of what was read."""
    options = {"dataset_name": "set", "feature_name": FEAT, "gnd_name": "gnd.pkl"}
    with observed(topk_revisited, tmp_path / "global") as run_folder:
        run = topk_revisited.run(config_updates={**options, "data_dir": str(folder)})
        results = [check_record(run_folder, run.result)]
    for experiment, command in (
        (evaluate_revisited, evaluate),
        (evaluate_geometric, measure_geometric),
    ):
        with observed(experiment, tmp_path / experiment.path) as run_folder:
            results.append(check_record(run_folder, command(folder).result))
    assert {result.protocol["query_names"] for result in results} == {
        results[0].protocol["query_names"]
    }
    assert all(not protocol_differences(r.protocol, results[0].protocol) for r in results)
    methods = [result.content["method"] for result in results]
    assert methods[1]["checkpoint_sha256"] == hash_file(folder / "weights.pt")
    assert methods[1]["descriptor_files"] == methods[2]["descriptor_files"]
    for result in results[1:]:
        name, lists = load_lists(result.folder)
        assert name == "AP (Medium)"
        assert len(lists) == len(result.names)
        np.testing.assert_array_equal(result.values["M_map_global"], results[0].values["M_map"])


def expect(monkeypatch, folder: Path, value: float) -> None:
    line = f"eval_feat_set_rerank,M_map,{value},0.1,own"
    (folder / "expected.csv").write_text(f"script,metric,value,tolerance,source\n{line}\n")
    monkeypatch.setattr(rows, "EXPECTED", folder / "expected.csv")


def test_strict_run_ends_with_3_outside_the_tolerance(folder, monkeypatch):
    measured = evaluate(folder).result["M_map"]
    expect(monkeypatch, folder, measured)
    evaluate(folder, strict=True)
    expect(monkeypatch, folder, measured + 1)
    with pytest.raises(SystemExit) as stopped:
        evaluate(folder, strict=True)
    assert stopped.value.code == 3
    # another head is another protocol: nothing is expected of it
    with pytest.raises(ValueError, match="no row has an expected value"):
        evaluate(folder, strict=True, top_k=50)


@pytest.mark.parametrize(
    ("kind", "name", "desc", "script"),
    [
        ("global", "oxford5k", "r50_gldv1", "eval_r50_gldv1_roxf_global"),
        ("rerank", "rparis_r101_gldv2", "r101_gldv2", "eval_r101_gldv2_rpar_rerank"),
        ("train", "gldv2_roxford_r50_gldv2", "r50_gldv2", "train_r50_gldv2"),
        ("rerank", "mini_landmarks", "sift", "eval_mini_rerank"),
        ("global", "mini_landmarks", "sift", "eval_mini_global"),
        ("geometric", "mini_landmarks", "sift", "eval_mini_geometric"),
        ("global", "mini_landmarks", "mini", "eval_mini_delg_global"),
        ("geometric", "mini_landmarks", "mini", "eval_mini_delg_geometric"),
        ("train", "gldv2_mini_sift", "sift", "train_mini"),
    ],
)
def test_results_are_held_against_their_script(kind, name, desc, script):
    assert rows.script_name(kind, name, desc) == script
    assert (rows.EXPECTED.parent / "rrt_scripts" / f"{script}.sh").is_file()


# ------------------------------------------------------------------ bad input


def test_missing_descriptors_are_all_counted(folder):
    for j in range(12):
        (folder / f"delg_{FEAT}/g{j:03d}.delg_local").unlink()
    with pytest.raises(FileNotFoundError, match="12 of the 48 descriptor files") as error:
        evaluate(folder)
    assert sum(f"g{j:03d}.delg_local" in str(error.value) for j in range(24)) == 10


def test_table_of_another_set_is_refused(folder):
    table = load_nn_inds(folder / TABLE)
    save_nn_inds(folder / TABLE, table, {"descriptors": "r50_gldv1"})
    with pytest.raises(ValueError, match=rf"{TABLE} was made from descriptors = 'r50_gldv1'"):
        evaluate(folder)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (np.zeros((3, 24), np.int64), "3 rows, expected 4 queries"),
        (np.full((4, 24), 24, np.int64), "indices from 24 to 24"),
        (np.zeros((4, 0), np.int64), "0 columns"),
        (np.zeros((4, 24)), "float64"),
    ],
)
def test_table_of_another_size_is_refused(folder, table, complaint):
    (folder / f"{TABLE}.json").unlink()
    (folder / TABLE).write_bytes(pickle.dumps(table))
    with pytest.raises(ValueError, match=rf"{TABLE}.*{complaint}"):
        evaluate(folder)


def test_missing_table_names_the_script(folder):
    (folder / TABLE).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{TABLE} does not exist; .*_global\.sh"):
        evaluate(folder)


def test_changed_table_is_noticed(folder):
    table = load_nn_inds(folder / TABLE)
    (folder / TABLE).write_bytes(pickle.dumps(table[:, ::-1].copy()))
    with pytest.raises(ValueError, match=rf"{TABLE}.*stale or damaged"):
        evaluate(folder)


def test_checkpoint_of_another_model_shows_the_difference(folder):
    other = Matcher(d_global=24, d_model=16, nhead=2, num_encoder_layers=3, dim_feedforward=32)
    save_checkpoint(folder / "weights.pt", state=other.state_dict())
    with pytest.raises(ValueError, match=r"(?s)weights\.pt does not fit.*encoder\.layers\.2"):
        evaluate(folder)


def test_damaged_checkpoint_is_named(folder):
    path = folder / "weights.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"weights\.pt"):
        evaluate(folder)


def test_ground_truth_beyond_the_gallery_is_refused(folder):
    gnd = pickle.loads((folder / "gnd.pkl").read_bytes())
    gnd["gnd"][1]["hard"].append(24)
    (folder / "gnd.pkl").write_bytes(pickle.dumps(gnd))
    with pytest.raises(ValueError, match=r"gnd\.pkl .*24"):
        evaluate(folder)


def test_ground_truth_of_other_images_is_refused(folder):
    gnd = pickle.loads((folder / "gnd.pkl").read_bytes())
    gnd["imlist"].reverse()
    (folder / "gnd.pkl").write_bytes(pickle.dumps(gnd))
    with pytest.raises(ValueError, match=r"test_gallery\.txt .*gnd\.pkl.*prepare_data"):
        evaluate(folder)


def test_nan_descriptor_is_named(folder):
    path = folder / f"delg_{FEAT}/g003.delg_global"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"g003\.delg_global .*NaN"):
        evaluate(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_output_folder_is_named(folder):
    (folder / "out").mkdir(mode=0o500)
    with pytest.raises(OSError, match=r"out.*cannot be written"):
        evaluate(folder)


def test_output_folder_that_is_a_file_is_named(folder):
    (folder / "out").write_text("in the way")
    with pytest.raises(OSError, match=r"out.*cannot be written.*another output folder"):
        evaluate(folder)


def test_unset_data_set_names_a_configuration(folder):
    with pytest.raises(ValueError, match=r"dataset\.test_data_dir is not set; .*roxford"):
        evaluate(folder, dataset={"test_data_dir": None})


# ------------------------------------------------------------------ geometric verification


def test_geometric_row_records_its_estimator(folder):
    run = measure_geometric(folder)
    assert run.result["estimator"] == "pydegensac homography, 4 px"
    assert "pydegensac homography" in run.info["rows"][0]["protocol"]
    run = measure_geometric(folder, estimator="magsac", geometry="fundamental", threshold=2)
    assert run.result["estimator"] == "magsac fundamental, 2 px"
    # random positions: nothing agrees, and the stable sort leaves the global ranking as it is
    table = load_nn_inds(folder / TABLE)
    with np.load(folder / "out/geometric_set_ranks.npz") as file:
        np.testing.assert_array_equal(file["scores"], 0)
        for q in range(len(table)):
            kept = [j for j in table[q] if j in file["medium"][q]]
            assert kept == table[q].tolist()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"estimator": "ransac"}, "estimator is 'ransac', expected one of .*pydegensac.*magsac"),
        ({"geometry": "affine"}, "geometry is 'affine'"),
        ({"threshold": 0}, "threshold is 0"),
    ],
)
def test_unknown_estimator_is_refused(folder, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        measure_geometric(folder, **changes)
