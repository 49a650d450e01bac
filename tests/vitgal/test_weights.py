"""Files of weights: strict, with the one further class admitted, and errors that say what to do."""

import argparse
import pickle

import pytest
import torch

import hubconf
from tests.vitgal.golden_models import layout
from utils.checkpoints import load_state, save_checkpoint
from vitgal.models import weights
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.weights import (
    export_autoencoder,
    load_autoencoder,
    load_backbone,
    load_imagenet,
)
from vitgal.models.xcit import VARIANTS, XCiTSizes, rename_to_timm

SIZES = XCiTSizes(embed_dim=48, depth=2, num_heads=4, drop_path=0.0)
DEEPER = XCiTSizes(embed_dim=48, depth=3, num_heads=4, drop_path=0.0)
CODE = 16


def random_state(module: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in module.state_dict().items()
    }


def assert_holds(module: torch.nn.Module, state: dict[str, torch.Tensor], prefix="") -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[prefix + name]), name


def released(path, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A file like the released ones: argparse's Namespace beside the weights."""
    state = random_state(module)
    options = argparse.Namespace(lr=5e-5, model="xcit", epochs=30)
    torch.save({"model": state, "optimizer": {}, "epoch": 29, "args": options}, path)
    return state


def test_released_file_with_its_namespace_loads(tmp_path):
    path = tmp_path / "released.pth"
    state = released(path, Autoencoder(SIZES, CODE, num_classes=7))
    with pytest.raises(ValueError, match=r"released\.pth is not tensors.*Namespace"):
        load_state(path)
    assert_holds(load_autoencoder(Autoencoder(SIZES, CODE), path), state)
    network = load_backbone(RetrievalNetwork(SIZES), path)
    assert_holds(network, state, weights.BACKBONE)
    # admitted for that file alone
    with pytest.raises(ValueError, match="Namespace"):
        load_state(path)


class Harmful:
    def __reduce__(self):
        return print, ("code of a file was run",)


@pytest.mark.parametrize("bad", [Harmful(), pickle.Unpickler])
def test_nothing_but_the_namespace_is_admitted(tmp_path, capsys, bad):
    path = tmp_path / "bad.pth"
    torch.save({"model": random_state(Autoencoder(SIZES, CODE)), "args": bad}, path)
    with pytest.raises(ValueError, match=r"bad\.pth is not"):
        load_autoencoder(Autoencoder(SIZES, CODE), path)
    assert "was run" not in capsys.readouterr().out


def test_training_checkpoint_serves_the_global_rows_and_the_autoencoder(tmp_path):
    trained = RetrievalNetwork(SIZES, num_classes=7)
    state = random_state(trained)
    path = save_checkpoint(tmp_path / "checkpoint.pth", model=state, epoch=3)
    assert_holds(load_backbone(RetrievalNetwork(SIZES), path), state)
    model = Autoencoder(SIZES, CODE, num_classes=9)
    head = model.head.weight.clone()
    load_backbone(model.retrieval_back_bone, path)
    assert_holds(model.retrieval_back_bone, state)
    assert torch.equal(model.head.weight, head)
    # a head of the network's own keeps its start
    other = RetrievalNetwork(SIZES, num_classes=4)
    before = other.head.weight.clone()
    load_backbone(other, path)
    assert torch.equal(other.head.weight, before)


@pytest.mark.parametrize("half", [False, True])
def test_exported_file_holds_what_evaluation_reads(tmp_path, half):
    state = released(tmp_path / "run.pth", Autoencoder(SIZES, CODE, num_classes=7))
    path = export_autoencoder(tmp_path / "run.pth", tmp_path / "small.pth", half)
    content = load_state(path)
    assert content.keys() == {"model"}
    assert content["model"].keys() == state.keys() - set(weights.HEADS)
    if half:
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    model = load_autoencoder(Autoencoder(SIZES, CODE), path)
    assert_holds(model, state)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_export_refuses_other_files_and_numbers_beyond_half_precision(tmp_path):
    network = tmp_path / "network.pth"
    save_checkpoint(network, model=random_state(RetrievalNetwork(SIZES)))
    with pytest.raises(ValueError, match=r"network\.pth holds no autoencoder"):
        export_autoencoder(network, tmp_path / "small.pth")
    state = random_state(Autoencoder(SIZES, CODE))
    state["norm.weight"][0] = 1e6
    save_checkpoint(tmp_path / "large.pth", model=state)
    with pytest.raises(ValueError, match=r"does not hold, in norm\.weight; export with half=False"):
        export_autoencoder(tmp_path / "large.pth", tmp_path / "small.pth", half=True)
    assert not (tmp_path / "small.pth").exists()


def imagenet_state(variant: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.rand(shape, generator=generator).to(getattr(torch, dtype))
        for name, shape, dtype in layout(variant, "imagenet")
    }


@pytest.mark.parametrize("names", ["published", "timm", "wrapped"])
def test_imagenet_file_fills_all_but_the_new_block(tmp_path, names):
    state = imagenet_state("s12")
    given = {
        "published": state,
        "timm": rename_to_timm(state),
        "wrapped": {f"module.{name}": value for name, value in state.items()},
    }[names]
    path = tmp_path / "xcit_small_12_p16_224.pth"
    torch.save({"model": given}, path)
    torch.manual_seed(0)
    network = RetrievalNetwork(VARIANTS["s12"], num_classes=5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_imagenet(network, path)
    for name, value in network.state_dict().items():
        kept = name.startswith(("local_atrous.", "head."))
        assert torch.equal(value, before[name] if kept else state[name]), name


def small_imagenet() -> dict[str, torch.Tensor]:
    state = random_state(RetrievalNetwork(SIZES))
    state = {k: v for k, v in state.items() if not k.startswith("local_atrous.")}
    second = {k.replace("blocks.0.", "blocks.1."): v for k, v in state.items() if "cls_attn" in k}
    return {**state, **second, "head.weight": torch.zeros(1000, 48), "head.bias": torch.zeros(1000)}


def test_imagenet_file_with_a_name_missing_or_too_many_is_refused(tmp_path):
    state = small_imagenet()
    path = tmp_path / "xcit.pth"
    torch.save({"model": state}, path)
    load_imagenet(RetrievalNetwork(SIZES), path)
    lacking = {k: v for k, v in state.items() if k != "blocks.1.norm3.bias"}
    torch.save({"model": lacking}, path)
    with pytest.raises(ValueError, match=r"(?s)missing in the file.*blocks\.1\.norm3\.bias 48"):
        load_imagenet(RetrievalNetwork(SIZES), path)
    torch.save({"model": {**state, "extra.weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"(?s)unknown to the model.*extra\.weight"):
        load_imagenet(RetrievalNetwork(SIZES), path)


def test_wrong_files_are_named_with_the_remedy(tmp_path):
    whole, part, start = (tmp_path / name for name in ("ae.pth", "retrieval.pth", "xcit.pth"))
    released(whole, Autoencoder(SIZES, CODE))
    save_checkpoint(part, model=random_state(RetrievalNetwork(SIZES)))
    torch.save({"model": small_imagenet()}, start)
    deeper = Autoencoder(DEEPER, CODE)
    with pytest.raises(
        ValueError, match=r"another variant: it has 2 blocks, the model 3.*xcit_s24"
    ):
        load_autoencoder(deeper, whole)
    with pytest.raises(ValueError, match="another variant"):
        load_backbone(deeper.retrieval_back_bone, part)
    with pytest.raises(ValueError, match="another variant"):
        load_imagenet(RetrievalNetwork(DEEPER), start)
    with pytest.raises(ValueError, match=r"no autoencoder .*a retrieval network"):
        load_autoencoder(Autoencoder(SIZES, CODE), part)
    with pytest.raises(ValueError, match=r"no retrieval network .*an XCiT; give"):
        load_backbone(RetrievalNetwork(SIZES), start)
    with pytest.raises(ValueError, match=r"holds a retrieval network, expected an XCiT"):
        load_imagenet(RetrievalNetwork(SIZES), part)
    with pytest.raises(ValueError, match=r"(?s)shape differs.*whitening_layer\.weight"):
        load_autoencoder(Autoencoder(SIZES, 2 * CODE), whole)
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        load_autoencoder(Autoencoder(SIZES, CODE), tmp_path / "nothing.pth")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_hub_entry_gives_the_published_entries_without_a_head(variant):
    model = hubconf.vitgal(variant)
    names = [name for name, _, _ in layout(variant, "ae") if name not in weights.HEADS]
    assert list(model.state_dict()) == names
    assert not model.training
    with pytest.raises(ValueError, match=r"variant is 's13'.*'s12', 's24'"):
        hubconf.vitgal("s13")


def test_hub_entry_loads_a_released_file_and_refuses_the_other_variant(tmp_path):
    path = tmp_path / "s12.pth"
    state = released(path, Autoencoder(VARIANTS["s12"], num_classes=3))
    assert_holds(hubconf.vitgal("s12", path), state)
    with pytest.raises(ValueError, match=r"another variant: it has 12 blocks, the model 24"):
        hubconf.vitgal("s24", path)
