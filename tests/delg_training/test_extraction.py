"""The extractor against the reference pipeline; models from disk; tiny pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delg_training.delf_config import (
    DelfConfig,
    DelfGlobalFeatureConfig,
    DelfLocalFeatureConfig,
    DelfPcaParameters,
)
from delg_training.extraction import (
    Extractor,
    l2_normalise,
    load_pca,
    post_process,
    pyramid_sizes,
)
from delg_training.image_loading import LoadedImage, crop_query, resize_image
from delg_training.models.export import LocalAndGlobalModel
from delg_training.saved_models import ModelOutputs, fingerprint_model, load_model
from tests.delg_training.golden_extraction import (
    call_eagerly,
    compare_features,
    reference_network,
)
from tests.delg_training.golden_models import SYSTEM, golden_outputs, image
from tests.golden_recipe import array, load_manifest
from utils.descriptors import write_datum

ARITHMETIC: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
PIPELINE = load_manifest(SYSTEM, "pipeline.json")
MAX_FEATURES, THRESHOLD, PCA_DIM, WIDTH = 25, 4.0, 40, 128
UNIT: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-4}  # of unit vectors
RESAMPLED: dict[str, Any] = {
    "rtol": 1e-3,
    "atol": 5e-3,
}  # another Pillow may change a grey level
LOCATIONS: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}


class EagerModel:
    """An exported graph, run without tracing, in the place of a SavedModel."""

    def __init__(self, model: LocalAndGlobalModel) -> None:
        self.model = model

    def __call__(self, image, scales, max_feature_num, threshold, global_indices) -> ModelOutputs:
        found = call_eagerly(
            self.model, image, scales, np.int32(max_feature_num), np.float32(threshold),
            global_indices,
        )  # fmt: skip
        return ModelOutputs(
            found["boxes"], found["features"], found["scales"], found["scores"][:, 0],
            found["global_descriptors"],
        )  # fmt: skip


class NoModel:
    """Must not be called."""

    def __call__(self, *_: object) -> ModelOutputs:
        raise AssertionError("the model was called")


def write_pca(folder: Path, name: str, width: int, whiten: bool, dim: int) -> DelfPcaParameters:
    """The arrays of the reference as files."""
    arrays = {
        "mean": (0.02 if name == "golden/e2e/pca_" else 0.1) * array(f"{name}mean", (width,)),
        "matrix": array(f"{name}matrix", (width, width)),
    }
    variances = "var" if name == "golden/e2e/pca_" else "variances"
    arrays["variances"] = 0.5 + np.abs(array(f"{name}{variances}", (width,)))
    for kind, values in arrays.items():
        write_datum(folder / f"{kind}.datum", values)
    return DelfPcaParameters(
        mean_path=str(folder / "mean.datum"),
        projection_matrix_path=str(folder / "matrix.datum"),
        pca_dim=dim,
        use_whitening=whiten,
        pca_variances_path=str(folder / "variances.datum"),
    )


def config_of(case: dict, folder: Path) -> DelfConfig:
    pca = DelfPcaParameters()
    if case["pca"]:
        pca = write_pca(folder, "golden/e2e/pca_", WIDTH, True, PCA_DIM)
    return DelfConfig(
        model_path="unused",
        image_scales=tuple(float(np.float32(scale)) for scale in case["scales"]),
        max_image_size=case["max"],
        use_global_features=True,
        is_tf2_exported=True,
        delf_local_config=DelfLocalFeatureConfig(
            case["pca"], "", 1.0, MAX_FEATURES, THRESHOLD, pca, case["resized"]
        ),
        delf_global_config=DelfGlobalFeatureConfig(False, image_scales_ind=tuple(case["ind"])),
    )


@pytest.mark.parametrize("case", PIPELINE["cases"], ids=lambda case: case["name"])
def test_pipeline_equals_the_reference(case: dict, tmp_path: Path) -> None:
    config = config_of(case, tmp_path)
    picture = Image.fromarray(image("golden/e2e", *PIPELINE["picture"].values()))
    factor = 1.0
    if case["box"]:
        picture, factor = crop_query(picture, tuple(case["box"]))
        assert list(picture.size) == case["cropped_size_w_h"]
    assert factor == pytest.approx(case["resize_factor"])
    model = EagerModel(LocalAndGlobalModel(reference_network(False)))
    features = Extractor(config, model)(resize_image(picture, config, factor))
    prefix = f"{case['name']}/"
    expected = {
        name.removeprefix(prefix): value
        for name, value in golden_outputs("pipeline.npz").items()
        if name.startswith(prefix)
    }
    assert features.local is not None
    ours = {name: getattr(features.local, name) for name in expected if name[0] != "g"}
    ours["global_descriptor"] = np.asarray(features.global_descriptor)
    resampled = case["max"] > 0
    unit = RESAMPLED if resampled else UNIT
    tolerances = {
        "descriptors": unit,
        "global_descriptor": unit,
        "locations": LOCATIONS,
        "attention": RESAMPLED if resampled else LOCATIONS,
    }
    compare_features(ours, expected, "attention", tolerances, {})


@pytest.mark.parametrize("case", ["none", "pca8", "pca8w"])
def test_post_processing_equals_the_reference(case: str, tmp_path: Path) -> None:
    descriptors = array("golden/pca/desc", (10, 32))
    pca = None
    if case != "none":
        pca = load_pca(write_pca(tmp_path, "golden/pca/", 32, case == "pca8w", 8))
    expected = golden_outputs("misc.npz")[f"post/{case}/desc"]
    np.testing.assert_allclose(post_process(descriptors, pca), expected, **ARITHMETIC)


def test_locations_are_the_centres_of_boxes() -> None:
    boxes = 100 * array("golden/pca/boxes", (10, 4))
    config = DelfConfig(
        image_scales=(1.0,), delf_local_config=DelfLocalFeatureConfig(use_pca=False)
    )

    def model(*_: object) -> ModelOutputs:
        scores = np.arange(10, 0, -1, dtype=np.float32)
        return ModelOutputs(boxes, np.ones((10, 4)), scores, scores, np.zeros((0, 0)))

    loaded = LoadedImage(np.zeros((40, 40, 3), np.uint8), (1.0, 1.0))
    local = Extractor(config, model)(loaded).local
    assert local is not None
    np.testing.assert_allclose(
        local.locations, golden_outputs("misc.npz")["post/locations"], **ARITHMETIC
    )
    half = Extractor(config, model)(LoadedImage(loaded.pixels, (0.5, 0.25))).local
    assert half is not None
    np.testing.assert_allclose(half.locations, local.locations * [2, 4], rtol=1e-6)


def test_sizes_of_the_pyramid_equal_the_reference() -> None:
    pyramid = load_manifest(SYSTEM, "misc.json")["pyramid"]
    for size, expected in zip(pyramid["image_sizes"], pyramid["level_sizes"], strict=True):
        height, width = size
        sizes = pyramid_sizes(height, width, np.array(pyramid["scales"], np.float32))
        assert sizes.tolist() == expected


def test_zero_vectors_stay_zero() -> None:
    np.testing.assert_array_equal(l2_normalise(np.zeros((2, 3))), np.zeros((2, 3)))


# ---------------------------------------------------------------------------- small pictures


BOTH = DelfConfig(
    image_scales=(0.25, 1.0, 2.0),
    use_global_features=True,
    delf_local_config=DelfLocalFeatureConfig(use_pca=False),
    delf_global_config=DelfGlobalFeatureConfig(use_pca=False, image_scales_ind=(0, 2)),
)


def loaded(height: int, width: int) -> LoadedImage:
    return LoadedImage(np.full((height, width, 3), 7, np.uint8), (1.0, 1.0))


@pytest.mark.parametrize("size", [(9, 40), (40, 9), (0, 5)])
def test_pictures_below_ten_pixels_have_empty_features(size: tuple[int, int]) -> None:
    features = Extractor(BOTH, NoModel())(loaded(*size))
    assert features.global_descriptor is not None
    assert features.global_descriptor.shape == (0,)
    assert features.local is not None
    assert len(features.local) == 0


def test_kinds_that_are_not_asked_for_stay_away() -> None:
    local_only = DelfConfig(image_scales=(1.0,), delf_local_config=BOTH.delf_local_config)
    assert Extractor(local_only, NoModel())(loaded(5, 5)).global_descriptor is None


@pytest.mark.parametrize(
    ("side", "scales", "indices"),
    [(10, [1.0, 2.0], [1]), (17, [1.0, 2.0], [1]), (18, [0.25, 1.0, 2.0], [0, 2])],
)
def test_levels_below_five_pixels_are_not_fed(
    side: int, scales: list[float], indices: list[int]
) -> None:
    """At scale 0.25 sides of 10 and 17 pixels give 2 and 4; one of 18 gives 4.5, rounded to 4."""
    fed: list[np.ndarray] = []

    def model(image, scales, number, threshold, global_indices) -> ModelOutputs:
        fed.extend([scales, global_indices])
        rows = np.ones((len(global_indices), 3), np.float32)
        nothing = np.zeros(0, np.float32)
        return ModelOutputs(np.zeros((0, 4)), np.zeros((0, 2)), nothing, nothing, rows)

    features = Extractor(BOTH, model)(loaded(side + (side == 18), 40))
    assert fed[0].tolist() == scales
    assert fed[1].tolist() == indices
    assert features.global_descriptor is not None
    np.testing.assert_allclose(features.global_descriptor, np.full(3, 3**-0.5), rtol=1e-6)


# ---------------------------------------------------------------------------- PCA files


def test_pca_of_another_width_is_refused(tmp_path: Path) -> None:
    pca = load_pca(write_pca(tmp_path, "golden/pca/", 32, False, 8))
    with pytest.raises(ValueError, match="width 16, the PCA is for 32"):
        pca(np.ones((3, 16)))


def test_pca_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    parameters = write_pca(tmp_path, "golden/pca/", 32, True, 33)
    with pytest.raises(ValueError, match="pca_dim is 33"):
        load_pca(parameters)
    parameters = write_pca(tmp_path, "golden/pca/", 32, True, 8)
    write_datum(tmp_path / "variances.datum", np.zeros(32, np.float32))
    with pytest.raises(ValueError, match=r"variances\.datum holds 32 variances"):
        load_pca(parameters)
    write_datum(tmp_path / "matrix.datum", np.ones((31, 32), np.float32))
    with pytest.raises(ValueError, match=r"matrix\.datum has shape \(31, 32\)"):
        load_pca(parameters)


# ---------------------------------------------------------------------------- models from disk


def save_tf1_model(path: Path, with_global: bool = True) -> None:
    """A graph in the form of the released files: tensors known by name, nothing else.

    It repeats its inputs: the first `input_max_feature_num` cells of a made-up grid.
    """
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        picture = v1.placeholder(tf.uint8, [None, None, 3], "input_image")
        scales = v1.placeholder(tf.float32, [None], "input_scales")
        threshold = v1.placeholder(tf.float32, [], "input_abs_thres")
        number = v1.placeholder(tf.int32, [], "input_max_feature_num")
        size = tf.cast(tf.shape(picture)[:2], tf.float32)
        tf.identity(tf.tile(tf.concat([size, size], 0)[None], [number, 1]), "boxes")
        variable = v1.get_variable("weight", initializer=2.0)
        tf.identity(variable * tf.ones([number, 3]), "features")
        tf.identity(tf.fill([number], scales[0]), "scales")
        tf.identity(tf.fill([number, 1], threshold), "scores")
        if with_global:
            chosen = v1.placeholder(tf.int32, [None], "input_global_scales_ind")
            rows = tf.gather(scales, chosen)
            tf.identity(rows[:, None] * tf.ones([1, 2]), "global_descriptors")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"image": picture}, {"side": size})


def test_released_form_of_tensorflow_1_is_called_by_its_tensors(tmp_path: Path) -> None:
    save_tf1_model(tmp_path / "tf1")
    config = DelfConfig(
        model_path=str(tmp_path / "tf1"),
        image_scales=(0.5, 1.0),
        use_global_features=True,
        delf_local_config=DelfLocalFeatureConfig(False, max_feature_num=3, score_threshold=7.5),
        delf_global_config=DelfGlobalFeatureConfig(use_pca=False),
    )
    features = Extractor(config)(LoadedImage(np.zeros((20, 30, 3), np.uint8), (1.0, 1.0)))
    assert features.local is not None
    assert features.local.locations.tolist() == [[20, 30]] * 3
    assert features.local.attention.tolist() == [7.5] * 3, "threshold comes before the number"
    assert features.local.scales.tolist() == [0.5] * 3
    np.testing.assert_allclose(features.local.descriptors, np.full((3, 3), 3**-0.5), rtol=1e-6)
    assert features.global_descriptor is not None
    np.testing.assert_allclose(features.global_descriptor, np.full(2, 2**-0.5), rtol=1e-6)


def test_graph_without_the_tensors_of_the_configuration_is_refused(tmp_path: Path) -> None:
    save_tf1_model(tmp_path / "tf1", with_global=False)
    config = DelfConfig(model_path=str(tmp_path / "tf1"), use_global_features=True)
    with pytest.raises(ValueError, match="no tensors input_global_scales_ind, global_descriptors"):
        load_model(config)
    with pytest.raises(ValueError, match=r"takes .* and gives .*side"):
        load_model(DelfConfig(model_path=str(tmp_path / "tf1"), is_tf2_exported=True))


def save_tf2_model(path: Path, with_function: bool = True) -> None:
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    if with_function:
        module.run = tf.function(
            lambda x: {"y": module.weight * x}, input_signature=[tf.TensorSpec([], name="x")]
        )
    tf.saved_model.save(module, str(path))


def test_saved_model_with_other_signatures_is_refused_with_what_it_has(tmp_path: Path) -> None:
    save_tf2_model(tmp_path / "other")
    config = DelfConfig(model_path=str(tmp_path / "other"), is_tf2_exported=True)
    with pytest.raises(ValueError, match=r"takes \['x'\] and gives \['y'\]"):
        load_model(config)
    with pytest.raises(ValueError, match="set is_tf2_exported: true"):
        load_model(DelfConfig(model_path=str(tmp_path / "other")))
    save_tf2_model(tmp_path / "bare", with_function=False)
    with pytest.raises(ValueError, match=r"no signature serving_default, only \[\]"):
        load_model(DelfConfig(model_path=str(tmp_path / "bare"), is_tf2_exported=True))


def test_absent_and_damaged_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="download_models"):
        load_model(DelfConfig(model_path=str(tmp_path / "gone")))
    (tmp_path / "saved_model.pb").write_bytes(b"\x0a\xffnot a graph")
    with pytest.raises(ValueError, match="is no readable SavedModel"):
        load_model(DelfConfig(model_path=str(tmp_path)))


def test_fingerprint_follows_graph_and_weights(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    files = [tmp_path / "saved_model.pb", tmp_path / "variables/variables.index"]
    prints = set()
    for content in (b"a", b"b"):
        for file in files:
            file.write_bytes(content)
            prints.add(fingerprint_model(tmp_path))
    assert len(prints) >= 3
