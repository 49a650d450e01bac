"""Sacred ingredient `model`: model.xcit_s12, model.xcit_s24, model.xcit_mini."""

from sacred import Ingredient

from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.weights import load_autoencoder, load_backbone
from vitgal.models.xcit import XCiTSizes

model_ingredient = Ingredient("model", save_git_info=False)


@model_ingredient.config
def config():
    name = None  # flag `model` of the release; the named configs set it
    embed_dim = 384  # width of tokens and of the global descriptor; a multiple of 24
    depth = None  # cross-covariance blocks; 12 (S12), 24 (S24)
    num_heads = 8  # attention heads; divides embed_dim
    eta = 1.0  # start of every layer scale; 1e-5 for S24
    drop = 0.0  # dropout on projections
    drop_path = 0.1  # rate at which branches are dropped in training, the same in all blocks
    weight_std = 0.02  # spread of linear maps before training, published
    code_dim = 128  # width of the autoencoder's codes
    nb_classes = None  # rows of the classifier; None: the classes of the split (81,313 in GLDv2)


model_ingredient.add_named_config(
    "xcit_s12", {"name": "xcit_retrievalv2_small_12_p16", "depth": 12, "eta": 1.0}
)
model_ingredient.add_named_config(
    "xcit_s24", {"name": "xcit_retrievalv2_small_24_p16", "depth": 24, "eta": 1e-5}
)
# the same method, small enough to be trained on two cores
model_ingredient.add_named_config(
    "xcit_mini",
    {
        "name": "xcit_retrievalv2_mini",
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 4,
        "drop_path": 0.0,
        "weight_std": 0.1,  # about 1 / sqrt(embed_dim), as 0.05 would be of the published width
        "code_dim": 48,
    },
)


@model_ingredient.capture
def make_sizes(
    embed_dim: int,
    depth: int | None,
    num_heads: int,
    eta: float,
    drop: float,
    drop_path: float,
    weight_std: float,
) -> XCiTSizes:
    """The configured size; ValueError when no configuration was named."""
    if depth is None:
        raise ValueError(
            "model.depth is not set; name a configuration: model.xcit_s12, model.xcit_s24 or "
            "model.xcit_mini"
        )
    return XCiTSizes(embed_dim, depth, num_heads, eta, drop, drop_path, weight_std)


@model_ingredient.capture
def count_classes(in_split: int, nb_classes: int | None) -> int:
    """Rows of the classifier for a split of `in_split` classes; ValueError when too few."""
    if nb_classes is not None and nb_classes < in_split:
        raise ValueError(
            f"model.nb_classes is {nb_classes}, but the split has {in_split} classes; leave it out"
        )
    return in_split if nb_classes is None else nb_classes


@model_ingredient.capture
def make_model(code_dim: int, num_classes: int = 0) -> Autoencoder:
    """A freshly initialised autoencoder with its backbone; `num_classes` 0: no classifier."""
    return Autoencoder(make_sizes(), code_dim, num_classes)


def make_backbone(num_classes: int = 0) -> RetrievalNetwork:
    """A freshly initialised retrieval network; `num_classes` 0: no ArcFace head."""
    return RetrievalNetwork(make_sizes(), num_classes)


def load_model(weight_path: str) -> Autoencoder:
    """The autoencoder of a released or own file, in evaluation mode."""
    return load_autoencoder(make_model(), weight_path).eval()


def load_global_model(weight_path: str) -> RetrievalNetwork:
    """The retrieval network of an autoencoder's or a retrieval network's file, in evaluation mode.

    Enough for global descriptors: a checkpoint of vitgal.experiment can be measured before there is
    an autoencoder.
    """
    return load_backbone(make_backbone(), weight_path).eval()
