"""Global ranking of Revisited Oxford / Paris and geometric reranking; prints mAP (ViTGaL, ACCV'22).

    python -m vitgal.eval_image_retrieval with dataset.roxford5k model.xcit_s12 weight_path=FILE
    python -m vitgal.eval_image_retrieval with dataset.roxford5k model.xcit_s12 \\
        load_precomputed_global_rank=True do_reranking=True

The second needs the local features of vitgal.extract_local_features.
"""

from pathlib import Path
from typing import Any

import torch
from sacred import Experiment

from utils.paths import REPO_ROOT
from utils.ranked_lists import make_ranked_lists
from vitgal.datasets.ingredient import dataset_ingredient, load_test_images
from vitgal.evaluation import (
    Outcome,
    Reranked,
    describe_weights,
    finish_global,
    finish_reranked,
    pick_device,
    rerank,
)
from vitgal.geometric_verification import Verification
from vitgal.global_features import GlobalSettings, Loading
from vitgal.global_search import (
    describe_origin,
    extract_descriptors,
    head_paths,
    query_paths,
    search,
    set_size,
    write_list,
)
from vitgal.models.ingredient import load_global_model, make_backbone, model_ingredient
from vitgal.pair_scoring import StoreOptions
from vitgal.rank_files import load_ranking, read_record
from vitgal.result_page import draw_best, write_result_page
from vitgal.result_record import make_reranked_record
from vitgal.rows import TABLED

ex = Experiment(
    "vitgal_eval_image_retrieval",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    weight_path = None  # autoencoder or retrieval checkpoint; None: UNTRAINED weights from the seed
    save_global_rank = "logs/GlobalRank/global_rank.npy"  # .npy: as published; .npz: what is needed
    load_precomputed_global_rank = False  # read save_global_rank instead of running the network
    descriptor_dir = "logs/vitgal_descriptors"  # keeps global descriptors, by weights and pictures
    multiscale = False  # seven scales for the global descriptor
    use_cuda = True  # the GPU, where there is one
    overwrite = False  # replace rankings and descriptors that are there
    do_reranking = False  # reorder the first num_rerank by the number of inliers
    num_rerank = 100  # images per query that are extracted and reranked
    descriptor_output_dir = "logs/LocalFeaturePath/Descriptions"  # of the local features
    location_output_dir = "logs/LocalFeaturePath/Locations"
    compact_store = None  # folder of a compact store, in place of the two above
    max_distance = 0.82  # matches are nearer than this; S12: 0.82, S24: 0.79
    use_ratio_test = False  # instead: the ratio of the two nearest is below matching_threshold
    matching_threshold = 0.99
    max_reprojection_error = 16.0  # pixels of the resized images
    max_ransac_iteration = 2000
    homography_confidence = 1.0  # 1: never stop early
    estimator = "pydegensac"  # pydegensac (all published rows), magsac (OpenCV) or poselib
    num_processes = None  # that verify pairs; None: one per core
    save_rank = None  # text file that the scores are appended to
    report = None  # HTML page of ranked lists before and after
    strict = False  # exit code 3 when a row is outside its tolerance
    seed = 0


@ex.named_config
def mini():
    # verification on the generated set, whose pictures are smaller
    max_distance = TABLED["mini"].max_distance
    max_reprojection_error = TABLED["mini"].max_reprojection_error


@ex.capture
def load_network(weight_path: str | None, seed: int) -> torch.nn.Module:
    """The retrieval network with the weights of the file; without one as it is before training."""
    torch.manual_seed(seed)
    if weight_path is None:
        return make_backbone().eval()
    return load_global_model(weight_path)


@ex.capture
def make_verification(
    max_distance: float,
    use_ratio_test: bool,
    matching_threshold: float,
    max_reprojection_error: float,
    max_ransac_iteration: int,
    homography_confidence: float,
    estimator: str,
) -> Verification:
    """The configured verification; the estimator's seed is 0, as in every published row."""
    return Verification(
        max_distance,
        use_ratio_test,
        matching_threshold,
        float(max_reprojection_error),
        max_ransac_iteration,
        float(homography_confidence),
        estimator,
    )


@ex.capture
def make_ranking(
    test,
    weight_path: str | None,
    save_global_rank: str,
    load_precomputed_global_rank: bool,
    descriptor_dir: str,
    multiscale: bool,
    use_cuda: bool,
    overwrite: bool,
    seed: int,
    dataset: dict,
    model: dict,
) -> Outcome:
    """Read or search the ranking of the test set."""
    path = Path(save_global_rank)
    if load_precomputed_global_rank:
        known = describe_origin(test) | {"model": model["name"]}
        ranking = load_ranking(path, set_size(test), known)
        return Outcome(test, ranking, model["name"], read_record(path))
    settings = GlobalSettings(dataset["imsize"], dataset["keep_aspec_ratio"], multiscale)
    loading = Loading(dataset["batch_size"], dataset["num_workers"], pick_device(use_cuda))
    weights = describe_weights(weight_path, seed)
    made_from = {"model": model["name"], "weights": weights, **settings._asdict()}

    def extract():
        return extract_descriptors(
            load_network(), test, Path(descriptor_dir), settings, loading, overwrite
        )

    return Outcome(
        test, search(test, path, extract, made_from, overwrite), model["name"], made_from
    )


@ex.capture
def save_reranked(
    outcome: Outcome,
    reranked: Reranked,
    settings: Verification,
    stored: StoreOptions,
    num_rerank: int,
    save_rank: str | None,
    report: str | None,
    strict: bool,
    _run: Any,
) -> dict:
    """Rows, record and, where it is asked for, the page with matches; returns the metrics."""
    gnd = outcome.test.ground_truth
    before, after = outcome.ranking.measure(gnd), reranked.ranking.measure(gnd)
    aps = before["medium"]["ap"], after["medium"]["ap"]
    heads = outcome.ranking.head, reranked.ranking.head
    lists = make_ranked_lists(
        query_paths(outcome.test), outcome.test.boxes.tolist(), outcome.test.database_path, gnd,
        heads, aps, reranked.scores,
    )  # fmt: skip
    pictures = draw_best(outcome, reranked, lists, settings, stored) if report is not None else []
    if report is not None:
        write_result_page(Path(report), outcome, reranked, settings, lists, pictures)
    record = make_reranked_record(
        outcome.test, outcome.origin, (before, after), settings, num_rerank, stored, lists, pictures
    )
    return finish_reranked(_run, outcome, reranked, settings, num_rerank, save_rank, strict, record)


@ex.automain
def main(
    save_global_rank, do_reranking, num_rerank, descriptor_output_dir, location_output_dir,
    compact_store, num_processes, save_rank, use_cuda, strict, _run,
):  # fmt: skip
    test = load_test_images()
    settings = make_verification()
    outcome = make_ranking(test)
    heads = head_paths(test, outcome.ranking, num_rerank)
    _run.add_artifact(str(write_list(Path(save_global_rank), test, heads)))
    if not do_reranking:
        return finish_global(_run, outcome, pick_device(use_cuda), save_rank, strict)
    stored = StoreOptions(
        descriptor_output_dir, location_output_dir, str(test.data_path), compact_store
    )
    reranked = rerank(outcome, heads, stored, settings, num_processes, Path(save_global_rank))
    return save_reranked(outcome, reranked, settings, stored)
