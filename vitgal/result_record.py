"""What a row of the table leaves behind: protocol, method, values and ranked lists by query."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.paths import hash_file
from utils.report_parts import MatchPicture, RankedList
from utils.result_files import BEFORE, Protocol, Record, make_protocol
from vitgal.datasets.revisited_lists import TestImages
from vitgal.extraction import RECORD
from vitgal.geometric_verification import Verification
from vitgal.pair_scoring import StoreOptions
from vitgal.rows import KS, map_values

JUNK = "M: junk, H: junk and easy left out of the metric; all images are searched and verified"


def describe_scales(origin: Mapping[str, Any]) -> str:
    """Sizes at which pictures were read for the global descriptor."""
    if "imsize" not in origin:
        return "not recorded"
    size = origin["imsize"]
    shape = f"longer side {size}" if origin["keep_aspect"] else f"{size} x {size}"
    return f"{shape}, {'7 scales' if origin['multiscale'] else 'single scale'}"


def make_revisited_protocol(test: TestImages, origin: Mapping[str, Any]) -> Protocol:
    """The test set; `origin`: record of the ranking, empty for a released file without one."""
    return make_protocol(
        test.name, test.queries, test.gallery, crop="query box, cut before resizing",
        scales=describe_scales(origin), k=KS, junk=JUNK, distractors=len(test.distractors),
    )  # fmt: skip


def make_global_record(
    test: TestImages, origin: Mapping[str, Any], measured: Mapping[str, Any], device: Any
) -> Record:
    """Of a global ranking; `measured`: what `evaluate_ranks` gives."""
    protocol = make_revisited_protocol(test, origin)
    return Record(protocol, describe_ranking(origin), test.queries, map_values(measured),
                  device=device)  # fmt: skip


def describe_ranking(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Model and weights of a ranking; a released file without a record says nothing of them."""
    keys = ("model", "weights", "imsize", "keep_aspect", "multiscale")
    described = {key: origin.get(key, "not recorded") for key in keys}
    # of the weights the record of a ranking keeps the first 16 digits
    return {**described, "checkpoint_sha256": described.pop("weights")}


def describe_store(stored: StoreOptions) -> dict[str, Any]:
    """The local features by the record of their extraction; none for released ones."""
    record = stored.folder / RECORD
    digest = hash_file(record)[:16] if record.is_file() else "not recorded"
    return {"local_features": str(stored.folder), "local_features_record": digest}


def make_reranked_record(
    test: TestImages,
    origin: Mapping[str, Any],
    measured: tuple[Mapping[str, Any], Mapping[str, Any]],
    settings: Verification,
    num_rerank: int,
    stored: StoreOptions,
    lists: Sequence[RankedList],
    matches: Sequence[MatchPicture],
) -> Record:
    """Of reranked heads; `measured`: before and after, what `evaluate_ranks` gives."""
    method = describe_ranking(origin) | describe_store(stored)
    method |= {"verification": str(settings), "num_rerank": num_rerank}
    values: dict[str, np.ndarray] = {**map_values(measured[1]), **map_values(measured[0], BEFORE)}
    return Record(
        make_revisited_protocol(test, origin), method, test.queries, values, lists, matches,
        ap_name="AP (Medium)",
    )  # fmt: skip
