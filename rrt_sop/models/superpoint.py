"""SuperPoint descriptors with the pair matcher (RRT, ICCV'21, SuperPoint rows on products)."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rrt_sop.keypoint_layout import unpack
from rrt_sop.models.transformer import Encoder, EncoderLayer
from utils.checkpoints import STATE, describe_difference, load_state
from utils.paths import require_file

# rows of the segment table, as in the released weights: not those of the matcher on maps
SEG_SRC_LOCAL, SEG_TGT_LOCAL, SEG_CLS, SEG_SEP, SEG_SRC_GLOBAL, SEG_TGT_GLOBAL = range(6)
NUM_SEGMENTS = 6
WIDTH = 256
# name, channels in, channels out, kernel; pairs a and b, a 2 x 2 max pool after the first three
TRUNK = (
    *(("conv1a", 1, 64), ("conv1b", 64, 64), ("conv2a", 64, 64), ("conv2b", 64, 64)),
    *(("conv3a", 64, 128), ("conv3b", 128, 128), ("conv4a", 128, 128), ("conv4b", 128, 128)),
)
POOLED = ("conv1b", "conv2b", "conv3b")
HEADS = (("convPa", 128, 256, 3), ("convPb", 256, 65, 1), ("convDa", 128, 256, 3))


class PointMatcher(nn.Module):
    """One logit for two images from the first token after the encoder of

        [cls | src global | src points | separator | tgt global | tgt points].

    No remap, scale table, positions or normalisation. An image comes as rows (1 + N, D): its global
    descriptor, then its points; rows of zeros are padding.
    """

    def __init__(
        self,
        d_model: int = WIDTH,
        nhead: int = 4,
        num_encoder_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        normalize_before: bool = False,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        layer = EncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, normalize_before)
        self.encoder = Encoder(layer, num_encoder_layers)
        self.seg_encoder = nn.Embedding(NUM_SEGMENTS, d_model)
        self.classifier = nn.Linear(d_model, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def make_tokens(self, src: Tensor, tgt: Tensor) -> tuple[Tensor, Tensor]:
        """Sequence (B, 4 + Ns + Nt, D) and its key mask (B, 4 + Ns + Nt), True = padding."""
        seg = self.seg_encoder.weight
        parts, masks = [], []
        for single, global_, local, rows in (
            (SEG_CLS, SEG_SRC_GLOBAL, SEG_SRC_LOCAL, src),
            (SEG_SEP, SEG_TGT_GLOBAL, SEG_TGT_LOCAL, tgt),
        ):
            first = seg[single].expand(len(rows), 1, self.d_model)
            parts += [first, rows[:, :1] + seg[global_], rows[:, 1:] + seg[local]]
            padding = (rows[:, 1:] == 0).all(dim=2)
            masks += [padding.new_zeros(len(rows), 2), padding]
        return torch.cat(parts, dim=1), torch.cat(masks, dim=1)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """(B, 1 + Ns, D), (B, 1 + Nt, D) -> (B,); the first image is the query."""
        tokens, mask = self.make_tokens(src, tgt)
        return self.classifier(self.encoder(tokens, mask, num_queries=1)[:, 0]).squeeze(-1)


class SuperPointNet(nn.Module):
    """SuperPoint's descriptors at given keypoints, and the matcher.

    Images come with their keypoints, (B, 1, S + R, S), see `rrt_sop.keypoint_layout`. With D the
    dense descriptors, each divided by its norm: global = mean_hw D, not normalised; local = D
    sampled bilinearly at the keypoints (corners aligned), normalised again.
    """

    def __init__(
        self,
        nhead: int = 4,
        num_encoder_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        normalize_before: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        """Sizes are those of the matcher; `freeze_backbone`: train the matcher alone."""
        super().__init__()
        self.arch = "superpoint"
        self.num_global_features = WIDTH
        self.matcher = PointMatcher(
            WIDTH, nhead, num_encoder_layers, dim_feedforward, dropout, activation, normalize_before
        )
        for name, width_in, width_out in TRUNK:
            self.add_module(name, nn.Conv2d(width_in, width_out, 3, padding=1))
        # the keypoint head (convP) is in the released weights and not used
        for name, width_in, width_out, kernel in (*HEADS, ("convDb", 256, WIDTH, 1)):
            self.add_module(name, nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2))
        if freeze_backbone:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith("matcher."))

    def dense(self, grey: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> unit descriptors (B, 256, S / 8, S / 8)."""
        x = grey
        for name, *_ in TRUNK:
            x = functional.relu(getattr(self, name)(x))
            if name in POOLED:
                x = functional.max_pool2d(x, 2)
        x = self.get_submodule("convDb")(functional.relu(self.get_submodule("convDa")(x)))
        return x / x.norm(dim=1, keepdim=True)

    def embed_global(self, images: Tensor) -> Tensor:
        """(B, 1, S + R, S) -> (B, 256)."""
        return self.dense(unpack(images)[0]).mean(dim=(2, 3))

    def embed_local(self, images: Tensor) -> Tensor:
        """(B, 1, S + R, S) -> rows (B, 1 + N, 256): global, then points; zeros on padding."""
        grey, points, mask = unpack(images)
        dense = self.dense(grey)
        sampled = functional.grid_sample(
            dense, 2 * points.unsqueeze(2) - 1, mode="bilinear", align_corners=True
        )
        local = functional.normalize(sampled.squeeze(3).transpose(1, 2), dim=2)
        local = local.masked_fill(mask.unsqueeze(2), 0.0)
        return torch.cat([dense.mean(dim=(2, 3)).unsqueeze(1), local], dim=1)

    def forward(self, images: Tensor) -> tuple[None, Tensor, Tensor]:
        """(B, 1, S + R, S) -> (None for the class logits, global (B, 256), rows)."""
        rows = self.embed_local(images)
        return None, rows[:, 0], rows


def load_superpoint(net: SuperPointNet, path: str | Path | None) -> SuperPointNet:
    """Load the public weights (superpoint_v1.pth) into the convolutions; the matcher stays."""
    hint = "give the public superpoint_v1.pth as model.backbone_weights, or model.pretrained=False"
    if path is None:
        raise ValueError(f"model.backbone_weights is not set; {hint}")
    content = load_state(require_file(path, hint))
    state = content.get(STATE, content)
    wanted = {n: v for n, v in net.state_dict().items() if not n.startswith("matcher.")}
    difference = describe_difference(wanted, state)
    if difference:
        raise ValueError(f"{path} does not hold SuperPoint's weights; {hint}\n{difference}")
    net.load_state_dict(state, strict=False)
    return net
