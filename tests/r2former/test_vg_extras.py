"""Parts that are off by default: transformers, non-local blocks, hypercolumn of a ResNet."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch.nn import functional

from r2former.models import transformers
from r2former.models.cct import CompactTransformer, EncoderBlock, start_cct
from r2former.models.non_local import NonLocal
from r2former.models.resnet import MiniResNetFeatures, ResNetFeatures
from r2former.models.transformers import tokens_to_map
from r2former.models.vg_network import Extras, VGNetwork
from tests.r2former.small_runs import MODEL
from tests.r2former.test_weights import model

# of the published file: parameters with pooling and 1000 classes, names of a block
CCT_PARAMETERS, CCT_TOP = 22_513_193, 385 + 385_000
CCT_NAMES = [
    "tokenizer.conv_layers.0.0.weight", "tokenizer.conv_layers.1.0.weight",
    "classifier.positional_emb", "classifier.norm.weight", "classifier.norm.bias",
]  # fmt: skip
CCT_BLOCK = [
    "pre_norm.weight", "pre_norm.bias", "self_attn.qkv.weight", "self_attn.proj.weight",
    "self_attn.proj.bias", "linear1.weight", "linear1.bias", "norm1.weight", "norm1.bias",
    "linear2.weight", "linear2.bias",
]  # fmt: skip


@pytest.fixture
def tiny_vit(monkeypatch):
    """timm's smallest ViT in place of ViT-B."""
    monkeypatch.setattr(transformers, "VIT_MODEL", "vit_tiny_patch16_224")


def images(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def cct_file(depth: int = 3) -> dict[str, torch.Tensor]:
    """What the published file holds, with fewer blocks and random numbers."""
    torch.manual_seed(5)
    state = CompactTransformer(depth=depth).state_dict()
    pool = {"weight": torch.randn(1, 384), "bias": torch.randn(1)}
    top = {"classifier.fc.weight": torch.zeros(7, 384), "classifier.fc.bias": torch.zeros(7)}
    return {**state, **{f"classifier.attention_pool.{k}": v for k, v in pool.items()}, **top}


def test_compact_transformer_has_the_published_names_and_size():
    with torch.device("meta"):
        net = CompactTransformer()
    assert sum(p.numel() for p in net.parameters()) + CCT_TOP == CCT_PARAMETERS
    blocks = [f"classifier.blocks.{i}.{name}" for i in range(14) for name in CCT_BLOCK]
    assert sorted(net.state_dict()) == sorted(CCT_NAMES + blocks)


def test_block_of_the_compact_transformer_is_its_equation():
    torch.manual_seed(0)
    block, x = EncoderBlock(8, 2, 12), images(2, 5, 8)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    normed = functional.layer_norm(x, (8,), block.pre_norm.weight, block.pre_norm.bias)
    q, k, v = (normed @ part.T for part in block.self_attn.qkv.weight.split(8))
    heads = [
        torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / 2, dim=-1) @ v[..., h]
        for h in (slice(0, 4), slice(4, 8))
    ]
    x = block.norm1(x + block.self_attn.proj(torch.cat(heads, dim=-1)))
    wanted = x + block.linear2(functional.gelu(block.linear1(x)))
    torch.testing.assert_close(block(images(2, 5, 8)), wanted, rtol=1e-5, atol=1e-5)


def test_compact_transformer_starts_from_its_file_strictly():
    state = cct_file()
    net = CompactTransformer(depth=3)
    pool = start_cct(net, state, "cct.pth")
    assert torch.equal(pool["weight"], state["classifier.attention_pool.weight"])
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])
    shorter = CompactTransformer(depth=2)
    start_cct(shorter, state, "cct.pth")
    last = "classifier.blocks.1.linear2.weight"
    assert torch.equal(shorter.state_dict()[last], state[last])
    with_class = CompactTransformer(with_class=True, depth=3)
    start_cct(with_class, state, "cct.pth")
    places = with_class.classifier.positional_emb[:, 1:]
    assert torch.equal(places, state["classifier.positional_emb"])
    del state["classifier.norm.bias"]
    with pytest.raises(ValueError, match=r"(?s)cct\.pth does not fit.*classifier.norm.bias"):
        start_cct(CompactTransformer(depth=3), state, "cct.pth")


def test_compact_transformer_in_the_global_stage(tmp_path, monkeypatch):
    """Attention pooling begins as in the file; an image of another size is refused."""
    monkeypatch.setitem(transformers.DEPTHS, "cct384", 3)
    state = cct_file()
    torch.save(state, tmp_path / "cct.pth")
    config = {"backbone": "cct384", "fc_output_dim": 8, "backbone_weights": tmp_path / "cct.pth"}
    config["backbone_weights"] = str(config["backbone_weights"])
    net = model("make_global_model", **config, aggregation="seqpool", trunc_te=2).eval()
    found = {k: v for k, v in net.state_dict().items() if "attention." in k}
    assert torch.equal(
        found["aggregation.0.attention.bias"], state["classifier.attention_pool.bias"]
    )
    with torch.no_grad():
        x = images(1, 3, 384, 384)
        tokens = net.backbone(x)
        weights = torch.softmax(tokens[0] @ found["aggregation.0.attention.weight"][0], dim=0)
        pooled = (weights[:, None] * tokens[0]).sum(dim=0, keepdim=True)
        wanted = functional.normalize(net.aggregation[1](pooled))
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-5)
    assert tokens.shape == (1, 576, 384)
    with pytest.raises(ValueError, match="images are 96 x 128, cct384 takes 384 x 384"):
        net(images(1, 3, 96, 128))
    with pytest.raises(FileNotFoundError, match=r"model\.backbone_weights=FILE"):
        model("make_global_model", backbone="cct384", fc_output_dim=8)
    with pytest.raises(ValueError, match="trunc_te is 4, expected None or 1 to 3, blocks of"):
        model("make_global_model", backbone="cct384", pretrained=False, trunc_te=4)


def test_tokens_become_a_map_row_by_row_without_the_class_token():
    tokens = torch.arange(7.0).view(1, 7, 1)
    found = tokens_to_map(tokens, 1, (32, 50))  # 2 x 3 places
    assert found.squeeze().tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize("aggregation", ["cls", "seqpool", "gem", "netvlad"])
def test_vit_with_few_blocks_goes_with_all_poolings(tiny_vit, aggregation):
    net = VGNetwork("vit", aggregation, netvlad_clusters=3, extras=Extras(trunc_te=2)).eval()
    assert len(net.backbone.blocks) == 2
    with torch.no_grad():
        x = images(2, 3, 64, 96)
        found = net(x)
        tokens = net.backbone(x)
    assert tokens.shape == (2, 1 + 4 * 6, 192)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    if aggregation == "cls":
        torch.testing.assert_close(found, functional.normalize(tokens[:, 0]), rtol=0, atol=1e-6)


def test_first_blocks_of_a_transformer_are_those_of_the_whole(tiny_vit):
    whole = VGNetwork("vit", "cls").eval()
    part = VGNetwork("vit", "cls", extras=Extras(trunc_te=3)).eval()
    kept = {k: v for k, v in whole.state_dict().items() if k in part.state_dict()}
    part.load_state_dict(kept)
    x = images(1, 3, 32, 48)
    seen = []
    whole.backbone.blocks[2].register_forward_hook(lambda *parts: seen.append(parts[2]))
    with torch.no_grad():
        whole(x)
        wanted = functional.normalize(whole.backbone.vit.norm(seen[0])[:, 0])
        torch.testing.assert_close(part(x), wanted, rtol=0, atol=1e-6)


def test_backbones_start_from_the_file_that_is_given(tiny_vit, tmp_path):
    torch.manual_seed(1)
    vit = timm.create_model(transformers.VIT_MODEL, num_classes=5)
    resnet = torchvision.models.resnet18(weights=None)
    for name, net in (("vit", vit), ("resnet18conv4", resnet)):
        torch.save(net.state_dict(), tmp_path / "start.pth")
        config = {"backbone": name, "backbone_weights": str(tmp_path / "start.pth")}
        made = model("make_global_model", **config, fc_output_dim=8).backbone
        if name == "vit":
            torch.testing.assert_close(made.vit.blocks[3].state_dict(), vit.blocks[3].state_dict())
        else:
            torch.testing.assert_close(made[6].state_dict(), resnet.layer3.state_dict())
        with pytest.raises(FileNotFoundError, match="give the path of the ImageNet weights"):
            model("make_global_model", backbone=name, backbone_weights="gone.pth")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "start.pth")
    with pytest.raises(ValueError, match="does not fit"):
        model("make_global_model", **config)


@pytest.mark.parametrize("freeze_te, trained", [(None, {0, 1, 2, None}), (-1, {0, 1, 2}), (1, {2})])
def test_freeze_te_leaves_what_is_outside_the_blocks_too(tiny_vit, freeze_te, trained):
    extras = Extras(trunc_te=3, freeze_te=freeze_te)
    net = VGNetwork("vit", "seqpool", fc_output_dim=4, extras=extras)
    found = set()
    for name, parameter in net.backbone.named_parameters():
        parts = name.split(".")
        if parameter.requires_grad:
            found.add(int(parts[2]) if parts[1] == "blocks" else None)
    assert found == trained
    assert all(parameter.requires_grad for parameter in net.aggregation.parameters())


def test_non_local_block_is_the_loop_over_places():
    torch.manual_seed(0)
    block, x = NonLocal(4, 3), images(2, 4, 3, 5)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)  # begins as the identity
    torch.nn.init.normal_(block.merge.weight)
    q, k, v = (part(x).flatten(2) for part in (block.query, block.key, block.value))
    wanted = x.flatten(2).clone()
    for b in range(2):
        for i in range(15):
            weights = torch.softmax(k[b].T @ q[b, :, i], dim=0)
            wanted[b, :, i] += block.merge.weight[:, :, 0, 0] @ (v[b] @ weights)
    torch.testing.assert_close(block(x).flatten(2), wanted, rtol=1e-4, atol=1e-5)


def test_non_local_blocks_stand_before_the_pooling():
    extras = Extras(non_local=True, num_non_local=2, channel_bottleneck=16)
    net = VGNetwork("resnet18conv4", "spoc", extras=extras).eval()
    assert [block.query.out_channels for block in net.non_local] == [16, 16]
    with torch.no_grad():
        for block in net.non_local:
            torch.nn.init.normal_(block.merge.weight, std=0.1)
        x = images(1, 3, 64, 64)
        features = net.non_local(net.backbone(x))
        wanted = functional.normalize(functional.normalize(features).mean(dim=(2, 3)))
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-5)
    plain = VGNetwork("resnet18conv4", "spoc")
    assert not [name for name in plain.state_dict() if "non_local" in name]


@pytest.mark.parametrize(
    "backbone, aggregation, extras, told",
    [
        ("alexnet", "gem", Extras(trunc_te=3), "count blocks of"),
        ("resnet18conv4", "gem", Extras(freeze_te=3), "leave them at None"),
        ("vit", "gem", Extras(trunc_te=0), "trunc_te is 0, expected None or 1 to 12"),
        ("vit", "gem", Extras(freeze_te=12), "freeze_te is 12, expected None or -1 to 11"),
        ("vit", "cls", Extras(non_local=True), "non_local needs a map of features"),
        ("resnet18conv4", "gem", Extras(non_local=True, num_non_local=0), "num_non_local is 0"),
        (
            "resnet18conv4",
            "gem",
            Extras(non_local=True, channel_bottleneck=0),
            "channel_bottleneck is 0",
        ),
    ],
)
def test_options_of_other_networks_are_refused(tiny_vit, backbone, aggregation, extras, told):
    with pytest.raises(ValueError, match=told):
        VGNetwork(backbone, aggregation, extras=extras)


@pytest.mark.parametrize("function", ["make_model", "make_global_model"])
def test_r2formers_own_networks_have_none_of_these_options(function):
    with pytest.raises(ValueError, match="non_local, trunc_te belong to the networks of the VG"):
        model(function, **MODEL, non_local=True, trunc_te=2)


def test_hypercolumn_of_resnet50_has_1856_channels():
    with torch.device("meta"):
        assert ResNetFeatures(4).local_width == 1856
        assert ResNetFeatures(204).local_width == 512 + 1024
        assert ResNetFeatures().local_width == 1024
        with pytest.raises(ValueError, match="hypercolumn is 5, expected 100"):
            ResNetFeatures(5)


def test_hypercolumn_of_a_resnet_concatenates_its_stages():
    torch.manual_seed(0)
    whole = MiniResNetFeatures(4).eval()
    plain = MiniResNetFeatures().eval()
    plain.load_state_dict(whole.state_dict())
    x = images(1, 3, 48, 64)
    with torch.no_grad():
        layer3, layer4 = plain(x)
        stages = [torch.nn.Sequential(*list(whole)[:4])(x)]
        for index in (4, 5, 6):
            stages.append(whole[index](stages[-1]))
        found, last = whole(x)
        resized = [
            functional.interpolate(stage, layer3.shape[-2:], mode="bicubic") for stage in stages[:3]
        ]
    torch.testing.assert_close(last, layer4, rtol=0, atol=0)
    torch.testing.assert_close(found, torch.cat([*resized, layer3], dim=1), rtol=0, atol=0)
    config = {"backbone": "resnetMini", "pretrained": False, "num_local": 20, "local_dim": 8}
    net = model("make_model", **config, hypercolumn=4).eval()
    assert net.local_head.in_features == found.shape[1] == whole.local_width
    with torch.no_grad():
        assert net(x)[1].shape == (1, 20, 11)
    assert np.isfinite(net(x)[1].detach().numpy()).all()
