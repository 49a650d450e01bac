"""Losses, gradients and a training step against the reference answers; ArcFace in fp16."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.golden_recipe import array, load_manifest, load_outputs
from tests.vitgal.golden_models import SYSTEM, fill, golden_image
from vitgal.losses import (
    TEMPERATURE,
    autoencoder_loss,
    choose_retrieval_loss,
    correspondence_loss,
    retrieval_loss,
)
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import ArcFace, RetrievalNetwork
from vitgal.models.xcit import VARIANTS, XCiTSizes

MANIFEST = load_manifest(SYSTEM)
LOSSES = MANIFEST["files"]["losses.npz"]["cases"]
STEP = MANIFEST["files"]["train_step.npz"]["case"]
LOSS_TOLERANCE = {key: MANIFEST["tolerances"]["losses"][key] for key in ("atol", "rtol")}
GRADIENT_RTOL = 1e-3  # of ArcFace, see the manifest
STEP_TOLERANCE = {key: MANIFEST["tolerances"]["train_step"][key] for key in ("atol", "rtol")}
VARIANT = "s12"


def numbers(name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(array(f"{SYSTEM}/loss/{name}", shape, scale))


def check(actual: torch.Tensor, expected: np.ndarray, rtol: float, atol: float) -> None:
    torch.testing.assert_close(
        actual.reshape(expected.shape), torch.from_numpy(expected), rtol=rtol, atol=atol
    )


@pytest.mark.parametrize("case", LOSSES)
def test_arcface_and_its_gradients_equal_the_reference(case):
    entry, answers = LOSSES[case], load_outputs(SYSTEM, "losses.npz")
    B, D, C, labels = entry["B"], entry["D"], entry["classes"], entry["labels"]
    feature = numbers(f"{case}/feature", (B, D)).requires_grad_()
    weights = numbers(f"{case}/weight", (C, D), 0.05)
    with torch.no_grad():
        weights[labels[0]] = -0.01 * feature[0] + numbers(f"{case}/tilt", (D,), 0.001)
        weights[labels[1]] = 0.01 * feature[1] + numbers(f"{case}/tilt1", (D,), 0.002)
    head = ArcFace(D, C)
    head.weight.data.copy_(weights)
    target = torch.tensor(labels)
    logits = head(feature, target)
    loss = retrieval_loss({"logits": logits}, target)["loss"]
    loss.backward()
    check(logits.detach(), answers[f"{case}/logits"], **LOSS_TOLERANCE)
    check(loss.detach(), answers[f"{case}/ce"], **LOSS_TOLERANCE)
    for name, gradient in (("feature", feature.grad), ("weight", head.weight.grad)):
        expected = answers[f"{case}/grad_{name}"]
        check(gradient, expected, rtol=GRADIENT_RTOL, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", LOSSES)
def test_autoencoder_loss_equals_the_reference(case):
    entry, answers = LOSSES[case], load_outputs(SYSTEM, "losses.npz")
    B, D = entry["B"], entry["D"]
    outputs = {
        "logits": numbers(f"{case}/ae_logits", (B, entry["classes"])),
        "decoded": numbers(f"{case}/decoded", (B, 6, D)),
        "tokens": numbers(f"{case}/original", (B, 6, D)),
    }
    parts = autoencoder_loss(outputs, torch.tensor(entry["labels"]))
    for name, key in (("loss", "ae_total"), ("ce", "ae_ce"), ("mse", "ae_mse")):
        check(parts[name], answers[f"{case}/{key}"], **LOSS_TOLERANCE)


def check_step(model: torch.nn.Module, parts: dict, answers: dict, prefix: str) -> None:
    """Listed gradients, relative to the largest of their tensor, and the norm of all."""
    parts["loss"].backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    start = f"{prefix}/grad/"
    listed = [key.removeprefix(start) for key in answers if key.startswith(start)]
    assert listed
    for name in listed:
        expected = answers[start + name]
        scale = np.abs(expected).max()
        check(gradients[name] / scale, expected / scale, **STEP_TOLERANCE)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    check(norm, answers[f"{prefix}/grad_norm"], **STEP_TOLERANCE)


def test_training_step_of_the_retrieval_network_equals_the_reference():
    answers = load_outputs(SYSTEM, "train_step.npz")
    sizes = XCiTSizes(depth=VARIANTS[VARIANT].depth, drop_path=0.0)
    network = fill(RetrievalNetwork(sizes, STEP["classes"])).train()
    labels = torch.tensor(STEP["labels"])
    outputs = network(golden_image("train/image", STEP["shape"]), labels)
    parts = retrieval_loss(outputs, labels)
    check(outputs["logits"].detach(), answers["retrieval/logits"], **STEP_TOLERANCE)
    check(parts["loss"].detach(), answers["retrieval/loss"], **STEP_TOLERANCE)
    check_step(network, parts, answers, "retrieval")
    buffers = dict(network.named_buffers())
    after = [key for key in answers if key.startswith("retrieval/after/")]
    assert after
    for key in after:
        check(buffers[key.removeprefix("retrieval/after/")], answers[key], **STEP_TOLERANCE)


def test_training_step_of_the_autoencoder_equals_the_reference():
    answers = load_outputs(SYSTEM, "train_step.npz")
    model = fill(Autoencoder(VARIANTS[VARIANT], num_classes=STEP["classes"])).train()
    labels = torch.tensor(STEP["labels"])
    outputs = model(golden_image("train/image", STEP["shape"]), labels)
    parts = autoencoder_loss(outputs, labels)
    check(outputs["logits"].detach(), answers["ae/logits"], **STEP_TOLERANCE)
    for name, key in (("loss", "total"), ("ce", "ce"), ("mse", "mse")):
        check(parts[name].detach(), answers[f"ae/{key}"], **STEP_TOLERANCE)
    check_step(model, parts, answers, "ae")
    assert all(p.grad is None for p in model.retrieval_back_bone.parameters())


# ------------------------------------------------------------------ by hand


def test_margin_turns_the_true_class_by_its_angle():
    head = ArcFace(2, 2)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    angle = 0.4
    feature = 5 * torch.tensor([[math.cos(angle), math.sin(angle)]])
    logits = head(feature, torch.tensor([0]))[0]
    expected = torch.tensor([30 * math.cos(angle + 0.15), 30 * math.sin(angle)])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def naive_target(feature: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The margin as it stands in the paper, for features of their own class."""
    cosine = (functional.normalize(feature) * functional.normalize(weights)).sum(dim=1)
    return cosine * math.cos(0.15) - (1 - cosine.square()).sqrt() * math.sin(0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parallel_features_in_half_precision_give_finite_numbers(dtype):
    """There a cosine rounds to 1 or more, where the root of 1 - cos^2 has no finite gradient."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, 96, generator=generator).to(dtype)
    features = directions.clone().requires_grad_()
    naive_target(features, directions).sum().backward()
    assert not bool(torch.isfinite(features.grad).all()), "the trap is there"
    head = ArcFace(96, 64)
    head.weight.data.copy_(directions)
    features = directions.clone().requires_grad_()
    labels = torch.arange(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features, labels)
        loss = retrieval_loss({"logits": logits}, labels)["loss"]
    loss.backward()
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    assert bool(torch.isfinite(head.weight.grad).all())
    assert bool(torch.isfinite(features.grad).all())


def test_target_of_the_autoencoder_has_no_gradient():
    outputs = {
        "logits": torch.zeros(1, 3),
        "decoded": torch.zeros(1, 2, 4, requires_grad=True),
        "tokens": torch.ones(1, 2, 4, requires_grad=True),
    }
    parts = autoencoder_loss(outputs, torch.tensor([0]))
    parts["loss"].backward()
    assert outputs["tokens"].grad is None
    # 10 mean((0 - 1)^2): each of 8 entries has the gradient 10 * 2 * (0 - 1) / 8
    torch.testing.assert_close(outputs["decoded"].grad, torch.full((1, 2, 4), -2.5))
    assert parts["loss"].item() == pytest.approx(math.log(3) + 10)


# ------------------------------------------------------------------ two views, not published


def test_correspondence_loss_finds_linked_patches_among_those_of_all_second_views():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 4, 8, generator=generator, dtype=torch.float64)  # 3 pairs of views
    links = torch.tensor([[1, 0, -1, 3], [-1, -1, 2, -1], [0, 1, 2, 3]])
    losses = []
    for image, patch in torch.nonzero(links >= 0).tolist():
        cosines = [
            functional.cosine_similarity(tokens[2 * image, patch], tokens[2 * other + 1, place], 0)
            for other in range(3)
            for place in range(4)
        ]
        target = torch.tensor(4 * image + int(links[image, patch]))
        losses.append(functional.cross_entropy(torch.stack(cosines) / TEMPERATURE, target))
    expected = torch.stack(losses).mean().float()
    torch.testing.assert_close(correspondence_loss(tokens, links), expected, rtol=1e-5, atol=1e-6)


def test_correspondence_loss_without_links_is_zero_and_has_a_gradient():
    tokens = torch.randn(2, 4, 8, requires_grad=True)
    loss = correspondence_loss(tokens, torch.full((1, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert tokens.grad is not None
    assert tokens.grad.abs().max() == 0


def test_loss_of_two_views_adds_up_and_single_images_have_arcface_alone():
    assert choose_retrieval_loss(0.0) is retrieval_loss
    logits, tokens = torch.randn(4, 5), torch.randn(4, 9, 8)
    labels, links = torch.tensor([1, 1, 3, 3]), torch.arange(9).repeat(2, 1)
    outputs = {"logits": logits, "tokens": tokens}
    parts = choose_retrieval_loss(0.5)(outputs, labels, links)
    arcface = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(parts["arcface"], arcface)
    torch.testing.assert_close(parts["links"], correspondence_loss(tokens, links))
    torch.testing.assert_close(parts["loss"], arcface + 0.5 * parts["links"])
    assert choose_retrieval_loss(0.5)(outputs, labels).keys() == {"loss"}
    with pytest.raises(ValueError, match="correspondence_weight is -1"):
        choose_retrieval_loss(-1)
