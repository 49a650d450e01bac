"""The networks against the reference answers, and their layout in a checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from delg_training.models.delf import attention_pool
from delg_training.models.delg import ModelOptions, add_margin, arcface_logits, build_model
from delg_training.models.pooling import average_pool, gem_pool
from delg_training.models.resnet import ResNet
from delg_training.models.weights import SUFFIX, named_variables
from tests.delg_training.golden_models import (
    NUM_CLASSES,
    SYSTEM,
    delg_weight,
    golden_model,
    golden_outputs,
    image,
    layout,
    normalised,
)
from tests.golden_recipe import array, load_manifest

RTOL = ATOL = 1e-3  # of forward outputs, from the manifest
ARITHMETIC: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}  # of pure arithmetic
# output -> channels that the reference file keeps
KEPT = {
    "s1/block3": 1,
    "s0/block3": 4,
    "block4": 4,
    "global": 1,
    "attn_prelogits": 1,
    "prob": 1,
    "score": 1,
    "reduced": 1,
    "expanded": 8,
    "attn_feat_no_autoencoder": 1,
    "attn_logits": 1,
    "block0mp": 16,
    "block1": 32,
    "block2": 32,
    "avg_pooled": 1,
}


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    """Our answers to the first forward case, under the names of the reference file."""
    found: dict[str, np.ndarray] = {}
    picture = normalised(image("golden/img0", 129, 97))[None]
    for stride in (True, False):
        model = golden_model(block3_strides=stride)
        descriptors, local, blocks = model.forward(picture)
        prefix = f"s{int(stride)}/"
        found[prefix + "global"] = descriptors
        for name in ("block3", "block4"):
            found[prefix + name] = blocks[name]
        for name in ("prob", "score", "reduced", "expanded"):
            found[prefix + name] = getattr(local, name)
        found[prefix + "attn_prelogits"] = local.feature
        found[prefix + "attn_feat_no_autoencoder"] = attention_pool(local.prob, local.block3)
        found[prefix + "attn_logits"] = model.attn_logits(local.feature)
        found |= {name: blocks[name] for name in ("block0mp", "block1", "block2")}
        found["avg_pooled"] = average_pool(blocks["block4"])
    return {name: np.asarray(value) for name, value in found.items()}


def forward_cases() -> list[str]:
    names = golden_outputs()
    return [n for n in names if n.startswith(("s0/", "s1/")) or n in KEPT]


@pytest.mark.parametrize("name", forward_cases())
def test_forward_maps_equal_the_reference(answers: dict[str, np.ndarray], name: str) -> None:
    kept = KEPT[name] if name in KEPT else KEPT[name.split("/")[1]]
    expected = golden_outputs()[name]
    ours = answers[name][..., ::kept]
    np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=RTOL, atol=ATOL)


def test_strides_do_not_change_block4(answers: dict[str, np.ndarray]) -> None:
    """Subsampling before block4 is the stride of its first 1x1 convolutions."""
    np.testing.assert_array_equal(answers["s0/block4"], answers["s1/block4"])
    np.testing.assert_array_equal(answers["s0/block3"][:, ::2, ::2], answers["s1/block3"])


def test_variables_have_the_published_keys_and_shapes() -> None:
    model = build_model(ModelOptions(), NUM_CLASSES)
    ours = {name + SUFFIX: variable.shape.as_list() for name, variable in named_variables(model)}
    assert ours == {entry["checkpoint_key"]: entry["shape"] for entry in layout().values()}


def test_trainable_variables_are_those_with_a_gradient_in_the_reference() -> None:
    model = build_model(ModelOptions(), NUM_CLASSES)
    keys = {layout()[n]["checkpoint_key"] for n in load_manifest(SYSTEM)["grad_names"]}
    assert {n + SUFFIX for n, v in named_variables(model) if v.trainable} == keys


def test_feature_map_sizes_follow_the_rules() -> None:
    nets = {s: ResNet(s, width=1, depths=(1, 1, 1, 1)) for s in (True, False)}
    for case in load_manifest(SYSTEM, "misc.json")["feature_map_sizes"]:
        picture = tf.zeros([1, *case["image"], 3])
        strided, plain = nets[True](picture)[1], nets[False](picture)[1]
        sizes = {
            "block1": plain["block1"],
            "block2": plain["block2"],
            "block3_no_stride": plain["block3"],
            "block3_strided_and_block4": strided["block3"],
        }
        assert {k: v.shape[1:3].as_list() for k, v in sizes.items()} == {k: case[k] for k in sizes}
        assert strided["block4"].shape[1:3] == strided["block3"].shape[1:3]
        assert plain["block4"].shape[1:3] == strided["block3"].shape[1:3]


def gem_cases() -> list[str]:
    return [name for name in golden_outputs() if name.startswith("gem/p")]


@pytest.mark.parametrize("name", gem_cases())
def test_gem_equals_the_reference(name: str) -> None:
    x = tf.constant(array("golden/gem", (2, 5, 7, 16)))
    ours = gem_pool(x, float(name.removeprefix("gem/p")))
    np.testing.assert_allclose(ours, golden_outputs()[name], **ARITHMETIC)


def arcface_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descriptors, weights, labels: row 4 opposite to its class, row 5 along it."""
    weights = delg_weight("cosine_weights", (2048, 7))
    x, labels = array("golden/arcface/emb", (6, 2048)), np.array([0, 3, 6, 2, 2, 5])
    x[4] = -3 * weights[:, labels[4]] + 0.001 * x[4]
    x[5] = 2 * weights[:, labels[5]] + 0.01 * x[5]
    return x, weights, labels


def arcface_cases() -> list[str]:
    return [n for n in golden_outputs() if n.startswith("arcface/m")]


@pytest.mark.parametrize("name", arcface_cases())
def test_arcface_equals_the_reference(name: str) -> None:
    _, margin, mode = name.split("/")[:3]
    x, weights, labels = (tf.constant(part) for part in arcface_inputs())
    margin_now = float(margin.removeprefix("m")) if mode == "train1" else 0.0
    logits = arcface_logits(x, weights, tf.constant(45.25), labels, margin_now)
    np.testing.assert_allclose(logits, golden_outputs()[name], rtol=RTOL, atol=ATOL)


def test_margin_equals_the_reference_angle_by_angle() -> None:
    cosines = tf.constant([-1, -0.9999, -0.996, -0.995, -0.99, 0, 0.5, 0.999, 1], tf.float32)
    expected = golden_outputs()["arcface/apply"]
    np.testing.assert_allclose(add_margin(cosines[None], 0.1), expected, **ARITHMETIC)


def test_gradient_of_the_margin_is_finite_at_both_ends() -> None:
    """The arc cosine of the reference has an infinite slope there."""
    cosines = tf.constant([-1.0, 1.0, 1.0 + 1e-6])
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        moved = add_margin(cosines, 0.1)
    assert np.isfinite(tape.gradient(moved, cosines)).all()


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    options = ModelOptions(
        width=1, depths=(1, 1, 1, 1), local_feature_map_channels=16, delg_embedding_layer_dim=4
    )
    kernels = [build_model(options, 2, seed).backbone.conv1.kernel for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.allclose(kernels[0], kernels[2])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"local_feature_map_channels": 512}, "local_feature_map_channels is 512"),
        ({"width": 0, "local_feature_map_channels": 0}, "width of at least 1"),
        ({"depths": (3, 4, 6)}, "four numbers of bottlenecks"),
        ({"delg_arcface_margin": 4.0}, r"an angle in \[0, pi\)"),
        ({"delg_gem_power": 0.0}, "positive power"),
        ({"autoencoder_dimensions": 0}, "autoencoder_dimensions is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_model(ModelOptions(**options), 2)  # type: ignore[arg-type]


def test_golden_files_come_with_the_manifest(golden_dir: Path) -> None:
    assert len(layout()) == 336
    assert (golden_dir / SYSTEM / "manifest.json").is_file()
