"""Exported graphs against the reference answers, a plain loop, and their own SavedModels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from delg_training.models.delg import ModelOptions, build_model
from delg_training.models.export import (
    GlobalModel,
    LocalAndGlobalModel,
    LocalModel,
    check_export_path,
    chosen_levels,
    save_model,
)
from delg_training.models.pooling import l2_normalise
from delg_training.models.pyramid import (
    box_centres,
    level_sizes,
    normalise_image,
    receptive_boxes,
    resize_level,
    select,
)
from delg_training.models.weights import named_variables
from tests.delg_training.golden_extraction import (
    CHOICE,
    FED,
    IMAGE,
    TOLERANCE,
    call_eagerly,
    compare_features,
    load_signature,
    reference_network,
    signature_of,
)
from tests.delg_training.golden_models import SYSTEM, golden_outputs, image
from tests.golden_recipe import array, load_manifest

ARITHMETIC: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
PICTURE = ("golden/extract", 170, 226)
SCALES = np.array([0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0], np.float32)
GLOBAL_INDICES = np.array([3, 4, 5], np.int32)
MAX_FEATURES, MAX_FEATURES_LOCAL = 40, 30
CHANNELS = {"1": 1, "0": 8}  # with and without autoencoder: every n-th is kept
GLOBAL_CHANNELS = 4
GLOBAL_SCALES = np.array([0.70710677, 1.0, 1.4142135], np.float32)
POOLING = {"None": None, "average": "average", "sum": "sum"}
TINY = ModelOptions(
    width=2, depths=(1, 2, 2, 1), local_feature_map_channels=32, autoencoder_dimensions=4,
    delg_embedding_layer_dim=6,
)  # fmt: skip


def expected_of(prefix: str) -> dict[str, np.ndarray]:
    found = {k.removeprefix(prefix): v for k, v in golden_outputs().items() if k.startswith(prefix)}
    assert found, prefix
    return found


def parse_case(case: str) -> tuple[bool, str, float]:
    """`extract/s1_ae0_iou0.5` -> strides, autoencoder, iou."""
    strides, autoencoder, iou = case.split("/")[1].split("_")
    return strides == "s1", autoencoder.removeprefix("ae"), float(iou.removeprefix("iou"))


@pytest.mark.parametrize("case", load_manifest(SYSTEM)["extract_cases"])
def test_extraction_equals_the_reference(case: str) -> None:
    strides, autoencoder, iou = parse_case(case)
    model = LocalAndGlobalModel(reference_network(strides, autoencoder == "1"), iou)
    entry = load_manifest(SYSTEM)["extract_cases"][case]
    threshold = np.float32(entry["threshold"])
    ours = call_eagerly(model, image(*PICTURE), SCALES, MAX_FEATURES, threshold, GLOBAL_INDICES)
    kept = {"features": CHANNELS[autoencoder]}
    compare_features(ours, expected_of(f"{case}/"), "scores", {}, kept)
    assert len(ours["boxes"]) == entry["n_selected"]


def test_without_threshold_every_cell_is_a_feature() -> None:
    entry = load_manifest(SYSTEM)["extract_cases"]["extract/s1_ae1_iou1.0"]
    model = LocalModel(reference_network(True))
    everything = call_eagerly(model, image(*PICTURE), SCALES, 10**6, np.float32(0))
    assert len(everything["boxes"]) == entry["candidates_without_threshold"]


def test_local_export_equals_the_reference() -> None:
    model = LocalModel(reference_network(False, False))
    threshold = np.float32(
        load_manifest(SYSTEM)["extract_cases"]["extract/s0_ae0_iou1.0"]["threshold"]
    )
    ours = call_eagerly(model, image(*PICTURE), SCALES, MAX_FEATURES_LOCAL, threshold)
    compare_features(ours, expected_of("local/"), "scores", {}, {"features": CHANNELS["0"]})


@pytest.mark.parametrize("case", [n for n in golden_outputs() if n.startswith("global/")])
def test_global_export_equals_the_reference(case: str) -> None:
    pooling, norm = case.removeprefix("global/").split("_")
    model = GlobalModel(
        reference_network(True), GLOBAL_SCALES.tolist(), POOLING[pooling], norm == "norm1"
    )
    (ours,) = call_eagerly(model, image(*PICTURE)).values()
    np.testing.assert_allclose(ours[..., ::GLOBAL_CHANNELS], golden_outputs()[case], **TOLERANCE)


# ---------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("i", range(len(load_manifest(SYSTEM, "misc.json")["receptive_boxes"])))
def test_receptive_boxes_equal_the_reference(i: int) -> None:
    case = load_manifest(SYSTEM, "misc.json")["receptive_boxes"][i]
    boxes = receptive_boxes(
        case["height"], case["width"], case["stride"], case["rf"], case["padding"]
    )
    expected = golden_outputs("misc.npz")
    np.testing.assert_allclose(boxes, expected[f"rf/{i}"], **ARITHMETIC)
    np.testing.assert_allclose(box_centres(boxes), expected[f"rf_centers/{i}"], **ARITHMETIC)


def test_level_sizes_equal_the_reference() -> None:
    pyramid = load_manifest(SYSTEM, "misc.json")["pyramid"]
    scales = tf.constant(pyramid["scales"], tf.float32)
    for size, expected in zip(pyramid["image_sizes"], pyramid["level_sizes"], strict=True):
        sizes = level_sizes(tf.zeros([*size, 3], tf.uint8), scales)
        assert sizes.numpy().tolist() == expected


def test_resized_level_equals_the_reference() -> None:
    height, width = load_manifest(SYSTEM, "misc.json")["pre"]["image"]
    normalised = normalise_image(tf.constant(image("golden/pre", height, width)))
    expected = golden_outputs("misc.npz")["pre/pyramid_bilinear"]
    level = resize_level(normalised, tf.constant(expected.shape[:2]))[0]
    np.testing.assert_allclose(level, expected, **ARITHMETIC)


def nms_inputs(n: int = 60) -> tuple[tf.Tensor, tf.Tensor]:
    a = np.abs(array("golden/nms/boxes", (n, 4)))
    y, x, h, w = 200 * a[:, 0], 200 * a[:, 1], 40 + 20 * a[:, 2], 40 + 20 * a[:, 3]
    boxes = np.stack([y - h, x - w, y + h, x + w], axis=1).astype(np.float32)
    scores = np.abs(array("golden/nms/scores", (n,)))
    scores[7] = scores[11] = scores[3]
    boxes[20] = boxes[22] = boxes[21]
    return tf.constant(boxes), tf.constant(scores)


@pytest.mark.parametrize("case", [n for n in golden_outputs("misc.npz") if n.startswith("nms/")])
def test_selection_equals_the_reference(case: str) -> None:
    iou, maximum = case.removeprefix("nms/iou").split("_max")
    rows = select(*nms_inputs(), tf.constant(int(maximum)), float(iou))
    np.testing.assert_array_equal(rows, golden_outputs("misc.npz")[case])


def test_order_and_repetition_of_global_indices_do_not_matter() -> None:
    chosen = chosen_levels(tf.constant(SCALES), tf.constant([5, 3, 5]))
    assert chosen.numpy().tolist() == [False] * 3 + [True, False, True, False]


# ---------------------------------------------------------------------------- a plain loop


def tiny_network(**options: object) -> tf.Module:
    """Random weights, statistics of batch normalisation that do something."""
    network = build_model(ModelOptions(**(vars(TINY) | options)))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for name, variable in named_variables(network):
        if name.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name.endswith(("beta", "moving_mean", "bias")):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return network


def plain_extraction(network, picture, scales, max_num, threshold, indices):
    """The published procedure: everything at every level, then suppression, then selection."""
    normalised = (picture.astype(np.float32) - 128) / 128
    stride = 32 if network.backbone.block3_strides else 16
    rows: dict[str, list[np.ndarray]] = {k: [] for k in ("boxes", "features", "scales", "scores")}
    vectors = []
    for i, scale in enumerate(scales):
        size = np.rint(np.float32(picture.shape[:2]) * scale).astype(int)
        level = tf.image.resize(normalised[None], size)
        descriptors, local, _ = network.forward(level)
        h, w = local.prob.shape[1:3]
        for y in range(h):
            for x in range(w):
                if local.prob[0, y, x, 0] >= threshold:
                    cell = np.array([y, x, y, x]) * stride + np.array([-145, -145, 145, 145])
                    rows["boxes"].append(cell / scale)
                    rows["features"].append(local.features[0, y, x].numpy())
                    rows["scales"].append(1 / scale)
                    rows["scores"].append(local.prob[0, y, x].numpy())
        if i in indices:
            vectors.append(descriptors[0].numpy())
    order = np.argsort(-np.ravel(rows["scores"]), kind="stable")[:max_num]
    found = {name: np.array(value)[order] for name, value in rows.items()}
    return found | {"global_descriptors": np.array(vectors)}


@pytest.mark.parametrize("strides", [True, False])
@pytest.mark.parametrize("autoencoder", [True, False])
def test_export_equals_the_plain_loop(strides: bool, autoencoder: bool) -> None:
    """Folded normalisation, subsampled bottleneck, block4 only where it is needed."""
    network = tiny_network(block3_strides=strides, use_autoencoder=autoencoder)
    picture, scales = image("export/plain", 150, 131), SCALES[[2, 4, 5]]
    arguments = picture, scales, 12, np.float32(0.2), np.array([2, 1], np.int32)
    ours = call_eagerly(LocalAndGlobalModel(network), *arguments)
    expected = plain_extraction(network, *arguments)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    compare_features(ours, expected, "scores", dict.fromkeys(expected, tolerance), {})


def test_subsampled_bottleneck_may_be_the_first_of_its_block() -> None:
    network = tiny_network(depths=(1, 1, 1, 1))
    picture = image("export/first", 97, 70)
    ours = call_eagerly(
        LocalAndGlobalModel(network),
        picture,
        SCALES[4:5],
        99,
        np.float32(0),
        np.array([0], np.int32),
    )
    expected = plain_extraction(network, picture, SCALES[4:5], 99, 0.0, [0])
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    compare_features(ours, expected, "scores", dict.fromkeys(expected, tolerance), {})


def test_levels_below_five_pixels_are_left_out() -> None:
    """A 12 x 40 picture at scale 0.25 has three rows, which the network cannot take."""
    model, small = LocalAndGlobalModel(tiny_network()), image("export/small", 12, 40)

    def call(picture: np.ndarray, *scales: float) -> dict[str, np.ndarray]:
        chosen = tf.constant(range(len(scales)))
        found = model.serve(picture, tf.constant(scales), 99, 0.0, chosen)
        return {name: value.numpy() for name, value in found.items()}

    both, alone = call(small, 0.25, 1.0), call(small, 1.0)
    for name, value in alone.items():
        np.testing.assert_array_equal(both[name], value)
    shapes = {name: value.shape for name, value in call(small[:3], 1.0).items()}
    assert shapes == {
        "boxes": (0, 4), "features": (0, 4), "scales": (0,), "scores": (0, 1),
        "global_descriptors": (0, 6),
    }  # fmt: skip


# ---------------------------------------------------------------------------- SavedModels


@pytest.mark.parametrize(
    ("pooling", "output"), [(None, "global_descriptors"), ("average", "global_descriptor")]
)
def test_saved_global_model_has_the_published_signature_and_gives_the_same(
    pooling: str | None, output: str, tmp_path: Path
) -> None:
    """The other exported forms are saved by the commands in test_extraction_run."""
    model, path = GlobalModel(tiny_network(), None, pooling, True), tmp_path / "exported"
    save_model(model, path, {"seed": 0})
    loaded = load_signature(path)
    assert signature_of(loaded) == (IMAGE | FED | CHOICE, {output})
    values = {
        "input_image": image("export/saved", 90, 110),
        "input_scales": SCALES[[1, 4, 5]],
        "input_global_scales_ind": np.array([2, 1], np.int32),
    }
    found = loaded(**{name: tf.constant(value) for name, value in values.items()})[output]
    direct = call_eagerly(model, *values.values())[output]
    np.testing.assert_allclose(found, direct, rtol=1e-4, atol=1e-5)


def test_saved_model_of_the_full_network_equals_the_reference(tmp_path: Path) -> None:
    case, path = "extract/s1_ae1_iou1.0", tmp_path / "delg"
    save_model(LocalAndGlobalModel(reference_network(True)), path, {})
    function = load_signature(path)
    threshold = load_manifest(SYSTEM)["extract_cases"][case]["threshold"]
    found = function(
        input_image=tf.constant(image(*PICTURE)),
        input_scales=tf.constant(SCALES),
        input_max_feature_num=tf.constant(MAX_FEATURES),
        input_abs_thres=tf.constant(threshold, tf.float32),
        input_global_scales_ind=tf.constant(GLOBAL_INDICES),
    )
    ours = {name: value.numpy() for name, value in found.items()}
    compare_features(ours, expected_of(f"{case}/"), "scores", {}, {})


def test_pooled_vectors_are_sums_and_means_of_the_rows() -> None:
    network, picture = tiny_network(), image("export/pool", 80, 90)
    rows = call_eagerly(GlobalModel(network, [1.0, 0.5]), picture)["global_descriptors"]
    pooled = {
        kind: call_eagerly(GlobalModel(network, [1.0, 0.5], kind, True), picture)
        for kind in ("sum", "average")
    }
    expected = l2_normalise(tf.reduce_sum(rows, axis=0))
    for found in pooled.values():
        np.testing.assert_allclose(found["global_descriptor"], expected, **ARITHMETIC)


def test_nothing_is_exported_over_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        check_export_path(tmp_path)
    assert check_export_path(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"multi_scale_pool_type": "max"}, "multi_scale_pool_type is 'max'"),
        ({"input_scales_list": []}, "input_scales_list is empty"),
    ],
)
def test_options_of_the_global_export_are_checked(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        GlobalModel(tiny_network(), **arguments)


def test_iou_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"iou is 1\.5"):
        LocalModel(tiny_network(), 1.5)
