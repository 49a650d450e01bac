"""The contrastive loss against the reference answer, against its definition, and by hand."""

import math

import numpy as np
import pytest
import torch

from rrt_sop.losses import collapsed_loss, contrastive_loss, nearest_is_right, pair_loss
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs

SYSTEM, KIND = "rrt_sop", "contrastive loss"
CASES = cases_of_kind(SYSTEM, KIND)
SHAPE, LABELS = (48, 16), 20  # of the manifest's text


def golden_input(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    features = array(f"{case}/features", SHAPE)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = (np.abs(array(f"{case}/labels", SHAPE[:1])) * 1000).astype(np.int64) % LABELS
    return torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_reference(case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    features, labels = golden_input(case)
    features.requires_grad_()
    loss = contrastive_loss(features, labels, entry["temperature"])
    loss.backward()
    np.testing.assert_allclose(loss.item(), outputs[f"{case}/loss"], rtol=1e-5)
    np.testing.assert_allclose(features.grad, outputs[f"{case}/grad"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_loss_equals_its_definition_row_by_row(temperature):
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(20, 6, dtype=torch.float64), dim=1)
    labels = torch.randint(8, (20,))
    total = 0.0
    for i in range(20):
        similarity = [float(features[i] @ features[j]) if j != i else 0.0 for j in range(20)]
        weights = [math.exp(s / temperature) for s in similarity]
        right = sum(w for j, w in enumerate(weights) if labels[j] == labels[i] and j != i)
        if right:
            total -= math.log(right / sum(weights))
    torch.testing.assert_close(
        contrastive_loss(features, labels, temperature),
        torch.tensor(total / 20, dtype=torch.float64),
    )


def test_loss_of_four_images_by_hand():
    # two labels of two images, equal within a label, orthogonal across: row i has
    # W = [e^0 (itself), e^10 (partner), e^0, e^0], q = e^10 / (e^10 + 3), T = 0.1
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    loss = contrastive_loss(features, torch.tensor([0, 0, 1, 1]), 0.1)
    assert float(loss) == pytest.approx(math.log1p(3 * math.exp(-10)), rel=1e-9)


def test_rows_without_partner_count_in_the_divisor_only():
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]]), dim=1)
    loss = contrastive_loss(features, torch.tensor([0, 0, 1]), 1.0)
    # rows 0, 1: e^0.6 / (e^0 + e^0.6 + e^s), s = 0 to image 2 from row 0, 0.8 from row 1
    rows = [-math.log(math.exp(0.6) / (1 + math.exp(0.6) + math.exp(s))) for s in (0.0, 0.8)]
    assert float(loss) == pytest.approx(sum(rows) / 3, rel=1e-5)


def test_batch_without_any_partner_has_loss_and_gradient_zero():
    features = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    loss = contrastive_loss(features, torch.arange(4))
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(features.grad, torch.zeros(4, 3))


def test_collapsed_features_have_the_loss_that_the_guard_watches():
    features = torch.nn.functional.normalize(torch.ones(64, 5), dim=1)
    loss = contrastive_loss(features, torch.arange(32).repeat_interleave(2))
    assert float(loss) == pytest.approx(collapsed_loss(64, 2), rel=1e-4)  # ln 63


def test_nearest_other_image_decides_the_accuracy():
    features = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.8, 0.2]])
    right = nearest_is_right(features, torch.tensor([0, 0, 1, 1]))
    # image 2 is nearest to image 3 (0.2 > 0.1 > 0), which has its label; 3 is nearest to 0
    assert right.tolist() == [True, True, True, False]


def test_pair_loss_by_hand():
    loss, correct = pair_loss(torch.tensor([2.0, -1.0, 0.5, -3.0]))
    expected = [math.log1p(math.exp(-2)), math.log1p(math.e), math.log1p(math.exp(0.5)),
                math.log1p(math.exp(-3))]  # fmt: skip
    assert float(loss) == pytest.approx(sum(expected), rel=1e-6)
    assert int(correct) == 2
