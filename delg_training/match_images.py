"""Match the local features of two images and draw those that agree with one affine map.

    python -m delg_training.match_images with image_1_path=a.jpg image_2_path=b.jpg \\
        features_1_path=a.delf features_2_path=b.delf output_image=matched_images.png

Features come from delg_training.extract_features; `.delg_local` files are read too.
"""

from sacred import Experiment

from delg_training.geometric_verification import Verification, verify
from delg_training.match_pictures import draw_correspondences, load_rgb
from utils.descriptors import read_local
from utils.paths import REPO_ROOT

ex = Experiment("delg_training_match_images", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    image_1_path = "test_images/image_1.jpg"  # the picture that features_1_path was taken from
    image_2_path = "test_images/image_2.jpg"
    features_1_path = "test_features/image_1.delf"
    features_2_path = "test_features/image_2.delf"
    output_image = "test_match.png"  # the picture that is drawn: .png, .jpg, .pdf or .svg
    distance_threshold = 0.8  # L2 distance of descriptors that match, a feature of image 2 each
    residual_threshold = 20.0  # pixels of image 2
    use_ratio_test = False  # nearest below distance_threshold times the second nearest
    estimator = "ransac"  # ransac (1000 trials, the published rules) or opencv
    seed = 0


@ex.automain
def main(
    image_1_path, image_2_path, features_1_path, features_2_path, output_image,
    distance_threshold, residual_threshold, use_ratio_test, estimator, seed, _log,
):  # fmt: skip
    settings = Verification(
        float(distance_threshold), float(residual_threshold), use_ratio_test, estimator,
        seed=seed, min_matches=3,
    )  # fmt: skip
    first, second = read_local(features_1_path), read_local(features_2_path)
    images = load_rgb(image_1_path), load_rgb(image_2_path)
    inliers = verify(second, first, settings)
    draw_correspondences(
        output_image, *images, first.locations[inliers[:, 1]], second.locations[inliers[:, 0]]
    )
    _log.info("Found %d inliers; %s", len(inliers), output_image)
    return {"inliers": len(inliers)}
