"""Files of boxes against protocol buffers themselves; damaged files."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from delg_training.box_files import FLOATS, Boxes, read_boxes, write_boxes
from tests.damage import mutate


def message_class(name: str):
    """`Boxes` as the published schema has it, built at run time."""
    file = descriptor_pb2.FileDescriptorProto(name="box.proto", package="delf", syntax="proto2")
    box = file.message_type.add(name="Box")
    for number, field in enumerate(FLOATS, 1):
        box.field.add(name=field, number=number, label=1, type=2)
    box.field.add(name="class_index", number=6, label=1, type=5)
    boxes = file.message_type.add(name="Boxes")
    boxes.field.add(name="box", number=1, label=3, type=11, type_name=".delf.Box")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"delf.{name}"))


def some_boxes(n: int = 4) -> Boxes:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (n, 4)).astype(np.float32)
    classes = np.array([0, 1, 300, -7], np.int32)[:n]
    return Boxes(corners, rng.uniform(0, 1, n).astype(np.float32), classes)


def as_message(boxes: Boxes) -> bytes:
    message = message_class("Boxes")()
    for corners, score, class_index in zip(*boxes, strict=True):
        values = dict(zip(FLOATS, [*corners.tolist(), float(score)], strict=True))
        message.box.add(**values, class_index=int(class_index))
    return message.SerializeToString()


@pytest.mark.parametrize("n", [0, 1, 4])
def test_boxes_are_written_and_read_as_protocol_buffers_are(tmp_path, n):
    boxes, path = some_boxes(n), tmp_path / "a.boxes"
    write_boxes(path, boxes)
    assert path.read_bytes() == as_message(boxes)
    for found, expected in zip(read_boxes(path), boxes, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_absent_fields_are_zero_and_unknown_ones_are_skipped(tmp_path):
    message = message_class("Boxes")()
    message.box.add(ymin=0.5)
    path = tmp_path / "a.boxes"
    path.write_bytes(message.SerializeToString() + b"\x7a\x02hi")
    corners, scores, classes = read_boxes(path)
    assert (corners.tolist(), scores.tolist(), classes.tolist()) == ([[0.5, 0, 0, 0]], [0], [0])


def test_damaged_files_give_boxes_or_a_value_error(tmp_path):
    path, data = tmp_path / "a.boxes", as_message(some_boxes())
    path.write_bytes(data[:-3])
    with pytest.raises(ValueError, match=r"a.boxes cannot be read: .*damaged"):
        read_boxes(path)
    rng, refused = np.random.default_rng(0), []
    for _ in range(300):
        path.write_bytes(mutate(data, rng))
        try:
            assert np.isfinite(read_boxes(path).corners).all()
        except ValueError as error:
            refused.append(str(error))
    assert refused
    assert all("a.boxes" in message for message in refused)


def test_arrays_that_do_not_belong_together_are_not_written(tmp_path):
    boxes = some_boxes()
    for wrong in (boxes._replace(scores=np.ones(3)), boxes._replace(corners=np.ones((4, 3)))):
        with pytest.raises(ValueError, match=r"is not written: corners"):
            write_boxes(tmp_path / "a.boxes", wrong)
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_boxes(tmp_path / "a.boxes", boxes._replace(scores=np.full(4, np.nan)))
    assert not (tmp_path / "a.boxes").exists()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="detect the boxes of this image first"):
        read_boxes(tmp_path / "a.boxes")
