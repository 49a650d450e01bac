r"""Global retrieval on Revisited Oxford / Paris: prints mAP and writes the neighbour table.

    python -m rrt_gld.tools.prepare_topk_revisited with dataset_name=paris6k \
        feature_name=r50_gldv1 gnd_name=gnd_rparis6k.pkl

Writes <data_dir>/nn_inds_<feature_name>.pkl, (Q, G) int64, which reranking starts from. An existing
table is kept when it was made from the same descriptors; overwrite=True replaces another one.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from sacred import Experiment

from rrt_gld.datasets.image_set import ImageSet, describe_origin
from rrt_gld.datasets.ingredient import TEST_TXT, nn_inds_path
from rrt_gld.global_retrieval import expand_queries, normalize, rank_all
from rrt_gld.result_record import make_global_record
from rrt_gld.rows import finish, script_name, to_percent
from utils import nn_tables
from utils.paths import REPO_ROOT, require_file
from utils.revisited import GroundTruth, evaluate_ranks, load_ground_truth
from utils.row_store import hash_arrays

logger = logging.getLogger(__name__)

KS = (1, 5, 10)
ex = Experiment("rrt_gld_prepare_topk_revisited", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    dataset_name = "oxford5k"  # oxford5k, paris6k, mini_landmarks: folder below data/
    feature_name = "r50_gldv1"  # descriptors: {r50,r101}_{gldv1,gldv2}, sift
    gnd_name = "gnd_roxford5k.pkl"  # ground truth, in data_dir
    data_dir = f"data/{dataset_name}"
    use_aqe = False  # alpha query expansion
    aqe_params = {"k": 2, "alpha": 0.3}  # gallery images averaged, exponent of their similarity
    save_nn_inds = True  # write the neighbour table
    overwrite = False  # replace a table that was made from other descriptors or options
    strict = False  # exit code 3 when a row is outside its tolerance
    seed = 0


def check_aqe_params(params: dict[str, Any]) -> dict[str, Any]:
    """Plain copy; sacred accepts misspelt keys of a nested dict without a word."""
    if set(params) != {"k", "alpha"}:
        raise ValueError(f"aqe_params has keys {sorted(params)}, expected k and alpha")
    return {"k": int(params["k"]), "alpha": float(params["alpha"])}


@ex.capture
def load_sets(
    data_dir: str, gnd_name: str, feature_name: str
) -> tuple[ImageSet, ImageSet, GroundTruth]:
    """Queries and gallery, of which only the global descriptors are needed, and ground truth."""
    hint = "data/README.md says where the ground truth comes from"
    gnd = load_ground_truth(require_file(Path(data_dir) / gnd_name, hint))
    queries, gallery = (
        ImageSet(data_dir, txt, feature_name, with_locals=False) for txt in TEST_TXT
    )
    queries.require_names(gnd.qimlist, gnd_name)
    gallery.require_names(gnd.imlist, gnd_name)
    return queries, gallery, gnd


def rank(queries: np.ndarray, gallery: np.ndarray, aqe: dict[str, Any] | None) -> np.ndarray:
    """(Q, G) int64 gallery indices, nearest first; with query expansion where `aqe` says how."""
    if aqe is not None:
        queries = expand_queries(queries, gallery, aqe["k"], aqe["alpha"])
    return rank_all(queries, gallery)[1]


def measure(nn_inds: np.ndarray, gnd: GroundTruth) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """mAP and mP@k of easy, medium and hard, percent; and the APs (Q,), fractions."""
    values = evaluate_ranks(nn_inds, gnd, KS)
    metrics: dict[str, Any] = {}
    aps: dict[str, np.ndarray] = {}
    for letter, key in (("E", "easy"), ("M", "medium"), ("H", "hard")):
        metrics |= to_percent(values[key], letter)
        aps[letter] = values[key]["ap"]
    return metrics, aps


def write_table(
    path: Path, nn_inds: np.ndarray, made_from: dict[str, Any], overwrite: bool
) -> None:
    """Write the neighbour table; an equal one is kept, another one only replaced on request."""
    if path.is_file() and not overwrite:
        if np.array_equal(nn_tables.load_nn_inds(path), nn_inds):
            logger.info("%s holds this ranking already and is kept", path)
            return
        raise ValueError(
            f"{path} holds another ranking (other descriptors, another set or query expansion); "
            "replace it with overwrite=True, or set save_nn_inds=False"
        )
    nn_tables.save_nn_inds(path, nn_inds, made_from)
    logger.info("%s written, %s", path, nn_inds.shape)


@ex.automain
def main(
    dataset_name, data_dir, feature_name, use_aqe, aqe_params, save_nn_inds, overwrite, strict, _run
):
    queries, gallery, gnd = load_sets()
    vectors = [normalize(images.global_descriptors()) for images in (queries, gallery)]
    aqe = check_aqe_params(aqe_params) if use_aqe else None
    nn_inds = rank(vectors[0], vectors[1], aqe)
    metrics, aps = measure(nn_inds, gnd)
    method = {"query_expansion": aqe, "global_descriptors": hash_arrays(*vectors)}
    if save_nn_inds:
        origin = describe_origin(feature_name, queries, gallery)
        made_from = {**origin, "aqe": aqe, "fingerprint": method["global_descriptors"]}
        write_table(nn_inds_path(data_dir, feature_name), nn_inds, made_from, overwrite)
    protocol = "global ranking" if aqe is None else f"global ranking, query expansion {aqe}"
    script = None if aqe else script_name("global", dataset_name, feature_name)
    record = make_global_record(queries, gallery, aps, KS, method)
    finish(_run, metrics, record, script, protocol, strict)
    return metrics
