"""The two kinds of network, which evaluation and training treat alike.

Both have `embed_global(images)`, `embed_local(images)` and `matcher(src local, tgt local)`.
"""

import torch

from rrt_sop.models.network import RerankNet
from rrt_sop.models.point_scoring import PointScorer
from rrt_sop.models.scoring import PairScorer
from rrt_sop.models.superpoint import SuperPointNet

Net = RerankNet | SuperPointNet
Scorer = PairScorer | PointScorer


def make_scorer(net: Net, device: torch.device, precision: str = "float32") -> Scorer:
    """Scores many pairs with the network's matcher, whose weights are copied."""
    if isinstance(net, SuperPointNet):
        return PointScorer(net.matcher, device, precision)
    return PairScorer(net.matcher, device, precision)
