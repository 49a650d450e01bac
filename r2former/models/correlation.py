"""The best partners of every local feature, both ways, without sorting whole rows."""

from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 20  # neighbouring entries whose maximum is looked at first


class Selection(NamedTuple):
    """Chosen pairs of a batch; Nq rows of the query direction, then Nr of the reference's."""

    query: Tensor  # (B, Nq + Nr, c) int64, feature of the query
    reference: Tensor  # (B, Nq + Nr, c) int64, feature of the reference
    similarity: Tensor  # (B, Nq + Nr, c), descending along the last axis


def select_partners(similarity: Tensor, count: int) -> Selection:
    """The `count` largest entries of every row and of every column of (B, Nq, Nr)."""
    batch, n_query, n_reference = similarity.shape
    table = similarity.detach()
    partners = top_entries(table, count)  # (B, Nq, c) references
    sources = top_entries(table.transpose(1, 2), count)  # (B, Nr, c) queries
    own_query = torch.arange(n_query, device=table.device)[:, None].expand_as(partners)
    own_reference = torch.arange(n_reference, device=table.device)[:, None].expand_as(sources)
    query = torch.cat([own_query, sources], dim=1)
    reference = torch.cat([partners, own_reference], dim=1)
    flat = (query * n_reference + reference).view(batch, -1)
    return Selection(query, reference, similarity.flatten(1).gather(1, flat).view(query.shape))


def top_entries(table: Tensor, count: int) -> Tensor:
    """(B, N, M) -> (B, N, count) int64: columns of each row's largest entries, descending.

    On the CPU in two steps, which is several times quicker: the entries wanted lie in the `count`
    groups with the largest maxima.
    """
    width = table.shape[2]
    groups = width // GROUP
    if table.is_cuda or width % GROUP or groups <= 2 * count:
        return table.topk(count, dim=2).indices
    best = table.unflatten(2, (groups, GROUP)).amax(dim=3).topk(count, dim=2).indices
    within = torch.arange(GROUP, device=table.device)
    columns = (best[..., None] * GROUP + within).flatten(2)  # (B, N, count * GROUP)
    return columns.gather(2, table.gather(2, columns).topk(count, dim=2).indices)
