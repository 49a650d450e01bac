"""The reranking transformer: two sets of local features -> two logits (R2Former, Sec. 3.3).

Correlation S = f_q f_r^T; the five best partners of every feature of either image give 7-vectors
(u_q, u_r, S_ij), u = (X, Y, A). Block-1 turns five vectors into one token, Block-2 all tokens into
the logits. Names are those of the released file (`layout_rerank.json`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from r2former.models.blocks import EPS, make_block, run_first_tokens
from r2former.models.correlation import Selection, select_partners
from r2former.models.selection import XYA

SINUSOIDS = 4  # sin and cos of two coordinates


class EncodedImage(NamedTuple):
    """What a pair needs of one image, computed once per image and role."""

    features: Tensor  # (B, N, D) unit rows
    places: Tensor  # (B, N, 3) X, Y, A clamped to [0, 1]; no gradient
    part: Tensor  # (B, N, 32) its share of the pair vectors after `pair_head`
    sinusoid: Tensor  # (B, N, 32) of its X, Y


class Reranker(nn.Module):
    """Called with local features of queries and references: (B, 2) logits, 1 = same place.

    `ratio` and `decoder_pos_embed` are in the released file and do not influence the ranking.
    `decoder_norm` is the last LayerNorm of both blocks, as published.
    """

    def __init__(
        self,
        num_local: int = 500,
        dim: int = 32,
        depth: int = 6,
        pair_depth: int = 2,
        num_heads: int = 4,
        num_corr: int = 5,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        if dim % num_heads or dim % (2 * SINUSOIDS):
            raise ValueError(f"the width {dim} must be a multiple of 8 and of {num_heads} heads")
        self.num_corr = num_corr
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_token_2 = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 2 * num_local + 1, dim))  # unused
        self.ratio = nn.Parameter(torch.full((1,), 0.5))  # of `mixed_score` only
        self.blocks = nn.ModuleList(make_block(dim, num_heads) for _ in range(depth))
        self.blocks_2 = nn.ModuleList(make_block(dim, num_heads) for _ in range(pair_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=EPS)
        self.pair_head = nn.Linear(2 * XYA + 1, dim)
        self.pair_head_2 = nn.Linear(dim, dim)
        self.decoder_pred = nn.Linear(dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform maps, zero biases, tokens N(0, 0.02) cut at two units."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.cls_token_2):
            nn.init.trunc_normal_(token, std=0.02)
        nn.init.normal_(self.decoder_pos_embed, std=0.01)
        nn.init.zeros_(self.decoder_pos_embed[:, 0])

    def forward(self, query: Tensor, reference: Tensor) -> Tensor:
        """(B, Nq, 131) and (B, Nr, 131): X, Y, A, feature -> (B, 2). Not symmetric."""
        return self.compare(self.encode(query, "query"), self.encode(reference, "reference"))

    def encode(self, local: Tensor, role: str) -> EncodedImage:
        """What pairs need of local features (B, N, 131) as "query" or "reference".

        `pair_head` is linear, so each image's share of it is computed per feature, not per pair.
        Block-1 adds the sinusoid of the reference's X, Y in both directions, Block-2 that of the
        query's.
        """
        if local.shape[1] < self.num_corr:
            raise ValueError(
                f"images have {local.shape[1]} local features, reranking needs {self.num_corr} or "
                "more; use larger images or a larger num_local"
            )
        features = nn.functional.normalize(local[..., XYA:], dim=-1)
        places = local[..., :XYA].detach().clamp(0, 1)
        first = 0 if role == "query" else XYA
        part = places @ self.pair_head.weight[:, first : first + XYA].T
        sinusoid = encode_places(places, part.shape[-1])
        if role == "reference":
            part = part + self.pair_head.bias + sinusoid
        return EncodedImage(features, places, part, sinusoid)

    def compare(self, query: EncodedImage, reference: EncodedImage) -> Tensor:
        """(B, 2) logits of encoded images."""
        similarity = query.features @ reference.features.transpose(1, 2)
        chosen = select_partners(similarity, self.num_corr)
        return self.judge(self.make_pair_tokens(query, reference, chosen), query, chosen)

    def make_pair_tokens(
        self, query: EncodedImage, reference: EncodedImage, chosen: Selection
    ) -> Tensor:
        """Block-1: (B, Nq + Nr, 32), one token per row of `chosen`, before its sinusoid.

        Rows of the reference direction keep the order (query, reference) of the vectors: the
        published code makes a swapped copy and never uses it.
        """
        size = chosen.similarity.shape  # (B, R, 5)
        flat = (len(chosen.query), -1)
        tokens = gather(query.part, chosen.query.view(flat))
        tokens = tokens + gather(reference.part, chosen.reference.view(flat))
        tokens = tokens + chosen.similarity.reshape(flat)[..., None] * self.pair_head.weight[:, -1]
        x = tokens.view(size[0] * size[1], size[2], -1)
        x = torch.cat([self.cls_token_2.expand(len(x), -1, -1), x], dim=1)
        return self.pair_head_2(self.run(self.blocks_2, x)).view(size[0], size[1], -1)

    def judge(self, tokens: Tensor, query: EncodedImage, chosen: Selection) -> Tensor:
        """Block-2: (B, R, 32) tokens -> (B, 2) logits."""
        x = tokens + gather(query.sinusoid, chosen.query[..., 0])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.decoder_pred(self.run(self.blocks, x))

    def run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        """(B, N, 32) -> (B, 32): the first token after all blocks; of the last only it is made."""
        for block in blocks[:-1]:
            x = block(x)
        first, _ = run_first_tokens(blocks[-1], x, 1)
        return self.decoder_norm(first[:, 0])

    @torch.no_grad()
    def mixed_score(self, global_query: Tensor, global_reference: Tensor, logits: Tensor) -> Tensor:
        """(B,) cos(g_q, g_r) * rho + P * (1 - rho), rho = clamp(ratio, 0.1, 0.9).

        The published model returns it; neither its evaluation nor its loss uses it.
        """
        cosine = nn.functional.cosine_similarity(global_query, global_reference)
        rho = self.ratio.clamp(0.1, 0.9)
        return cosine * rho + logits.softmax(dim=1)[:, 1] * (1 - rho)


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) rows at (B, M) -> (B, M, D)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def encode_places(places: Tensor, dim: int) -> Tensor:
    """(B, N, >= 2) X, Y -> (B, N, dim): sin, cos of X, then of Y; omega_m = 10000^(-4m / dim)."""
    count = dim // SINUSOIDS
    exponents = torch.arange(count, dtype=torch.float64, device=places.device) / count
    omega = (10000.0**-exponents).to(places.dtype)
    angles = places[..., :2, None] * omega  # (B, N, 2, count)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
