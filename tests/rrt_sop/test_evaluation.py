"""Both evaluations end to end on a few drawn products: numbers, files, resumption, bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrt_sop import eval_global, eval_rerank, evaluation
from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.transforms import make_test_transform
from rrt_sop.evaluation import evaluate_global, evaluate_reranked
from rrt_sop.features import Loading
from rrt_sop.models.network import RerankNet
from rrt_sop.models.scoring import PairScorer
from rrt_sop.product_page import average_precision
from rrt_sop.retrieval import TableFiles
from rrt_sop.rows import hits_at, load_row
from tests.rrt_sop.image_folders import write_products
from tests.run_folder import check_record, observed
from utils.checkpoints import save_checkpoint
from utils.distributed import Ranks
from utils.nn_tables import load_nn_inds
from utils.paths import hash_file
from utils.pickles import load_foreign
from utils.result_files import load_lists, protocol_differences

NET: dict[str, Any] = {
    "arch": "resnet18",
    "num_global_features": 16,
    "num_local_features": 16,
    "normalize": True,
    "ert_nhead": 2,
    "ert_num_encoder_layers": 2,
    "ert_dim_feedforward": 32,
}
QUIET = Loading(batch_size=4, progress=False)
KS = (1, 2, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_products(tmp_path_factory.mktemp("products"), train_classes=4, test_classes=4)


@pytest.fixture(scope="module")
def images(folder) -> ImageList:
    return ImageList(folder, "test.txt", make_test_transform(36, 32))


@pytest.fixture(scope="module")
def net() -> RerankNet:
    torch.manual_seed(0)
    made = RerankNet(**NET, num_classes=4).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("bn2.weight"):
            parameter.fill_(0.5)  # residual branches that do something
    return made


@pytest.fixture(scope="module")
def checkpoint(net, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ckpt") / "net.pt"
    return str(save_checkpoint(path, state=net.state_dict(), optim={}, scheduler={}))


def options(folder: Path, out: Path, checkpoint: str | None, **more) -> dict:
    dataset = {
        "data_path": str(folder), "test_resize": 36, "test_crop": 32, "num_workers": 0,
        "test_batch_size": 4, "recalls": list(KS),
    }  # fmt: skip
    model = {**NET, "pretrained": False}
    root = {"cpu": True, "temp_dir": str(out), "resume": checkpoint}
    return {**root, **more, "dataset": dataset, "model": model}


def test_global_ranking_equals_all_distances_sorted(net, images):
    features = torch.cat([net(images[i][0][None])[1] for i in range(len(images))])
    dists = torch.cdist(features, features).square()
    expected = dists.argsort(dim=1, stable=True)[:, 1:6]
    found = evaluate_global(net, images, None, KS, loading=QUIET)
    np.testing.assert_array_equal(found.nn_inds, expected.numpy())
    np.testing.assert_allclose(found.values, dists.gather(1, expected).numpy(), atol=1e-5)
    hits = images.labels[expected.numpy()] == images.labels[:, None]
    assert found.metrics == {f"R@{k}": round(100 * hits[:, :k].any(1).mean(), 2) for k in KS}


def test_tables_written_while_they_are_found_are_those_in_memory(net, images, tmp_path):
    kept = evaluate_global(net, images, None, KS, loading=QUIET)
    files = TableFiles(tmp_path, {"images": "a"})
    found = evaluate_global(net, images, None, KS, loading=QUIET, files=files)
    assert found.metrics == kept.metrics
    for mapped, expected in zip(found[1:], kept[1:], strict=True):
        np.testing.assert_array_equal(mapped, expected)
    np.testing.assert_array_equal(load_nn_inds(tmp_path / "nn_inds.pkl"), kept.nn_inds)
    np.testing.assert_array_equal(load_foreign(tmp_path / "nn_dists.pkl"), kept.values)


def test_reranking_equals_the_plain_matcher_pair_by_pair(net, images):
    table = evaluate_global(net, images, None, KS, loading=QUIET).nn_inds
    found = evaluate_reranked(net, images, None, table, 4, (1, 2, 100), loading=QUIET)
    maps = [net(images[i][0][None])[2] for i in range(len(images))]
    scores = np.array([[net.matcher(maps[q], maps[j]).item() for j in row[:4]]
                       for q, row in enumerate(table)])  # fmt: skip
    order = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(found.nn_inds, np.take_along_axis(table[:, :4], order, 1))
    np.testing.assert_allclose(found.values, -np.sort(-scores, axis=1), rtol=0, atol=1e-4)
    # 4 columns stand for all that lies beyond
    hits = images.labels[table[:, :4]] == images.labels[:, None]
    assert found.metrics["R@100"] == round(100 * hits.any(axis=1).mean(), 2)


def test_evaluation_leaves_the_mode_of_the_network(net, images):
    training = RerankNet(**NET, num_classes=4).train()
    evaluate_global(training, images, None, (1,), loading=QUIET)
    assert training.training
    assert training.matcher.training
    assert not training.bn1.training


def test_separate_gallery_keeps_the_first_neighbour(net, images):
    found = evaluate_global(net, images, images, (1,), loading=QUIET)
    np.testing.assert_array_equal(found.nn_inds[:, 0], np.arange(len(images)))
    reranked = evaluate_reranked(net, images, images, found.nn_inds, 1, (1,), loading=QUIET)
    assert reranked.metrics == {"R@1": 100.0}


def test_interrupted_evaluations_go_on_where_they_stood(net, images, tmp_path, monkeypatch):
    monkeypatch.setattr("rrt_sop.features.SAVE_EVERY", 4)
    monkeypatch.setattr("rrt_sop.reranking.BLOCK_PAIRS", 12)
    table = evaluate_global(net, images, None, KS, loading=QUIET).nn_inds
    plain = evaluate_reranked(net, images, None, table, 4, KS, loading=QUIET)

    def stop(*_args, **_options):
        raise KeyboardInterrupt

    calls = []
    real_search = evaluation.find_neighbours
    real_block = PairScorer.score_pairs

    def counted(*arguments):
        calls.append(len(arguments[3]))
        if len(calls) == 3:
            stop()
        return real_block(*arguments)

    monkeypatch.setattr(evaluation, "find_neighbours", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_global(net, images, None, KS, loading=QUIET, folder=tmp_path)
    monkeypatch.setattr(evaluation, "find_neighbours", real_search)
    monkeypatch.setattr(RerankNet, "embed_global", stop)  # all features are there
    again = evaluate_global(net, images, None, KS, loading=QUIET, folder=tmp_path)
    np.testing.assert_array_equal(again.nn_inds, table)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(PairScorer, "score_pairs", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_reranked(net, images, None, table, 4, KS, loading=QUIET, folder=tmp_path)
    again = evaluate_reranked(net, images, None, table, 4, KS, loading=QUIET, folder=tmp_path)
    # two blocks of three queries before the interrupt, the other two after it
    assert calls == [12, 12, 12, 12, 12]
    np.testing.assert_array_equal(again.nn_inds, plain.nn_inds)
    assert list(tmp_path.iterdir()) == []


def test_kept_features_of_other_weights_are_not_used(net, images, tmp_path, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    other = RerankNet(**NET, num_classes=4)
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "find_neighbours", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_global(other, images, None, KS, loading=QUIET, folder=tmp_path)
    found = evaluate_global(net, images, None, KS, loading=QUIET, folder=tmp_path)
    expected = evaluate_global(net, images, None, KS, loading=QUIET)
    np.testing.assert_array_equal(found.values, expected.values)


def test_several_ranks_share_images_and_pairs(net, images, monkeypatch):
    """Two ranks played one after the other: each writes its part, the sum is the whole."""
    table = evaluate_global(net, images, None, KS, loading=QUIET).nn_inds
    plain = evaluate_reranked(net, images, None, table, 4, KS, loading=QUIET)
    monkeypatch.setattr("rrt_sop.reranking.BLOCK_PAIRS", 12)
    parts: list[list[torch.Tensor]] = [[], []]
    for rank in (0, 1):
        monkeypatch.setattr(Ranks, "sum_", lambda self, t: parts[self.rank].append(t.clone()) or t)
        evaluation.score_table(
            PairScorer(net.matcher),
            *(evaluation.extract_maps(net, images, "", QUIET, Ranks(), None) for _ in "qg"),
            table[:, :4], Ranks(rank, 2), progress=False,
        )  # fmt: skip
    total = sum(part[0] for part in parts).numpy()
    assert all((part[0] == 0).any() for part in parts)
    np.testing.assert_allclose(-np.sort(-total, axis=1), plain.values, rtol=0, atol=1e-6)


def test_commands_end_to_end(folder, checkpoint, images, tmp_path, capsys):
    copy = tmp_path / "caches" / "table.pkl"
    first = options(folder, tmp_path / "global", checkpoint, nn_inds_copy=str(copy))
    metrics = eval_global.ex.run(config_updates=first).result
    assert set(metrics) == {"R@1", "R@2", "R@5"}
    assert load_foreign(tmp_path / "global" / "nn_dists.pkl").shape == (12, 5)
    second = options(folder, tmp_path / "rerank", checkpoint, cache_nn_inds=str(copy), page=True)
    run = eval_rerank.ex.run(config_updates={**second, "top_k": 4})
    assert json.loads(json.dumps(run.result)) == run.result  # plain floats
    assert set(run.result) == {"R@1", "R@2", "R@5", "top_k"}
    rows = {row["metric"]: row for row in run.info["rows"]}
    assert set(rows) == {"R@1", "R@2", "R@5", "R@1_gain", "R@2_gain"}
    gain = run.result["R@1"] - metrics["R@1"]
    assert rows["R@1_gain"]["measured"] == pytest.approx(gain, abs=0.011)
    low, high = rows["R@1_gain"]["interval"]
    assert low <= gain + 0.01
    assert gain - 0.01 <= high
    assert "first 4 reranked" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "rerank").iterdir()}
    assert written == {"nn_dists.pkl", "nn_inds.pkl", "nn_inds.pkl.json", "page.html"}
    page = (tmp_path / "rerank" / "page.html").read_text()
    assert "Before reranking" in page
    assert "AP of the head" in page


def test_both_commands_leave_a_complete_record(folder, checkpoint, tmp_path):
    copy = tmp_path / "table.pkl"
    first = options(folder, tmp_path / "a", checkpoint, nn_inds_copy=str(copy))
    with observed(eval_global.ex, tmp_path / "runs_a") as run_folder:
        before = check_record(run_folder, eval_global.ex.run(config_updates=first).result)
    second = options(folder, tmp_path / "b", checkpoint, cache_nn_inds=str(copy))
    with observed(eval_rerank.ex, tmp_path / "runs_b") as run_folder:
        run = eval_rerank.ex.run(config_updates={**second, "top_k": 4})
        after = check_record(run_folder, run.result)
    assert protocol_differences(before.protocol, after.protocol) == []
    assert "Resize" in after.protocol["crop"]
    method = after.content["method"]
    assert method["checkpoint_sha256"] == hash_file(checkpoint)
    assert method["neighbour_table_sha256"] == hash_file(copy)
    assert {"AP", "AP_global", "R@1", "R@1_global"} <= set(after.values)
    np.testing.assert_array_equal(after.values["R@1_global"], before.values["R@1"])
    assert len(load_lists(run_folder)[1]) == len(after.names)


def test_training_list_and_fresh_weights(folder, tmp_path):
    update = options(folder, tmp_path, None, untrained=True, query_set="train")
    run = eval_global.ex.run(config_updates=update)
    assert load_nn_inds(tmp_path / "nn_inds.pkl", n_queries=12).shape == (12, 5)
    assert run.info["rows"][0]["protocol"] == "UNTRAINED heads, train list, global features"


def test_table_of_another_split_or_a_reranked_one_is_refused(folder, checkpoint, tmp_path):
    out, train = tmp_path / "out", tmp_path / "train"
    eval_global.ex.run(config_updates=options(folder, train, checkpoint, query_set="train"))
    for name, message in (("train", "made from images"), ("out", "made from ranking = 'reranked")):
        update = options(
            folder, out, checkpoint, cache_nn_inds=str(tmp_path / name / "nn_inds.pkl")
        )
        if name == "out":
            eval_global.ex.run(config_updates=options(folder, out, checkpoint))
            eval_rerank.ex.run(config_updates=update)
        with pytest.raises(ValueError, match=message):
            eval_rerank.ex.run(config_updates=update)


@pytest.mark.parametrize(
    ("command", "change", "error", "message"),
    [
        (eval_global, {"resume": None}, ValueError, "resume is not set"),
        (eval_global, {"query_set": "val"}, ValueError, "expected 'test' or 'train'"),
        (eval_rerank, {"cache_nn_inds": "gone.pkl"}, FileNotFoundError, "run the global row"),
        (eval_global, {"row": "eval_x"}, ValueError, "eval_global_r50"),
    ],
)
def test_bad_option_is_refused(folder, checkpoint, tmp_path, command, change, error, message):
    update = {**options(folder, tmp_path, checkpoint), **change}
    with pytest.raises(error, match=message):
        command.ex.run(config_updates=update)


def test_strict_run_ends_with_exit_code_3(folder, checkpoint, tmp_path):
    update = options(folder, tmp_path, checkpoint, row="eval_global_r50", strict=True)
    with pytest.raises(SystemExit) as ended:
        eval_global.ex.run(config_updates=update)
    assert ended.value.code == 3


def test_published_options_of_the_commands():
    defaults = {
        eval_global: {"query_set": "test", "seed": 0, "cudnn_flag": "benchmark",
                      "temp_dir": "outputs/temp", "cpu": False, "resume": None},
        eval_rerank: {"cache_nn_inds": "caches/sop/nn_inds_test.pkl", "seed": 0,
                      "temp_dir": "logs/temp", "resume": None, "top_k": 100},
    }  # fmt: skip
    for command, expected in defaults.items():
        config = command.ex.run("print_config").config
        assert {key: config[key] for key in expected} == expected


def test_average_precision_by_hand():
    """Right at ranks 1 and 3 of 4: (1/1 + 2/3) / 2; at rank 2 alone: 1/2; none: not defined."""
    hits = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(average_precision(hits), [5 / 6, 1 / 2, np.nan])


def test_hits_average_to_recall():
    first = np.array([0, 3, 1, 7])
    assert hits_at(first, 1).mean() == 25.0
    assert hits_at(first, 4).mean() == 75.0
    assert load_row("eval_rerank_finetune_r50")["R@1"].value == 84.5
