"""Global retrieval and geometric re-ranking on Revisited Oxford / Paris; prints mAP, mP@k, mR@k.

    python -m delg_training.perform_retrieval with use_geometric_verification=True \\
        dataset_file_path=data/paris6k/gnd_rparis6k.pkl \\
        query_features_dir=data/paris6k/delg_r50_gldv1

Writes <output_dir>/metrics.txt and, after verification, <output_dir>/inliers.npz, from which an
interrupted run goes on.
"""

from pathlib import Path

from sacred import Experiment

from delg_training.geometric_verification import Verification
from delg_training.pair_scoring import start_tracker_early
from delg_training.result_record import make_lists, make_record, read_origin
from delg_training.retrieval import (
    AFTER_GV,
    VERIFIED_PROTOCOLS,
    FeatureFolders,
    compute_similarities,
    measure,
    rank,
    rank_after_verification,
)
from delg_training.retrieval_metrics import FILE_NAME, write_metrics
from delg_training.retrieval_rows import GV, choose_expected, finish, is_tabled, to_metrics
from utils.paths import REPO_ROOT
from utils.revisited import load_ground_truth

KS = (1, 5, 10)
ex = Experiment("delg_training_perform_retrieval", base_dir=str(REPO_ROOT), save_git_info=False)
ex.option_hook(start_tracker_early)


@ex.config
def config():
    dataset_file_path = "data/oxford5k/gnd_roxford5k.pkl"  # ground truth, .pkl or .mat
    query_features_dir = "data/oxford5k/delg_r50_gldv1"  # features of the queries
    index_features_dir = query_features_dir  # features of the index images
    use_geometric_verification = False  # re-rank by inliers
    local_descriptor_matching_threshold = 1.0  # L2 distance of a match; or the ratio's limit
    ransac_residual_threshold = 20.0  # pixels of the query
    use_ratio_test = False  # nearest below the matching threshold times the second nearest
    output_dir = "logs/perform_retrieval"  # gets metrics.txt and inliers.npz
    num_to_rerank = 100  # images of a query that are verified
    estimator = "ransac"  # ransac (published rules) or opencv (stops early, refines)
    num_processes = None  # processes that verify; None: one per core
    overwrite = False  # count the inliers anew
    row = None  # script whose expected values the result is held against; None: nothing expected
    strict = False  # exit code 3 when a value is outside its tolerance
    seed = 0


@ex.capture
def make_verification(
    local_descriptor_matching_threshold: float,
    ransac_residual_threshold: float,
    use_ratio_test: bool,
    estimator: str,
) -> Verification:
    """The configured verification; the seed of RANSAC is 0 for every pair."""
    return Verification(
        float(local_descriptor_matching_threshold),
        float(ransac_residual_threshold),
        use_ratio_test,
        estimator,
    )


@ex.capture
def verify_heads(similarities, gnd, folders, output_dir, num_to_rerank, num_processes, overwrite):
    """Re-ranked lists of Medium and Hard."""
    table = Path(output_dir) / "inliers.npz"
    if overwrite:
        table.unlink(missing_ok=True)
    return rank_after_verification(
        similarities, gnd, folders, make_verification(), table, num_to_rerank, num_processes
    )


@ex.capture
def save_results(
    results, heads, ranks, gnd, folders, origins, expected,
    dataset_file_path, num_to_rerank, row, strict, _run,
):  # fmt: skip
    """Rows and record; returns the metrics. `heads`: what `verify_heads` gives, or empty."""
    settings, path = make_verification(), Path(dataset_file_path)
    protocols, lists, described, script = {"": "global ranking"}, [], {}, row
    if heads:
        protocols[GV] = f"first {num_to_rerank} by inliers: {settings}"
        described = {"verification": str(settings), "num_to_rerank": num_to_rerank}
        aps = results["medium"]["ap"], results[f"medium{AFTER_GV}"]["ap"]
        lists = make_lists(path, gnd, (ranks, heads["medium"]), aps)
        script = row if is_tabled(settings, num_to_rerank) else None
    record = make_record(path, gnd, folders, origins, results, KS, lists, described)
    metrics = to_metrics(results, KS)
    finish(_run, metrics, record, expected, protocols, script, strict)
    return metrics


@ex.automain
def main(
    dataset_file_path, query_features_dir, index_features_dir, use_geometric_verification,
    output_dir, num_to_rerank, row, _run, _log,
):  # fmt: skip
    expected = choose_expected(row, make_verification(), num_to_rerank)
    gnd = load_ground_truth(dataset_file_path)
    folders = FeatureFolders(Path(query_features_dir), Path(index_features_dir))
    origins = [read_origin(folder) for folder in folders]
    similarities = compute_similarities(folders, gnd)
    ranks = rank(similarities)
    results = measure(dict.fromkeys(VERIFIED_PROTOCOLS, ranks), gnd, KS)
    heads = verify_heads(similarities, gnd, folders) if use_geometric_verification else {}
    results |= measure(heads, gnd, KS, AFTER_GV)
    path = Path(output_dir) / FILE_NAME
    write_metrics(path, results, KS)
    _log.info("%s written", path)
    _run.add_artifact(str(path))
    return save_results(results, heads, ranks, gnd, folders, origins, expected)
