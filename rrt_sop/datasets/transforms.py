"""PIL image -> tensor (3, H, W) in [0, 1]; the model subtracts mean and divides by std itself."""

from torchvision import transforms
from torchvision.transforms import InterpolationMode

from rrt_sop.datasets.image_list import Transform

SMALLEST_CROP = 0.08  # published: a training crop covers this share of the image's area or more
RATIO = (3 / 4, 4 / 3)  # its width / height, log-uniform


def make_train_transform(crop_size: int = 224, smallest_crop: float = SMALLEST_CROP) -> Transform:
    """Random resized crop to crop_size x crop_size (bilinear), mirrored in half of the cases.

    The crop covers between the share `smallest_crop` and all of the image's area.
    """
    _require_positive(crop_size=crop_size)
    if not 0 < smallest_crop <= 1:
        raise ValueError(f"smallest_crop is {smallest_crop}, expected a share above 0, at most 1")
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                crop_size,
                (smallest_crop, 1.0),
                RATIO,
                interpolation=InterpolationMode.BILINEAR,
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
        ]
    )


def make_test_transform(resize: int = 256, crop: int = 224) -> Transform:
    """Resize to exactly resize x resize (aspect not kept), then the centre crop x crop."""
    _require_positive(test_resize=resize, test_crop=crop)
    if crop > resize:
        # the centre crop would pad with black
        raise ValueError(f"test_crop={crop} is larger than test_resize={resize}")
    return transforms.Compose(
        [
            transforms.Resize((resize, resize), interpolation=InterpolationMode.BILINEAR),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
        ]
    )


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}, expected a number of pixels of at least 1")
