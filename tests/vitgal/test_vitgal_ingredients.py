"""Named configurations give the published settings; test sets are complete or refused early."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sacred import Experiment

from vitgal.datasets.ingredient import (
    dataset_ingredient,
    load_test_images,
    make_augmentation,
)
from vitgal.datasets.revisited_lists import list_distractors, load_test_lists
from vitgal.datasets.transforms import Augmentation
from vitgal.models.ingredient import make_sizes, model_ingredient
from vitgal.models.xcit import VARIANTS


def run_with(function, *named: str, **updates):
    """What a captured function gives under named configurations and updates."""
    ex = Experiment("probe", [dataset_ingredient, model_ingredient], save_git_info=False)
    ex.main(lambda: None)
    found = []

    @ex.command(unobserved=True)
    def probe():
        found.append(function())

    ex.run("probe", named_configs=list(named), config_updates=updates)
    return found[0]


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_named_models_are_the_published_variants(variant):
    assert run_with(make_sizes, f"model.xcit_{variant}") == VARIANTS[variant]


def test_default_augmentation_is_the_published_one():
    assert run_with(make_augmentation, "dataset.gldv2") == Augmentation()
    changed = run_with(make_augmentation, dataset={"shift_roate_scale_p": 0.1, "input_size": 64})
    assert changed == Augmentation(input_size=64, shift_scale_rotate_p=0.1)


def write_test_set(root: Path, folder: str, gnd: str) -> Path:
    """Two queries and three gallery images, all of them empty files."""
    images = root / folder / "jpg"
    images.mkdir(parents=True)
    truth: dict[str, list] = {
        "imlist": ["b", "a", "c"],
        "qimlist": ["q1", "q0"],
        "gnd": [
            {"bbx": [1.9, 2.9, 30.2, 40.7], "easy": [0], "hard": [1], "junk": []},
            {"bbx": [0.0, 0.0, 5.0, 5.0], "easy": [], "hard": [2], "junk": [0]},
        ],
    }
    for name in (*truth["imlist"], *truth["qimlist"]):
        (images / f"{name}.jpg").touch()
    (root / folder / gnd).write_bytes(pickle.dumps(truth))
    return root


def test_test_set_is_listed_in_the_order_of_its_ground_truth(tmp_path):
    write_test_set(tmp_path, "oxford5k", "gnd_roxford5k.pkl")
    images = run_with(load_test_images, "dataset.roxford5k", dataset={"data_path": str(tmp_path)})
    assert images.name == "roxford5k"
    assert images.gallery == [f"oxford5k/jpg/{name}.jpg" for name in "bac"]
    assert images.queries == ["oxford5k/jpg/q1.jpg", "oxford5k/jpg/q0.jpg"]
    np.testing.assert_array_equal(images.boxes, [[1, 2, 30, 40], [0, 0, 5, 5]])
    assert images.boxes.dtype == np.int32
    assert images.distractors == []
    assert images.database_path(2) == tmp_path / "oxford5k/jpg/c.jpg"


def test_distractors_follow_the_gallery(tmp_path):
    write_test_set(tmp_path, "paris6k", "gnd_rparis6k.pkl")
    far = tmp_path / "r1m/jpg"
    for name in ("2/x.jpg", "1/y.JPG", "1/notes.txt"):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).touch()
    updates = {"data_path": str(tmp_path), "r1m_path": str(far)}
    images = run_with(load_test_images, "dataset.rparis6k_1m", dataset=updates)
    assert images.distractors == ["1/y.JPG", "2/x.jpg"]
    assert images.num_database == 5
    assert images.database_path(3) == far / "1/y.JPG"
    (tmp_path / "r1m/revisitop1m.txt").write_text("jpg/2/x.jpg\n./1/y.JPG\n\n")
    assert list_distractors(far) == ["2/x.jpg", "1/y.JPG"]
    word = load_test_lists("p", tmp_path, "paris6k", "gnd_rparis6k.pkl", "None")
    assert word.distractors == [], "the word None of the published command line"


def test_incomplete_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.name is not set.*dataset\.roxford5k"):
        run_with(load_test_images)
    with pytest.raises(FileNotFoundError, match=r"gnd_roxford5k\.pkl does not exist.*data/README"):
        run_with(load_test_images, "dataset.roxford5k", dataset={"data_path": str(tmp_path)})
    write_test_set(tmp_path, "set", "gnd.pkl")
    (tmp_path / "set/jpg/c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 files do not exist.*\n.*c\.jpg"):
        load_test_lists("s", tmp_path, "set", "gnd.pkl")
    (tmp_path / "set/jpg/c.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"gone does not exist.*r1m_path=None"):
        load_test_lists("s", tmp_path, "set", "gnd.pkl", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no image"):
        load_test_lists("s", tmp_path, "set", "gnd.pkl", tmp_path / "empty")
