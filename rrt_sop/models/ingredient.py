"""Sacred ingredient `model`: options of the network with its heads and matcher."""

from sacred import Ingredient

from rrt_sop.models.nets import Net
from rrt_sop.models.network import RerankNet
from rrt_sop.models.pretrained import load_backbone
from rrt_sop.models.superpoint import SuperPointNet, load_superpoint
from utils.checkpoints import STATE, load_released, load_state
from utils.paths import require_file

model_ingredient = Ingredient("model", save_git_info=False)


@model_ingredient.config
def config():
    arch = "resnet50"  # resnet18, 34, 50, 101 or 152 of torchvision, resnet10, or superpoint
    pretrained = True  # start training from ImageNet weights (V1); evaluation needs none
    backbone_weights = None  # their file; None: torchvision's cache, which downloads at first
    dropout = 0.0  # on the input of the classifier
    norm_layer = None  # layer or batch: normalise the pooled feature before the map
    remap = False  # map the pooled feature even where the width is right already
    detach = False  # no gradient from the classifier into the global feature
    normalize = False  # divide the global feature by its L2 norm
    set_bn_eval = True  # batch norms keep their running statistics in training
    normalize_weight = False  # divide the rows of the classifier by their L2 norms
    freeze_backbone = False  # train the local head and the matcher alone
    num_global_features = 128  # width of the global feature
    num_local_features = 128  # channels of the local map, width of the matcher's tokens
    ert_seq_len = 102  # accepted and ignored: the sequence is as long as the maps make it
    ert_dim_feedforward = 1024  # matcher: hidden width of the feed-forward map
    ert_nhead = 4  # matcher: attention heads; divides num_local_features
    ert_num_encoder_layers = 6  # matcher: layers of the encoder
    ert_dropout = 0.0  # matcher: on attention weights, both branches and the hidden layer
    ert_activation = "relu"  # matcher: relu, gelu (exact erf form) or glu
    ert_normalize_before = False  # matcher: LayerNorm before each branch and after the last layer


# the published network: 27,472,375 parameters with 11,318 classes
model_ingredient.add_named_config("resnet50", {"arch": "resnet50", "normalize": True})

# the same method, small enough to be trained on two cores from random weights (generated products);
# its batch norms have statistics of their own to learn: set_bn_eval=False in the global stage
model_ingredient.add_named_config(
    "resnet10_mini",
    {
        "arch": "resnet10",
        "pretrained": False,
        "normalize": True,
        "num_global_features": 128,
        "num_local_features": 64,
        "ert_dim_feedforward": 256,
        "ert_nhead": 2,
        "ert_num_encoder_layers": 2,
    },
)


# descriptors at keypoints instead of a map; weights: backbone_weights=superpoint_v1.pth
model_ingredient.add_named_config(
    "superpoint", {"arch": "superpoint", "num_global_features": 256, "num_local_features": 256}
)


@model_ingredient.capture
def make_superpoint(
    pretrained: bool,
    backbone_weights: str | None,
    freeze_backbone: bool,
    ert_dim_feedforward: int,
    ert_nhead: int,
    ert_num_encoder_layers: int,
    ert_dropout: float,
    ert_activation: str,
    ert_normalize_before: bool,
    for_checkpoint: bool = False,
) -> SuperPointNet:
    """SuperPoint with a random matcher."""
    net = SuperPointNet(
        ert_nhead,
        ert_num_encoder_layers,
        ert_dim_feedforward,
        ert_dropout,
        ert_activation,
        ert_normalize_before,
        freeze_backbone,
    )
    return load_superpoint(net, backbone_weights) if pretrained and not for_checkpoint else net


@model_ingredient.capture
def make_model(num_classes: int, arch: str, for_checkpoint: bool = False) -> Net:
    """The configured network with random heads and matcher.

    `for_checkpoint`: its weights come from a checkpoint; those of the backbone are not fetched.
    """
    if arch == "superpoint":
        return make_superpoint(for_checkpoint=for_checkpoint)
    return make_resnet(num_classes, for_checkpoint=for_checkpoint)


@model_ingredient.capture
def make_resnet(
    num_classes: int,
    arch: str,
    pretrained: bool,
    backbone_weights: str | None,
    dropout: float,
    norm_layer: str | None,
    remap: bool,
    detach: bool,
    normalize: bool,
    set_bn_eval: bool,
    normalize_weight: bool,
    freeze_backbone: bool,
    num_global_features: int,
    num_local_features: int,
    ert_seq_len: int | None,
    ert_dim_feedforward: int,
    ert_nhead: int,
    ert_num_encoder_layers: int,
    ert_dropout: float,
    ert_activation: str,
    ert_normalize_before: bool,
    for_checkpoint: bool = False,
) -> RerankNet:
    """A ResNet with random heads and matcher."""
    net = RerankNet(
        arch=arch,
        num_classes=num_classes,
        num_global_features=num_global_features,
        num_local_features=num_local_features,
        normalize=normalize,
        set_bn_eval=set_bn_eval,
        remap=remap,
        norm_layer=norm_layer,
        dropout=dropout,
        detach=detach,
        normalize_weight=normalize_weight,
        freeze_backbone=freeze_backbone,
        ert_seq_len=ert_seq_len,
        ert_dim_feedforward=ert_dim_feedforward,
        ert_nhead=ert_nhead,
        ert_num_encoder_layers=ert_num_encoder_layers,
        ert_dropout=ert_dropout,
        ert_activation=ert_activation,
        ert_normalize_before=ert_normalize_before,
    )
    if pretrained and not for_checkpoint:
        load_backbone(net, arch, backbone_weights)
    return net


def load_model(resume: str | None, untrained_classes: int | None = None) -> Net:
    """The network with the weights of the file `resume`, which also gives the number of classes.

    `untrained_classes`: with resume=None, a network as before training, so many classes.
    """
    if resume is None:
        if untrained_classes is None:
            raise ValueError(
                "resume is not set: give the checkpoint to evaluate, e.g. resume=rrt_sop/"
                "rrt_sop_ckpts/rrt_r50_sop_global.pt (rrt_sop/README.md says where it comes from), "
                "or untrained=True for freshly initialised weights"
            )
        return make_model(untrained_classes)
    hint = "fetch the released checkpoints (see rrt_sop/README.md) or train one"
    content = load_state(require_file(resume, hint))
    classifier = content.get(STATE, content).get("classifier.weight")
    num_classes = 1 if classifier is None else len(classifier)
    net = make_model(num_classes, for_checkpoint=True)
    load_released(net, resume)
    return net
