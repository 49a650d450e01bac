"""Matcher: reference answers, position encoding, initialisation, training steps."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from rrt_sop.models.matcher import Matcher
from rrt_sop.models.position_encoding import position_encoding
from tests.golden_recipe import GOLDEN_DIR, array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import (
    MATCHER,
    SYSTEM,
    TRAIN,
    TRAIN_MAP_SIZE,
    golden_maps,
    golden_matcher,
)

FORWARD_CASES, TRAIN_CASES = cases_of_kind(SYSTEM, MATCHER), cases_of_kind(SYSTEM, TRAIN)
ROLES = ("anchor", "positive", "negative")
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)
LOGIT_TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}  # of the manifest: float32 summation order
SMALL = {"d_global": 16, "d_model": 16, "nhead": 2, "num_encoder_layers": 2, "dim_feedforward": 32}


def random_maps(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SMALL["d_model"], height, width, generator=rng)


@pytest.mark.parametrize("case", FORWARD_CASES)
@torch.no_grad()
def test_forward_equals_reference(case):
    model = golden_matcher(MANIFEST[case]).eval()
    src, tgt = golden_maps(case, MANIFEST[case])
    answers = {
        "logits": model(src, tgt),
        "logits_swapped": model(tgt, src),
        "logits_self": model(src, src),
    }
    for name, got in answers.items():
        expected = torch.from_numpy(OUTPUTS[f"{case}/{name}"])
        torch.testing.assert_close(got, expected, **LOGIT_TOLERANCE)


@pytest.mark.parametrize("case", FORWARD_CASES)
@torch.no_grad()
def test_tokens_and_first_token_of_every_layer_equal_reference(case):
    model = golden_matcher(MANIFEST[case]).eval()
    x = model.make_tokens(*golden_maps(case, MANIFEST[case]))
    if f"{case}/tokens" in OUTPUTS:
        expected = torch.from_numpy(OUTPUTS[f"{case}/tokens"])
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    first_tokens = []
    for layer in model.encoder.layers:
        x = layer(x)
        first_tokens.append(x[:, 0])
    expected = torch.from_numpy(OUTPUTS[f"{case}/cls_per_layer"])
    torch.testing.assert_close(torch.stack(first_tokens), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("case", FORWARD_CASES)
def test_position_encoding_equals_reference(case):
    expected = torch.from_numpy(OUTPUTS[f"{case}/position_encoding"])
    channels, height, width = expected.shape
    torch.testing.assert_close(
        position_encoding(height, width, channels), expected, rtol=0, atol=1e-6
    )


def test_position_encoding_by_hand():
    """2 rows, 3 columns, 8 channels: F = 4, D = 1, 1, 100, 100."""
    encoding = position_encoding(2, 3, 8)
    y, x = 2 * 1 / (2 + 1e-6), 2 * 3 / (3 + 1e-6)  # first row, third column
    expected = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
    expected += [math.sin(x), math.cos(x), math.sin(x / 100), math.cos(x / 100)]
    torch.testing.assert_close(encoding[:, 0, 2], torch.tensor(expected), rtol=0, atol=1e-6)


@torch.no_grad()
def test_maps_of_different_size_have_a_score_that_depends_on_order():
    torch.manual_seed(0)
    model = Matcher(**SMALL).eval()
    small, large = random_maps(3, 2, 2), random_maps(3, 4, 3)
    assert model(small, large).shape == (3,)
    assert not torch.allclose(model(small, large), model(large, small), atol=1e-4)


@torch.no_grad()
def test_a_cell_counts_for_its_place():
    """A flipped map is another input: cells carry their row and column."""
    torch.manual_seed(0)
    model = Matcher(**SMALL).eval()
    src, tgt = random_maps(2, 3, 3, 1), random_maps(2, 3, 3, 2)
    for axis in (2, 3):
        assert not torch.allclose(model(src, tgt), model(src.flip(axis), tgt), atol=1e-5)


def test_every_parameter_gets_the_gradient_of_the_full_last_layer():
    """The last layer computes token 0 only; the gradients are those of all tokens."""
    torch.manual_seed(0)
    model = Matcher(**SMALL)
    src, tgt = random_maps(3, 2, 3, 1), random_maps(3, 2, 2, 2)
    short = torch.autograd.grad(model(src, tgt).sum(), list(model.parameters()))
    full_score = model.classifier(model.encoder(model.make_tokens(src, tgt))[:, 0]).sum()
    full = torch.autograd.grad(full_score, list(model.parameters()))
    torch.testing.assert_close(short, full, rtol=1e-4, atol=1e-5)


def test_initialisation_follows_the_published_rules():
    torch.manual_seed(0)
    model = Matcher(d_model=32, nhead=2, num_encoder_layers=3, dim_feedforward=96)
    layers = model.encoder.layers
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:  # Xavier uniform: U(-a, a), a = sqrt(6 / (rows + columns))
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound, name
            assert parameter.abs().max() > 0.8 * bound, name
    for layer in layers:
        assert not layer.self_attn.in_proj_bias.any()
        assert not layer.self_attn.out_proj.bias.any()
        torch.testing.assert_close(layer.linear1.bias, layers[0].linear1.bias, rtol=0, atol=0)
        torch.testing.assert_close(layer.linear2.bias, layers[0].linear2.bias, rtol=0, atol=0)
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    for linear in (layers[0].linear1, layers[0].linear2, model.classifier):
        assert linear.bias.any()
        assert linear.bias.abs().max() <= 1 / math.sqrt(linear.in_features)


@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_every_variant_trains_under_bf16_autocast(activation, normalize_before):
    model = Matcher(**SMALL, activation=activation, normalize_before=normalize_before, dropout=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(random_maps(2, 2, 2, 1), random_maps(2, 3, 3, 2))
    functional.binary_cross_entropy_with_logits(logits.float(), torch.tensor([1.0, 0.0])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert ("encoder.norm.weight" in model.state_dict()) == normalize_before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "relu"),
        ({"nhead": 3}, "nhead 3"),
        ({"num_encoder_layers": 0}, "at least 1"),
    ],
)
def test_bad_option_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Matcher(**{**SMALL, **change})


def test_bad_maps_are_refused():
    model = Matcher(**SMALL)
    with pytest.raises(ValueError, match=r"\(2, 16, 4\), expected \(B, 16, h, w\)"):
        model(random_maps(2, 2, 2).flatten(2), random_maps(2, 2, 2))
    with pytest.raises(ValueError, match="2 source maps and 3 target maps"):
        model(random_maps(2, 2, 2), random_maps(3, 2, 2))
    with pytest.raises(ValueError, match="multiple of 4"):
        position_encoding(2, 2, 6)


@pytest.mark.parametrize("case", TRAIN_CASES)
def test_training_steps_equal_reference(case):
    entry = MANIFEST[case]
    model = golden_matcher(entry).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=entry["lr"], weight_decay=entry["weight_decay"]
    )
    batch = entry["batch_triplets"]
    shape = (batch, entry["constructor"]["d_model"], *TRAIN_MAP_SIZE)
    labels = torch.cat([torch.ones(batch), torch.zeros(batch)])
    losses = []
    for step in range(entry["steps"]):
        anchor, positive, negative = (
            torch.from_numpy(array(f"{case}/{step}/{role}", shape)) for role in ROLES
        )
        logits = torch.cat([model(anchor, positive), model(anchor, negative)])
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    np.testing.assert_allclose(losses, OUTPUTS[f"{case}/losses"], rtol=1e-4)
    finals = {"seg_final": model.seg_encoder.weight, "classifier_final": model.classifier.weight}
    for name, got in finals.items():
        expected = OUTPUTS[f"{case}/{name}"]
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=2e-5)


def test_reference_cases_were_found():
    assert FORWARD_CASES, f"no '{MATCHER}' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"
    assert TRAIN_CASES, f"no '{TRAIN}' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"
