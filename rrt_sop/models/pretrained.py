"""ImageNet weights of the backbone: from a file, or through torchvision's own cache."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from utils.checkpoints import describe_difference, load_state
from utils.paths import require_file

logger = logging.getLogger(__name__)

# first digits of the files' sha256; torchvision carries them in the file names
V1_SHA256 = {
    "resnet18": "f37072fd",
    "resnet34": "b627a593",
    "resnet50": "0676ba61",
    "resnet101": "63fe2227",
    "resnet152": "394f9c45",
}
V2_SHA256 = {"resnet50": "11ad3fa6", "resnet101": "cd907fc2", "resnet152": "f82ba261"}
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
UNUSED = ("fc.weight", "fc.bias")  # torchvision's own classifier


def load_backbone(net: nn.Module, arch: str, path: str | Path | None = None) -> nn.Module:
    """Load torchvision's ImageNet weights V1 into conv1, bn1 and the four stages; returns `net`.

    `path`: a file such as resnet50-0676ba61.pth; None: torchvision's cache, which downloads it at
    first. Heads and matcher stay as they are. ValueError for a file of another network, and for
    the V2 weights, which have the same names and would pass silently with other results.
    """
    state = _from_cache(arch) if path is None else _from_file(arch, path)
    state = {name: value for name, value in state.items() if name not in UNUSED}
    parts = {name: getattr(net, name).state_dict() for name in PARTS}
    wanted = {f"{part}.{name}": v for part, names in parts.items() for name, v in names.items()}
    # files from before torch 0.4 have no counters
    counters = {name for name in wanted if name.endswith("num_batches_tracked")} - state.keys()
    difference = describe_difference({n: v for n, v in wanted.items() if n not in counters}, state)
    if difference:
        raise ValueError(
            f"{path or 'torchvision'} does not hold ImageNet weights of {arch}; give its V1 file "
            f"or another model.arch\n{difference}"
        )
    net.load_state_dict(state, strict=False)
    return net


def _from_cache(arch: str) -> dict[str, Tensor]:
    weights: Any = torchvision.models.get_model_weights(arch)
    return dict(weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))


def _from_file(arch: str, path: str | Path) -> dict[str, Tensor]:
    path = require_file(
        path,
        f"give torchvision's file resnet*-{V1_SHA256[arch]}.pth as model.backbone_weights, or "
        "None to let torchvision fetch it",
    )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.startswith(V2_SHA256.get(arch, "-")):
        raise ValueError(
            f"{path} holds the V2 weights of {arch}; the published system started from V1: give "
            f"the file with {V1_SHA256[arch]} in its name"
        )
    if not digest.startswith(V1_SHA256[arch]):
        logger.warning("%s is not torchvision's V1 file of %s (by its sha256)", path, arch)
    content = load_state(path)
    state = content.get("state", content)
    return {str(name): value for name, value in state.items()}
