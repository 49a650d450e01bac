"""Checkpoints to safetensors and back: every bit of every tensor, every other value, its errors."""

import argparse
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from utils.checkpoints import convert, load_released, load_state, main, save_checkpoint
from utils.checkpoints_safetensors import card_path

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and every bit."""
    if isinstance(a, Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and bits[0] == bits[1]
    if type(a) is not type(b):
        return False
    if isinstance(a, argparse.Namespace):
        return same(vars(a), vars(b))
    if isinstance(a, dict):
        keys = [list(a) == list(b), [type(k) for k in a] == [type(k) for k in b]]
        return all(keys) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


def content() -> dict[str, Any]:
    """Everything that a checkpoint may hold, awkward tensors included."""
    torch.manual_seed(0)
    bits = torch.tensor([0x7FC00001, -1, 0, -2147483648], dtype=torch.int32)
    base = torch.randn(4, 6)
    tensors = {name: (100 * torch.randn(3, 2)).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {
        "nan with payload, -nan, 0, -0": bits.view(torch.float32),
        "empty": torch.zeros(0, 5), "scalar": torch.tensor(3.5),
        "bool": torch.tensor([True, False]),
        "transposed": base.t(), "slice": base[1:, ::2], "same again": base, "and again": base,
        "complex": torch.complex(base, base),
    }  # fmt: skip
    return {
        "state": OrderedDict(tensors),
        "a.b": torch.ones(1), "a": {"b": torch.zeros(2)},  # two places that are spelt alike
        "optim": {"state": {0: {"step": torch.tensor(7.0)}, 1: {"exp": torch.ones(2)}},
                  "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}]},
        "floats": [0.1, 1e-320, math.inf, -math.inf, math.nan, -0.0, 2.0],
        "plain": [None, True, False, 1, 2**70, "text \N{SNOWMAN}", ""],
        "nested": {"empty": {}, "list": [], "tuple": (), (1, "two"): 3},
        "shape": torch.Size([2, 3]), "dtype": torch.bfloat16, "set": {1, 2},
        "args": argparse.Namespace(lr=1e-4, names=["a"], none=None),
    }  # fmt: skip


def test_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    source = tmp_path / "released.pth"
    torch.save(content(), source)
    written = convert(source)
    assert written == tmp_path / "released.safetensors"
    back = convert(written, tmp_path / "back.pt")
    allowed = [argparse.Namespace]
    first, second = load_state(source, allowed), load_state(back, allowed)
    assert same(first, second)
    assert same(first, content())
    assert same(load_state(written), second), "read directly too"


def test_card_describes_the_tensors(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "own.pt", state={"weight": torch.zeros(2, 3)}, epoch=4)
    card = json.loads(card_path(convert(path)).read_text())
    assert card["source"] == "own.pt"
    assert card["parameters"] == 6
    assert card["tensors"] == {"state.weight": {"shape": [2, 3], "dtype": "float32"}}
    assert len(card["source_sha256"]) == len(card["safetensors_sha256"]) == 64


def test_models_load_converted_and_foreign_files(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    path = save_checkpoint(tmp_path / "own.pt", state=model.state_dict())
    for file in (convert(path), tmp_path / "foreign.safetensors"):
        if file.name == "foreign.safetensors":
            save_file(model.state_dict(), file)
        loaded = load_released(torch.nn.Linear(3, 2), file)
        assert same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_files_that_are_there_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_checkpoint(tmp_path / "own.pt", state={"w": torch.zeros(1)})
    assert main(["convert", str(path)]) == 0
    assert main(["convert", str(path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(path), "--overwrite"]) == 0
    assert main(["convert", str(tmp_path / "own.safetensors")]) == 1, "own.pt is there"
    assert main(["convert", str(tmp_path / "own.safetensors"), str(tmp_path / "b.pt")]) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), "no whole safetensors file"),
        (lambda p: p.write_bytes(b""), "no whole safetensors file"),
        (lambda p: save_file({"w": torch.ones(1)}, p), "is not the card of"),
        (lambda p: card_path(p).write_text("[]"), "is no card"),
        (lambda p: card_path(p).write_text('{"format": 1}'), "is no card"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage, message: str) -> None:
    path = convert(save_checkpoint(tmp_path / "own.pt", state={"w": torch.zeros(1)}))
    damage(path)
    with pytest.raises(ValueError, match=message) as refused:
        load_state(path)
    assert "again" in str(refused.value), "a remedy"


@pytest.mark.parametrize(
    "structure",
    ['{"dict": [["w", {"tensor": "gone"}]]}', '{"list": []}', '{"nonsense": 1}', '{"dict": 3}'],
)
def test_damaged_structure_is_refused(tmp_path: Path, structure: str) -> None:
    path = convert(save_checkpoint(tmp_path / "own.pt", state={"w": torch.zeros(1)}))
    card = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps({**card, "structure": json.loads(structure)}))
    with pytest.raises(ValueError, match=r"damaged structure|expected a dict"):
        load_state(path)


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.pt"
    torch.save({"state": {"w": torch.eye(3).to_sparse()}}, sparse)
    with pytest.raises(ValueError, match=r"state\.w is torch\.sparse_coo"):
        convert(sparse)
    assert not (tmp_path / "sparse.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="give the path"):
        convert(tmp_path / "gone.pt")
    path = save_checkpoint(tmp_path / "own.pt", state={"w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        convert(path, tmp_path / "other.pt")
