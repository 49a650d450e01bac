"""Rerank the global top-k by geometric verification and print mAP: the yardstick without training.

    python -m rrt_gld.evaluate_geometric with dataset.mini_sift

The same heads and protocol as rrt_gld.evaluate_revisited; a pair's score is the number of its
inliers, and pairs with equal numbers keep the order of the global ranking.
"""

from pathlib import Path

import numpy as np
from sacred import Experiment

from rrt_gld.datasets.ingredient import dataset_ingredient, load_test_set
from rrt_gld.evaluation import Evaluation, compute_reranked_metrics, save_evaluation
from rrt_gld.geometric import count_inliers, make_estimator
from rrt_gld.reranking import rerank
from rrt_gld.result_record import make_reranked_record
from rrt_gld.rows import PUBLISHED_TOP_K, finish, script_name
from utils.paths import REPO_ROOT

ex = Experiment(
    "rrt_gld_evaluate_geometric",
    ingredients=[dataset_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    temp_dir = "logs/temp"  # the reranked lists are written here
    seed = 0
    top_k = 100  # head of the global ranking that is reranked
    estimator = "pydegensac"  # pydegensac (LO-RANSAC) or magsac (OpenCV)
    geometry = "homography"  # homography or fundamental
    threshold = 4.0  # inlier threshold, pixels of the target image
    ratio = 1.0  # < 1: a match's distance is below this share of that to the second nearest
    local_dim = 128  # width of the local descriptors
    strict = False  # exit code 3 when a row is outside its tolerance


@ex.automain
def main(temp_dir, top_k, estimator, geometry, threshold, ratio, local_dim, strict, dataset, _run):
    method = make_estimator(estimator, geometry, threshold)
    test = load_test_set(local_dim, None)

    def score_pairs(pairs: np.ndarray) -> np.ndarray:
        return count_inliers(test.queries, test.gallery, pairs, method, ratio)

    reranked = rerank(test.nn_inds, test.gnd, score_pairs, top_k)
    found = Evaluation(
        *compute_reranked_metrics(reranked, test.gnd, tuple(dataset["recalls"])), reranked
    )
    ranks = Path(temp_dir) / f"geometric_{dataset['name']}_ranks.npz"
    _run.add_artifact(str(save_evaluation(ranks, found, top_k)))
    protocol = (
        f"inliers of {method}, ratio {ratio:g}, first {dataset['max_sequence_len']} features, "
        f"top {top_k} reranked"
    )
    script = script_name("geometric", dataset["name"], dataset["desc_name"])
    as_published = top_k == PUBLISHED_TOP_K
    described = {"estimator": str(method), "ratio": ratio, "top_k": top_k}
    record = make_reranked_record(test, found, dataset["recalls"], described)
    finish(_run, found.metrics, record, script if as_published else None, protocol, strict)
    return {**found.metrics, "top_k": top_k, "estimator": str(method)}
