"""What a row of the table leaves behind: protocol, method, values and ranked lists by query."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delg_training.delf_config import RECORD
from delg_training.retrieval import FeatureFolders
from delg_training.retrieval_rows import GV, Results, map_values
from utils.paths import hash_files
from utils.ranked_lists import make_ranked_lists
from utils.report_parts import RankedList
from utils.result_files import BEFORE, Record, make_protocol
from utils.revisited import GroundTruth
from utils.text_files import read_json_object

CROP = "query box, when the descriptors are extracted"
JUNK = "M: junk, H: junk and easy left out of the metric, and of the head that is verified"


def read_origin(folder: Path) -> dict[str, Any]:
    """What the features of a folder were made from, as their extraction recorded it; empty without.

    Features of another kind (SIFT, say) have a record of another form.
    """
    path = folder / RECORD
    remedy = "extract the features again with overwrite=True, or delete it if they are whole"
    return read_json_object(path, remedy) if path.is_file() else {}


def describe_scales(origin: Mapping[str, Any]) -> str:
    """Sizes at which pictures were read, as factors."""
    if "image_scales" not in origin.get("config", {}):
        return "those of the descriptors"
    config = origin["config"]
    scales = config["image_scales"]
    used = config["delf_global_config"]["image_scales_ind"] or range(len(scales))
    both = (
        ", ".join(f"{scale:.3g}" for scale in part) for part in ([scales[i] for i in used], scales)
    )
    limit = config["max_image_size"]
    shrunk = f"; longer side at most {limit}" if limit > 0 else ""
    return "global {}; local {}".format(*both) + shrunk


def describe_features(
    folders: FeatureFolders, gnd: GroundTruth, origins: Sequence[Mapping[str, Any]], local: bool
) -> dict[str, Any]:
    """Folders of the features, digest of the files, hash of the model that made them."""
    kinds = (".delg_global", *((".delg_local",) if local else ()))
    sides = [side for kind in kinds for side in folders.files(gnd, kind)]
    # images outside every head need no local features
    files = [path for side in sides for path in side if path.is_file()]
    return {
        "descriptors": _each(folders),
        "descriptor_files": hash_files(files),
        "checkpoint_sha256": _each(origin.get("model", "not recorded") for origin in origins),
    }


def _each(values: Iterable[Any]) -> str:
    """Those of queries and index images; once where they are the same."""
    return " / ".join(dict.fromkeys(map(str, values)))


def make_record(
    dataset_file: Path,
    gnd: GroundTruth,
    folders: FeatureFolders,
    origins: Sequence[Mapping[str, Any]],
    results: Results,
    ks: Sequence[int],
    lists: Sequence[RankedList],
    verification: Mapping[str, Any],
) -> Record:
    """Of a retrieval. `origins`: what `read_origin` gives of each folder.

    `verification`: its settings; empty: the global ranking alone.
    """
    protocol = make_protocol(
        dataset_file.parent.name, gnd.qimlist, gnd.imlist, crop=CROP,
        scales=_each(map(describe_scales, origins)), k=ks, junk=JUNK,
    )  # fmt: skip
    method = describe_features(folders, gnd, origins, bool(verification)) | dict(verification)
    values = map_values(results)
    before = {f"{key}{BEFORE}": values[key.removesuffix(GV)] for key in values if key.endswith(GV)}
    return Record(protocol, method, gnd.qimlist, values | before, lists, ap_name="AP (Medium)")


def make_lists(
    dataset_file: Path,
    gnd: GroundTruth,
    rankings: tuple[np.ndarray, np.ndarray],
    aps: tuple[np.ndarray, np.ndarray],
) -> list[RankedList]:
    """One list per query of the Medium protocol; pictures lie in jpg/ beside the ground truth.

    `rankings`, `aps`: before and after verification; (Q, G) index images, (Q,) fractions.
    """
    queries, gallery = (
        [dataset_file.parent / "jpg" / f"{name}.jpg" for name in names]
        for names in (gnd.qimlist, gnd.imlist)
    )
    boxes = [entry.get("bbx") for entry in gnd.gnd]
    return make_ranked_lists(queries, boxes, gallery.__getitem__, gnd, rankings, aps)
