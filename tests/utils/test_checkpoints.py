"""Checkpoints: strict loading with a readable difference, damaged files, atomic saving."""

import io
import pickle
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoints import (
    describe_difference,
    fingerprint_weights,
    load_released,
    load_state,
    load_weights,
    save_checkpoint,
)


def make_model(width: int = 3) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_file_with_state_entry_and_bare_file_load(tmp_path, wrapped, zipped):
    source, target = make_model(), make_model()
    nn.init.constant_(target[0].weight, 7.0)
    state = OrderedDict(source.state_dict())
    path = tmp_path / "released.pt"
    content = {"state": state, "optim": {}} if wrapped else state
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert load_released(target, path) is target
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, rtol=0, atol=0)


def test_saved_file_holds_the_same_and_loads_weights_only(tmp_path):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    wrapped = {f"module.{k}": v for k, v in model.state_dict().items()}
    path = tmp_path / "new" / "own.pt"
    assert save_checkpoint(path, state=wrapped, optim=optimizer.state_dict(), epoch=3) == path
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 3
    assert list(saved["state"]) == list(model.state_dict())
    optimizer.load_state_dict(saved["optim"])
    torch.testing.assert_close(saved["state"], dict(model.state_dict()))
    assert [file.name for file in path.parent.iterdir()] == ["own.pt"]


def test_views_are_saved_without_their_storage(tmp_path):
    rows = torch.zeros(100_000, 4)[:2]
    save_checkpoint(tmp_path / "view.pt", state={"rows": rows})
    assert (tmp_path / "view.pt").stat().st_size < 10_000


def test_older_file_survives_a_failed_save(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, state={"a": torch.ones(2)})
    with pytest.raises(TypeError, match=r"best\.pt could not be read back"):
        save_checkpoint(path, state={"a": torch.zeros(2)}, metric=np.float64(0.5))
    torch.testing.assert_close(load_state(path)["state"]["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_difference_lists_names_and_shapes():
    expected = {"a": torch.zeros(2), "b": torch.zeros(2, 3), "c": torch.zeros(())}
    found = {"b": torch.zeros(3, 2), "c": torch.zeros(()), "z": torch.zeros(4)}
    assert describe_difference(expected, found).splitlines() == [
        "  missing in the file (1):",
        "    a 2",
        "  unknown to the model (1):",
        "    z 4",
        "  shape differs (1):",
        "    b model 2 x 3, file 3 x 2",
    ]
    assert describe_difference(expected, expected) == ""


def test_difference_names_the_first_ten_and_counts_all():
    lines = describe_difference({f"w{i}": torch.zeros(1) for i in range(25)}, {}).splitlines()
    assert lines[0] == "  missing in the file (25):"
    assert lines[1:] == [f"    w{i} 1" for i in range(10)] + ["    ..."]


def test_model_of_another_size_is_refused_and_left_alone(tmp_path):
    path = save_checkpoint(tmp_path / "wide.pt", state=make_model(5).state_dict())
    model = make_model(3)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"(?s)wide\.pt does not fit.*0\.weight model 3 x 2, file"):
        load_released(model, path)
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=0)


def test_dropped_names_are_the_only_ones_ignored(tmp_path):
    state = {**make_model().state_dict(), "extra": torch.zeros(1)}
    path = save_checkpoint(tmp_path / "more.pt", state=state)
    with pytest.raises(ValueError, match=r"unknown to the model \(1\):\n    extra 1"):
        load_released(make_model(), path)
    load_released(make_model(), path, drop=["extra"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = make_model().state_dict()
    state["0.bias"][1] = value
    path = save_checkpoint(tmp_path / "broken.pt", state=state)
    with pytest.raises(ValueError, match=r"broken\.pt has NaN or infinite weights in 0\.bias"):
        load_released(make_model(), path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"r50_gldv1\.pt does not exist; download"):
        load_released(make_model(), tmp_path / "r50_gldv1.pt")


class RunsCode:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def foreign_files() -> dict[str, bytes]:
    return {
        "empty": b"",
        "web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "text": b"weights go here\n",
        "pickle with code": pickle.dumps({"state": RunsCode()}),
        "numpy pickle": pickle.dumps({"state": np.zeros(3)}),
        "zip without content": b"PK\x05\x06" + bytes(18),
    }


@pytest.mark.parametrize("kind", list(foreign_files()))
def test_file_that_is_no_checkpoint_is_refused(tmp_path, kind, capsys):
    path = tmp_path / "file.pt"
    path.write_bytes(foreign_files()[kind])
    with pytest.raises(ValueError, match=r"file\.pt is not .*; fetch or make the file again"):
        load_state(path)
    assert "never" not in capsys.readouterr().out


def test_file_without_a_dict_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt is not a dict, but a list"):
        load_state(tmp_path / "list.pt")


def test_file_without_a_state_dict_is_refused(tmp_path):
    save_checkpoint(tmp_path / "log.pt", losses=[0.5, 0.25])
    with pytest.raises(ValueError, match=r"log\.pt holds no state dict.*found entries losses"):
        load_released(make_model(), tmp_path / "log.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_refused(tmp_path, zipped):
    whole, path = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"state": make_model().state_dict()}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    for length in np.linspace(0, len(data) - 1, 60).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.pt is not"):
            load_state(path)


def test_one_changed_byte_of_a_weight_is_noticed(tmp_path):
    """torch.load itself returns other numbers without a word."""
    model = make_model()
    path = save_checkpoint(tmp_path / "flipped.pt", state=model.state_dict())
    data = bytearray(path.read_bytes())
    at = data.index(model[0].weight.detach().numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped\.pt is not a whole checkpoint \(wrong checksum"):
        load_released(model, path)


class Options:
    """Stands for the options of a run that a released file holds as an object of a class."""

    def __init__(self) -> None:
        self.lr = 0.5


def test_allowed_class_is_admitted_for_that_file_alone(tmp_path):
    path = tmp_path / "with_options.pt"
    torch.save({"state": make_model().state_dict(), "args": Options()}, path)
    with pytest.raises(ValueError, match=r"with_options\.pt is not tensors.*Options"):
        load_state(path)
    assert load_state(path, allowed=[Options])["args"].lr == 0.5
    with pytest.raises(ValueError, match="Options"):
        load_state(path, allowed=[OrderedDict])


def test_weights_are_found_under_their_entry_or_alone(tmp_path):
    state = make_model().state_dict()
    for content in ({"model": state, "args": Options()}, state):
        torch.save(content, tmp_path / "file.pt")
        found = load_weights(tmp_path / "file.pt", "model", allowed=[Options])
        torch.testing.assert_close(found, dict(state), rtol=0, atol=0)
    torch.save({"state": state, "epoch": 3}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"holds no state dict.*'model'.*state, epoch"):
        load_weights(tmp_path / "file.pt", "model")


def test_fingerprint_tells_weights_apart():
    torch.manual_seed(0)
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    assert fingerprint_weights(a) == fingerprint_weights(a) != fingerprint_weights(b)
    b.load_state_dict(a.state_dict())
    assert fingerprint_weights(a) == fingerprint_weights(b)
    assert fingerprint_weights(nn.BatchNorm1d(2)), "a counter without dimensions counts too"


class Interrupted(io.BytesIO):
    """A file during whose fourth write somebody presses Ctrl-C."""

    writes = 0

    def write(self, data):
        self.writes += 1
        if self.writes == 4:
            raise KeyboardInterrupt
        return super().write(data)


def test_interrupt_within_a_write_stays_one_where_torch_hides_it(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "net.pt", state={"w": torch.zeros(5000)})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: Interrupted())
        with pytest.raises(RuntimeError, match="unexpected pos"):
            torch.save({"w": torch.ones(5000)}, Interrupted())
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, state={"w": torch.ones(5000)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named_where_torch_hides_it(tmp_path):
    """The error of a large tensor's write is replaced by one about positions in the archive."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1859, before[1]))
    try:
        with pytest.raises(OSError, match=r"net\.pt cannot be written: .*MB are free.*free space"):
            save_checkpoint(
                tmp_path / "net.pt", state={f"w{i}": torch.ones(5000) for i in range(9)}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
