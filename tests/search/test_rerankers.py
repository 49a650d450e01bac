"""Every reranker on a store scores as its system does pair by pair; what does not fit is named."""

import numpy as np
import pytest
import torch

import hubconf
from rrt_gld.geometric import make_estimator, verify
from rrt_gld.models.ingredient import RRT_MINI_SIZES
from rrt_gld.sift import load_codebook
from search.describers import CODEBOOK, make_describer
from search.photographs import load_revisited_set
from search.rerankers import LOWEST, MatcherReranker, PlaceReranker, make_reranker
from search.store import Store
from tests.search.conftest import make_place_network
from tests.search.made_up import describe, make_photos
from utils.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def sift_store(mini, tmp_path_factory):
    places = load_revisited_set(mini)
    describer = make_describer("sift", None, 80, None, 1)
    store = Store(tmp_path_factory.mktemp("sift"), describer.made_from)
    store.extend([*places.queries, *places.gallery], describer, progress=False)
    return store


@pytest.fixture(scope="module")
def made_up_store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("made"), {"descriptor": "vitgal"})
    store.extend(make_photos(14), describe, progress=False)
    return store


ALL_PAIRS = np.array([(q, g) for g in range(2, 10) for q in range(2)])


def test_rrt_on_sift_is_the_matcher_on_centred_descriptors(sift_store):
    reranker = make_reranker("rrt", "sift")
    assert reranker is not None
    found = reranker.score(sift_store, ALL_PAIRS, progress=False)
    model = hubconf.rrt_gld_matcher(
        CODEBOOK.with_name("mini_sift.pt"), **RRT_MINI_SIZES
    )  # the committed weights
    mean = load_codebook(CODEBOOK).mean

    def arguments(row):
        features = sift_store.load_local(row, 64)
        local = torch.nn.functional.normalize(torch.from_numpy(features.descriptors - mean), dim=1)
        scales = np.searchsorted([0.5, 0.70710677, 1.0, 1.41421354, 2.0, 2.82842708, 4.0],
                                 features.scales.astype(np.float64), side="right") - 1  # fmt: skip
        global_ = torch.from_numpy(sift_store.global_descriptors(np.array([row])))
        no_padding = torch.zeros(1, len(local), dtype=torch.bool)
        return global_, local[None], no_padding, torch.from_numpy(scales.clip(0))[None], None

    with torch.inference_mode():
        wanted = [model(*arguments(q), *arguments(g)).item() for q, g in ALL_PAIRS]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_rrt_fits_any_store_of_its_widths(made_up_store):
    torch.manual_seed(0)
    model = hubconf.rrt_gld_matcher(d_global=16, d_model=8, nhead=2, num_encoder_layers=1)
    found = MatcherReranker(model, 5, "own.pt").score(made_up_store, ALL_PAIRS, progress=False)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) == len(found)


def test_rrt_names_the_stores_that_fit(made_up_store, tmp_path):
    published = save_checkpoint(
        tmp_path / "r50_gldv1.pt", state=hubconf.rrt_gld_matcher().state_dict()
    )
    reranker = make_reranker("rrt", "vitgal", published)
    assert reranker is not None
    complaint = (
        r"r50_gldv1\.pt compares global descriptors of 2048 numbers and local ones of 128, this "
        r"store of vitgal has 16 and 8; stores that fit: sift, delg-files"
    )
    with pytest.raises(ValueError, match=complaint):
        reranker.score(made_up_store, ALL_PAIRS)


def test_geometric_counts_the_inliers_of_each_pair(sift_store):
    reranker = make_reranker("geometric", "sift")
    assert reranker is not None
    found = reranker.score(sift_store, ALL_PAIRS, progress=False)
    estimator = make_estimator("pydegensac", "homography", 4.0)
    wanted = [
        len(verify(sift_store.load_local(int(q)), sift_store.load_local(int(g)), estimator))
        for q, g in ALL_PAIRS
    ]
    np.testing.assert_array_equal(found, wanted)
    assert found.max() > 10, "some pairs show the same landmark"


def place_input(store, row, count):
    features = store.load_local(row, count)
    places = features.locations[:, ::-1] / 80  # of frames of 60 x 80
    rows = np.concatenate([places, features.attention[:, None], features.descriptors], axis=1)
    return torch.from_numpy(rows.astype(np.float32))[None]


@pytest.mark.parametrize("group_bytes", [1 << 28, 3000])
def test_r2former_reads_stores_of_any_width_and_number_of_locals(
    made_up_store, group_bytes, monkeypatch
):
    """Images of the store have 0 to 16 features; the reranker compares at least five."""
    monkeypatch.setattr("search.rerankers.GROUP_BYTES", group_bytes)
    net = make_place_network()
    pairs = np.array([(q, g) for q in range(14) for g in range(14)])
    found = PlaceReranker(net, 12, "own.pth").score(made_up_store, pairs, progress=False)
    counts = np.minimum(made_up_store.count_local(np.arange(14)), 12)
    too_few = (counts[pairs] < 5).any(axis=1)
    assert too_few.any()
    assert (found[too_few] == LOWEST).all()
    with torch.inference_mode():
        for score, (q, g) in zip(found[~too_few], pairs[~too_few], strict=True):
            inputs = (place_input(made_up_store, int(row), 12) for row in (q, g))
            logits = net.rerank(*inputs)[0]
            assert abs(float(logits[1] - logits[0]) - score) < 1e-4


def test_rerankers_ask_for_local_features(tmp_path, place_weights):
    store = Store(tmp_path, {"descriptor": "r2former"})
    for name in ("geometric", "r2former"):
        reranker = make_reranker(name, "r2former", place_weights)
        assert reranker is not None
        with pytest.raises(ValueError, match=f"{name} compares local features.*stores with them"):
            reranker.require(store)


def test_what_a_reranker_lacks_is_named(tmp_path):
    assert make_reranker("none", "sift") is None
    with pytest.raises(ValueError, match="rerank is 'x', expected one of none, rrt"):
        make_reranker("x", "sift")
    for name, store in (("rrt", "vitgal"), ("r2former", "sift")):
        with pytest.raises(ValueError, match=f"{name} on a store of {store} needs trained weights"):
            make_reranker(name, store)
    net = make_place_network()
    weights = save_checkpoint(tmp_path / "g.pth", model_state_dict=net.backbone.state_dict())
    with pytest.raises(ValueError, match=r"g\.pth holds a global model only"):
        make_reranker("r2former", "sift", weights)
