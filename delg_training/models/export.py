"""SavedModels of trained networks: local, global, or both, with the published signatures.

Everything between the uint8 picture and its descriptors is in the graph (DELG, section 3): pyramid,
network, boxes, choice of features. Levels with a side below 5 pixels are left out; the published
graphs end with an error there.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.inference import InferenceNetwork
from delg_training.models.pooling import l2_normalise
from delg_training.models.pyramid import (
    level_sizes,
    normalise_image,
    receptive_boxes,
    resize_level,
    select,
)
from delg_training.models.resnet import MIN_SIDE
from utils.paths import atomic_write, temporary_folder

SIGNATURE = "serving_default"
RECORD = "export.json"  # in the exported folder: what it was made from
POOLINGS = (None, "average", "sum")
IMAGE = tf.TensorSpec([None, None, 3], tf.uint8, name="input_image")
SCALES = tf.TensorSpec([None], tf.float32, name="input_scales")
MAX_NUM = tf.TensorSpec([], tf.int32, name="input_max_feature_num")
THRESHOLD = tf.TensorSpec([], tf.float32, name="input_abs_thres")
GLOBAL_SCALES = tf.TensorSpec([None], tf.int32, name="input_global_scales_ind")


class Level(NamedTuple):
    """Cells of one level that pass the threshold."""

    boxes: tf.Tensor  # (N, 4) pixels of the picture
    scores: tf.Tensor  # (N,)
    scales: tf.Tensor  # (N,) 1 / scale of the level
    cells: tf.Tensor  # (N, D) features


class PyramidModel(tf.Module):
    """A network that is run at every level of an image pyramid."""

    def __init__(
        self, model: Delf, iou: float = 1.0, with_local: bool = True, with_global: bool = True
    ) -> None:
        """`iou`: largest overlap of two features' boxes, 1.0 allows all."""
        super().__init__(name="exported")
        if not 0 <= iou <= 1:
            raise ValueError(f"iou is {iou}, expected a number from 0 to 1")
        self.network = InferenceNetwork(model, with_local, with_global)
        self.iou, self.with_global = iou, with_global

    def run_level(self, block3: tf.Tensor, scale: tf.Tensor, threshold: tf.Tensor) -> Level:
        """block3 (1, h, w, C) of the level -> its features with a score >= threshold."""
        scores = tf.reshape(self.network.score(block3), [-1])
        shape = tf.shape(block3)
        boxes = receptive_boxes(shape[1], shape[2], self.network.stride) / scale
        kept = tf.reshape(tf.where(scores >= threshold), [-1])
        cells = tf.reshape(block3, [-1, block3.shape[-1]])
        features = self.network.reduce(tf.gather(cells, kept))
        scales = tf.fill([tf.shape(kept)[0]], 1.0 / scale)
        return Level(tf.gather(boxes, kept), tf.gather(scores, kept), scales, features)

    def extract_local(
        self,
        image: tf.Tensor,
        scales: tf.Tensor,
        max_feature_num: tf.Tensor,
        threshold: tf.Tensor,
        is_global: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The signatures' outputs; `is_global` (S,): which levels have a row of global ones."""
        normalised = normalise_image(image)
        scales, sizes, is_global = fitting_levels(image, scales, is_global)
        count, network = tf.shape(scales)[0], self.network
        boxes = _rows_of(count, 4)
        features = _rows_of(count, network.local_channels)
        scores, inverse = _rows_of(count), _rows_of(count)
        vectors = tf.TensorArray(
            tf.float32, 0, dynamic_size=True, element_shape=[network.global_channels]
        )
        for i in tf.range(count):
            block3 = network.to_block3(resize_level(normalised, sizes[i]))
            level = self.run_level(block3, scales[i], threshold)
            boxes, features = boxes.write(i, level.boxes), features.write(i, level.cells)
            scores, inverse = scores.write(i, level.scores), inverse.write(i, level.scales)
            if self.with_global and is_global[i]:
                vectors = vectors.write(vectors.size(), network.describe(block3)[0])
        all_boxes, all_scores = boxes.concat(), scores.concat()
        best = select(all_boxes, all_scores, max_feature_num, self.iou)
        outputs = {
            "boxes": tf.gather(all_boxes, best),
            "features": tf.gather(features.concat(), best),
            "scales": tf.gather(inverse.concat(), best),
            "scores": tf.gather(all_scores, best)[:, None],
        }
        return outputs | ({"global_descriptors": vectors.stack()} if self.with_global else {})

    def extract_global(self, image: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
        """(S, E) raw global vectors of the levels."""
        normalised = normalise_image(image)
        scales, sizes, _ = fitting_levels(image, scales, tf.ones_like(scales, tf.bool))
        count = tf.shape(scales)[0]
        vectors = tf.TensorArray(tf.float32, count, element_shape=[self.network.global_channels])
        for i in tf.range(count):
            block3 = self.network.to_block3(resize_level(normalised, sizes[i]))
            vectors = vectors.write(i, self.network.describe(block3)[0])
        return vectors.stack()


def _rows_of(count: tf.Tensor, *width: int) -> tf.TensorArray:
    """For every level any number of rows."""
    return tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=[None, *width])


def fitting_levels(
    image: tf.Tensor, scales: tf.Tensor, is_global: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Scales, sizes and flags of the levels that are large enough for the network."""
    sizes = level_sizes(image, scales)
    fits = tf.reduce_min(sizes, axis=1) >= MIN_SIDE
    kept = [tf.boolean_mask(part, fits) for part in (scales, sizes, is_global)]
    return kept[0], kept[1], kept[2]


def chosen_levels(scales: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """(S,) bool: whether a level's index is among `indices`; order and repetition do not matter."""
    positions = tf.range(tf.shape(scales)[0])
    return tf.reduce_any(positions[:, None] == indices, axis=1)


class LocalModel(PyramidModel):
    """Exported form with local features only."""

    def __init__(self, model: Delf, iou: float = 1.0) -> None:
        super().__init__(model, iou, with_global=False)

    @tf.function(input_signature=[IMAGE, SCALES, MAX_NUM, THRESHOLD])
    def serve(
        self,
        input_image: tf.Tensor,
        input_scales: tf.Tensor,
        input_max_feature_num: tf.Tensor,
        input_abs_thres: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """boxes (N, 4), features (N, D), scales (N,), scores (N, 1); best first."""
        nothing = tf.zeros_like(input_scales, tf.bool)
        return self.extract_local(
            input_image, input_scales, input_max_feature_num, input_abs_thres, nothing
        )


class LocalAndGlobalModel(PyramidModel):
    """Exported form with local features and global descriptors."""

    def __init__(self, model: Delf, iou: float = 1.0) -> None:
        super().__init__(model, iou)

    @tf.function(input_signature=[IMAGE, SCALES, MAX_NUM, THRESHOLD, GLOBAL_SCALES])
    def serve(
        self,
        input_image: tf.Tensor,
        input_scales: tf.Tensor,
        input_max_feature_num: tf.Tensor,
        input_abs_thres: tf.Tensor,
        input_global_scales_ind: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """As LocalModel, and global_descriptors (S, E) of the chosen scales, in their order."""
        is_global = chosen_levels(input_scales, input_global_scales_ind)
        return self.extract_local(
            input_image, input_scales, input_max_feature_num, input_abs_thres, is_global
        )


class GlobalModel(PyramidModel):
    """Exported form with global descriptors only."""

    def __init__(
        self,
        model: Delf,
        input_scales_list: Sequence[float] | None = None,
        multi_scale_pool_type: str | None = None,
        normalize_global_descriptor: bool = False,
    ) -> None:
        """`input_scales_list`: fixed scales, the picture is then the only input.

        `multi_scale_pool_type`: None gives a row per scale, average or sum one vector for all.
        """
        super().__init__(model, with_local=False)
        if multi_scale_pool_type not in POOLINGS:
            raise ValueError(
                f"multi_scale_pool_type is {multi_scale_pool_type!r}, expected one of {POOLINGS}"
            )
        if input_scales_list is not None and not len(input_scales_list):
            raise ValueError("input_scales_list is empty; give scales, or None to feed them")
        self.pooling, self.normalised = multi_scale_pool_type, normalize_global_descriptor
        self.fixed_scales = None if input_scales_list is None else tuple(input_scales_list)
        # the one function that saving finds: it would trace the other one too
        if self.fixed_scales is None:
            self.serve = tf.function(
                self.serve_scales, input_signature=[IMAGE, SCALES, GLOBAL_SCALES]
            )
        else:
            self.serve = tf.function(self.serve_image, input_signature=[IMAGE])

    def pool(self, vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        """(S, E) -> the signature's outputs."""
        if self.pooling is not None:
            total = tf.reduce_sum(vectors, axis=0)
            if self.pooling == "average":
                total /= tf.cast(tf.maximum(tf.shape(vectors)[0], 1), tf.float32)
            return {"global_descriptor": l2_normalise(total) if self.normalised else total}
        return {"global_descriptors": l2_normalise(vectors) if self.normalised else vectors}

    def serve_scales(
        self,
        input_image: tf.Tensor,
        input_scales: tf.Tensor,
        input_global_scales_ind: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """global_descriptors (S, E) of the chosen scales in their order, or their pooled vector."""
        is_global = chosen_levels(input_scales, input_global_scales_ind)
        return self.pool(self.extract_global(input_image, tf.boolean_mask(input_scales, is_global)))

    def serve_image(self, input_image: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same at the fixed scales."""
        return self.pool(self.extract_global(input_image, tf.constant(self.fixed_scales)))


ExportedModel = LocalModel | LocalAndGlobalModel | GlobalModel


def check_export_path(export_path: str | Path) -> Path:
    """ValueError when there is something already; nothing is ever exported over it."""
    path = Path(export_path)
    if path.exists():
        raise ValueError(f"{path} exists already; remove it, or give another export_path")
    return path


def save_model(exported: ExportedModel, export_path: str | Path, made_from: dict[str, Any]) -> None:
    """Write a SavedModel with the one signature `serving_default`, whole or not at all.

    `made_from`: plain values for the record `export.json` in the folder.
    """
    path = check_export_path(export_path)
    signature = exported.serve.get_concrete_function()
    with temporary_folder(path) as folder:
        inside = folder / path.name
        tf.saved_model.save(exported, str(inside), signatures={SIGNATURE: signature})
        record = json.dumps(made_from, indent=1, sort_keys=True) + "\n"
        atomic_write(inside / RECORD, record.encode())
        os.rename(inside, path)
