"""What a fixed backbone gives, kept: the same steps, and the start of the local head from it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from r2former.frozen import check_budget, start_local_head
from r2former.models.selection import XYA
from tests.r2former.golden_models import small_network
from tests.r2former.short_runs import train, weights, write_street

SHORT = {"epochs_num": 2, "optim": "sgd", "lr": 0.05}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("sets"))


def test_packed_features_are_those_of_the_images():
    net = small_network().eval()
    images = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed = net.pack(images)
        for made, expected in zip(net.unpack(packed), net(images), strict=True):
            torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


def test_a_kept_backbone_gives_the_same_steps(street, tmp_path):
    """Of sgd: adamw would blow up the rounding of gradients that are zero in truth."""
    for folder, kept in (("images", False), ("kept", True)):
        train("rerank", street, tmp_path / folder, cache_frozen=kept, **SHORT)
    expected = weights(tmp_path / "images")
    for name, value in weights(tmp_path / "kept").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_principal_components_make_tokens_white():
    """Kept tokens have mean 0 and covariance 1 under the new local head."""
    net = small_network().eval()
    generator = torch.Generator().manual_seed(1)
    count, width = 40, net.local_head.in_features
    tokens = torch.randn(count * 25, width, generator=generator)
    mix = torch.randn(width, width, generator=generator)
    rows = torch.cat([torch.rand(len(tokens), XYA), tokens @ mix + 3], dim=1).view(count, -1)
    packed = torch.cat([torch.zeros(count, net.out_dim), rows], dim=1)
    start_local_head(net, packed)
    with torch.no_grad():
        local = net.unpack(packed)[1][..., XYA:].flatten(0, 1)
    torch.testing.assert_close(local.mean(dim=0), torch.zeros(local.shape[1]), rtol=0, atol=1e-3)
    torch.testing.assert_close(local.T.cov(), torch.eye(local.shape[1]), rtol=0, atol=1e-2)


def test_the_start_is_taken_by_a_run(street, tmp_path):
    """At a rate of almost nothing the head of the run is the start itself, kept or not."""
    options: dict[str, Any] = {"epochs_num": 1, "lr": 1e-12}
    made = []
    for kept in (True, False):
        folder = tmp_path / str(kept)
        train("rerank", street, folder, local_start="pca", cache_frozen=kept, **options)
        made.append(weights(folder)["module.local_head.weight"])
    assert float(made[0].std()) > 0.03  # published: N(0, 0.01)
    products = made[0] @ made[0].T
    torch.testing.assert_close(products, products.diag().diag(), rtol=0, atol=1e-3)
    torch.testing.assert_close(made[1], made[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"fix": 0}, "fix=0 changes it"),
        ({"dataset": {"brightness": 0.2}}, "brightness changes it"),
        ({"dataset": {"horizontal_flip": True}}, "horizontal_flip changes it"),
        ({"cache_budget_gib": 1e-6}, "above cache_budget_gib=1e-06"),
    ],
)
def test_what_cannot_be_kept_is_refused(street, tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        train("rerank", street, tmp_path, cache_frozen=True, **changes)


def test_unknown_starts_are_refused(street, tmp_path):
    with pytest.raises(ValueError, match="local_start is 'best'"):
        train("rerank", street, tmp_path, local_start="best")


def test_the_budget_counts_all_images():
    check_budget(2**18, 2**10, 1.0)  # 2^18 rows of 2^10 numbers of 4 bytes: 1 GiB
    with pytest.raises(ValueError, match=r"needs 1\.0 GiB for 262145 images"):
        check_budget(2**18 + 1, 2**10, 1.0)
