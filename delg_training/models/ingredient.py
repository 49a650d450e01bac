"""Sacred ingredient `model`: options of the network, named as the flags of the published code."""

from collections.abc import Sequence

from sacred import Ingredient

from delg_training.models.delf import Delf
from delg_training.models.delg import ModelOptions, build_model

model_ingredient = Ingredient("model", save_git_info=False)


@model_ingredient.config
def config():
    delg_global_features = False  # DELG (GeM, whitening, ArcFace); False: DELF (mean, softmax)
    block3_strides = True  # local features of stride 32 instead of 16
    use_autoencoder = True  # local features of autoencoder_dimensions instead of block3's
    autoencoder_dimensions = 128  # width of the local features
    width = 64  # channels of the stem; 64: ResNet-50, less: a smaller network
    depths = [3, 4, 6, 3]  # bottlenecks of block1 to block4; [3, 4, 6, 3]: ResNet-50
    local_feature_map_channels = 16 * width  # of block3, follows from the width
    delg_gem_power = 3.0  # p of the generalised mean, not trained
    delg_embedding_layer_dim = 2048  # width of DELG's global descriptor
    delg_scale_factor_init = 45.25  # of ArcFace's logits, not trained; about sqrt(2048)
    delg_arcface_margin = 0.1  # radians


model_ingredient.add_named_config("delf", {"delg_global_features": False})
model_ingredient.add_named_config("delg", {"delg_global_features": True})
# DELG small enough to be trained on two cores (generated landmarks)
model_ingredient.add_named_config(
    "delg_mini",
    {
        "delg_global_features": True,
        "block3_strides": False,
        "width": 24,
        "depths": [1, 1, 2, 1],
        "autoencoder_dimensions": 64,
        "delg_embedding_layer_dim": 128,
        "delg_scale_factor_init": 12.0,
        "delg_arcface_margin": 0.05,
    },
)


@model_ingredient.capture
def model_options(
    delg_global_features: bool,
    block3_strides: bool,
    use_autoencoder: bool,
    autoencoder_dimensions: int,
    width: int,
    depths: Sequence[int],
    local_feature_map_channels: int,
    delg_gem_power: float,
    delg_embedding_layer_dim: int,
    delg_scale_factor_init: float,
    delg_arcface_margin: float,
) -> ModelOptions:
    """The configured options as plain values."""
    return ModelOptions(
        delg_global_features=delg_global_features,
        block3_strides=block3_strides,
        use_autoencoder=use_autoencoder,
        autoencoder_dimensions=int(autoencoder_dimensions),
        local_feature_map_channels=int(local_feature_map_channels),
        delg_gem_power=float(delg_gem_power),
        delg_embedding_layer_dim=delg_embedding_layer_dim,
        delg_arcface_margin=float(delg_arcface_margin),
        delg_scale_factor_init=float(delg_scale_factor_init),
        width=width,
        depths=tuple(depths),
    )


def make_model(num_classes: int | None = None, seed: int = 0) -> Delf:
    """A freshly initialised network of the configured kind and size.

    `num_classes`: None leaves the classifiers out, as exported models do.
    """
    return build_model(model_options(), num_classes, seed)
