"""torch.hub entry points: `torch.hub.load(REPO, "rrt_gld_matcher", checkpoint=FILE)`."""

from pathlib import Path
from typing import Any

dependencies = ["torch"]


def rrt_gld_matcher(checkpoint: str | Path | None = None, **sizes: Any) -> Any:
    """Reranking transformer on DELG descriptors (RRT, ICCV'21), in evaluation mode.

    `checkpoint`: a released or own file, loaded strictly; without one the weights are random.
    `sizes`: arguments of `rrt_gld.models.matcher.Matcher`, by default the published size. Called
    with (src_global, src_local, src_mask, src_scales, src_positions, tgt_...): one logit per pair.
    """
    from rrt_gld.models.matcher import Matcher
    from utils.checkpoints import load_released

    model = Matcher(**sizes)
    if checkpoint is not None:
        load_released(model, checkpoint)
    return model.eval()
