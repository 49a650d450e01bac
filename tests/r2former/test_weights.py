"""Released and own files: strict, with their few allowances; starts from ImageNet; ingredient."""

import numpy as np
import pytest
import torch
import torchvision
from sacred import Experiment

from r2former.models import ingredient
from r2former.models.deit import DeiT
from r2former.models.ingredient import model_ingredient
from r2former.models.network import DeiTR2Former, ResNetR2Former
from r2former.models.pooling import MAP_POOLINGS, RMAC, GeM, make_pooling, regions
from r2former.models.vg_network import VGNetwork
from r2former.models.vlad import NetVLAD
from r2former.models.weights import (
    ENTRY,
    UNUSED,
    load_global,
    load_network,
    read_pretrained,
    start_deit,
    start_resnet,
    to_released_names,
)
from tests.r2former.golden_models import golden_state
from tests.r2former.small_runs import MODEL, make_tiny, write_checkpoint


def released(path, kind, **parts):
    """A file as the published code writes it: prefix, numpy recalls, optimiser."""
    state = {f"module.{name}": value for name, value in golden_state(kind).items()}
    content = {
        "epoch_num": 12,
        ENTRY: state,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "recalls": np.array([89.7, 95.0]),
        "best_r5": np.float64(89.7),
        "not_improved_num": 0,
    }
    torch.save({**content, **parts}, path)
    return path


def same_state(net, wanted):
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)


def test_reranking_file_loads_strictly(tmp_path):
    path = released(tmp_path / "CVPR23_DeitS_Rerank.pth", "deit")
    net = DeiTR2Former()
    assert load_network(net, path)
    same_state(net, golden_state("deit"))
    bare = DeiT()
    load_global(bare, path)
    same_state(bare, golden_state("global"))


def test_global_file_loads_into_both_and_leaves_the_reranker(tmp_path):
    path = released(tmp_path / "msls_v2_deits.pth", "global")
    bare = DeiT()
    load_global(bare, path)
    same_state(bare, golden_state("global"))
    net = DeiTR2Former()
    before = net.Reranker.pair_head.weight.clone()
    with pytest.raises(ValueError, match=r"msls_v2_deits\.pth holds a global model only"):
        load_network(net, path)
    assert not load_network(net, path, allow_global=True)
    same_state(net.backbone, golden_state("global"))
    assert torch.equal(net.Reranker.pair_head.weight, before)


def test_unused_entries_may_be_missing_or_of_another_length(tmp_path):
    net = make_tiny()
    for change in ("missing", "longer"):
        state = to_released_names(net)
        for name in UNUSED:
            if change == "missing":
                del state[f"module.{name}"]
            else:
                state[f"module.{name}"] = torch.zeros(1, 7, 16)
        torch.save({ENTRY: state}, tmp_path / "a.pth")
        assert load_network(make_tiny(), tmp_path / "a.pth")


def test_everything_else_must_fit(tmp_path):
    path = write_checkpoint(tmp_path / "tiny.pth", make_tiny())
    with pytest.raises(ValueError, match=r"(?s)tiny\.pth does not fit.*backbone"):
        load_network(ResNetR2Former(), path)
    state = to_released_names(make_tiny())
    del state["module.Reranker.cls_token"]
    torch.save({ENTRY: state}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"(?s)missing in the file \(1\).*Reranker.cls_token"):
        load_network(make_tiny(), tmp_path / "b.pth")
    torch.save({"state": {"a": 1}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="no entry 'model_state_dict'"):
        load_network(make_tiny(), tmp_path / "c.pth")
    with pytest.raises(FileNotFoundError, match="README"):
        load_network(make_tiny(), tmp_path / "gone.pth")


def test_own_file_has_the_prefix_and_comes_back(tmp_path):
    net = make_tiny()
    path = write_checkpoint(tmp_path / "own.pth", net)
    names = torch.load(path, weights_only=True)[ENTRY]
    assert all(name.startswith("module.") for name in names)
    torch.manual_seed(9)
    other = model("make_model", **MODEL)
    load_network(other, path)
    same_state(other, net.state_dict())


def test_deit_starts_from_imagenet_with_both_heads_alike():
    """head_dist begins as the rows of `head`, not as those of `head_dist`."""
    torch.manual_seed(0)
    source = DeiT((48, 48), out_dim=40, embed_dim=32, depth=3, num_heads=2, patch_size=8)
    net = make_tiny().backbone
    start_deit(net, source.state_dict(), "ImageNet")
    assert torch.equal(net.head.weight, source.head.weight[:16])
    assert torch.equal(net.head_dist.weight, source.head.weight[:16])
    assert torch.equal(net.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)
    assert net.pos_embed.shape == (1, 26, 32)
    with pytest.raises(ValueError, match="no distilled DeiT"):
        start_deit(net, {}, "x.pth")


def test_resnet_starts_from_imagenet():
    source = torchvision.models.resnet50(weights=None).state_dict()
    net = start_resnet(ResNetR2Former(), source)
    assert torch.equal(net.backbone[4][0].conv1.weight, source["layer1.0.conv1.weight"])


def model(function: str, **config):
    """Call a captured function of the ingredient with a configuration."""
    ex = Experiment("made_up", ingredients=[model_ingredient], save_git_info=False)
    found = []
    ex.main(lambda: found.append(getattr(ingredient, function)()))
    ex.run(config_updates={"model": config})
    return found[0]


def test_configured_networks_are_the_published_ones():
    net = model("make_model", pretrained=False)
    assert sum(p.numel() for p in net.parameters()) == 22_433_539
    base = model("make_global_model", pretrained=False, backbone="deitBase")
    assert (base.embed_dim, len(base.blocks), base.blocks[0].attn.num_heads) == (768, 12, 12)
    with pytest.raises(ValueError, match="reranking goes with"):
        model("make_model", pretrained=False, backbone="vgg16")
    with pytest.raises(ValueError, match="hypercolumn is 306, expected 100"):
        model("make_model", pretrained=False, backbone="resnetMini", hypercolumn=306)
    with pytest.raises(ValueError, match="the only one is 'r2former'"):
        model("make_model", pretrained=False, rerank_model="rrt")


def test_aggregation_of_a_deit_is_ignored_with_a_word(caplog):
    net = model("make_global_model", **{**MODEL, "aggregation": "netvlad"})
    assert isinstance(net, DeiT)
    assert "model.aggregation=netvlad is ignored" in caplog.text


def test_resnet_of_the_global_stage_is_that_of_the_reranking_stage(tmp_path):
    """A file with reranking loads into the global model, all of which is trained."""
    net = ResNetR2Former()
    net.load_state_dict(golden_state("resnet50"))
    path = write_checkpoint(tmp_path / "r50.pth", net)
    bare = model("make_global_model", pretrained=False, backbone="resnet50")
    assert all(parameter.requires_grad for parameter in bare.parameters())
    load_global(bare, path)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = bare.eval()(images), net.eval().embed_global(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    frozen = VGNetwork("resnet50conv5", "gem").backbone
    assert not any(parameter.requires_grad for parameter in frozen[5].parameters())
    assert load_network(ResNetR2Former(), path)
    alone = write_checkpoint(tmp_path / "global.pth", bare)
    assert not load_network(ResNetR2Former(), alone, allow_global=True)


def test_the_small_resnet_is_one_network_in_both_stages(tmp_path):
    """Its own checkpoint of the global stage starts the reranking stage; sizes of its parts."""
    config = {"backbone": "resnetMini", "pretrained": False, "fc_output_dim": 16, "num_local": 20}
    bare = model("make_global_model", **config).eval()
    net = model("make_model", **config, local_dim=8, rerank_depth=1).eval()
    path = write_checkpoint(tmp_path / "mini.pth", bare)
    assert not load_network(net, path, allow_global=True)
    images = torch.randn(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        descriptor, local = net(images)
        torch.testing.assert_close(descriptor, bare(images), rtol=0, atol=1e-6)
    assert local.shape == (2, 20, 3 + 8)
    places = (local[..., :2] * 64 - 4) / 8  # centres of patches of 8 pixels, by the longer side
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-4)
    assert places.amax(dim=(0, 1)).tolist() <= [7.0, 4.0]
    for function in ("make_model", "make_global_model"):
        with pytest.raises(ValueError, match="resnetMini has no ImageNet weights"):
            model(function, **{**config, "pretrained": True})


def test_lost_imagenet_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the path of the ImageNet weights"):
        read_pretrained("deit_small_distilled_patch16_224", str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("aggregation", sorted(set(MAP_POOLINGS) - {"none"}))
def test_networks_of_the_vg_benchmark_give_unit_rows(aggregation):
    net = VGNetwork("resnet18conv4", aggregation, netvlad_clusters=4, fc_output_dim=8).eval()
    with torch.no_grad():
        found = net.embed_global(torch.randn(2, 3, 64, 80))
    assert found.shape == (2, 8)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_without_aggregation_the_whole_map_is_the_descriptor():
    with torch.no_grad():
        found = VGNetwork("resnet18conv4", "none").eval()(torch.randn(1, 3, 64, 80))
    assert found.shape == (1, 256 * 4 * 5)
    with pytest.raises(ValueError, match="aggregation none leaves the whole map"):
        VGNetwork("resnet18conv4", "none", fc_output_dim=8)


def test_vg_options_are_checked():
    with pytest.raises(ValueError, match="'cls' does not go with vgg16"):
        VGNetwork("vgg16", "cls")
    with pytest.raises(ValueError, match="'resnet20', expected deit"):
        VGNetwork("resnet20", "gem")
    with pytest.raises(ValueError, match="l2 is 'both'"):
        VGNetwork(l2="both")


def test_netvlad_is_the_loop_over_clusters():
    torch.manual_seed(0)
    net, x = NetVLAD(3, 4), torch.randn(2, 4, 5, 6)
    x = torch.nn.functional.normalize(x, dim=1)
    assigned = net.conv(x).softmax(dim=1).flatten(2)
    rows = []
    for k in range(3):
        residual = x.flatten(2) - net.centroids[k][None, :, None]
        rows.append(torch.nn.functional.normalize((residual * assigned[:, k : k + 1]).sum(2)))
    wanted = torch.nn.functional.normalize(torch.cat(rows, dim=1))
    torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-5)


def test_netvlad_starts_so_that_the_nearest_centroid_outweighs_the_second_a_hundredfold():
    net = NetVLAD(2, 2)
    net.start_from(torch.eye(2), torch.tensor([[1.0, 0.0]]))
    weights = net.conv(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)).softmax(dim=1).flatten()
    torch.testing.assert_close(weights[0] / weights[1], torch.tensor(100.0))


def test_poolings_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    assert make_pooling("mac", 1)[0](x).item() == 4
    assert make_pooling("spoc", 1)[0](x).item() == 2.5
    torch.testing.assert_close(GeM()(x).item(), 25 ** (1 / 3))  # mean of 1, 8, 27, 64
    # the whole, then squares of side 2, 1, 1: one normalised channel each
    assert regions(2, 2, 2, 0.4) == [
        (0, 0, 2),
        *((top, left, 1) for top in (0, 1) for left in (0, 1)),
    ]
    torch.testing.assert_close(RMAC(2)(x).item(), 6.0, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="aggregation is 'max'"):
        make_pooling("max", 1)
