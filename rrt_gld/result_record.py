"""What a row of the table leaves behind: protocol, method, values and ranked lists by query."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrt_gld.datasets.image_set import EvalSet, ImageSet
from rrt_gld.evaluation import Evaluation
from utils.paths import hash_files
from utils.ranked_lists import make_ranked_lists
from utils.result_files import BEFORE, Protocol, Record, make_protocol
from utils.revisited import GroundTruth, evaluate_ranks

CROP = "query box, when the descriptors are extracted"
JUNK = (
    "E: junk and hard, M: junk, H: junk and easy left out of the metric, and put behind the list "
    "before a head is reranked"
)


def describe_descriptors(queries: ImageSet, gallery: ImageSet, with_locals: bool) -> dict[str, Any]:
    """The descriptors of both lists by digests of their files, and how they are read."""

    def files(images: ImageSet) -> list[Path]:
        paths = [images.global_path(i) for i in range(len(images))]
        return paths + [images.local_path(i) for i in range(len(images)) if with_locals]

    described: dict[str, Any] = {
        "descriptors": queries.folder.name,
        "descriptor_files": hash_files([*files(queries), *files(gallery)]),
    }
    if with_locals:
        mean = None if queries.local_mean is None else "taken off"
        described |= {"max_sequence_len": queries.max_sequence_len, "local_mean": mean}
    return described


def make_revisited_protocol(queries: ImageSet, gallery: ImageSet, ks: Sequence[int]) -> Protocol:
    """The set as its line lists name it."""
    return make_protocol(
        queries.txt.parent.name, queries.stems, gallery.stems, crop=CROP,
        scales="those of the descriptors", k=ks, junk=JUNK,
    )  # fmt: skip


def make_global_record(
    queries: ImageSet,
    gallery: ImageSet,
    aps: Mapping[str, np.ndarray],
    ks: Sequence[int],
    method: Mapping[str, Any],
) -> Record:
    """Of a global ranking; `aps`: letter -> (Q,) fractions."""
    protocol = make_revisited_protocol(queries, gallery, ks)
    described = {**method, **describe_descriptors(queries, gallery, with_locals=False)}
    return Record(protocol, described, queries.stems, percent_maps(aps))


def percent_maps(aps: Mapping[str, np.ndarray], suffix: str = "") -> dict[str, np.ndarray]:
    """`<letter>_map` -> AP of each query, percent."""
    return {f"{letter}_map{suffix}": 100 * ap for letter, ap in aps.items()}


def make_reranked_record(
    test: EvalSet,
    found: Evaluation,
    ks: Sequence[int],
    method: Mapping[str, Any],
    device: Any = "cpu",
) -> Record:
    """Of reranked heads: APs before and after, lists of the Medium protocol."""
    before = evaluate_ranks(test.nn_inds, test.gnd)
    first = {letter: before[key]["ap"] for letter, key in (("M", "medium"), ("H", "hard"))}
    gallery = image_paths(test.gallery)
    lists = make_ranked_lists(
        image_paths(test.queries), query_boxes(test.gnd), gallery.__getitem__, test.gnd,
        (test.nn_inds, found.reranked.medium), (first["M"], found.aps["M"]),
    )  # fmt: skip
    described = {
        **method,
        **describe_descriptors(test.queries, test.gallery, with_locals=True),
        "pairs_scored": len(found.reranked.pairs),
    }
    return Record(
        make_revisited_protocol(test.queries, test.gallery, ks),
        described,
        test.queries.stems,
        {**percent_maps(found.aps), **percent_maps(first, BEFORE)},
        lists,
        device=device,
        ap_name="AP (Medium)",
    )


def image_paths(images: ImageSet) -> list[Path]:
    """Files of the pictures, as the line list names them."""
    return [images.txt.parent / path for path in images.paths]


def query_boxes(gnd: GroundTruth) -> list[Sequence[float] | None]:
    """Boxes of the queries, pixels; None for the whole image."""
    return [entry.get("bbx") for entry in gnd.gnd]
