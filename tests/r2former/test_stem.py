"""The stem of convolutions with which a small DeiT learns from random weights."""

import pytest
import torch

from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former
from r2former.models.stem import ConvStem
from r2former.models.weights import load_network
from tests.r2former.small_runs import MODEL, write_checkpoint
from tests.r2former.test_weights import model


def make_deit(stem: str = "conv", **changes) -> DeiT:
    torch.manual_seed(0)
    return DeiT(**{"img_size": (32, 48), "out_dim": 16, "embed_dim": 32, "depth": 3,
                   "num_heads": 2, "patch_size": 8, "stem": stem, **changes}).eval()  # fmt: skip


def images(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def test_stem_halves_the_side_until_a_place_is_a_patch():
    stem = ConvStem(16, 96)
    shapes = [tuple(layer.weight.shape) for layer in stem if isinstance(layer, torch.nn.Conv2d)]
    assert shapes == [
        (32, 3, 3, 3), (64, 32, 3, 3), (96, 64, 3, 3), (96, 96, 3, 3), (96, 96, 1, 1),
    ]  # fmt: skip
    assert stem.eval()(images(1, 3, 64, 96)).shape == (1, 96, 4, 6)
    with pytest.raises(ValueError, match="patch_size is 12, a stem of convolutions needs a power"):
        ConvStem(12, 32)


def test_a_rest_of_the_image_is_cut_as_by_patches():
    net, x = make_deit(), images(1, 3, 37, 55)
    with torch.no_grad():
        found, wanted = net.attend(x), net.attend(x[..., :32, :48])
    assert found.attention.shape == (1, 4 * 6)
    tokens = net.patch_embed.proj(x)
    torch.testing.assert_close(tokens, net.patch_embed.proj(x[..., :32, :48]), rtol=0, atol=0)
    assert found.tokens.shape == wanted.tokens.shape


def test_linear_layers_of_a_network_with_a_stem_begin_as_those_of_the_reranker():
    """Uniform within sqrt(6 / (in + out)): of standard deviation sqrt(2 / (in + out))."""
    for name, layer in make_deit(embed_dim=64).named_modules():
        if isinstance(layer, torch.nn.Linear):
            spread = (2 / sum(layer.weight.shape)) ** 0.5
            weight = layer.weight.detach()
            assert weight.abs().max() <= 3**0.5 * spread, name
            assert abs(float(weight.std()) / spread - 1) < 0.1, name
            assert not layer.bias.any()
    assert float(make_deit("patch").blocks[0].mlp.fc1.weight.detach().std()) < 0.03


def test_checkpoint_of_the_global_stage_starts_the_reranking_stage(tmp_path):
    bare = make_deit()
    path = write_checkpoint(tmp_path / "stem.pth", bare)
    net = DeiTR2Former(make_deit(), local_dim=8, num_local=20, dim=16, depth=1, num_heads=2).eval()
    assert not load_network(net, path, allow_global=True)
    x = images(2, 3, 32, 48)
    with torch.no_grad():
        descriptor, local = net(x)
        torch.testing.assert_close(descriptor, bare(x), rtol=0, atol=0)
    assert local.shape == (2, 20, 3 + 8)
    plain = DeiTR2Former(make_deit("patch"), local_dim=8, num_local=20, dim=16, num_heads=2)
    with pytest.raises(ValueError, match="does not fit"):
        load_network(plain, path, allow_global=True)


def test_unknown_stems_and_imagenet_weights_are_refused():
    with pytest.raises(ValueError, match="stem is 'none', expected one of"):
        make_deit("none")
    assert isinstance(model("make_global_model", **MODEL, stem="conv").patch_embed.proj, ConvStem)
    for function in ("make_global_model", "make_model"):
        with pytest.raises(ValueError, match="stem=conv has no ImageNet weights"):
            model(function, **{**MODEL, "pretrained": True, "stem": "conv"})
