"""Features and whole evaluations on small drawn sets."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from r2former.datasets.images import load_image
from r2former.datasets.transforms import make_database_transform, make_query_transform
from r2former.evaluation import Settings, evaluate
from r2former.features import Extraction, Loading
from r2former.models.pair_scoring import PairScorer
from tests.r2former.golden_models import small_deit, small_network
from tests.r2former.place_folders import draw_places

SETTINGS = Settings(resize=(32, 48), recall_values=(1, 2, 8), top_k=6)
QUIET = Loading(batch_size=3, progress=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return draw_places(tmp_path_factory.mktemp("drawn"))


def naive_ranking(net, places):
    """Every image on its own, every pair on its own."""
    transform = make_database_transform(SETTINGS.resize)
    with torch.no_grad():
        query, database = (
            [net(transform(load_image(path))[None]) for path in paths]
            for paths in (places.query_paths, places.database_paths)
        )
        tables = []
        for descriptor, local in query:
            near = sorted(
                range(len(database)),
                key=lambda j, d=descriptor: float((d - database[j][0]).square().sum()),
            )
            logits = [net.rerank(local, database[j][1])[0] for j in near[: SETTINGS.top_k]]
            scores = [float(pair[1] - pair[0]) for pair in logits]
            order = np.argsort(-np.array(scores), kind="stable")
            tables.append((near, [near[i] for i in order]))
    return [np.array(part) for part in zip(*tables, strict=True)]


def test_evaluation_is_the_naive_loop(places, tmp_path):
    net = small_network()
    found = evaluate(net, places, SETTINGS, QUIET, folder=tmp_path)
    before, after = naive_ranking(net, places)
    np.testing.assert_array_equal(found.before.nn_inds, before)
    np.testing.assert_array_equal(found.after.nn_inds, after)
    positives = places.positives(25)
    for ranking, table in ((found.before, before), (found.after, after)):
        hit = np.mean([table[q][0] in positives[q] for q in range(len(table))])
        assert ranking.metrics["R@1"] == round(100 * hit, 2)
    assert set(found.metrics) >= {"R@1", "mAP@8", "R@1_global"}
    assert found.recalls_global == {k: v for k, v in found.before.metrics.items() if k[0] == "R"}
    assert not list(tmp_path.iterdir()), "files of a finished evaluation are removed"


def test_protocol_names_counts_radius_and_size(places):
    found = evaluate(small_network(), places, SETTINGS, QUIET)
    assert "5 queries, 8 database images, radius 25 m, 32 x 48" in found.protocol
    assert "first 6 reranked, float32" in found.protocol
    assert set(found.seconds) == {"extraction per image", "search per query", "reranking per query"}


def test_global_model_alone_is_measured_without_reranking(places):
    net = small_deit()
    settings = dataclasses.replace(SETTINGS, rerank=False)
    found = evaluate(net, places, settings, QUIET)
    assert found.after is None
    assert found.recalls_reranked is None
    assert found.before.nn_inds.shape == (5, 8)
    with pytest.raises(ValueError, match="DeiT has no reranker"):
        evaluate(net, places, SETTINGS, QUIET)


def test_evaluation_mode_returns_and_random_stream_stays(places):
    net = small_network().train()
    net.backbone.eval()
    state = torch.get_rng_state()
    evaluate(net, places, SETTINGS, QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not net.backbone.training


@pytest.mark.parametrize("method", ["five_crops", "nearest_crop", "maj_voting"])
def test_crop_methods_rank_globally_and_refuse_to_rerank(places, method):
    settings = dataclasses.replace(SETTINGS, rerank=False, test_method=method)
    found = evaluate(small_network(), places, settings, QUIET)
    assert found.before.nn_inds.shape == (5, 8)
    assert all(len(set(row)) == 8 for row in found.before.nn_inds.tolist())
    with pytest.raises(ValueError, match=f"test_method {method} has no reranking"):
        dataclasses.replace(settings, rerank=True)


@pytest.mark.parametrize("method", ["single_query", "central_crop"])
def test_other_methods_are_reranked(places, method):
    settings = dataclasses.replace(SETTINGS, test_method=method)
    found = evaluate(small_network(), places, settings, QUIET)
    assert found.after.nn_inds.shape == (5, 6)


def test_interrupted_evaluation_goes_on_where_it_stood(places, tmp_path, monkeypatch):
    """The second call scores only what is missing and reads no image again."""
    net = small_network()
    wanted = evaluate(net, places, SETTINGS, QUIET)
    monkeypatch.setattr("r2former.reranking.BLOCK_PAIRS", 12)  # two queries at a time
    scored = []
    score = PairScorer.score

    def interrupted(self, query, database, pairs, limit):
        if len(scored) == limit:
            raise KeyboardInterrupt
        scored.append(len(pairs))
        return score(self, query, database, pairs)

    monkeypatch.setattr(PairScorer, "score", lambda *a: interrupted(*a, limit=2))
    with pytest.raises(KeyboardInterrupt):
        evaluate(net, places, SETTINGS, QUIET, folder=tmp_path)
    monkeypatch.setattr(PairScorer, "score", lambda *a: interrupted(*a, limit=9))
    reads = []
    monkeypatch.setattr(
        Extraction, "_read", lambda self, images, rows: reads.append(len(rows)) or []
    )
    found = evaluate(net, places, SETTINGS, QUIET, folder=tmp_path)
    assert scored == [12, 12, 6]
    assert reads == [0, 0]
    np.testing.assert_array_equal(found.after.nn_inds, wanted.after.nn_inds)


def test_float16_store_ranks_nearly_alike(places):
    net = small_network()
    exact = evaluate(net, places, SETTINGS, QUIET)
    half = evaluate(net, places, dataclasses.replace(SETTINGS, local_dtype="float16"), QUIET)
    np.testing.assert_allclose(half.after.values, exact.after.values, rtol=0, atol=2e-3)


def test_sizes_that_cannot_share_a_batch_and_lost_features_are_refused(tmp_path):
    places = draw_places(tmp_path / "set")
    Image.new("RGB", (200, 40)).save(places.query_paths[1])
    extraction = Extraction(small_network(), QUIET)
    transform = make_query_transform((32, 48), "single_query")
    with pytest.raises(ValueError, match=r"cannot share a batch.*infer_batch_size=1"):
        extraction.extract(places.query_paths, transform, "queries", False)
    broken = small_network()
    broken.local_head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"local features of .*jpg are not finite"):
        Extraction(broken, QUIET).extract(
            places.database_paths, make_database_transform((32, 48)), "database", True
        )


def test_images_with_fewer_local_features_are_refused(tmp_path):
    places = draw_places(tmp_path / "set")
    Image.new("RGB", (16, 120)).save(places.query_paths[1])
    extraction = Extraction(small_network(num_local=200), Loading(1, progress=False))
    with pytest.raises(ValueError, match=r"gives features .*, the first image"):
        extraction.extract(
            places.query_paths, make_query_transform((32, 48), "single_query"), "queries", True
        )


def test_settings_say_whether_they_are_the_published_ones():
    size = (480, 640)
    assert Settings().is_tabled(size)
    assert Settings(recall_values=(1,), rerank=False).is_tabled(size)
    assert Settings(resize=(96, 128)).is_tabled((96, 128))
    assert not Settings(resize=(96, 128)).is_tabled(size)
    assert not Settings(top_k=50).is_tabled(size)
    assert not Settings(precision="bf16").is_tabled(size)
    with pytest.raises(ValueError, match="recall_values"):
        Settings(recall_values=())
    with pytest.raises(ValueError, match="top_k is 0"):
        Settings(top_k=0)
