"""Sacred ingredient `model`: options of the reranking transformer."""

from sacred import Ingredient

from rrt_gld.models.matcher import Matcher, start_from_similarity

model_ingredient = Ingredient("model", save_git_info=False)


@model_ingredient.config
def config():
    name = None  # part of the names of saved checkpoints; set by model.RRT and model.RRT_mini
    num_global_features = 2048  # width of the global descriptor
    num_local_features = 128  # width of the local descriptors and of the tokens
    seq_len = None  # accepted and ignored: belongs to an abandoned linear-attention variant
    dim_K = None  # accepted and ignored, likewise
    dim_feedforward = None  # hidden width of the feed-forward map
    nhead = None  # attention heads; divides num_local_features
    num_encoder_layers = None  # layers of the encoder
    dropout = 0.0  # on attention weights, both residual branches and the hidden layer
    activation = "relu"  # relu, gelu (exact erf form) or glu
    normalize_before = False  # True: LayerNorm before each branch and after the last layer
    similarity_logit = None  # start of the first layer's attention, see start_from_similarity


@model_ingredient.named_config
def RRT():
    """The published size: 2,243,201 parameters."""
    name = "rrt"
    seq_len = 1004
    dim_K = 256
    dim_feedforward = 1024
    nhead = 4
    num_encoder_layers = 6
    dropout = 0.0
    activation = "relu"
    normalize_before = False


# the same method, small enough to be trained by train_mini.sh on two cores
RRT_MINI_SIZES = {"dim_feedforward": 256, "nhead": 2, "num_encoder_layers": 2}
model_ingredient.add_named_config(
    "RRT_mini", {"name": "rrt_mini", "similarity_logit": 9.0, **RRT_MINI_SIZES}
)


@model_ingredient.capture
def make_model(
    num_global_features: int,
    num_local_features: int,
    seq_len: int | None,
    dim_K: int | None,
    dim_feedforward: int | None,
    nhead: int | None,
    num_encoder_layers: int | None,
    dropout: float,
    activation: str,
    normalize_before: bool,
    similarity_logit: float | None,
) -> Matcher:
    """A freshly initialised matcher of the configured size."""
    if dim_feedforward is None or nhead is None or num_encoder_layers is None:
        raise ValueError(
            "the model has no size: model.dim_feedforward, model.nhead and "
            "model.num_encoder_layers are needed; name a configuration (model.RRT, model.RRT_mini)"
        )
    model = Matcher(
        d_global=num_global_features,
        d_model=num_local_features,
        seq_len=seq_len,
        d_K=dim_K,
        nhead=nhead,
        num_encoder_layers=num_encoder_layers,
        dim_feedforward=dim_feedforward,
        dropout=dropout,
        activation=activation,
        normalize_before=normalize_before,
    )
    if similarity_logit is not None:
        start_from_similarity(model, similarity_logit)
    return model
