"""Features of one picture: model, normalisation, PCA, coordinates."""

from dataclasses import dataclass

import numpy as np

from delg_training.delf_config import DelfConfig, DelfPcaParameters
from delg_training.image_loading import LoadedImage
from delg_training.saved_models import Model, ModelOutputs, load_model
from utils.descriptors import LocalFeatures, read_datum

MIN_IMAGE_SIDE = 10  # pixels: smaller pictures have no features
MIN_LEVEL_SIDE = 5  # pixels: the networks cannot take smaller levels
L2_EPSILON = 1e-12  # below the squared norm, as in TensorFlow


def l2_normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows (..., D) by their length; float64."""
    wide = vectors.astype(np.float64)
    squares = np.einsum("...d,...d->...", wide, wide)
    return wide / np.sqrt(np.maximum(squares, L2_EPSILON))[..., None]


@dataclass(frozen=True, eq=False)
class Pca:
    """Projection onto the first components, with whitening where there are variances."""

    mean: np.ndarray  # (D,)
    matrix: np.ndarray  # (dim, D) rows are components
    deviations: np.ndarray | None  # (dim,) square roots of the variances

    def __call__(self, descriptors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, dim) unit rows."""
        if descriptors.shape[-1] != len(self.mean):
            raise ValueError(
                f"the model's descriptors have width {descriptors.shape[-1]}, the PCA is for "
                f"{len(self.mean)}: set use_pca: false, or give the files of this model"
            )
        projected = (descriptors - self.mean) @ self.matrix.T
        if self.deviations is not None:
            projected = projected / self.deviations
        return l2_normalise(projected)


def load_pca(parameters: DelfPcaParameters) -> Pca:
    """The PCA of the configuration; ValueError, naming the file, for shapes that do not fit."""
    mean = read_datum(parameters.mean_path).astype(np.float64).reshape(-1)
    matrix = read_datum(parameters.projection_matrix_path).astype(np.float64)
    width, dim = len(mean), parameters.pca_dim
    if matrix.size != width * width:
        raise ValueError(
            f"{parameters.projection_matrix_path} has shape {matrix.shape}, expected "
            f"({width}, {width}) as {parameters.mean_path} has {width} numbers"
        )
    if dim > width:
        raise ValueError(f"pca_dim is {dim}, but {parameters.mean_path} has {width} numbers")
    deviations = None
    if parameters.use_whitening:
        variances = read_datum(parameters.pca_variances_path).astype(np.float64).reshape(-1)
        if len(variances) < dim or (variances[:dim] <= 0).any():
            raise ValueError(
                f"{parameters.pca_variances_path} holds {len(variances)} variances, expected at "
                f"least {dim}, all above 0"
            )
        deviations = np.sqrt(variances[:dim])
    return Pca(mean, matrix.reshape(width, width)[:dim], deviations)


def post_process(descriptors: np.ndarray, pca: Pca | None) -> np.ndarray:
    """(N, D) raw -> (N, D or dim) unit rows, float64."""
    unit = l2_normalise(descriptors)
    return unit if pca is None else pca(unit)


def pyramid_sizes(height: int, width: int, scales: np.ndarray) -> np.ndarray:
    """(S, 2) int64 sides of the levels: the float32 product, halves rounded to even."""
    sides = np.array([height, width], np.float32)
    return np.rint(sides * scales.astype(np.float32)[:, None]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Features:
    """What was extracted; None for a kind that the configuration leaves out."""

    global_descriptor: np.ndarray | None  # (E,) float32, unit length; (0,) of a tiny picture
    local: LocalFeatures | None  # best first; locations (y, x) in the picture before resizing


class Extractor:
    """A model with its configuration."""

    def __init__(self, config: DelfConfig, model: Model | None = None) -> None:
        """Load all that the configuration names; `model` stands in for its model_path."""
        self.config = config
        self.scales = np.array(config.image_scales, np.float32)
        self.global_indices = np.array(config.global_indices(), np.int32)
        local, whole = config.delf_local_config, config.delf_global_config
        self.local_pca = self.global_pca = None
        if config.use_local_features and local.use_pca:
            self.local_pca = load_pca(local.pca_parameters)
        if config.use_global_features and whole.use_pca:
            self.global_pca = load_pca(whole.pca_parameters)
        self.model = load_model(config) if model is None else model

    def __call__(self, image: LoadedImage) -> Features:
        """The features of a picture; empty ones below 10 pixels, or without a level to take."""
        height, width = image.pixels.shape[:2]
        fits = pyramid_sizes(height, width, self.scales).min(axis=1) >= MIN_LEVEL_SIDE
        if min(height, width) < MIN_IMAGE_SIDE or not fits.any():
            return self._nothing()
        local = self.config.delf_local_config
        outputs = self.model(
            image.pixels,
            self.scales[fits],
            local.max_feature_num,
            local.score_threshold,
            _renumbered(self.global_indices, fits),
        )
        return Features(
            self._global(outputs) if self.config.use_global_features else None,
            self._local(outputs, image) if self.config.use_local_features else None,
        )

    def _nothing(self) -> Features:
        empty = np.zeros(0, np.float32)
        return Features(
            empty if self.config.use_global_features else None,
            LocalFeatures(empty, empty, empty, empty) if self.config.use_local_features else None,
        )

    def _global(self, outputs: ModelOutputs) -> np.ndarray:
        """Unit rows of the scales, summed, and unit length again."""
        rows = outputs.global_descriptors
        if not len(rows):
            return np.zeros(0, np.float32)
        total = post_process(rows, self.global_pca).sum(axis=0)
        return l2_normalise(total).astype(np.float32)

    def _local(self, outputs: ModelOutputs, image: LoadedImage) -> LocalFeatures:
        centres = (outputs.boxes[:, :2] + outputs.boxes[:, 2:]) / 2
        if not self.config.delf_local_config.use_resized_coordinates:
            centres = centres / np.array(image.scale_factors)
        return LocalFeatures(
            locations=centres,
            scales=outputs.scales,
            descriptors=post_process(outputs.features, self.local_pca),
            attention=outputs.scores,
        )


def _renumbered(indices: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Indices of the levels that are left, in the numbering without the others."""
    return (np.cumsum(kept)[indices] - 1)[kept[indices]].astype(np.int32)
