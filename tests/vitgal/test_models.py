"""Networks against the reference answers: stages, descriptors, codes, attention, layouts."""

import numpy as np
import pytest
import torch
from timm.models.xcit import Xcit

from tests.golden_recipe import load_manifest, load_outputs
from tests.vitgal.golden_models import SYSTEM, fill, golden_image, layout, layout_of
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.xcit import VARIANTS, XCiTSizes, rename_from_timm, rename_to_timm

MANIFEST = load_manifest(SYSTEM)
FILES = MANIFEST["files"]["model_s12.npz / model_s24.npz"]
CASES = dict(FILES["cases"])  # variant -> case -> shape of its image
OUTPUTS = ("global", "cls_attn", "tokens", "code", "decoded", "ae_attn", "ae_cls")
ATTENTION = ("cls_attn", "ae_attn")
STAGES = ("patch_embed", "pos", "block0", "blocks", "atrous")
TOLERANCES = {
    attention: {
        key: MANIFEST["tolerances"]["attention maps" if attention else "model outputs"][key]
        for key in ("atol", "rtol")
    }
    for attention in (True, False)
}
SMALL = XCiTSizes(embed_dim=48, depth=2, num_heads=4, drop_path=0.0)


@pytest.fixture(scope="module", params=list(CASES))
def golden(request):
    """Variant, its model and the answers."""
    model = fill(Autoencoder(VARIANTS[request.param])).eval()
    return request.param, model, load_outputs(SYSTEM, f"model_{request.param}.npz")


def check(actual: torch.Tensor, expected: np.ndarray, attention: bool = False) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), **TOLERANCES[attention])


def test_outputs_equal_the_reference(golden):
    variant, model, answers = golden
    for case, shape in CASES[variant].items():
        with torch.no_grad():
            outputs = model(golden_image(f"{variant}/{case}/image", shape))
        assert set(outputs) == set(OUTPUTS)
        for name in OUTPUTS:
            check(outputs[name], answers[f"{case}/{name}"], name in ATTENTION)


def test_stages_equal_the_reference(golden):
    """Where the answers have them: one case of S12."""
    variant, model, answers = golden
    network = model.retrieval_back_bone
    cases = [case for case in CASES[variant] if f"{case}/{STAGES[0]}" in answers]
    if not cases:
        pytest.skip(f"the answers of {variant} hold no stages")
    for case in cases:
        image = golden_image(f"{variant}/{case}/image", CASES[variant][case])
        with torch.no_grad():
            patches, grid = network.patch_embed(image)
            start, _ = network.embed(image)
            first = network.blocks[0](start, *grid)
            last = start
            for block in network.blocks:
                last = block(last, *grid)
            stages = {
                "patch_embed": patches,
                "pos": (start - patches)[:1],
                "block0": first,
                "blocks": last,
                "atrous": network.encode(start, grid),
            }
        for name in STAGES:
            check(stages[name], answers[f"{case}/{name}"])


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_entries_and_their_order_are_the_published_ones(variant):
    sizes = VARIANTS[variant]
    num_classes = dict((n, s) for n, s, _ in layout(variant, "train"))["head.weight"][0]
    with torch.device("meta"):
        retrieval = RetrievalNetwork(sizes, num_classes)
        autoencoder = Autoencoder(sizes, num_classes=num_classes)
    assert layout_of(retrieval) == layout(variant, "train")
    assert layout_of(autoencoder) == layout(variant, "ae")


@pytest.mark.parametrize(("variant", "backbone", "whole"), [
    ("s12", 26_411_664, 28_286_864), ("s24", 47_829_744, 49_704_944),
])  # fmt: skip
def test_numbers_of_parameters_are_the_published_ones(variant, backbone, whole):
    with torch.device("meta"):
        model = Autoencoder(VARIANTS[variant])
    count = {n: p.numel() for n, p in model.named_parameters()}
    assert sum(count.values()) == whole
    assert sum(v for n, v in count.items() if n.startswith("retrieval_back_bone.")) == backbone


def test_renaming_fits_timm_and_gives_its_tokens():
    """timm's whole XCiT, with two class blocks, against our parts of it."""
    torch.manual_seed(0)
    ours = RetrievalNetwork(SMALL).eval()
    theirs = Xcit(
        embed_dim=48, depth=2, num_heads=4, num_classes=0, tokens_norm=True, cls_attn_layers=1
    ).eval()
    state = rename_to_timm(
        {k: v for k, v in ours.state_dict().items() if not k.startswith("local_atrous.")}
    )
    theirs.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, 40, 64)
    with torch.no_grad():
        tokens, grid = ours.embed(image)
        for block in ours.blocks:
            tokens = block(tokens, *grid)
        rows = torch.cat([ours.cls_token.expand(2, -1, -1), tokens], dim=1)
        rows, attention = ours.cls_attn_blocks[0](rows)
        torch.testing.assert_close(
            ours.norm(rows), theirs.forward_features(image), rtol=1e-5, atol=1e-5
        )
    assert attention.shape == (2, 4, 12)
    assert bool((attention.sum(dim=-1) < 1).all()), "the class row's own entry is left out"


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_renaming_there_and_back_changes_nothing(variant):
    state = {name: torch.randn(shape) for name, shape, _ in layout(variant, "imagenet")[-40:]}
    state["cls_attn_blocks.0.attn.qkv.weight"] = torch.randn(12, 4)
    there = rename_to_timm(state)
    assert "cls_attn_blocks.0.attn.k.weight" in there
    assert torch.equal(
        there["cls_attn_blocks.0.attn.v.weight"], state["cls_attn_blocks.0.attn.qkv.weight"][8:]
    )
    back = rename_from_timm(there)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_start_is_the_published_one():
    torch.manual_seed(0)
    sizes = XCiTSizes(embed_dim=192, depth=1, num_heads=4, eta=1e-5)
    model = Autoencoder(sizes, num_classes=500)
    network = model.retrieval_back_bone
    assert abs(network.blocks[0].mlp.fc1.weight.std().item() - 0.02) < 1e-3
    assert abs(network.cls_token.std().item() - 0.02) < 5e-3
    assert not network.blocks[0].attn.qkv.bias.any()
    for block in (network.blocks[0], network.cls_attn_blocks[0], network.local_atrous):
        gammas = [p for n, p in block.named_parameters() if n.startswith("gamma")]
        assert all(torch.all(gamma == 1e-5) for gamma in gammas)
    assert torch.all(model.cls_attn_blocks[0].gamma1 == 1.0)
    assert torch.all(network.blocks[0].attn.temperature == 1.0)
    bound = (6 / (500 + 192)) ** 0.5  # Xavier
    head = RetrievalNetwork(sizes, num_classes=500).head.weight
    assert 0.95 * bound < head.abs().max().item() <= bound


def test_start_has_the_spread_that_is_asked_for():
    sizes = XCiTSizes(embed_dim=96, depth=1, num_heads=4, weight_std=0.1)
    model = Autoencoder(sizes, code_dim=48)
    for layer in (model.retrieval_back_bone.blocks[0].mlp.fc1, model.whitening_layer):
        assert abs(layer.weight.std().item() - 0.1) < 0.01
    assert abs(model.cls_token.std().item() - 0.02) < 0.01  # as published


def test_backbone_of_the_autoencoder_stays_in_evaluation_mode():
    model = Autoencoder(SMALL, code_dim=16, num_classes=5).train()
    assert model.training
    assert not any(module.training for module in model.retrieval_back_bone.modules())
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not any(name.startswith("retrieval_back_bone.") for name in trained)


def test_labels_without_a_head_and_wrong_sizes_are_refused():
    image, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    for model in (RetrievalNetwork(SMALL), Autoencoder(SMALL)):
        with pytest.raises(ValueError, match="made without num_classes"):
            model(image, labels)
    with pytest.raises(ValueError, match="multiple of 24"):
        XCiTSizes(embed_dim=100)
    with pytest.raises(ValueError, match="depth is 0"):
        XCiTSizes(depth=0)


@pytest.mark.parametrize("size", [(16, 16), (1, 40), (37, 5)])
def test_tiny_and_elongated_images_pass(size):
    with torch.no_grad():
        outputs = Autoencoder(SMALL).eval()(torch.randn(1, 3, *size))
    count = -(-size[0] // 16) * -(-size[1] // 16)
    assert outputs["code"].shape == (1, count, 128)
    assert all(torch.isfinite(value).all() for value in outputs.values())
