"""Encoder layer: reference answers, a naive loop, masks."""

import math

import numpy as np
import pytest
import torch

from rrt_gld.models.transformer import Encoder, EncoderLayer, SelfAttention
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs, weight

SYSTEM = "rrt_gld"
LAYER_CASES = cases_of_kind(SYSTEM, "one encoder layer")
LENGTHS = {"gld/layer": [21, 13, 1], "gld/layer_pub": [120, 40]}  # in the manifest's prose only
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)


@pytest.mark.parametrize("case", LAYER_CASES)
@torch.no_grad()
def test_layer_equals_reference(case):
    entry, lengths = MANIFEST[case], LENGTHS[case]
    layer = EncoderLayer(**entry["constructor"]).eval()
    state = {}
    for name, value in layer.state_dict().items():
        factor = next((f for s, f in entry["weight_boost"].items() if name.endswith(s)), 1.0)
        state[name] = torch.from_numpy(weight(name, tuple(value.shape)) * np.float32(factor))
    layer.load_state_dict(state)
    expected = torch.from_numpy(OUTPUTS[f"{case}/out"])
    x = torch.from_numpy(array(f"{case}/x", tuple(expected.shape)))
    mask = torch.arange(x.shape[1])[None] >= torch.tensor(lengths)[:, None]
    attended = layer.self_attn(layer.norm1(x) if layer.normalize_before else x, mask)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}  # of the manifest
    expected_attended = torch.from_numpy(OUTPUTS[f"{case}/attn_out"])
    torch.testing.assert_close(attended, expected_attended, **tolerance)
    torch.testing.assert_close(layer(x, mask), expected, **tolerance)
    torch.testing.assert_close(layer(x, mask, num_queries=1), expected[:, :1], **tolerance)


@torch.no_grad()
def test_attention_equals_naive_loop():
    torch.manual_seed(0)
    attention = SelfAttention(d_model=8, nhead=2)
    torch.nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False, True, False, False, True]])
    expected = torch.zeros(2, 5, 8)
    for b in range(2):
        q, k, v = (x[b] @ attention.in_proj_weight.T + attention.in_proj_bias).split(8, dim=1)
        for h in range(2):
            columns = slice(4 * h, 4 * h + 4)
            for i in range(5):
                scores = k[:, columns] @ q[i, columns] / math.sqrt(4)
                scores[mask[b]] = -math.inf
                expected[b, i, columns] = scores.softmax(0) @ v[:, columns]
    torch.testing.assert_close(attention(x, mask), attention.out_proj(expected))


@pytest.mark.parametrize("normalize_before", [False, True])
@torch.no_grad()
def test_first_tokens_alone_equal_first_of_all(normalize_before):
    torch.manual_seed(0)
    layer = EncoderLayer(16, 2, 32, normalize_before=normalize_before)
    encoder = Encoder(layer, 3).eval()
    for p in encoder.parameters():
        p.add_(0.3 * torch.randn_like(p))
    x, mask = torch.randn(2, 9, 16), torch.zeros(2, 9, dtype=torch.bool)
    mask[1, 4:] = True
    torch.testing.assert_close(encoder(x, mask, num_queries=2), encoder(x, mask)[:, :2])
