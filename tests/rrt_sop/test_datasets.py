"""Image lists, their shares among processes, and the options of the dataset ingredient."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sacred import Experiment

from rrt_sop.datasets import ingredient
from rrt_sop.datasets.batches import Sharing, make_batches
from rrt_sop.datasets.image_list import ImageList
from rrt_sop.datasets.list_file import load_list_file
from rrt_sop.datasets.samplers import RandomIdSampler, ShuffleSampler, TripletSampler
from rrt_sop.datasets.transforms import make_test_transform, make_train_transform
from tests.rrt_sop.image_folders import write_products, write_random_table
from utils.nn_tables import save_nn_inds

TRANSFORM = make_test_transform(24, 16)


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """A small set; only read."""
    return write_products(tmp_path_factory.mktemp("set"))


@pytest.fixture
def own_products(products, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(products, tmp_path / "set"))


# ------------------------------------------------------------------ lists and images


def test_list_gives_image_label_and_index(products):
    images = ImageList(products, "test.txt", TRANSFORM)
    image, label, index = images[4]
    assert (len(images), images.num_classes) == (15, 5)
    assert (label, index) == (1, 4)
    expected = TRANSFORM(Image.open(products / images.paths[4]).convert("RGB"))
    torch.testing.assert_close(image, expected)
    # class ids of the test list start at 8; labels at 0
    np.testing.assert_array_equal(images.class_ids, np.arange(8, 13).repeat(3))
    np.testing.assert_array_equal(images.labels, np.arange(5).repeat(3))


def test_labels_follow_the_sorted_class_ids_not_the_order_of_the_list(own_products):
    lines = (own_products / "test.txt").read_text().splitlines()
    (own_products / "test.txt").write_text("\n".join([*lines[6:], *lines[:6]]))
    images = ImageList(own_products, "test.txt", TRANSFORM)
    np.testing.assert_array_equal(images.labels, np.array([2, 3, 4, 0, 1]).repeat(3))


def test_images_of_any_mode_become_rgb(own_products):
    images = ImageList(own_products, "test.txt", TRANSFORM)
    for index, mode in enumerate(("L", "RGBA", "P", "1", "I;16")):
        Image.new(mode, (30, 20)).save(own_products / images.paths[index])
        assert images[index][0].shape == (3, 16, 16)


def test_missing_images_are_counted_and_ten_are_named(own_products):
    for path in sorted(own_products.glob("chair_final/*"))[:12]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="12 of 24 files do not exist") as caught:
        ImageList(own_products, "train.txt", TRANSFORM)
    message = str(caught.value)
    assert message.count("chair_final") == 10
    assert "train.txt and the images of" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(own_products, workers):
    images = ImageList(own_products, "train.txt", TRANSFORM)
    path = own_products / images.paths[5]
    path.write_bytes(path.read_bytes()[:200])
    loader = torch.utils.data.DataLoader(images, batch_size=4, num_workers=workers)
    with pytest.raises(ValueError, match=rf"{path.name} is no readable image .*train\.txt"):
        list(loader)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"list\.txt is empty, expected lines 'path,class_id'"),
        ("a.png,1\nb.png", r"list\.txt, line 2: 'b.png', expected 'path,class_id'"),
        ("a.png,1\n\nb.png,two", r"list\.txt, line 3: 'b.png,two'"),
        ("a.png,1.5", r"list\.txt, line 1: 'a.png,1.5'.*prepare_data"),
        ("a.png,1\nb.png,1\na.png,1", r"list\.txt lists 1 images more than once.*: a\.png"),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, complaint):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        ImageList(tmp_path, "list.txt", TRANSFORM)


def test_missing_list_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list\.txt does not exist.*prepare_data"):
        ImageList(tmp_path, "list.txt", TRANSFORM)


def test_commas_in_names_are_no_obstacle(tmp_path):
    (tmp_path / "list.txt").write_text("a,b/c.png,3\n")
    listing = load_list_file(tmp_path / "list.txt")
    assert (listing.paths, listing.class_ids.tolist()) == (["a,b/c.png"], [3])


def test_origin_tells_lists_apart(products):
    train, test = (ImageList(products, f"{x}.txt", TRANSFORM) for x in ("train", "test"))
    again = ImageList(products, "train.txt", make_train_transform(16))
    assert train.origin() == again.origin()
    assert train.origin() != test.origin()
    again.labels = again.labels[::-1]
    assert train.origin() != again.origin()


# ------------------------------------------------------------------ batches and their shares


def shares(images: ImageList, batches: list, world: int, unit: int = 1, **options: Any) -> list:
    """All processes' shares of all batches."""
    return [
        list(make_batches(images, batches, sharing=Sharing(rank, world, unit), **options))
        for rank in range(world)
    ]


def test_shares_put_together_are_the_batch_of_one_process(products):
    images = ImageList(products, "train.txt", make_train_transform(16))
    batches = [np.arange(9), np.arange(9, 12), np.array([3, 4, 5])]
    options: dict = {"done": 0, "epoch_seed": 7}
    ((*whole,),) = shares(images, batches, 1, 3, **options)
    per_rank = shares(images, batches, 2, 3, **options)
    for k, batch in enumerate(whole):
        together = torch.zeros_like(batch.images)
        seen: list[int] = []
        for rank in per_rank:
            if rank[k].images is not None:
                together[rank[k].places] = rank[k].images
            seen += rank[k].places.tolist()
            assert torch.equal(rank[k].labels, torch.from_numpy(images.labels[batches[k]]))
        assert sorted(seen) == list(range(len(batches[k])))
        assert torch.equal(together, batch.images)
    assert per_rank[1][1].images is None, "one triplet: nothing for the second process"


def test_triplets_are_not_torn_apart():
    assert Sharing(1, 2, 3).places(15).tolist() == [3, 4, 5, 9, 10, 11]
    assert Sharing(1, 2).places(5).tolist() == [1, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_with_the_crops_that_it_would_have_had(products, workers):
    images = ImageList(products, "train.txt", make_train_transform(16))
    batches = ShuffleSampler(len(images), 5).draw_batches()
    whole = list(make_batches(images, batches, 0, 11, Sharing()))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rest = list(make_batches(images, batches, 2, 11, Sharing(), workers))
    assert torch.equal(torch.get_rng_state(), before), "torch's own stream is left alone"
    assert len(rest) == len(batches) - 2
    for first, second in zip(whole[2:], rest, strict=True):
        assert torch.equal(first.images, second.images)
    other = next(make_batches(images, batches, 0, 12, Sharing()))
    assert not torch.equal(other.images, whole[0].images)


def test_the_same_image_twice_in_an_epoch_is_cropped_twice(products):
    images = ImageList(products, "train.txt", make_train_transform(16))
    same = [np.array([2, 2]), np.array([2, 2])]
    first, second = make_batches(images, same, 0, 3, Sharing())
    crops = [*first.images, *second.images]
    for i, crop in enumerate(crops):
        assert not any(torch.equal(crop, other) for other in crops[:i])


# ------------------------------------------------------------------ the ingredient


def run_with(command: Any, *named: str, **updates: Any) -> Any:
    """`command` called within a run of an experiment that has the ingredient."""
    ex = Experiment("probe", ingredients=[ingredient.dataset_ingredient], save_git_info=False)
    ex.main(lambda: command())
    return ex.run(named_configs=named, config_updates={"dataset": updates}).result


def options_of(*named: str, **updates: Any) -> dict[str, Any]:
    """The options in force."""
    ex = Experiment("probe", ingredients=[ingredient.dataset_ingredient], save_git_info=False)
    ex.main(lambda: None)
    updates = {"dataset": updates} if updates else {}
    return ex.run(named_configs=named, config_updates=updates).config["dataset"]


DEFAULTS = {
    "name": "sop",
    "data_path": "data/Stanford_Online_Products",
    "train_file": "train.txt",
    "test_file": "test.txt",
    "batch_size": 128,
    "sample_per_id": 2,
    "test_batch_size": 256,
    "sampler": "random",
    "num_candidates": 100,
    "random_negatives": 0.0,
    "num_workers": 8,
    "pin_memory": True,
    "crop_size": 224,
    "smallest_crop": 0.08,
    "recalls": [1, 10, 100, 1000],
    "num_identities": 64,
    "num_iterations": 465,
    "train_cache_nn_inds": None,
    "test_cache_nn_inds": None,
    "keypoints": None,
    "test_resize": 256,
    "test_crop": 224,
}
GLOBAL = {
    "name": "sop_global",
    "batch_size": 800,
    "test_batch_size": 800,
    "sampler": "random_id",
    "num_identities": 400,
    "num_iterations": 74,
}
RERANK = {
    "name": "sop_rerank",
    "batch_size": 300,
    "test_batch_size": 600,
    "sampler": "triplet",
    "recalls": [1, 10, 100],
    "num_identities": 150,
    "num_iterations": 198,
    "train_cache_nn_inds": "rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_train.pkl",
    "test_cache_nn_inds": "rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl",
}


def test_options_and_named_configs_are_the_published_ones():
    assert options_of() == DEFAULTS
    assert options_of("dataset.sop_global") == DEFAULTS | GLOBAL
    assert options_of("dataset.sop_rerank") == DEFAULTS | RERANK


def test_derived_options_follow_the_batch_size_unless_given():
    found = options_of("dataset.sop_global", batch_size=400)
    assert (found["num_identities"], found["num_iterations"]) == (200, 148)
    found = options_of("dataset.sop_global", sample_per_id=4, num_iterations=9)
    assert (found["num_identities"], found["num_iterations"]) == (200, 9)


@pytest.mark.parametrize("name", ["mini_global", "mini_rerank"])
def test_mini_configs_suit_each_other(name):
    found = options_of(f"dataset.{name}")
    assert found["data_path"] == "data/mini_products"
    assert found["batch_size"] % (found["sample_per_id"] if name == "mini_global" else 3) == 0
    assert found["test_crop"] <= found["test_resize"]


def test_lists_are_loaded_with_their_transforms(products):
    sizes = {"crop_size": 12, "test_resize": 24, "test_crop": 16}
    where = {"data_path": str(products), **sizes}
    train = run_with(ingredient.load_train_list, **where)
    for_testing = run_with(ingredient.load_train_list_for_testing, **where)
    queries, gallery = run_with(ingredient.load_test_lists, **where)
    assert [len(x) for x in (train, for_testing, queries)] == [24, 24, 15]
    assert gallery is None
    assert [x[0][0].shape[-1] for x in (train, for_testing, queries)] == [12, 16, 16]


def test_queries_and_gallery_share_their_labels(own_products):
    lines = (own_products / "test.txt").read_text().splitlines()
    (own_products / "q.txt").write_text("\n".join(lines[3::3]))  # classes 9 to 12
    (own_products / "g.txt").write_text("\n".join(lines[:6] + lines[7:9]))  # classes 8 to 10
    queries, gallery = run_with(
        ingredient.load_test_lists, data_path=str(own_products), test_file=["q.txt", "g.txt"]
    )
    assert queries.labels.tolist() == [1, 2, 3, 4]
    assert gallery.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_three_test_files_are_refused(products):
    with pytest.raises(ValueError, match="expected one list file or two"):
        run_with(ingredient.load_test_lists, data_path=str(products), test_file=["test.txt"] * 3)


def sampler_of(products: Path, *named: str, **updates: Any) -> Any:
    where = {"data_path": str(products), "batch_size": 12, **updates}
    return run_with(lambda: ingredient.make_sampler(ingredient.load_train_list()), *named, **where)


def test_sampler_is_made_by_name(products, tmp_path):
    table = tmp_path / "nn_inds.pkl"
    write_random_table(table, 24, 10)
    assert isinstance(sampler_of(products), ShuffleSampler)
    assert isinstance(sampler_of(products, sampler="random_id"), RandomIdSampler)
    made = sampler_of(products, "dataset.sop_rerank", train_cache_nn_inds=str(table))
    assert isinstance(made, TripletSampler)
    assert (made.negatives.shape[1], made.random_negatives) == (10, 0)
    given = {"num_candidates": 6, "random_negatives": 0.25}
    made = sampler_of(products, "dataset.sop_rerank", train_cache_nn_inds=str(table), **given)
    assert (made.negatives.shape[1], made.random_negatives) == (6, 0.25)
    per_id = sampler_of(products, sampler="random_id", num_identities=4).sample_per_id
    assert per_id == 3, "num_identities given explicitly decides"


@pytest.mark.parametrize(
    ("updates", "complaint"),
    [
        ({"sampler": "boost"}, r"dataset\.sampler is 'boost', expected one of"),
        ({"sampler": "random_id", "num_identities": 5}, "batch_size=12 is not divisible by num_id"),
        ({"sampler": "random_id", "batch_size": 13}, "batch_size=13 is not divisible by num_id"),
        ({"sampler": "random_id", "sample_per_id": 0}, "have at least 1|not divisible"),
        ({"sampler": "triplet"}, r"train_cache_nn_inds is not set.*nn_inds_train_r50\.sh"),
        ({"sampler": "random_id", "num_iterations": 0}, "num_iterations is 0"),
    ],
)
def test_bad_sampler_options_are_refused(products, updates, complaint):
    with pytest.raises(ValueError, match=complaint):
        sampler_of(products, **updates)


def test_missing_neighbour_table_names_the_script(products):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl does not exist.*nn_inds_train_r50\.sh"):
        sampler_of(products, sampler="triplet", train_cache_nn_inds="none.pkl")


def test_neighbour_table_of_another_split_is_refused(products, tmp_path):
    table = tmp_path / "nn_inds.pkl"
    write_random_table(table, 15, 10)  # as many rows as the test list has
    options = {"sampler": "triplet", "train_cache_nn_inds": str(table)}
    with pytest.raises(ValueError, match=r"nn_inds\.pkl has 15 rows, expected 24"):
        sampler_of(products, **options)
    # the right size, but a record of other images
    nn_inds = write_random_table(table, 24, 10)
    other = ImageList(products, "test.txt", TRANSFORM).origin() | {"count": 24}
    save_nn_inds(table, nn_inds, other)
    with pytest.raises(ValueError, match=r"nn_inds\.pkl was made from images"):
        sampler_of(products, **options)


def test_images_that_cannot_be_anchors_are_told_of(own_products, tmp_path, caplog):
    lines = (own_products / "train.txt").read_text().splitlines()
    (own_products / "train.txt").write_text("\n".join(lines[2:]))  # one image is left of class 0
    table = tmp_path / "nn_inds.pkl"
    write_random_table(table, 22, 21)
    sampler_of(own_products, sampler="triplet", train_cache_nn_inds=str(table))
    assert "1 of 22 images of" in caplog.text
    assert "are no anchors" in caplog.text
