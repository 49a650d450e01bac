"""Losses of the two trainings (spec 5.1): plain functions of a model's outputs."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

RECONSTRUCTION_WEIGHT = 10.0
TEMPERATURE = 0.1  # of the correspondence loss, which is no part of the published training
MOST_LINKS = 1024  # pairs of patches of a batch that enter it

# (outputs, labels and what else a batch holds) -> parts; "loss" is what is minimised
ComputeLoss = Callable[..., dict[str, Tensor]]


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


def correspondence_loss(tokens: Tensor, links: Tensor) -> Tensor:
    """Mean cross entropy of finding a patch of one view among all patches of the second views.

    Args:
        tokens: (2 B, N, C) patch rows of two views of each of B photographs, one after the other.
        links: (B, N) int64, the second view's patch that shows the place of each of the first's;
            -1: none does. At most 1024 links are taken, by chance.

    The logits are cosines over a temperature of 0.1. Without any link the loss is 0.
    """
    unit = functional.normalize(tokens.float(), dim=-1)
    first, second = unit[0::2], unit[1::2]
    image, patch = torch.nonzero(links >= 0, as_tuple=True)
    if not len(image):
        return tokens.sum() * 0.0
    chosen = torch.randperm(len(image))[:MOST_LINKS].to(image.device)
    image, patch = image[chosen], patch[chosen]
    cosine = first[image, patch] @ second.flatten(0, 1).T
    target = image * links.shape[1] + links[image, patch]
    return functional.cross_entropy(cosine / TEMPERATURE, target)


def two_view_loss(
    outputs: Mapping[str, Tensor], labels: Tensor, links: Tensor | None = None, weight: float = 1.0
) -> dict[str, Tensor]:
    """`retrieval_loss` + `weight` times `correspondence_loss`; the first alone without `links`.

    Returns "loss", "arcface" and "links".
    """
    arcface = retrieval_loss(outputs, labels)["loss"]
    if links is None:  # validation: single images
        return {"loss": arcface}
    found = correspondence_loss(outputs["tokens"], links)
    return {"loss": arcface + weight * found, "arcface": arcface, "links": found}


def choose_retrieval_loss(correspondence_weight: float) -> ComputeLoss:
    """The published loss for a weight of 0, else that of two views; ValueError below 0."""
    if correspondence_weight < 0:
        raise ValueError(f"correspondence_weight is {correspondence_weight}, expected at least 0")
    if correspondence_weight == 0:
        return retrieval_loss
    return partial(two_view_loss, weight=correspondence_weight)
