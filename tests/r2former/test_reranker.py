"""The reranker against the reference answers, against its plain form, and as the batch scorer."""

import numpy as np
import pytest
import torch

from r2former.models.correlation import select_partners, top_entries
from r2former.models.pair_scoring import PairScorer
from r2former.models.reranker import Reranker
from tests.golden_recipe import load_outputs
from tests.r2former.golden_models import (
    PAIR_CASES,
    SYSTEM,
    golden_network,
    golden_pairs,
    small_network,
)
from tests.r2former.plain_reranker import plain_logits, plain_tokens, plain_vectors

TOLERANCE = 2e-4  # of the manifest, logits and tokens
SELECT_TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def store():
    """Local features of 3 queries and 7 database images of `small_network`."""
    generator = torch.Generator().manual_seed(5)
    local = torch.randn(10, 20, 11, generator=generator)
    local[..., :3] = local[..., :3].abs() * 0.4
    return local[:3], local[3:]


@pytest.mark.parametrize("name", PAIR_CASES)
@torch.no_grad()
def test_logits_are_the_published_ones_both_ways(name):
    q, p, gq, gp = golden_pairs(name, *PAIR_CASES[name])
    net, wanted = golden_network("deit"), load_outputs(SYSTEM, f"{name}.npz")
    for suffix, local, descriptors in (("", (q, p), (gq, gp)), ("_swapped", (p, q), (gp, gq))):
        logits = net.rerank(*local)
        np.testing.assert_allclose(
            logits.numpy(), wanted[f"logits{suffix}"], rtol=0, atol=TOLERANCE
        )
        final = net.Reranker.mixed_score(*descriptors, logits)
        np.testing.assert_allclose(final.numpy(), wanted[f"final{suffix}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PAIR_CASES)
@torch.no_grad()
def test_chosen_pairs_and_their_tokens_are_the_published_ones(name):
    """Rows of the reference direction keep (query, reference): the swapped copy is never used."""
    q, p, _, _ = golden_pairs(name, *PAIR_CASES[name])
    net, wanted = golden_network("deit").Reranker, load_outputs(SYSTEM, f"{name}.npz")
    query, reference = net.encode(q[:1], "query"), net.encode(p[:1], "reference")
    chosen = select_partners(query.features @ reference.features.transpose(1, 2), net.num_corr)
    vectors = torch.cat(
        [
            query.places[0][chosen.query[0]],
            reference.places[0][chosen.reference[0]],
            chosen.similarity[0, ..., None],
        ],
        dim=-1,
    )
    np.testing.assert_allclose(
        vectors.numpy(), wanted["select_pair0"], rtol=0, atol=SELECT_TOLERANCE
    )
    tokens = net.make_pair_tokens(query, reference, chosen)[0].numpy()
    np.testing.assert_allclose(tokens, wanted["tokens_pair0"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_plain_form_is_published_and_so_are_its_shortcuts():
    """The form that the benchmark runs against is itself right."""
    q, p, _, _ = golden_pairs("rr64x40", *PAIR_CASES["rr64x40"])
    net = golden_network("deit").Reranker
    wanted = load_outputs(SYSTEM, "rr64x40.npz")
    np.testing.assert_allclose(
        plain_logits(net, q, p).numpy(), wanted["logits"], rtol=0, atol=TOLERANCE
    )
    vectors = plain_vectors(q[0], p[0], 5)
    tokens = plain_tokens(net, vectors[None])[0].numpy()
    np.testing.assert_allclose(tokens, wanted["tokens_pair0"], rtol=0, atol=TOLERANCE)


def test_gradients_are_those_of_the_plain_form(store):
    """In float64, for every parameter and for the local features."""
    net = small_network().Reranker.double()
    found = []
    for function in (net, lambda q, p: plain_logits(net, q, p)):
        net.zero_grad()
        local = [part[:3].double().requires_grad_() for part in store]
        logits = function(*local)
        logits.mul(torch.tensor([1.0, -2.0])).sum().backward()
        grads = {name: p.grad for name, p in net.named_parameters()}
        found.append((logits, grads, [part.grad[..., 3:] for part in local]))
    torch.testing.assert_close(*(logits for logits, _, _ in found), rtol=1e-6, atol=1e-6)
    unused = [name for name, gradient in found[0][1].items() if gradient is None]
    assert unused == ["decoder_pos_embed", "ratio"]
    for name, gradient in found[0][1].items():
        if gradient is not None:
            torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6)
    for own, plain in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-6)


def test_two_step_selection_finds_what_a_sort_finds():
    table = torch.randn(2, 30, 400, generator=torch.Generator().manual_seed(1))
    wanted = table.sort(dim=2, descending=True).indices[..., :5]
    assert torch.equal(top_entries(table, 5), wanted)
    across = table.transpose(1, 2).contiguous()
    wanted = across.sort(dim=1, descending=True).indices[:, :5].transpose(1, 2)
    assert torch.equal(top_entries(across.transpose(1, 2), 5), wanted)


@torch.no_grad()
def test_order_of_local_features_does_not_count(store):
    net = small_network()
    q, p = store[0], store[1][:3]
    shuffled = p[:, torch.randperm(20, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(net.rerank(q, p), net.rerank(q, shuffled), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["tensor", "float32 map", "float16 map"])
@torch.no_grad()
def test_scorer_gives_the_difference_of_the_logits(store, kind, tmp_path):
    net, (q, p) = small_network(), store
    pairs = np.array([[2, 0], [0, 6], [0, 1], [1, 6], [2, 5], [0, 0], [2, 0]])
    locals_ = [q, p]
    if kind != "tensor":
        dtype = np.dtype(kind.split()[0])
        locals_ = []
        for name, part in (("q", q), ("p", p)):
            np.save(tmp_path / f"{name}.npy", part.numpy().astype(dtype))
            locals_.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
        q, p = (torch.from_numpy(part.astype(np.float32)) for part in locals_)
    logits = net.rerank(q[pairs[:, 0]], p[pairs[:, 1]])
    found = PairScorer(net).score(*locals_, pairs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (logits[:, 1] - logits[:, 0]).numpy(), rtol=0, atol=2e-5)


def test_scores_do_not_depend_on_the_batch_or_on_blocks(store, monkeypatch):
    net, (q, p) = small_network(), store
    pairs = np.stack(np.meshgrid(np.arange(3), np.arange(7)), axis=-1).reshape(-1, 2)
    scorer = PairScorer(net)
    together = scorer.score(q, p, pairs)
    alone = np.concatenate([scorer.score(q, p, pair[None]) for pair in pairs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    monkeypatch.setattr("r2former.models.pair_scoring.GROUP", {"cpu": 1})  # one pair at a time
    np.testing.assert_allclose(scorer.score(q, p, pairs), together, rtol=0, atol=1e-5)
    monkeypatch.setattr("r2former.models.pair_scoring.BLOCK_BYTES", 1)  # one image at a time
    np.testing.assert_allclose(scorer.score(q, p, pairs), together, rtol=0, atol=1e-5)


def test_bf16_stays_near_float32(store):
    pairs = np.array([[0, 0], [1, 3], [2, 5]])
    net = small_network()
    exact = PairScorer(net).score(*store, pairs)
    found = PairScorer(net, precision="bf16").score(*store, pairs)
    assert 0 < np.abs(found - exact).max() < 0.1


def test_bad_input_is_refused(store):
    net = small_network()
    scorer = PairScorer(net)
    with pytest.raises(ValueError, match=r"pairs is float64 \(1, 2\), expected integers"):
        scorer.score(*store, np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"database images 0\.\.7, but there are 7"):
        scorer.score(*store, np.array([[0, 0], [0, 7]]))
    with pytest.raises(ValueError, match="precision is 'half'"):
        PairScorer(net, precision="half")
    broken = store[1].clone()
    broken[4, 3, 5] = float("nan")
    with pytest.raises(ValueError, match="local features of reference image 4 are not finite"):
        scorer.score(store[0], broken, np.array([[0, 2], [0, 4]]))
    with pytest.raises(ValueError, match="images have 4 local features, reranking needs 5"):
        net.rerank(store[0][:, :4], store[0])
    with pytest.raises(ValueError, match="width 20 must be a multiple of 8"):
        Reranker(dim=20)
