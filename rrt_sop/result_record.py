"""What an evaluation leaves behind: protocol, method, values and ranked lists by query."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.evaluation import Evaluation
from rrt_sop.product_page import AP_NAME, average_precision, make_lists
from rrt_sop.rows import cutoff, recall_values
from utils.distributed import Ranks
from utils.result_files import BEFORE, Protocol, Record, make_protocol

JUNK = "none"
JUNK_WITHIN = "the query itself: its first neighbour is left out without a look, as published"
BLOCK = 4096  # queries whose labels are compared at a time


def make_product_protocol(
    queries: ImageList, gallery: ImageList | None, metrics: Mapping[str, float]
) -> Protocol:
    """The lists, by the names of their images."""
    searched = queries if gallery is None else gallery
    transform = " ".join(str(queries.transform).split())
    return make_protocol(
        f"{queries.data_path.name}, {queries.list_file.name}", queries.paths, searched.paths,
        crop=f"queries and gallery alike: {transform}", scales="one",
        k=[cutoff(name) for name in metrics], junk=JUNK_WITHIN if gallery is None else JUNK,
    )  # fmt: skip


def make_global_record(
    queries: ImageList,
    gallery: ImageList | None,
    found: Evaluation,
    method: Mapping[str, Any],
    ranks: Ranks,
) -> Record:
    """Of a ranking by global features."""
    protocol = make_product_protocol(queries, gallery, found.metrics)
    return Record(protocol, method, queries.paths, recall_values(found), device=ranks.device)


def head_aps(queries: ImageList, gallery: ImageList | None, nn_inds: np.ndarray) -> np.ndarray:
    """(Q,) AP of each head, percent, in blocks; NaN without a right image in it."""
    labels = queries.labels if gallery is None else gallery.labels
    values = np.empty(len(nn_inds))
    for start in range(0, len(nn_inds), BLOCK):
        part = slice(start, start + BLOCK)
        hits = labels[nn_inds[part]] == queries.labels[part, None]
        values[part] = 100 * average_precision(hits)
    return values


def make_reranked_record(
    queries: ImageList,
    gallery: ImageList | None,
    before: Evaluation,
    found: Evaluation,
    method: Mapping[str, Any],
    ranks: Ranks,
) -> Record:
    """Of reranked heads; `before`: the same heads by global features."""
    values = {
        **recall_values(found),
        **recall_values(before, BEFORE),
        "AP": head_aps(queries, gallery, found.nn_inds),
        f"AP{BEFORE}": head_aps(queries, gallery, before.nn_inds),
    }
    lists = make_lists(queries, gallery, before.nn_inds, found.nn_inds)
    return Record(
        make_product_protocol(queries, gallery, found.metrics), method, queries.paths, values,
        lists, device=ranks.device, ap_name=AP_NAME,
    )  # fmt: skip
