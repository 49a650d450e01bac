"""Matcher: reference answers, parameter layout, initialisation, padding, training steps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rrt_gld.models.matcher import Matcher, start_from_similarity
from tests.golden_recipe import (
    GOLDEN_DIR,
    array,
    cases_of_kind,
    load_manifest,
    load_outputs,
    weight,
)

SYSTEM = "rrt_gld"
FORWARD_CASES = cases_of_kind(SYSTEM, "matcher forward")
TRAIN_CASES = cases_of_kind(SYSTEM, "training steps")
ROLES = ("anchor", "positive", "negative")
NUM_SCALES = 7
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)
LOGIT_TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}  # of the manifest: float32 summation order
SMALL = {"d_global": 24, "d_model": 16, "nhead": 2, "num_encoder_layers": 2, "dim_feedforward": 32}


def recipe_state(model: torch.nn.Module, boost: dict[str, float]) -> dict[str, Tensor]:
    """The recipe's weights for every entry of the model's state dict."""
    state = {}
    for name, value in model.state_dict().items():
        factor = next((f for suffix, f in boost.items() if name.endswith(suffix)), 1.0)
        state[name] = torch.from_numpy(weight(name, tuple(value.shape)) * np.float32(factor))
    return state


def recipe_matcher(case: str) -> Matcher:
    model = Matcher(**MANIFEST[case]["constructor"])
    model.load_state_dict(recipe_state(model, MANIFEST[case]["weight_boost"]))
    return model


def recipe_side(prefix: str, lengths: list[int], max_len: int, sizes: dict) -> tuple[Tensor, ...]:
    """Global, local, mask, scales, positions of one image of every pair."""
    batch, width = len(lengths), sizes["d_model"]
    mask = torch.arange(max_len)[None] >= torch.tensor(lengths)[:, None]
    local = torch.from_numpy(array(f"{prefix}/local", (batch, max_len, width)))
    scales = np.abs(array(f"{prefix}/scales", (batch, max_len))) * 1000
    return (
        torch.from_numpy(array(f"{prefix}/global", (batch, sizes["d_global"]))),
        local.masked_fill(mask[..., None], 0.0),
        mask,
        torch.from_numpy(scales.astype(np.int64) % NUM_SCALES).masked_fill(mask, 0),
        torch.zeros(batch, max_len, 2),
    )


def recipe_pair(case: str) -> tuple[tuple[Tensor, ...], ...]:
    entry = MANIFEST[case]
    return tuple(
        recipe_side(
            f"{case}/{side}",
            entry[f"{side}_lengths"],
            entry["max_sequence_len"],
            entry["constructor"],
        )
        for side in ("src", "tgt")
    )


def random_side(rng: torch.Generator, batch: int, length: int) -> tuple[Tensor, ...]:
    return (
        torch.randn(batch, SMALL["d_global"], generator=rng),
        torch.randn(batch, length, SMALL["d_model"], generator=rng),
        torch.zeros(batch, length, dtype=torch.bool),
        torch.randint(NUM_SCALES, (batch, length), generator=rng),
        torch.zeros(batch, length, 2),
    )


@pytest.mark.parametrize("case", FORWARD_CASES)
@torch.no_grad()
def test_forward_equals_reference(case):
    model = recipe_matcher(case).eval()
    src, tgt = recipe_pair(case)
    answers = {
        "logits": model(*src, *tgt),
        "logits_swapped": model(*tgt, *src),
        "logits_no_normalize": model(*src, *tgt, normalize=False),
    }
    for name, got in answers.items():
        torch.testing.assert_close(
            got, torch.from_numpy(OUTPUTS[f"{case}/{name}"]), **LOGIT_TOLERANCE
        )


@pytest.mark.parametrize("case", FORWARD_CASES)
@torch.no_grad()
def test_first_token_of_every_layer_equals_reference(case):
    model = recipe_matcher(case).eval()
    src, tgt = recipe_pair(case)
    x = model.make_tokens(src[0], src[1], src[3], tgt[0], tgt[1], tgt[3])
    if f"{case}/tokens" in OUTPUTS:
        expected = torch.from_numpy(OUTPUTS[f"{case}/tokens"])
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    never = torch.zeros(len(x), 2, dtype=torch.bool)
    mask = torch.cat([never, src[2], never, tgt[2]], dim=1)
    first_tokens = []
    for layer in model.encoder.layers:
        x = layer(x, mask)
        first_tokens.append(x[:, 0])
    expected = torch.from_numpy(OUTPUTS[f"{case}/cls_per_layer"])
    torch.testing.assert_close(torch.stack(first_tokens), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("size", list(load_manifest(SYSTEM, "layout.json")))
def test_parameter_names_order_and_shapes_are_those_of_the_checkpoints(size):
    entry = load_manifest(SYSTEM, "layout.json")[size]
    state = Matcher(**entry["constructor"]).state_dict()
    got = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in state.items()]
    assert got == entry["entries"]


@torch.no_grad()
def test_padding_does_not_change_score():
    rng = torch.Generator().manual_seed(0)
    model = recipe_matcher("gld/tiny").eval() if "gld/tiny" in MANIFEST else Matcher(**SMALL).eval()
    src, tgt = random_side(rng, 3, 7), random_side(rng, 3, 5)
    plain = model(*src, *tgt)
    padded = []
    for side, more in ((src, 4), (tgt, 9)):
        global_, local, mask, scales, positions = side
        padded += [
            global_,
            functional.pad(local, (0, 0, 0, more), value=3.0),
            functional.pad(mask, (0, more), value=True),
            functional.pad(scales, (0, more), value=6),
            functional.pad(positions, (0, 0, 0, more)),
        ]
    torch.testing.assert_close(model(*padded), plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_images_without_local_features_have_a_score():
    rng = torch.Generator().manual_seed(0)
    scores = Matcher(**SMALL).eval()(*random_side(rng, 2, 0), *random_side(rng, 2, 0))
    assert scores.shape == (2,)
    assert torch.isfinite(scores).all()


def test_every_parameter_gets_the_gradient_of_the_full_last_layer():
    """The last layer computes token 0 only; the gradients are those of all tokens."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Matcher(**SMALL)
    src, tgt = random_side(rng, 3, 6), random_side(rng, 3, 4)
    short = torch.autograd.grad(model(*src, *tgt).sum(), list(model.parameters()))
    x = model.make_tokens(src[0], src[1], src[3], tgt[0], tgt[1], tgt[3])
    full_score = model.classifier(model.encoder(x)[:, 0]).sum()
    full = torch.autograd.grad(full_score, list(model.parameters()))
    torch.testing.assert_close(short, full, rtol=1e-4, atol=1e-5)


def test_initialisation_follows_the_published_rules():
    torch.manual_seed(0)
    model = Matcher(d_global=64, d_model=32, nhead=2, num_encoder_layers=3, dim_feedforward=96)
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
    for linear in (layers[0].linear1, layers[0].linear2, model.remap, model.classifier):
        assert linear.bias.any()
        assert linear.bias.abs().max() <= 1 / math.sqrt(linear.in_features)


@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_every_variant_trains_under_bf16_autocast(activation, normalize_before):
    rng = torch.Generator().manual_seed(0)
    model = Matcher(**SMALL, activation=activation, normalize_before=normalize_before, dropout=0.1)
    pair = (*random_side(rng, 2, 5), *random_side(rng, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(*pair)
    functional.binary_cross_entropy_with_logits(logits.float(), torch.tensor([1.0, 0.0])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert ("encoder.norm.weight" in model.state_dict()) == normalize_before


@torch.no_grad()
def test_dropout_acts_in_training_only():
    rng = torch.Generator().manual_seed(0)
    model = Matcher(**SMALL, dropout=0.5)
    pair = (*random_side(rng, 4, 5), *random_side(rng, 4, 3))
    assert not torch.equal(model(*pair), model(*pair))
    model.eval()
    torch.testing.assert_close(model(*pair), model(*pair), rtol=0, atol=0)


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


@pytest.mark.parametrize("case", TRAIN_CASES)
def test_training_steps_equal_reference(case):
    entry = MANIFEST[case]
    model = recipe_matcher(case).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=entry["lr"], weight_decay=entry["weight_decay"]
    )
    batch, max_len = entry["batch_triplets"], entry["max_sequence_len"]
    labels = torch.cat([torch.ones(batch), torch.zeros(batch)])
    losses, norms = [], []
    for step in range(entry["steps"]):
        sides = []
        for role in ROLES:
            prefix = f"{case}/{step}/{role}"
            lengths = (np.abs(array(f"{prefix}/lens", (batch,))) * 1000).astype(int) % max_len + 1
            sides.append(recipe_side(prefix, lengths.tolist(), max_len, entry["constructor"]))
        anchor, positive, negative = sides
        logits = torch.cat([model(*anchor, *positive), model(*anchor, *negative)])
        if step == 0:
            expected = torch.from_numpy(OUTPUTS[f"{case}/logits_step0"])
            torch.testing.assert_close(logits, expected, **LOGIT_TOLERANCE)
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), entry["max_norm"]).item())
        losses.append(loss.item())
        optimiser.step()
    np.testing.assert_allclose(losses, OUTPUTS[f"{case}/losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, OUTPUTS[f"{case}/grad_norms"], rtol=1e-3)
    finals = {
        "classifier_weight_final": model.classifier.weight,
        "scale_encoder_final": model.scale_encoder.weight,
        "in_proj0_final": model.encoder.layers[0].self_attn.in_proj_weight[:8],
    }
    for name, got in finals.items():
        expected = OUTPUTS[f"{case}/{name}"]
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=2e-5)


def test_reference_cases_were_found():
    assert FORWARD_CASES, f"no 'matcher forward' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"
    assert TRAIN_CASES, f"no 'training steps' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"


def test_start_from_similarity_attends_to_like_descriptors():
    """In the first layer a descriptor attracts its like by `logit` and nothing else."""
    torch.manual_seed(0)
    model = Matcher(d_global=16, d_model=128, nhead=2, num_encoder_layers=2, dim_feedforward=16)
    start_from_similarity(model, 9.0)
    locals_ = torch.nn.functional.normalize(torch.randn(40, 128), dim=-1)
    scales, segments = torch.arange(40) % 7, torch.arange(40) % 2
    tokens = model.local_tokens(locals_, scales) + model.seg_encoder.weight[segments]
    weight = model.encoder.layers[0].self_attn.in_proj_weight
    query, key = ((tokens @ part.T).view(40, 2, 64) for part in weight.chunk(3)[:2])
    logits = torch.einsum("ihd,jhd->hij", query, key) / 64**0.5
    like = logits.diagonal(dim1=1, dim2=2)
    # 115 of 128 dimensions are left beside the 13 rows of the tables: 9.0 * 115 / 128 = 8.1
    assert abs(float(like.mean()) - 8.1) < 0.4
    unlike = logits[:, ~torch.eye(40, dtype=torch.bool)]
    assert float(unlike.abs().mean()) < 1.0
