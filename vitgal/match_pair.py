"""Draw the matches of a query and its hard images, or of two photographs of your own.

    python -m vitgal.match_pair with dataset.roxford5k model.xcit_s12 weight_path=FILE quer_idx=3
    python -m vitgal.match_pair with model.xcit_s12 weight_path=FILE \\
        query_image=a.jpg gallery_image=b.jpg

Writes save_match_<i>.jpg with lines between inliers into output_dir and prints the counts.
"""

from pathlib import Path

from sacred import Experiment

from utils.paths import REPO_ROOT
from vitgal.datasets.ingredient import dataset_ingredient, load_test_images
from vitgal.evaluation import pick_device
from vitgal.geometric_verification import Verification
from vitgal.local_features import LocalSettings, choose_scales
from vitgal.match_pictures import choose_images, draw_all, pair_of_files
from vitgal.models.ingredient import load_model, model_ingredient

ex = Experiment(
    "vitgal_match_pair",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    quer_idx = 0  # query of the test set
    query_image = None  # a photograph of your own instead; with gallery_image
    gallery_image = None  # the photograph that it is compared with
    output_dir = "logs/MatchPairVis"  # gets save_match_<i>.jpg
    image_size = 512  # side of a square of the same area as the resized image
    use_multi_scale = True  # False: scale 1 only
    num_scale = 5  # 3, 5 or 7 scales
    attn_threshold = 60.0  # as in vitgal.extract_local_features, like the next two
    min_attn_threshold = 0.6
    max_keypoint = 400
    max_distance = 0.95  # matches are nearer than this; reranking takes 0.82 (S12), 0.79 (S24)
    use_ratio_test = False  # instead: the ratio of the two nearest is below the next option
    matching_ratio_threshold = 0.97
    max_reprojection_error = 16.0  # pixels of the resized images
    max_ransac_iteration = 2000
    homography_confidence = 1.0  # 1: never stop early
    estimator = "pydegensac"  # pydegensac, magsac (OpenCV) or poselib
    use_cuda = True  # the GPU, where there is one
    seed = 0


@ex.capture
def make_settings(
    use_multi_scale: bool,
    num_scale: int,
    attn_threshold: float,
    min_attn_threshold: float,
    max_keypoint: float,
) -> LocalSettings:
    """The configured choice of keypoints; 1000 features, overlap 0.5."""
    scales = choose_scales(use_multi_scale, num_scale)
    return LocalSettings(scales, attn_threshold, min_attn_threshold, max_keypoint)


@ex.capture
def make_verification(
    max_distance: float,
    use_ratio_test: bool,
    matching_ratio_threshold: float,
    max_reprojection_error: float,
    max_ransac_iteration: int,
    homography_confidence: float,
    estimator: str,
) -> Verification:
    """The configured verification; the estimator's seed is 0."""
    return Verification(
        max_distance,
        use_ratio_test,
        matching_ratio_threshold,
        float(max_reprojection_error),
        max_ransac_iteration,
        float(homography_confidence),
        estimator,
    )


@ex.capture
def load_photographs(quer_idx: int, query_image: str | None, gallery_image: str | None):
    """The query and the images that it is compared with."""
    own = pair_of_files(query_image, gallery_image)
    return own or choose_images(load_test_images(), quer_idx)


@ex.automain
def main(weight_path, output_dir, image_size, use_cuda, _log):
    query, others = load_photographs()
    counts = draw_all(
        load_model(weight_path), query, others, image_size, make_settings(), make_verification(),
        pick_device(use_cuda), Path(output_dir),
    )  # fmt: skip
    _log.info("%d pictures in %s; inliers: %s", len(counts), output_dir, counts)
    return {"inliers": counts}
