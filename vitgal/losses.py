"""Losses of the two trainings (spec 5.1): plain functions of a model's outputs."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

RECONSTRUCTION_WEIGHT = 10.0

# (outputs, labels) -> parts; "loss" is what is minimised
ComputeLoss = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]


def retrieval_loss(outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Mean cross entropy of the ArcFace logits (B, classes) for labels (B,); no smoothing."""
    return {"loss": functional.cross_entropy(outputs["logits"].float(), labels)}


def autoencoder_loss(outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Mean cross entropy of the linear classifier + 10 mean((decoded - token)^2).

    The mean goes over all entries of (B, N, C); tokens are a target, without gradient. Returns
    "loss", "ce" and "mse".
    """
    ce = functional.cross_entropy(outputs["logits"].float(), labels)
    mse = functional.mse_loss(outputs["decoded"].float(), outputs["tokens"].detach().float())
    return {"loss": ce + RECONSTRUCTION_WEIGHT * mse, "ce": ce, "mse": mse}
