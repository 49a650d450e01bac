"""Sacred ingredient `dataset`: the packed images that training reads."""

from sacred import Ingredient

from delg_training.datasets.gldv2_tfrecords import StreamOptions
from delg_training.datasets.record_index import RecordIndex, index_records

dataset_ingredient = Ingredient("dataset", save_git_info=False)

NUM_CLASSES = {"gld_v1": 14951, "gld_v2": 203094, "gld_v2_clean": 81313}


@dataset_ingredient.config
def config():
    train_file_pattern = "data/gldv2/tfrecord/train*"  # glob of the training shards
    validation_file_pattern = "data/gldv2/tfrecord/validation*"  # None: no validation
    dataset_version = "gld_v1"  # sets the classes: gld_v1, gld_v2, gld_v2_clean
    num_classes = None  # None: those of dataset_version
    batch_size = 32  # images per step, over all replicas and machines
    image_size = 321  # pixels, height and width
    use_augmentation = True  # random crops in training
    min_crop_area = 0.08  # share of the image that a random crop shows at least
    shuffle_buffer = 100  # images that the shuffling of the record order looks at


for version in NUM_CLASSES:
    dataset_ingredient.add_named_config(version, {"dataset_version": version})

# generated landmarks (data/make_mini.py), packed by scripts/pack_mini.sh
dataset_ingredient.add_named_config(
    "mini",
    {
        "train_file_pattern": "data/delg_landmarks/mini_gldv2/tfrecord/train*",
        "validation_file_pattern": "data/delg_landmarks/mini_gldv2/tfrecord/validation*",
        "dataset_version": "mini",
        "num_classes": 1500,
        "batch_size": 64,
        "image_size": 97,
        "min_crop_area": 0.5,
        "shuffle_buffer": 100000,
    },
)


@dataset_ingredient.capture
def stream_options(
    seed: int,
    dataset_version: str,
    num_classes: int | None,
    batch_size: int,
    image_size: int,
    use_augmentation: bool,
    min_crop_area: float,
    shuffle_buffer: int,
) -> StreamOptions:
    """The configured options as plain values; `seed` is the experiment's."""
    if num_classes is None:
        if dataset_version not in NUM_CLASSES:
            raise ValueError(
                f"dataset.dataset_version is {dataset_version!r}, expected one of "
                f"{list(NUM_CLASSES)}, or give dataset.num_classes"
            )
        num_classes = NUM_CLASSES[dataset_version]
    return StreamOptions(
        batch_size,
        image_size,
        num_classes,
        use_augmentation,
        float(min_crop_area),
        shuffle_buffer,
        seed,
    )


@dataset_ingredient.capture
def load_indices(
    train_file_pattern: str, validation_file_pattern: str | None
) -> tuple[RecordIndex, RecordIndex | None]:
    """Where the records of the training and the validation shards lie."""
    train = index_records(train_file_pattern)
    return train, None if validation_file_pattern is None else index_records(
        validation_file_pattern
    )
