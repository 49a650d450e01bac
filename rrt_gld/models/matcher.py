"""Reranking transformer on DELG descriptors (RRT, ICCV'21): one logit for a pair of images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rrt_gld.models.transformer import Encoder, EncoderLayer

# rows of the segment table; the classification token and the separator are rows of it too
SEG_SRC_LOCAL, SEG_TGT_LOCAL, SEG_CLS, SEG_SEP, SEG_SRC_GLOBAL, SEG_TGT_GLOBAL = range(6)
NUM_SEGMENTS = 6
NUM_SCALES = 7


class Matcher(nn.Module):
    """score = w^T x_0 + b, with x_0 the first token after the encoder of

        [cls | src global | src locals | separator | tgt global | tgt locals].

    The first image is the source (query, anchor); the score is not symmetric.
    """

    def __init__(
        self,
        d_global: int = 2048,
        d_model: int = 128,
        seq_len: int | None = 1004,
        d_K: int | None = 256,
        nhead: int = 4,
        num_encoder_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        normalize_before: bool = False,
    ) -> None:
        """`d_model` is also the width of the local descriptors.

        `seq_len` and `d_K` belong to an abandoned linear-attention variant: accepted for the
        released configurations' sake, no parameter depends on them.
        """
        super().__init__()
        self.d_global = d_global
        self.d_model = d_model
        layer = EncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, normalize_before)
        self.encoder = Encoder(layer, num_encoder_layers)
        self.remap = nn.Linear(d_global, d_model)
        self.scale_encoder = nn.Embedding(NUM_SCALES, d_model)
        self.seg_encoder = nn.Embedding(NUM_SEGMENTS, d_model)
        self.classifier = nn.Linear(d_model, 1)
        for parameter in self.parameters():
            # the fused in_proj as one 3d x d matrix, the tables and the classifier included
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def global_token(self, global_: Tensor, normalize: bool = True) -> Tensor:
        """(..., d_global) -> (..., D): remapped, then normalised; no segment row added yet."""
        mapped = self.remap(global_)
        return functional.normalize(mapped, dim=-1) if normalize else mapped

    def local_tokens(self, local: Tensor, scales: Tensor, normalize: bool = True) -> Tensor:
        """(..., L, D) and (..., L) int64 -> (..., L, D): no segment row added yet."""
        local = functional.normalize(local, dim=-1) if normalize else local
        return local + self.scale_encoder(scales)

    def make_tokens(
        self,
        src_global: Tensor,
        src_local: Tensor,
        src_scales: Tensor,
        tgt_global: Tensor,
        tgt_local: Tensor,
        tgt_scales: Tensor,
        normalize: bool = True,
    ) -> Tensor:
        """Sequence that enters the encoder: (B, 4 + Ls + Lt, D); arguments as in `forward`."""
        seg = self.seg_encoder.weight
        single = seg.expand(len(src_global), *seg.shape).unsqueeze(2)  # (B, 6, 1, D)
        parts = [
            single[:, SEG_CLS],
            self.global_token(src_global, normalize).unsqueeze(1) + seg[SEG_SRC_GLOBAL],
            self.local_tokens(src_local, src_scales, normalize) + seg[SEG_SRC_LOCAL],
            single[:, SEG_SEP],
            self.global_token(tgt_global, normalize).unsqueeze(1) + seg[SEG_TGT_GLOBAL],
            self.local_tokens(tgt_local, tgt_scales, normalize) + seg[SEG_TGT_LOCAL],
        ]
        return torch.cat(parts, dim=1)

    def forward(
        self,
        src_global: Tensor,
        src_local: Tensor,
        src_mask: Tensor,
        src_scales: Tensor,
        src_positions: Tensor | None,
        tgt_global: Tensor,
        tgt_local: Tensor,
        tgt_mask: Tensor,
        tgt_scales: Tensor,
        tgt_positions: Tensor | None,
        normalize: bool = True,
    ) -> Tensor:
        """One logit per pair, (B,).

        Per image: global (B, d_global), as stored, not normalised; local (B, L, D); mask (B, L)
        bool, True = padding; scales (B, L) int64 in 0..6; positions (B, L, 2), not used by the
        method. The two images may differ in L. `normalize=False` skips both L2 normalisations.
        """
        tokens = self.make_tokens(
            src_global, src_local, src_scales, tgt_global, tgt_local, tgt_scales, normalize
        )
        never = src_mask.new_zeros(len(src_mask), 2)
        key_mask = torch.cat([never, src_mask, never, tgt_mask], dim=1)
        # nothing reads the other tokens of the last layer
        x = self.encoder(tokens, key_mask, num_queries=1)
        return self.classifier(x[:, 0]).squeeze(-1)


@torch.no_grad()
def start_from_similarity(model: Matcher, logit: float) -> None:
    """Redraw the first layer's queries and keys so that attention starts as descriptor similarity.

    Both become one random rotation of the tokens, scaled so that a local descriptor attracts its
    like with about `logit`, and blind to the rows of the segment and scale tables, which are longer
    than a descriptor and would drown it. Ours, for training a small matcher in minutes: from the
    published start the same matcher had not found out after 4,600 steps that descriptors can be
    compared; from here it has after some hundred.
    """
    layer = model.encoder.layers[0]
    assert isinstance(layer, EncoderLayer)
    attention = layer.self_attn
    d_model = model.d_model
    rotation = nn.init.orthogonal_(attention.in_proj_weight.new_empty(d_model, d_model))
    tables = torch.cat([model.seg_encoder.weight, model.scale_encoder.weight])
    basis = torch.linalg.qr(tables.T).Q  # (D, 13)
    # a head of width w sees w / D of a unit vector's squared length, and divides it by sqrt(w)
    gain = (logit * d_model / (d_model / attention.nhead) ** 0.5) ** 0.5
    blind = gain * (rotation - rotation @ basis @ basis.T)
    attention.in_proj_weight[:d_model] = blind
    attention.in_proj_weight[d_model : 2 * d_model] = blind
