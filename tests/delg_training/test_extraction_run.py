"""Many pictures into files: resumed, shared, failures collected; the commands; the round trip."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delg_scripts import extract_features_gld, extract_features_revisited
from delg_training import (
    experiment,
    export_global_model,
    export_local_and_global_model,
    export_local_model,
    extract_attention,
    extract_features,
    measure_latency,
)
from delg_training.delf_config import DelfConfig, load_delf_config
from delg_training.exporting import load_network
from delg_training.extraction import Extractor, Features
from delg_training.extraction_run import (
    IncompleteExtractionError,
    Outcome,
    Picture,
    Shard,
    check_record,
    delf_files,
    describe,
    extract_pictures,
    finish,
)
from delg_training.image_loading import LoadedImage, load_image
from delg_training.models.delg import ModelOptions, build_model
from delg_training.models.weights import load_weights
from tests.delg_training.golden_extraction import (
    CHOICE,
    FED,
    IMAGE,
    LOCAL,
    LOCAL_OUTPUTS,
    load_signature,
    signature_of,
)
from tests.delg_training.golden_models import image
from tests.delg_training.tiny_sets import NUM_CLASSES, pack_tiny_set, save_ground_truth
from utils.descriptors import LocalFeatures, read_global, read_local

NETWORK = {
    "delg_global_features": True, "width": 2, "depths": [1, 1, 1, 1],
    "autoencoder_dimensions": 4, "delg_embedding_layer_dim": 6, "block3_strides": False,
}  # fmt: skip
CONFIG = """model_path: "{model}" is_tf2_exported: true use_global_features: true
image_scales: [0.5, 1.0] max_image_size: 80
delf_local_config {{ use_pca: false max_feature_num: 9 score_threshold: 0.0 }}
delf_global_config {{ use_pca: false }}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short training of a small DELG network leaves, classifiers and all."""
    folder = tmp_path_factory.mktemp("run")
    dataset = {
        "train_file_pattern": pack_tiny_set(folder), "validation_file_pattern": None,
        "num_classes": NUM_CLASSES, "batch_size": 4, "image_size": 33,
    }  # fmt: skip
    experiment.ex.run(
        config_updates={
            "logdir": str(folder), "max_iters": 3, "initial_lr": 0.05, "model": NETWORK,
            "dataset": dataset,
        }
    )  # fmt: skip
    return folder / "delf_weights"


@pytest.fixture(scope="module")
def config_path(weights: Path) -> Path:
    """A configuration for the exported form of these weights."""
    model = weights.parent / "model"
    export_local_and_global_model.ex.run(
        config_updates={"ckpt_path": str(weights), "export_path": str(model), "model": NETWORK}
    )
    path = weights.parent / "config.pbtxt"
    path.write_text(CONFIG.format(model=model))
    return path


@pytest.fixture(scope="module")
def extractor(config_path: Path) -> Extractor:
    return Extractor(load_delf_config(config_path))


def save_pictures(folder: Path, count: int) -> list[Picture]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [Picture(f"p{i}", folder / f"p{i}.jpg") for i in range(count)]
    for i, picture in enumerate(pictures):
        Image.fromarray(image(picture.stem, 60 + i, 70)).save(picture.path, quality=95)
    return pictures


# ---------------------------------------------------------------------------- train to features


def test_exported_model_gives_the_features_of_the_network(
    weights: Path, extractor: Extractor
) -> None:
    """Training -> export -> extraction: what the trained network itself says of the picture."""
    pixels = image("round/trip", 60, 70)
    features = extractor(LoadedImage(pixels, (1.0, 1.0)))
    options = ModelOptions(**NETWORK, local_feature_map_channels=32)  # type: ignore[arg-type]
    network = build_model(options)
    load_weights(network, weights)
    normalised = (pixels.astype(np.float32) - 128) / 128
    total, scores = np.zeros(6), []
    for scale in (0.5, 1.0):
        level = tf.image.resize(normalised[None], (round(60 * scale), round(70 * scale)))
        vector, local, _ = network.forward(level)
        total += vector[0].numpy() / np.linalg.norm(vector[0])
        scores.append(np.ravel(local.prob))
    expected = total / np.linalg.norm(total)
    assert features.global_descriptor is not None
    np.testing.assert_allclose(features.global_descriptor, expected, rtol=1e-4, atol=1e-5)
    best = np.sort(np.concatenate(scores))[::-1][:9]
    assert features.local is not None
    np.testing.assert_allclose(features.local.attention, best, rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(features.local.descriptors, axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_exporters_refuse_what_would_mislead(weights: Path, tmp_path: Path) -> None:
    """DELG weights exported as DELF; an export over another one; weights of another network."""
    updates = {"ckpt_path": str(weights), "export_path": str(tmp_path / "m"), "model": NETWORK}
    as_delf = updates | {"model": NETWORK | {"delg_global_features": False}}
    for module in (export_global_model, export_local_and_global_model):
        with pytest.raises(ValueError, match=r"holds a DELG network: add model\.delg"):
            module.ex.run(config_updates=as_delf)
    with pytest.raises(ValueError, match="other shapes"):
        export_local_model.ex.run(
            config_updates=updates | {"model": NETWORK | {"autoencoder_dimensions": 5}}
        )
    with pytest.raises(FileNotFoundError, match="delf_weights"):
        export_local_model.ex.run(config_updates=updates | {"ckpt_path": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="exists already"):
        export_local_model.ex.run(config_updates=updates | {"export_path": str(tmp_path)})
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_fresh_weights_are_those_that_training_starts_from() -> None:
    options = ModelOptions(**NETWORK, local_feature_map_channels=32)  # type: ignore[arg-type]
    fresh, start = load_network(options, None, seed=3), build_model(options, NUM_CLASSES, seed=3)
    np.testing.assert_array_equal(fresh.attention.conv1.kernel, start.attention.conv1.kernel)
    other = load_network(options, None, seed=4)
    assert not np.allclose(other.attention.conv1.kernel, start.attention.conv1.kernel)


def test_kaggle_form_and_local_form_are_exported(weights: Path, tmp_path: Path) -> None:
    updates = {"ckpt_path": str(weights), "model": NETWORK}
    export_global_model.ex.run(
        named_configs=["kaggle"], config_updates=updates | {"export_path": str(tmp_path / "k")}
    )
    export_local_model.ex.run(config_updates=updates | {"export_path": str(tmp_path / "l")})
    record = json.loads((tmp_path / "k/export.json").read_text())
    assert record["multi_scale_pool_type"] == "sum"
    picture = tf.constant(image("kaggle", 60, 60))
    kaggle = load_signature(tmp_path / "k")
    assert signature_of(kaggle) == (IMAGE, {"global_descriptor"})
    found = kaggle(input_image=picture)["global_descriptor"].numpy()
    assert found.shape == (6,)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
    local = load_signature(tmp_path / "l")
    assert signature_of(local) == (IMAGE | FED | LOCAL, LOCAL_OUTPUTS)
    outputs = local(
        input_image=picture, input_scales=tf.constant([1.0]),
        input_max_feature_num=tf.constant(5), input_abs_thres=tf.constant(0.0),
    )  # fmt: skip
    assert outputs["features"].shape == (5, 4), "the width of the autoencoder, not a fixed one"


def test_export_of_both_has_the_published_signature(config_path: Path) -> None:
    function = load_signature(config_path.with_name("model"))
    outputs = LOCAL_OUTPUTS | {"global_descriptors"}
    assert signature_of(function) == (IMAGE | FED | LOCAL | CHOICE, outputs)


# ---------------------------------------------------------------------------- a run


def test_files_hold_the_features_and_are_kept(
    config_path: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = save_pictures(tmp_path / "jpg", 3)
    config, out = load_delf_config(config_path), tmp_path / "out"
    first = extract_pictures(pictures, config, out, extractor=extractor)
    assert (first.extracted, first.kept) == (3, 0)
    for picture in pictures:
        features = extractor(load_image(picture.path, config))
        local = read_local(out / f"{picture.stem}.delg_local")
        assert features.local is not None
        np.testing.assert_array_equal(local.descriptors, features.local.descriptors)
        np.testing.assert_array_equal(local.locations, features.local.locations)
        vector = read_global(out / f"{picture.stem}.delg_global")
        np.testing.assert_array_equal(vector, features.global_descriptor)
    (out / "p1.delg_local").unlink()
    second = extract_pictures(pictures, config, out, extractor=extractor)
    assert (second.extracted, second.kept) == (1, 2), "one with a single file is done again"
    third = extract_pictures(pictures, config, out, overwrite=True, extractor=extractor)
    assert third.extracted == 3


def test_nothing_to_do_loads_no_model(config_path: Path, extractor, tmp_path: Path) -> None:
    pictures, config = save_pictures(tmp_path, 1), load_delf_config(config_path)
    extract_pictures(pictures, config, tmp_path, extractor=extractor)

    def fail(*_: object) -> Features:
        raise AssertionError("extracted again")

    again = extract_pictures(pictures, config, tmp_path, extractor=fail)  # type: ignore[arg-type]
    assert again.kept == 1


def test_missing_and_damaged_pictures_are_listed_and_the_rest_goes_on(
    config_path: Path, extractor: Extractor, tmp_path: Path
) -> None:
    pictures = save_pictures(tmp_path / "jpg", 4)
    pictures[1].path.unlink()
    pictures[2].path.write_bytes(b"no picture")
    Image.new("RGB", (40, 6)).save(pictures[3].path)
    config, out = load_delf_config(config_path), tmp_path / "out"
    outcome = extract_pictures(pictures, config, out, extractor=extractor)
    assert outcome.extracted == 2
    with pytest.raises(IncompleteExtractionError, match=r"2 pictures have no features.*p2\.jpg"):
        finish(outcome, out)
    assert (out / "missing.txt").read_text() == f"{pictures[1].path}\n"
    assert (out / "failed.txt").read_text() == f"{pictures[2].path}\n"
    assert (out / "p3.delg_local").stat().st_size == 0, "too small: written, but empty"
    assert (out / "p3.delg_global").stat().st_size == 7
    assert outcome.counts()["empty"] == 1

    save_pictures(tmp_path / "jpg", 3)  # they are brought
    outcome = extract_pictures(pictures, config, out, extractor=extractor)
    assert finish(outcome, out) == {
        "extracted": 2, "kept": 2, "empty": 0, "missing": 0, "failed": 0,
    }  # fmt: skip
    assert not (out / "missing.txt").exists()


def test_missing_pictures_may_be_allowed(tmp_path: Path) -> None:
    outcome = Outcome(0, 0, [], ["a.jpg"], [])
    assert finish(outcome, tmp_path, Shard(1, 3), allow_missing=True)["missing"] == 1
    assert (tmp_path / "missing_1_of_3.txt").read_text() == "a.jpg\n"
    with pytest.raises(IncompleteExtractionError):
        finish(Outcome(0, 0, [], [], [("b.jpg", "b.jpg: bad")]), tmp_path, allow_missing=True)


def test_memory_that_runs_out_fails_the_picture_alone(config_path: Path, tmp_path: Path) -> None:
    pictures, config = save_pictures(tmp_path, 2), load_delf_config(config_path)

    def extract(loaded: LoadedImage) -> Features:
        if loaded.pixels.shape[0] == 60:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        empty = np.zeros(0, np.float32)
        return Features(np.ones(3, np.float32), LocalFeatures(empty, empty, empty, empty))

    outcome = extract_pictures(pictures, config, tmp_path, extractor=extract)  # type: ignore[arg-type]
    assert outcome.extracted == 1
    assert "no memory for 60 x 70 pixels" in outcome.failed[0][1]


def test_shards_share_the_pictures_without_overlap(
    config_path: Path, extractor: Extractor, tmp_path: Path
) -> None:
    pictures, config = save_pictures(tmp_path, 5), load_delf_config(config_path)
    shards = [Shard(i, 2) for i in range(2)]
    counts = [
        extract_pictures(pictures, config, tmp_path / "out", shard=s, extractor=extractor).extracted
        for s in shards
    ]
    assert counts == [3, 2]
    assert len(list((tmp_path / "out").glob("*.delg_local"))) == 5
    parts = [shard.take(pictures) for shard in shards]
    assert sorted(p.stem for part in parts for p in part) == [p.stem for p in pictures]


def test_features_of_another_model_or_configuration_are_not_mixed(
    config_path: Path, tmp_path: Path
) -> None:
    config = load_delf_config(config_path)
    check_record(tmp_path, describe(config))
    check_record(tmp_path, describe(config))
    other = load_other(config_path, "max_image_size: 80", "max_image_size: 90")
    with pytest.raises(ValueError, match=r"config\.max_image_size 80 instead of 90"):
        check_record(tmp_path, describe(other))
    (tmp_path / "extracted.json").write_text(json.dumps(describe(config) | {"model": "abc"}))
    with pytest.raises(ValueError, match="model 'abc' instead of"):
        check_record(tmp_path, describe(config))
    check_record(tmp_path, describe(other), overwrite=True)
    check_record(tmp_path, describe(other))


def load_other(config_path: Path, old: str, new: str) -> DelfConfig:
    changed = config_path.with_name("other.pbtxt")
    changed.write_text(config_path.read_text().replace(old, new))
    return load_delf_config(changed)


# ---------------------------------------------------------------------------- commands


def test_commands_write_features_lists_and_pictures(
    config_path: Path, extractor: Extractor, tmp_path: Path
) -> None:
    pictures, config = save_pictures(tmp_path / "jpg", 3), load_delf_config(config_path)
    (tmp_path / "list.txt").write_text("".join(f"{p.path}\n" for p in pictures))
    (tmp_path / "train.txt").write_text("jpg/p0.jpg,0,70,60\njpg/gone.jpg,0,70,60\n")
    common = {"num_workers": 1}
    revisited = common | {
        "delf_config_path": str(config_path), "images_dir": str(tmp_path / "jpg"),
        "dataset_file_path": str(save_ground_truth(tmp_path)),
        "output_features_dir": str(tmp_path / "revisited"),
    }  # fmt: skip
    for image_set, count in (("query", 1), ("index", 2)):
        run = extract_features_revisited.ex.run(config_updates=revisited | {"image_set": image_set})
        assert run.result["extracted"] == count
    cropped = read_local(tmp_path / "revisited/p2.delg_local")
    expected = extractor(load_image(pictures[2].path, config, (5.4, 6.0, 60.2, 55.0))).local
    assert expected is not None
    np.testing.assert_allclose(cropped.descriptors, expected.descriptors, atol=1e-6)

    gld = revisited | {
        "images_dir": str(tmp_path), "dataset_file_path": str(tmp_path / "train.txt"),
        "output_features_dir": str(tmp_path / "gld"),
    }  # fmt: skip
    result = extract_features_gld.ex.run(config_updates=gld).result
    assert (result["extracted"], result["missing"]) == (1, 1)
    assert (tmp_path / "gld/missing.txt").read_text() == f"{tmp_path / 'jpg/gone.jpg'}\n"

    plain = {"config_path": str(config_path), "list_images_path": str(tmp_path / "list.txt")}
    extract_features.ex.run(config_updates=plain | {"output_dir": str(tmp_path / "delf")})
    assert sorted(p.name for p in (tmp_path / "delf").glob("*.delf")) == [
        "p0.delf", "p1.delf", "p2.delf",
    ]  # fmt: skip
    drawn = extract_attention.ex.run(
        config_updates={
            "image_path": str(pictures[0].path), "delf_config_path": str(config_path),
            "output_image": str(tmp_path / "attention.png"),
        }
    )  # fmt: skip
    assert Image.open(tmp_path / "attention.png").size == (70, 60)
    assert drawn.result["cells"] == 4 * 5
    timed = measure_latency.ex.run(
        config_updates={
            "delf_config_path": str(config_path), "repeat_per_image": 2,
            "list_images_path": str(tmp_path / "list.txt"), "binary_local_features": True,
        }
    )  # fmt: skip
    assert timed.result["last"] > 0


def test_delf_files_need_local_features() -> None:
    with pytest.raises(ValueError, match="use_local_features"):
        delf_files(DelfConfig(use_local_features=False), "a", Path("out"))
