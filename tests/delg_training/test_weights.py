"""Weights on disk: the published layout both ways, checkpoints of a run, ImageNet files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from delg_training.checkpoints import RunFiles, latest_checkpoint, restore
from delg_training.models.delf import Delf
from delg_training.models.delg import ModelOptions, build_model
from delg_training.models.layers import BatchNorm, Conv
from delg_training.models.resnet import ResNet
from delg_training.models.weights import (
    SUFFIX,
    load_imagenet_weights,
    load_weights,
    named_variables,
    save_weights,
)
from delg_training.optimisation import Momentum
from tests.delg_training.tiny_sets import NUM_CLASSES, TINY, tiny_model


def values(module: tf.Module) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in named_variables(module)}


def assert_same(ours: tf.Module, theirs: tf.Module) -> None:
    a, b = values(ours), values(theirs)
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def make_optimizer(model: tf.Module) -> Momentum:
    return Momentum(model, lambda step: tf.constant(0.1))


def stir(optimizer: Momentum) -> None:
    """A step with some gradient: weights, momentum and counter move."""
    optimizer.apply_gradients([tf.ones_like(v) for v in optimizer.targets])


# ------------------------------------------------------------------ weights


def test_weights_come_back_as_they_were_written(tmp_path: Path) -> None:
    written, read = tiny_model(0), tiny_model(1)
    save_weights(written, tmp_path / "delf_weights")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"delf_weights.index", "delf_weights.data-00000-of-00001"}
    load_weights(read, tmp_path / "delf_weights")
    assert_same(read, written)


def test_written_keys_are_the_published_ones(tmp_path: Path) -> None:
    model = tiny_model()
    save_weights(model, tmp_path / "w")
    found = set(tf.train.load_checkpoint(str(tmp_path / "w")).get_variable_to_shape_map())
    assert found - {"_CHECKPOINTABLE_OBJECT_GRAPH"} == {n + SUFFIX for n in values(model)}


def test_weights_are_written_over_older_ones(tmp_path: Path) -> None:
    save_weights(tiny_model(0), tmp_path / "w")
    save_weights(tiny_model(1), tmp_path / "w")
    read = tiny_model(2)
    load_weights(read, tmp_path / "w")
    assert_same(read, tiny_model(1))


def test_a_model_without_classifiers_loads_from_one_with_them(tmp_path: Path) -> None:
    written = tiny_model(0)
    save_weights(written, tmp_path / "w")
    parts = ModelOptions(**{**vars(TINY), "use_autoencoder": False})
    read = build_model(parts, None, seed=1)
    load_weights(read, tmp_path / "w")
    whole = values(written)
    assert all((value == whole[name]).all() for name, value in values(read).items())


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    save_weights(tiny_model(0), tmp_path / "w")
    plain = build_model(ModelOptions(**{**vars(TINY), "delg_global_features": False}), NUM_CLASSES)
    with pytest.raises(ValueError, match=r"lacks 2 of .* variables: desc_classification/bias"):
        load_weights(plain, tmp_path / "w")
    other = build_model(ModelOptions(**{**vars(TINY), "autoencoder_dimensions": 5}), NUM_CLASSES)
    before = values(other)
    with pytest.raises(ValueError, match=r"autoencoder/conv1/bias \[4\], expected \[5\]"):
        load_weights(other, tmp_path / "w")
    assert all((value == before[name]).all() for name, value in values(other).items())


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"w\.index does not exist; give the prefix"):
        load_weights(tiny_model(), tmp_path / "w")
    save_weights(tiny_model(), tmp_path / "w")
    (tmp_path / "w.data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(ValueError, match="w is damaged, "):
        load_weights(tiny_model(), tmp_path / "w")
    (tmp_path / "w.index").write_bytes(b"no index")
    with pytest.raises(ValueError, match="no readable TensorFlow checkpoint"):
        load_weights(tiny_model(), tmp_path / "w")


# ------------------------------------------------------------------ checkpoints of a run


def test_run_goes_on_with_weights_momentum_and_counter(tmp_path: Path) -> None:
    model = tiny_model(0)
    optimizer = make_optimizer(model)
    stir(optimizer)
    files = RunFiles(tmp_path, model, optimizer)
    assert not files.restore_latest({"a": 1})
    files.save(1)
    stir(optimizer)
    files.save(2)
    again = tiny_model(1)
    slots = make_optimizer(again)
    assert RunFiles(tmp_path, again, slots).restore_latest({"a": 1})
    assert_same(again, model)
    assert_same(slots, optimizer)
    assert int(slots.iter) == 2
    read = tiny_model(2)
    load_weights(read, files.weights)  # what the exporters do
    assert_same(read, model)
    read = tiny_model(2)
    load_weights(read, tmp_path / "delf_tf2-ckpt" / "ckpt-1")  # or from the run's checkpoint
    assert not (values(read)["cosine_weights"] == values(model)["cosine_weights"]).all()


def test_last_checkpoint_is_that_of_most_steps(tmp_path: Path) -> None:
    folder = tmp_path / "delf_tf2-ckpt"
    folder.mkdir()
    assert latest_checkpoint(tmp_path) is None
    for name in ("ckpt-900.index", "ckpt-1000.index", "ckpt-x.index"):
        (folder / name).touch()
    assert latest_checkpoint(tmp_path) == folder / "ckpt-1000"


def test_only_the_last_ten_checkpoints_are_kept(tmp_path: Path) -> None:
    model = tf.Module()
    model.w = tf.Variable([0.0])
    optimizer = make_optimizer(model)
    files = RunFiles(tmp_path, model, optimizer)  # type: ignore[arg-type]
    for step in range(1, 13):
        files.save(step)
    kept = {int(p.stem.split("-")[1]) for p in (tmp_path / "delf_tf2-ckpt").glob("*.index")}
    assert kept == set(range(3, 13))


def test_other_options_are_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    model = tiny_model()
    files = RunFiles(tmp_path, model, make_optimizer(model))
    files.restore_latest({"initial_lr": 0.1, "seed": 0})
    files.save(0)
    with pytest.raises(ValueError, match=r"initial_lr: 0\.1 then, 0\.2 now\)"):
        files.restore_latest({"initial_lr": 0.2, "seed": 0})


def test_checkpoint_of_the_published_code_goes_on(tmp_path: Path) -> None:
    """Its momentum lies in slots below each variable: written here under such keys."""
    model = tiny_model(0)
    optimizer = make_optimizer(model)
    stir(optimizer)
    tree = tf.Module()
    tree.model, tree.optimizer = tf.Module(), tf.Module()
    tree.optimizer.iter = tf.Variable(41, dtype=tf.int64)
    names = {}
    for path, variable in named_variables(model):
        names[f"model/{path}"] = variable.numpy()
    for path, slot in named_variables(optimizer.momentum):
        names[f"model/{path}/.OPTIMIZER_SLOT/optimizer/momentum"] = slot.numpy()
    names["optimizer/iter"] = np.int64(41)
    prefix = str(tmp_path / "ckpt-41")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[name + SUFFIX for name in names],
        shape_and_slices=[""] * len(names),
        tensors=list(names.values()),
    )
    again = tiny_model(1)
    slots = make_optimizer(again)
    restore(Path(prefix), again, slots)
    assert_same(again, model)
    assert_same(slots.momentum, optimizer.momentum)
    assert int(slots.iter) == 41


def test_files_of_another_machine_are_taken_away(tmp_path: Path) -> None:
    model: Delf = tiny_model()
    RunFiles(tmp_path, model, make_optimizer(model), chief=False).save(1)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ ImageNet


def small_backbone(seed: int) -> ResNet:
    return ResNet(width=1, depths=(1, 1, 1, 1), seed=seed)


def layers_of(module: tf.Module) -> list[Conv | BatchNorm]:
    found: list[Conv | BatchNorm] = []
    for value in vars(module).values():
        if isinstance(value, Conv | BatchNorm):
            found.append(value)
        elif isinstance(value, tf.Module):
            found += layers_of(value)
    return found


def write_h5(path: Path, backbone: ResNet, skip: str = "", as_bytes: bool = True) -> Path:
    """The weights of `backbone` as Keras writes them."""
    layers = [layer for layer in layers_of(backbone) if layer.name != skip]

    def text(names: list[str]) -> list[str] | list[bytes]:
        return [name.encode() for name in names] if as_bytes else names

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = text(["input_1", *(layer.name for layer in layers)])
        file.create_group("input_1").attrs["weight_names"] = text([])
        for layer in layers:
            parts = (
                ("kernel", "bias")
                if isinstance(layer, Conv)
                else ("gamma", "beta", "moving_mean", "moving_variance")
            )
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{part}:0" for part in parts]
            group.attrs["weight_names"] = text(names)
            for name, part in zip(names, parts, strict=True):
                group[name] = getattr(layer, part).numpy() + 0.5
    return path


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("stem", [True, False])
def test_imagenet_weights_fill_the_backbone(tmp_path: Path, stem: bool, as_bytes: bool) -> None:
    source, target = small_backbone(0), small_backbone(1)
    before = values(target)
    load_imagenet_weights(target, write_h5(tmp_path / "w.h5", source, "", as_bytes), stem)
    expected = {name: value + 0.5 for name, value in values(source).items()}
    if not stem:  # the published code left these two layers random
        expected |= {n: v for n, v in before.items() if n.startswith(("conv1/", "bn_conv1/"))}
    found = values(target)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_wrong_imagenet_files_are_named(tmp_path: Path) -> None:
    net = small_backbone(0)
    before = values(net)
    with pytest.raises(FileNotFoundError, match="resnet50_weights_tf_dim_ordering"):
        load_imagenet_weights(net, tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="lacks 1 layers: res5a_branch2c"):
        load_imagenet_weights(net, write_h5(tmp_path / "w.h5", net, "res5a_branch2c"))
    wide = write_h5(tmp_path / "wide.h5", ResNet(width=2, depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="layer conv1: shapes"):
        load_imagenet_weights(net, wide)
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(ValueError, match="is no HDF5 file"):
        load_imagenet_weights(net, tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="no attribute layer_names"):
        load_imagenet_weights(net, tmp_path / "other.h5")
    assert all((value == before[name]).all() for name, value in values(net).items())


def test_full_size_backbone_has_the_layers_of_keras_resnet50() -> None:
    names = [layer.name for layer in layers_of(ResNet())]
    assert len(names) == len(set(names)) == 2 * 53
    for name in ("conv1", "bn_conv1", "res2a_branch1", "bn4f_branch2b", "res5c_branch2c"):
        assert name in names
