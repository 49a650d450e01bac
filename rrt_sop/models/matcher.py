"""Reranking transformer on feature maps of products (RRT, ICCV'21): one logit for two images."""

import torch
from torch import Tensor, nn

from rrt_sop.models.position_encoding import position_encoding
from rrt_sop.models.transformer import Encoder, EncoderLayer

# rows of the segment table; the classification token and the separator are rows of it too
SEG_CLS, SEG_SEP, SEG_SRC, SEG_TGT = range(4)
NUM_SEGMENTS = 4


class Matcher(nn.Module):
    """score = w^T x_0 + b, with x_0 the first token after the encoder of

        [cls | src cells + segment + position | separator | tgt cells + segment + position].

    The first image is the source (query, anchor); the score is not symmetric. Cells are those of
    the local feature map, row by row, as they come: not normalised.
    """

    def __init__(
        self,
        d_global: int = 128,
        d_model: int = 128,
        nhead: int = 4,
        num_encoder_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        normalize_before: bool = False,
    ) -> None:
        """`d_model`: channels of the local maps and width of the tokens.

        `d_global` is accepted for the released configurations' sake: there is no global token.
        """
        super().__init__()
        self.d_global = d_global
        self.d_model = d_model
        layer = EncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, normalize_before)
        self.encoder = Encoder(layer, num_encoder_layers)
        self.seg_encoder = nn.Embedding(NUM_SEGMENTS, d_model)
        self.classifier = nn.Linear(d_model, 1)
        for parameter in self.parameters():
            # the fused in_proj as one 3d x d matrix, the table and the classifier included
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def cell_tokens(self, local: Tensor, segment: int) -> Tensor:
        """(B, C, h, w) -> (B, h w, C): cells row by row plus segment row plus position."""
        if local.dim() != 4 or local.shape[1] != self.d_model:
            raise ValueError(
                f"local map is {tuple(local.shape)}, expected (B, {self.d_model}, h, w)"
            )
        height, width = local.shape[2:]
        positions = position_encoding(height, width, self.d_model, local.device)
        cells = local.flatten(2).transpose(1, 2)
        return cells + self.seg_encoder.weight[segment] + positions.flatten(1).T

    def make_tokens(self, src_local: Tensor, tgt_local: Tensor) -> Tensor:
        """Sequence that enters the encoder: (B, 2 + Ls + Lt, D); arguments as in `forward`."""
        single = self.seg_encoder.weight.expand(len(src_local), NUM_SEGMENTS, self.d_model)
        parts = [
            single[:, SEG_CLS, None],
            self.cell_tokens(src_local, SEG_SRC),
            single[:, SEG_SEP, None],
            self.cell_tokens(tgt_local, SEG_TGT),
        ]
        return torch.cat(parts, dim=1)

    def forward(self, src_local: Tensor, tgt_local: Tensor) -> Tensor:
        """One logit per pair, (B,); maps (B, C, h, w) float, of equal or different size."""
        if len(src_local) != len(tgt_local):
            raise ValueError(
                f"{len(src_local)} source maps and {len(tgt_local)} target maps: expected one "
                "of each per pair"
            )
        # nothing reads the other tokens of the last layer
        x = self.encoder(self.make_tokens(src_local, tgt_local), num_queries=1)
        return self.classifier(x[:, 0]).squeeze(-1)
