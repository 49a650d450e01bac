"""The autoencoder of ViTGaL: 384-d local descriptors to 128-d codes, on a frozen backbone."""

from functools import partial

import torch
from torch import Tensor, nn

from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.xcit import (
    ClassAttentionBlock,
    LayerNorm,
    XCiTSizes,
    init_weights,
    make_class_token,
)

CODE_DIM = 128
ETA = 1.0  # start of the layer scales, whatever the backbone's


class Autoencoder(nn.Module):
    """Linear encoder and decoder, and a class block on the decoded tokens whose attention is kept.

    The attention chooses keypoints; the class row feeds a classifier in training and nothing else.
    Entries of the state dict have the published names and order; head.* only with `num_classes`.
    """

    def __init__(self, sizes: XCiTSizes, code_dim: int = CODE_DIM, num_classes: int = 0) -> None:
        """`num_classes`: rows of the linear classifier for training; 0: none."""
        super().__init__()
        dim = sizes.embed_dim
        self.cls_token = make_class_token(dim)
        self.retrieval_back_bone = RetrievalNetwork(sizes)
        self.ae_decoder_layer = nn.Linear(code_dim, dim)
        self.whitening_layer = nn.Linear(dim, code_dim)
        self.cls_attn_blocks = nn.ModuleList([ClassAttentionBlock(dim, sizes.num_heads, ETA)])
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes) if num_classes else None
        self.apply(partial(init_weights, std=sizes.weight_std))
        self.retrieval_back_bone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Autoencoder":
        """As usual, but the backbone stays in evaluation mode."""
        super().train(mode)
        self.retrieval_back_bone.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images of any size -> global and local descriptors.

        Args:
            labels: given in training, as to RetrievalNetwork; the logits do not depend on them.

        Returns:
            global, cls_attn, tokens: as RetrievalNetwork gives them, without gradient.
            code: (B, N, 128), not normalised: the local descriptor once it is.
            decoded: (B, N, C), the tokens as rebuilt from the codes.
            ae_attn: (B, heads, N) class attention of this network's block: keypoint selection.
            ae_cls: (B, C), its class row after the last norm.
            logits: (B, num_classes), where labels are given.
        """
        with torch.no_grad():
            outputs = self.retrieval_back_bone(images)
        code = self.whitening_layer(outputs["tokens"])
        decoded = self.ae_decoder_layer(code)
        rows = torch.cat([self.cls_token.expand(len(decoded), -1, -1), decoded], dim=1)
        rows, attention = self.cls_attn_blocks[0](rows)
        first = self.norm(rows[:, 0])
        outputs |= {"code": code, "decoded": decoded, "ae_attn": attention, "ae_cls": first}
        if labels is not None:
            if self.head is None:
                raise ValueError("labels were given, but the model was made without num_classes")
            outputs["logits"] = self.head(first)
        return outputs
