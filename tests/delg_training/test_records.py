"""Shards to batches: pixels against the reference, order, sharing, damage."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from delg_training.datasets.augmentation import (
    normalise,
    prepare_for_training,
    random_window,
    resize_area,
    resize_bilinear,
)
from delg_training.datasets.gldv2_tfrecords import (
    StreamOptions,
    explain_failure,
    make_batches,
    record_stream,
)
from delg_training.datasets.record_index import find_shards, index_records
from delg_training.training_run import BatchSource
from tests.delg_training.golden_models import SYSTEM, golden_outputs, image
from tests.delg_training.tiny_sets import NUM_CLASSES, draw_jpegs, pack_tiny_set
from tests.golden_recipe import load_manifest

ARITHMETIC: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
JPEG_ATOL = 0.03  # decoders differ
OPTIONS = StreamOptions(batch_size=4, image_size=17, num_classes=NUM_CLASSES)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_tiny_set(tmp_path_factory.mktemp("tiny"))


# ------------------------------------------------------------------ pixels


def pre_picture() -> tf.Tensor:
    height, width = load_manifest(SYSTEM, "misc.json")["pre"]["image"]
    return normalise(tf.constant(image("golden/pre", height, width)))


@pytest.mark.parametrize("size", [32])
def test_bilinear_resizing_equals_the_reference(size: int) -> None:
    expected = golden_outputs("misc.npz")[f"pre/eval_{size}"]
    np.testing.assert_allclose(resize_bilinear(pre_picture(), size), expected, **ARITHMETIC)


@pytest.mark.parametrize(("name", "size"), [("area_32", 32), ("area_up_48", 48)])
def test_area_resizing_of_a_window_equals_the_reference(name: str, size: int) -> None:
    y, x, height, width = load_manifest(SYSTEM, "misc.json")["pre"]["window_y_x_h_w"]
    window = pre_picture()[y : y + height, x : x + width]
    expected = golden_outputs("misc.npz")[f"pre/{name}"]
    np.testing.assert_allclose(resize_area(window, size), expected, **ARITHMETIC)


def test_validation_batches_of_the_reference_shards(golden_dir: Path) -> None:
    described = load_manifest(SYSTEM, "records.json")["tfrecord"]
    index = index_records(str(golden_dir / SYSTEM / "train-*"))
    expected = golden_outputs("records.npz")
    for name in expected:
        size = int(name.rsplit("_", 1)[1])
        count = len(described["labels"])
        options = StreamOptions(count, size, 1 + max(described["labels"]), shuffle_buffer=1)
        images, labels = next(iter(make_batches(index, options, training=False)))
        np.testing.assert_allclose(images, expected[name], atol=JPEG_ATOL)
        assert labels.numpy().tolist() == described["labels"]


def test_random_windows_have_the_stated_area_and_shape() -> None:
    shape = tf.constant([120, 160, 3])
    windows = [random_window(shape, tf.constant([7, i])) for i in range(200)]
    sizes = np.array([size[:2] for _, size in windows], float)
    areas, ratios = sizes.prod(1) / (120 * 160), sizes[:, 1] / sizes[:, 0]
    assert areas.min() >= 0.08 - 0.01
    assert areas.max() <= 1
    assert 0.72 < ratios.min() < 0.85
    assert 1.2 < ratios.max() < 1.37
    assert areas.std() > 0.15, "windows hardly vary"
    corners = np.array([begin[:2] for begin, _ in windows])
    assert ((corners >= 0) & (corners + sizes <= [120, 160])).all()
    large = [random_window(shape, tf.constant([7, i]), 0.5)[1] for i in range(50)]
    assert min(float(size[0] * size[1]) for size in large) >= 0.49 * 120 * 160


def test_cropped_decoding_gives_the_pixels_of_the_whole_image(tmp_path: Path) -> None:
    encoded = tf.constant(Path(draw_jpegs(tmp_path, 1)[0]).read_bytes())
    seed = tf.constant([3, 4], tf.int64)
    begin, size = random_window(tf.constant([40, 48, 3]), seed)
    whole = normalise(tf.io.decode_jpeg(encoded, channels=3))
    expected = resize_area(tf.slice(whole, begin, [size[0], size[1], 3]), 17)
    ours = prepare_for_training(encoded, 17, seed)
    np.testing.assert_allclose(ours, expected, atol=2 / 128)  # chroma at the window's edge


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    encoded = tf.constant(Path(draw_jpegs(tmp_path, 1, mode="L")[0]).read_bytes())
    ours = prepare_for_training(encoded, 17, tf.constant([3, 4], tf.int64))
    np.testing.assert_array_equal(ours[..., 0], ours[..., 2])


# ------------------------------------------------------------------ order


def take(index, options: StreamOptions, count: int, position: int = 0, **more) -> list:
    batches = make_batches(index, options, True, position, **more).take(count)
    return [(images.numpy(), labels.numpy()) for images, labels in batches]


def test_order_is_that_of_a_shuffle_buffer_over_the_records_for_ever(pattern: str) -> None:
    """The published pipeline, on the records themselves."""
    options = StreamOptions(4, 17, NUM_CLASSES, shuffle_buffer=5, seed=3)
    published = tf.data.TFRecordDataset([str(p) for p in find_shards(pattern)])
    published = published.repeat().shuffle(5, seed=3).take(30)
    index = index_records(pattern)
    ours = [index.read(int(n)) for _, n in record_stream(len(index), options).take(30)]
    assert ours == [record.numpy() for record in published]


def test_a_stream_can_start_anywhere(pattern: str) -> None:
    """What resumption needs: the same images, crops included, in the same order."""
    index = index_records(pattern)
    whole = take(index, OPTIONS, 8)
    later = take(index, OPTIONS, 3, position=5 * OPTIONS.batch_size)
    for (images, labels), (expected, expected_labels) in zip(later, whole[5:], strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_machines_share_the_batches_of_a_single_one(pattern: str) -> None:
    """Two machines with two replicas each: 4 images a batch, one for each replica."""
    index = index_records(pattern)
    parts = [
        take(index, OPTIONS, 6, context=tf.distribute.InputContext(2, machine, 4))
        for machine in (0, 1)
    ]
    whole = take(index, OPTIONS, 3)
    for step, (images, labels) in enumerate(whole):
        shares = [parts[m][2 * step + replica] for m in (0, 1) for replica in (0, 1)]
        np.testing.assert_array_equal(np.concatenate([s[0] for s in shares]), images)
        np.testing.assert_array_equal(np.concatenate([s[1] for s in shares]), labels)


def test_seed_and_position_decide_the_crops(pattern: str) -> None:
    index = index_records(pattern)
    once, again = take(index, OPTIONS, 6), take(index, OPTIONS, 6)
    other = take(index, StreamOptions(4, 17, NUM_CLASSES, seed=1), 6)
    np.testing.assert_array_equal(once[5][0], again[5][0])
    assert not np.array_equal(once[5][0], other[5][0])
    # 12 images: the fourth batch shows some of the first three again, cut otherwise
    first = {image.tobytes() for images, _ in once[:3] for image in images}
    assert len(first | {i.tobytes() for images, _ in once[3:] for i in images}) == 24


# ------------------------------------------------------------------ damage


def damaged(tmp_path: Path) -> Path:
    pack_tiny_set(tmp_path)
    return tmp_path / "tfrecord" / "train-00001-of-00002"


def test_missing_shard_is_named(tmp_path: Path) -> None:
    damaged(tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 shards are not there: train-00001-of-0000"):
        find_shards(f"{tmp_path}/tfrecord/train*")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_shards(f"{tmp_path}/nowhere/train*")


@pytest.mark.parametrize("cut", [1, 5, 400])
def test_cut_off_shard_is_named(tmp_path: Path, cut: int) -> None:
    shard = damaged(tmp_path)
    os.truncate(shard, shard.stat().st_size - cut)
    with pytest.raises(ValueError, match="train-00001-of-00002 is cut off"):
        index_records(f"{tmp_path}/tfrecord/train*")


def test_other_files_and_empty_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,url,landmark_id\n0,,1\n2,,3\n")
    with pytest.raises(ValueError, match=r"train\.csv is cut off or no TFRecord file"):
        index_records(f"{tmp_path}/train*")
    (tmp_path / "train.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="hold no record"):
        index_records(f"{tmp_path}/train*")


def source_of(pattern: str, **changes) -> BatchSource:
    options = StreamOptions(**{**vars(OPTIONS), **changes})
    return BatchSource(index_records(pattern), options, True, tf.distribute.get_strategy())


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    shard = damaged(tmp_path)
    data = bytearray(shard.read_bytes())
    start = data.index(b"\xff\xd8\xff", len(data) // 2)  # of a JPEG file
    data[start : start + 200] = bytes(200)
    shard.write_bytes(data)
    source = source_of(f"{tmp_path}/tfrecord/train*")
    with pytest.raises(ValueError, match=r"record \d of .*train-00001-of-00002 cannot be used"):
        for _, _ in zip(range(20), source.from_step(0), strict=False):
            pass


def test_label_outside_the_classes_is_named(pattern: str) -> None:
    source = source_of(pattern, num_classes=2)
    with pytest.raises(ValueError, match=r"label outside the classes.*\[0, 2\)"):
        for _, _ in zip(range(20), source.from_step(0), strict=False):
            pass


def test_sound_records_need_no_explanation(pattern: str) -> None:
    assert explain_failure(index_records(pattern), OPTIONS, True, 0, 30) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 3}, "a multiple of the 2 replicas"),
        ({"image_size": 4}, "image_size=4"),
        ({"shuffle_buffer": 0}, "shuffle_buffer=0"),
        ({"min_crop_area": 0.0}, "min_crop_area is 0.0"),
    ],
)
def test_wrong_options_of_a_stream_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StreamOptions(**{**vars(OPTIONS), **changes}).check(replicas=2)
