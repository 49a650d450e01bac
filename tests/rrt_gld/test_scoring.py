"""PairScorer: the plain module's logits, whatever the pair is scored with."""

import numpy as np
import pytest
import torch

from rrt_gld.models import packed_encoder, scoring
from rrt_gld.models.matcher import Matcher
from rrt_gld.models.scoring import PairScorer, split_by_tokens

SMALL = {"d_global": 24, "d_model": 32, "nhead": 4, "num_encoder_layers": 3, "dim_feedforward": 64}
LENGTHS = (40, 7, 1, 0)  # local features of four images
NUM_SCALES = 7
ALL_PAIRS = np.stack(np.divmod(np.arange(len(LENGTHS) ** 2), len(LENGTHS)), axis=1)


def make_matcher(spread: float = 0.3, **changes) -> Matcher:
    """Weights far enough from the start for attention not to be flat."""
    torch.manual_seed(0)
    model = Matcher(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model


def make_images(lengths=LENGTHS, d_global=24, d_model=32) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.standard_normal(d_global, dtype=np.float32),
            rng.standard_normal((n, d_model), dtype=np.float32),
            rng.integers(NUM_SCALES, size=n),
        )
        for n in lengths
    ]


@torch.no_grad()
def plain_logits(model: Matcher, images, pairs) -> np.ndarray:
    """One padded batch through the module itself."""
    longest = max(len(scales) for _, _, scales in images)

    def batch(rows):
        sides = []
        for global_, local, scales in (images[i] for i in rows):
            pad = longest - len(scales)
            mask = torch.arange(longest) >= len(scales)
            sides.append(
                (
                    torch.from_numpy(global_),
                    torch.from_numpy(np.pad(local, ((0, pad), (0, 0)))),
                    mask,
                    torch.from_numpy(np.pad(scales, (0, pad))),
                    torch.zeros(longest, 2),
                )
            )
        return [torch.stack(part) for part in zip(*sides, strict=True)]

    return model(*batch(pairs[:, 0]), *batch(pairs[:, 1])).numpy()


def score(model: Matcher, images, pairs, **options) -> np.ndarray:
    scorer = PairScorer(model, **options)
    blocks = [scorer.encode(*image) for image in images]
    return scorer.score_pairs(blocks, blocks, pairs)


def test_fast_path_is_taken_here():
    if torch.backends.mkldnn.is_available():
        assert PairScorer(make_matcher()).packed is not None


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_equal_plain_module(layers):
    model, images = make_matcher(num_encoder_layers=layers), make_images()
    expected = plain_logits(model, images, ALL_PAIRS)
    np.testing.assert_allclose(score(model, images, ALL_PAIRS), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1  # else any answer would do


def test_published_size_equals_plain_module():
    torch.manual_seed(0)
    model = Matcher().eval()
    images = make_images((500, 317, 33), d_global=2048, d_model=128)
    pairs = np.array([[0, 0], [0, 1], [2, 0], [1, 2]])
    expected = plain_logits(model, images, pairs)
    got = score(model, images, pairs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)  # the goal of the issue
    assert (np.argsort(got) == np.argsort(expected)).all()


def test_large_attention_scores_do_not_overflow():
    """Scores beyond exp2's range take the branch that subtracts the row's maximum."""
    model, images = make_matcher(), make_images()
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.in_proj_weight.mul_(12)
    expected = plain_logits(model, images, ALL_PAIRS)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(score(model, images, ALL_PAIRS), expected, rtol=1e-3, atol=1e-3)


def test_both_branches_of_attention_agree(monkeypatch):
    model, images = make_matcher(), make_images()
    monkeypatch.setattr(packed_encoder, "SAFE_EXPONENT", 1e9)
    plain = score(model, images, ALL_PAIRS)
    monkeypatch.setattr(packed_encoder, "SAFE_EXPONENT", 0.0)
    np.testing.assert_allclose(score(model, images, ALL_PAIRS), plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_every_variant_equals_plain_module(activation, normalize_before):
    model = make_matcher(activation=activation, normalize_before=normalize_before)
    images = make_images()
    expected = plain_logits(model, images, ALL_PAIRS)
    got = score(model, images, ALL_PAIRS)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=5e-5)


def test_general_path_equals_fast_path(monkeypatch):
    model, images = make_matcher(), make_images()
    fast = score(model, images, ALL_PAIRS)
    monkeypatch.setattr(scoring, "is_supported", lambda *_: False)
    assert PairScorer(model).packed is None
    np.testing.assert_allclose(score(model, images, ALL_PAIRS), fast, rtol=0, atol=2e-5)


def test_score_is_the_pairs_alone_to_the_last_bit():
    model, images = make_matcher(), make_images()
    together = score(model, images, ALL_PAIRS, threads=2)
    order = np.random.default_rng(1).permutation(len(ALL_PAIRS))
    shuffled = score(model, images, ALL_PAIRS[order], threads=3)
    np.testing.assert_array_equal(shuffled, together[order])
    alone = [score(model, images, ALL_PAIRS[i : i + 1], threads=1)[0] for i in order]
    np.testing.assert_array_equal(alone, together[order])


def test_batches_of_the_gpu_path_equal_plain_module(monkeypatch):
    """The method for CUDA, on the CPU: sorted, padded, masked, cut into several batches."""
    model, images = make_matcher(), make_images()
    scorer = PairScorer(model)
    blocks = [scorer.encode(*image) for image in images]
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 150)
    got = scorer._score_in_batches(blocks, blocks, ALL_PAIRS)
    np.testing.assert_allclose(got, plain_logits(model, images, ALL_PAIRS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("general", [False, True])
def test_bf16_stays_near_float32(general, monkeypatch):
    model, images = make_matcher(spread=0.1), make_images()
    exact = score(model, images, ALL_PAIRS)
    if general:
        monkeypatch.setattr(scoring, "is_supported", lambda *_: False)
    rounded = score(model, images, ALL_PAIRS, precision="bf16")
    assert 0 < np.abs(rounded - exact).max() < 0.05
    assert np.corrcoef(rounded, exact)[0, 1] > 0.99


def test_weights_and_mode_are_those_at_construction():
    model, images = make_matcher(dropout=0.5).train(), make_images()
    scorer = PairScorer(model)
    blocks = [scorer.encode(*image) for image in images]
    first = scorer.score_pairs(blocks, blocks, ALL_PAIRS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(scorer.score_pairs(blocks, blocks, ALL_PAIRS), first)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_pairs_give_no_scores():
    assert score(make_matcher(), make_images(), np.empty((0, 2), dtype=int)).shape == (0,)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.array([[0, 4]]), "gallery images 4..4, but 4 are given"),
        (np.array([[-1, 0]]), "query images -1..-1"),
        (np.array([0, 1]), r"expected \(P, 2\)"),
    ],
)
def test_wrong_pairs_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        score(make_matcher(), make_images(), pairs)


def test_wrong_descriptor_width_is_refused():
    scorer = PairScorer(make_matcher())
    with pytest.raises(ValueError, match=r"this model expects \(24,\), \(n, 32\), \(n,\)"):
        scorer.encode(*make_images((3,), d_model=40)[0])


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="bf16"):
        PairScorer(make_matcher(), precision="float16")


def test_batches_keep_to_the_token_budget():
    lengths = np.array([3, 10, 10, 4, 30])
    order = np.argsort(-lengths, kind="stable")  # 30 | 10 10 | 4 3 at 20 tokens a batch
    batches = [rows.tolist() for rows in split_by_tokens(order, lengths, 20)]
    assert batches == [[4], [1, 2], [3, 0]]
