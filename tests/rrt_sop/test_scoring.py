"""Fast pair scoring equals the plain matcher, whatever the sizes, batches and threads."""

import numpy as np
import pytest
import torch

from rrt_sop.models import packed_encoder, scoring
from rrt_sop.models.matcher import Matcher
from rrt_sop.models.scoring import PairScorer
from tests.golden_recipe import cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import MATCHER, SYSTEM, golden_maps, golden_matcher

CASES = cases_of_kind(SYSTEM, MATCHER)
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)
SMALL = {"d_model": 16, "nhead": 2, "num_encoder_layers": 3, "dim_feedforward": 32}
TOLERANCE = {"rtol": 0, "atol": 1e-4}  # float32 summation order


def sharp_matcher(**change) -> Matcher:
    """Random weights with attention far from flat and logits far apart."""
    torch.manual_seed(0)
    model = Matcher(**{**SMALL, **change}).eval().requires_grad_(False)
    for layer in packed_encoder.layers_of(model.encoder):
        layer.self_attn.in_proj_weight.mul_(3.0)
        layer.self_attn.in_proj_bias.normal_()
    return model


def random_maps(count: int, width: int, height: int, seed: int) -> torch.Tensor:
    shape = (count, SMALL["d_model"], height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_pairs(count: int, queries: int, gallery: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(queries, size=count), rng.integers(gallery, size=count)], axis=1)


def score(scorer: PairScorer, src: torch.Tensor, tgt: torch.Tensor, pairs: np.ndarray):
    return scorer.score_pairs(scorer.encode(src, "query"), scorer.encode(tgt, "gallery"), pairs)


def plain_scores(model: Matcher, src: torch.Tensor, tgt: torch.Tensor, pairs: np.ndarray):
    return model(src[pairs[:, 0]], tgt[pairs[:, 1]]).numpy()


@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case):
    scorer = PairScorer(golden_matcher(MANIFEST[case]))
    src, tgt = golden_maps(case, MANIFEST[case])
    pairs = np.stack([np.arange(len(src))] * 2, axis=1)
    for name, first, second in (
        ("logits", src, tgt), ("logits_swapped", tgt, src), ("logits_self", src, src)
    ):  # fmt: skip
        got = score(scorer, first, second, pairs)
        np.testing.assert_allclose(got, OUTPUTS[f"{case}/{name}"], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_encoder_layers": 1},
        {"num_encoder_layers": 2, "nhead": 4},
        {"activation": "gelu"},
        {"activation": "glu", "normalize_before": True},
        {"num_encoder_layers": 1, "normalize_before": True},
    ],
    ids=str,
)
def test_equals_the_plain_matcher_also_for_maps_of_different_size(change):
    model = sharp_matcher(**change)
    src, tgt = random_maps(5, 3, 2, 1), random_maps(7, 4, 4, 2)
    pairs = random_pairs(60, 5, 7)
    expected = plain_scores(model, src, tgt, pairs)
    assert expected.std() > 0.05  # else the comparison would be easy
    np.testing.assert_allclose(score(PairScorer(model), src, tgt, pairs), expected, **TOLERANCE)


def test_batches_and_threads_do_not_matter(monkeypatch):
    model = sharp_matcher()
    src, tgt = random_maps(5, 3, 3, 1), random_maps(7, 3, 3, 2)
    pairs = random_pairs(50, 5, 7)
    expected = plain_scores(model, src, tgt, pairs)
    monkeypatch.setattr(scoring, "BATCH_HIDDEN", 3 * 20 * 32)  # three pairs a batch
    for threads in (1, 2):
        got = score(PairScorer(model, threads=threads), src, tgt, pairs)
        np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_general_path_equals_the_packed_one(monkeypatch):
    """What a GPU runs, here on the CPU."""
    model = sharp_matcher()
    src, tgt = random_maps(4, 3, 3, 1), random_maps(4, 3, 3, 2)
    pairs = random_pairs(20, 4, 4)
    packed = PairScorer(model)
    monkeypatch.setattr(scoring, "is_supported", lambda *_: False)
    general = PairScorer(model)
    assert packed.packed is not None
    assert general.packed is None
    np.testing.assert_allclose(
        score(general, src, tgt, pairs), score(packed, src, tgt, pairs), **TOLERANCE
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_the_plain_matcher():
    model = sharp_matcher()
    src, tgt = random_maps(4, 3, 3, 1), random_maps(4, 3, 3, 2)
    pairs = random_pairs(20, 4, 4)
    got = score(PairScorer(model, "cuda"), src, tgt, pairs)
    np.testing.assert_allclose(got, plain_scores(model, src, tgt, pairs), rtol=0, atol=1e-3)


def test_scores_beyond_the_exponent_are_finite_and_right():
    """Attention scores far beyond 2^100: the row maximum is taken off."""
    model = sharp_matcher()
    for layer in model.encoder.layers:
        layer.self_attn.in_proj_weight.mul_(6.0)
    src, tgt = random_maps(4, 3, 3, 1) * 20, random_maps(4, 3, 3, 2) * 20
    pairs = random_pairs(20, 4, 4)
    heads = PairScorer(model).encode(src, "query").heads
    norms = heads.norm(dim=-1)
    assert norms[:, :2].max() * norms[:, 2:4].max() > packed_encoder.SAFE_EXPONENT
    got = score(PairScorer(model), src, tgt, pairs)
    np.testing.assert_allclose(got, plain_scores(model, src, tgt, pairs), rtol=0, atol=1e-3)


def test_bf16_moves_scores_a_little():
    model = sharp_matcher()
    src, tgt = random_maps(4, 3, 3, 1), random_maps(4, 3, 3, 2)
    pairs = random_pairs(20, 4, 4)
    got = score(PairScorer(model, precision="bf16"), src, tgt, pairs)
    moved = np.abs(got - plain_scores(model, src, tgt, pairs))
    assert 1e-5 < moved.max() < 0.3


def test_weights_are_copied():
    model = sharp_matcher()
    scorer = PairScorer(model)
    src, pairs = random_maps(2, 3, 3, 1), np.array([[0, 1]])
    before = score(scorer, src, src, pairs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(score(scorer, src, src, pairs), before)


def test_bad_input_is_refused():
    scorer = PairScorer(sharp_matcher())
    maps = random_maps(2, 3, 3, 1)
    queries, gallery = scorer.encode(maps, "query"), scorer.encode(maps, "gallery")
    with pytest.raises(ValueError, match=r"gallery images 0\.\.2, but 2 are given"):
        scorer.score_pairs(queries, gallery, [[0, 0], [1, 2]])
    with pytest.raises(ValueError, match=r"\(3,\), expected \(P, 2\)"):
        scorer.score_pairs(queries, gallery, [0, 1, 1])
    with pytest.raises(ValueError, match="encoded as 'gallery' were given as query"):
        scorer.score_pairs(gallery, queries, [[0, 0]])
    with pytest.raises(ValueError, match="role is 'anchor'"):
        scorer.encode(maps, "anchor")
    with pytest.raises(ValueError, match="expected one of"):
        PairScorer(sharp_matcher(), precision="half")
    with pytest.raises(ValueError, match="threads is 0"):
        PairScorer(sharp_matcher(), threads=0)
    assert scorer.score_pairs(queries, gallery, np.empty((0, 2))).shape == (0,)
