"""What an evaluation leaves behind: protocol, method, values and ranked lists by query."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2former.datasets.place_set import PlaceSet
from r2former.evaluation import Evaluation, Settings
from r2former.place_page import AP_NAME
from utils.report_parts import MatchPicture, RankedList
from utils.result_files import Protocol, Record, make_protocol


def make_place_protocol(places: PlaceSet, settings: Settings) -> Protocol:
    """The split, by the names of its images, and what counts as right."""
    if places.has_positions:
        junk = (
            f"none; right within {settings.radius:g} m, the radius included; a query without a "
            "positive counts as missed for R@k and has no mAP@k"
        )
    else:
        junk = "positions unknown: nothing is measured"
    return make_protocol(
        f"{places.name}, {places.protocol}", places.query_paths, places.database_paths,
        crop=settings.test_method, scales=f"{settings.resize[0]} x {settings.resize[1]} pixels",
        k=settings.recall_values, junk=junk,
    )  # fmt: skip


def make_record(
    places: PlaceSet,
    found: Evaluation,
    settings: Settings,
    values: Mapping[str, np.ndarray],
    method: Mapping[str, Any],
    lists: Sequence[RankedList],
    matches: Sequence[MatchPicture],
    device: Any,
) -> Record:
    """`values`: of `rows.query_values`; `lists`: of reranked queries."""
    described = {
        **method,
        "rerank": settings.rerank,
        "top_k": settings.top_k if settings.rerank else None,
        "precision": settings.precision,
        "local_dtype": settings.local_dtype,
        "pca_dim": settings.pca_dim,
        "seconds": dict(found.seconds),
    }
    start = len(places.root) + 1 if places.root else 0
    names = [path[start:] for path in places.query_paths]
    shown = lists if found.after is not None else ()
    protocol = make_place_protocol(places, settings)
    return Record(protocol, described, names, values, shown, matches, device, AP_NAME)
