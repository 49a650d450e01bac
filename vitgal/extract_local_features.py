"""Extract local features of the images that reranking needs (ViTGaL, ACCV'22).

    python -m vitgal.extract_local_features with dataset.roxford5k model.xcit_s12 \\
        weight_path=FILE list_extract_paths=logs/eval_s12_roxf_global/rerank_path.txt

Images that have features already are kept, so an interrupted run goes on where it stopped.
"""

from pathlib import Path

from sacred import Experiment

from utils.paths import REPO_ROOT
from vitgal.datasets.ingredient import dataset_ingredient
from vitgal.evaluation import fingerprint_file, pick_device
from vitgal.extraction import describe_settings, extract_images, list_images
from vitgal.local_features import LocalSettings, choose_scales
from vitgal.models.ingredient import load_model, model_ingredient
from vitgal.stores import open_store

ex = Experiment(
    "vitgal_extract_local_features",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    list_extract_paths = "logs/GlobalRank/rerank_path.txt"  # None: all images of image_folders
    image_folders = "data/oxford5k/jpg"  # without a list: every picture below, not cropped
    image_size = 512  # side of a square of the same area as the resized image
    keep_aspec_ratio = True  # False: squash to that square (sic)
    use_multi_scale = True  # False: scale 1 only
    num_scale = 5  # 3, 5 or 7 scales
    use_crop = True  # crop queries by their box
    attn_threshold = 60.0  # first threshold of the attention, in multiples of its mean
    min_attn_threshold = 0.6  # it is halved until enough patches lie above, not below this
    max_keypoint = 400  # patches that suffice at scale 1
    overlap = 0.5  # largest intersection over union of two kept patches
    num_points = 1000  # features kept of an image
    descriptor_output_dir = "logs/LocalFeaturePath/Descriptions"
    location_output_dir = "logs/LocalFeaturePath/Locations"
    official_names = False  # name files by the whole path, as the release does
    compact_store = None  # folder of a compact store, in place of the two above
    compact_kind = None  # of a new compact store: float16 or int8
    use_cuda = True  # the GPU, where there is one
    amp = False  # bfloat16 on the GPU: faster, other keypoints than in float32
    overwrite = False  # replace features that are there
    seed = 0


@ex.named_config
def mini():
    image_size = 256  # the generated set: pictures are smaller


@ex.capture
def make_settings(
    use_multi_scale: bool,
    num_scale: int,
    attn_threshold: float,
    min_attn_threshold: float,
    max_keypoint: float,
    overlap: float,
    num_points: int,
) -> LocalSettings:
    """The configured choice of keypoints."""
    scales = choose_scales(use_multi_scale, num_scale)
    return LocalSettings(
        scales, attn_threshold, min_attn_threshold, max_keypoint, overlap, num_points
    )


@ex.automain
def main(
    weight_path, list_extract_paths, image_folders, image_size, keep_aspec_ratio, use_crop,
    descriptor_output_dir, location_output_dir, official_names, compact_store, compact_kind,
    use_cuda, amp, overwrite, dataset, _log,
):  # fmt: skip
    settings = make_settings()
    images = list_images(list_extract_paths, image_folders, use_crop)
    store = open_store(
        descriptor_output_dir, location_output_dir, dataset["data_path"], compact_store,
        compact_kind, official_names,
    )  # fmt: skip
    made_from = describe_settings(
        settings, image_size, keep_aspec_ratio, use_crop, amp, fingerprint_file(weight_path)
    )
    folder = Path(compact_store or descriptor_output_dir)
    new = extract_images(
        load_model(weight_path), images, store, folder, settings, made_from, pick_device(use_cuda),
        dataset["batch_size"], dataset["num_workers"], overwrite,
    )  # fmt: skip
    _log.info("%d images extracted, %d kept, in %s", new, len(images) - new, folder)
    return {"images": len(images), "extracted": new}
