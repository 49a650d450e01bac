"""Features of images against the reference answers; names of the released files."""

import numpy as np
import pytest
import torch

from r2former.models.deit import DeiT, read_hypercolumn
from r2former.models.network import DeiTR2Former, R2Former, ResNetR2Former
from r2former.models.position_grid import fit_grid, resize_pretrained
from r2former.models.selection import select_patches
from tests.golden_recipe import array, load_outputs
from tests.r2former.golden_models import (
    IMAGE_CASES,
    PREFIX,
    RESNET_CASES,
    SYSTEM,
    golden_images,
    golden_layout,
    golden_network,
    small_deit,
    small_network,
)

# of the manifest: global, attention (rel, abs), X Y, A, local
DEIT_TOLERANCE = (2e-5, 1e-4, 1e-6, 1e-6, 5e-5, 5e-3)
RESNET_TOLERANCE = (2e-6, 0.0, 2e-5, 1e-6, 2e-5, 1e-3)


def check_features(net: R2Former, name: str, shape: tuple[int, int, int], tolerance) -> None:
    """All outputs of a case; local features are compared patch by patch."""
    on_global, relative, absolute, on_xy, on_a, on_local = tolerance
    images, wanted = golden_images(name, *shape), load_outputs(SYSTEM, f"{name}.npz")
    with torch.no_grad():
        found = net.attend(images)
        descriptor, local = (part.numpy() for part in net(images))
    np.testing.assert_allclose(descriptor, wanted["global"], rtol=0, atol=on_global)
    np.testing.assert_allclose(
        found.attention.numpy(), wanted["attention_map"], rtol=relative, atol=absolute
    )
    columns = net.count_columns(shape[2])
    longer = max(shape[1:])
    index = select_patches(found.attention, net.num_local, columns, 16, longer)[0].numpy()
    for b in range(shape[0]):
        order, reference = np.argsort(index[b]), np.argsort(wanted["index"][b])
        assert np.array_equal(index[b][order], wanted["index"][b][reference])
        xya, expected = local[b, order, :3], wanted["xya"][b][reference]
        np.testing.assert_allclose(xya[:, :2], expected[:, :2], rtol=0, atol=on_xy)
        np.testing.assert_allclose(xya[:, 2], expected[:, 2], rtol=0, atol=on_a)
        rows = wanted["local"].shape[1]
        place = {patch: i for i, patch in enumerate(index[b].tolist())}
        own = local[b, [place[patch] for patch in wanted["index"][b][:rows].tolist()], 3:]
        np.testing.assert_allclose(own, wanted["local"][b], rtol=0, atol=on_local)


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_deit_features_are_the_published_ones(name):
    check_features(golden_network("deit"), name, IMAGE_CASES[name], DEIT_TOLERANCE)


@pytest.mark.parametrize("name", RESNET_CASES)
def test_resnet_features_are_the_published_ones(name):
    check_features(golden_network("resnet50"), name, RESNET_CASES[name], RESNET_TOLERANCE)


@pytest.mark.parametrize(
    "kind,make", [("deit", DeiTR2Former), ("global", DeiT), ("resnet50", ResNetR2Former)]
)
def test_names_shapes_and_order_are_those_of_the_released_files(kind, make):
    found = [
        (name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in make().state_dict().items()
    ]
    assert found == golden_layout(kind)


def test_published_model_has_22_433_539_parameters():
    assert sum(p.numel() for p in DeiTR2Former().parameters()) == 22_433_539
    reranker = sum(p.numel() for p in DeiTR2Former().Reranker.parameters())
    assert reranker == 135_171


def test_imagenet_positions_are_resized_as_published():
    positions = torch.from_numpy(array(f"{PREFIX}init/pos_embed198", (1, 198, 384)))
    found = resize_pretrained(positions, 2, 30, 40)[..., ::16].numpy()
    wanted = load_outputs(SYSTEM, "init_pos_embed.npz")["pos_480x640"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_patch_p_gets_the_token_of_patch_p_minus_2():
    """Patches 0 and 1 get CLS and DIST: the released weights were trained so."""
    net = small_deit().eval()
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    tokens = net.attend(images).tokens
    torch.testing.assert_close(net.attend_local(images).tokens, tokens[:, :-2], rtol=0, atol=0)


def test_last_block_for_two_tokens_is_the_whole_block():
    net = small_deit().eval()
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    x = net.embed_patches(images)
    for block in net.blocks:
        x = block(x)
    z = net.norm(x)
    whole = torch.nn.functional.normalize((net.head(z[:, 0]) + net.head_dist(z[:, 1])) / 2)
    torch.testing.assert_close(net(images), whole, rtol=0, atol=1e-6)


def test_attention_and_coordinates_carry_no_gradient_and_detach_decides_on_features():
    net = small_network()
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for detach in (True, False):
        net.zero_grad()
        net(images, detach_local=detach)[1].sum().backward()
        gradient = net.backbone.patch_embed.proj.weight.grad
        assert (gradient is None) == detach
    assert net.local_head.weight.grad is not None


def test_selection_by_hand():
    """2 x 3 patches of 8 pixels, image 16 x 24; patch 4 is row 1, column 1: centre (12, 12)."""
    attention = torch.tensor([[0.1, 0.0, 0.2, 0.05, 0.4, 0.3]])
    index, xya = select_patches(attention, 2, columns=3, patch=8, longer=24)
    assert index.tolist() == [[4, 5]]
    torch.testing.assert_close(xya[0], torch.tensor([[0.5, 0.5, 1.0], [20 / 24, 0.5, 0.75]]))


def test_smaller_grid_is_the_middle_of_the_larger_one():
    grid = torch.arange(24.0).view(4, 6, 1)
    # n = max(1, 2) = 2: rows 1, 2, columns 2, 3; of these the row 2 // 2 - 1 // 2 = 1
    assert fit_grid(grid, 1, 2, landscape=True).flatten().tolist() == [14.0, 15.0]
    assert fit_grid(grid, 2, 1, landscape=False).flatten().tolist() == [9.0, 15.0]


def test_hypercolumn_concatenates_the_outputs_of_blocks():
    net = DeiT((32, 48), 16, 32, 4, 2, 8, hypercolumn=103).eval()  # blocks 1 and 2
    assert net.local_width == 64
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    x = net.blocks[0](net.embed_patches(images))
    first = net.blocks[1](x)
    wanted = torch.cat([first, net.blocks[2](first)], dim=-1)
    torch.testing.assert_close(net.attend(images).tokens, wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="hypercolumn is 1212, expected 100"):
        read_hypercolumn(1212, 12)


def test_images_smaller_than_a_patch_and_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="images are 4 x 48, smaller than a patch of 8"):
        small_deit()(torch.zeros(1, 3, 4, 48))
    with pytest.raises(ValueError, match="no multiple of num_heads"):
        DeiT(embed_dim=30, num_heads=4)


def test_size_that_is_no_multiple_of_16_works():
    """The rest at the right and bottom is cut; coordinates count one column more, as published."""
    net = small_network()
    _, local = net(torch.randn(1, 3, 33, 50, generator=torch.Generator().manual_seed(0)))
    assert local.shape == (1, 20, 11)
    assert net.count_columns(50) == 7
