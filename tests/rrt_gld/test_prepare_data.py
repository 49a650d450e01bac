"""Line lists: byte for byte the published ones, from images of the same sizes; GLDv2's tables."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrt_gld.datasets.line_lists import load_line_list
from rrt_gld.datasets.revisited_lists import compute_box_size, compute_labels
from rrt_gld.tools import prepare_data

PUBLISHED = {  # sub-experiment, folder and ground truth below the reference data
    "oxford": ("rrt/oxford5k", "gnd_roxford5k.pkl"),
    "paris": ("rrt/paris6k", "gnd_rparis6k.pkl"),
}
LISTS = ("test_query.txt", "test_gallery.txt")


def write_header_of_image(path: Path, width: int, height: int) -> None:
    """The head of a PPM picture of that size: all that a reader of sizes looks at."""
    path.write_text(f"P6\n{width} {height}\n255\n")


def write_images_of_list(folder: Path, text: str) -> None:
    for line in text.splitlines():
        name, _, width, height = line.split(",")
        write_header_of_image(folder / name, int(width), int(height))


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_are_reproduced_byte_for_byte(name, reference_data, tmp_path):
    folder, gnd = PUBLISHED[name]
    source = reference_data / folder
    shutil.copy(source / gnd, tmp_path / gnd)
    (tmp_path / "jpg").mkdir()
    for txt in LISTS:
        if name == "oxford" and txt == LISTS[0]:
            continue  # sizes of the boxes; the queries' images are not needed
        write_images_of_list(tmp_path, (source / txt).read_text())
    experiment = {"oxford": prepare_data.oxford, "paris": prepare_data.paris}[name]
    experiment.run(config_updates={"data_dir": str(tmp_path)})
    for txt in LISTS:
        assert (tmp_path / txt).read_bytes() == (source / txt).read_bytes()


def write_revisited(folder: Path, gnd_name: str) -> None:
    """Two queries, three gallery images, real JPEG files."""
    (folder / "jpg").mkdir(parents=True)
    sizes = {
        "all_souls_000013": (60, 40),
        "oxford_002985": (30, 50),
        "oxford_1": (20, 10),
        "all_souls_2": (11, 13),
        "zoo_3": (8, 9),
    }
    for stem, size in sizes.items():
        Image.new("RGB", size).save(folder / f"jpg/{stem}.jpg")
    empty: dict = {"easy": [0], "hard": [1], "junk": []}
    gnd = {
        "qimlist": ["all_souls_000013", "oxford_002985"],
        "imlist": ["oxford_1", "all_souls_2", "zoo_3"],
        "gnd": [
            {"bbx": [1.5, 2.0, 40.2, 30.0], **empty},
            {"bbx": [0, 0, 9, 19], **empty},
        ],
    }
    (folder / gnd_name).write_bytes(pickle.dumps(gnd, protocol=3))


BOXES = "jpg/all_souls_000013.jpg,0,39,29\njpg/oxford_002985.jpg,1,10,20"
IMAGES = "jpg/all_souls_000013.jpg,0,60,40\njpg/oxford_002985.jpg,1,30,50"
GALLERY = "jpg/oxford_1.jpg,1,20,10\njpg/all_souls_2.jpg,0,11,13\njpg/zoo_3.jpg,2,8,9"


def test_a_plain_run_writes_oxford_then_paris(tmp_path):
    write_revisited(tmp_path / "oxford", "gnd_roxford5k.pkl")
    write_revisited(tmp_path / "paris", "gnd_rparis6k.pkl")
    run = prepare_data.ex.run(
        config_updates={
            "oxford": {"data_dir": str(tmp_path / "oxford")},
            "paris": {"data_dir": str(tmp_path / "paris")},
        }
    )
    assert run.result["oxford"] == run.result["paris"] == {"queries": 2, "gallery": 3}
    # Oxford's queries have the size of their box, those of Paris of the image, as published
    for name, queries in (("oxford", BOXES), ("paris", IMAGES)):
        assert (tmp_path / name / LISTS[0]).read_bytes() == queries.encode()
        assert (tmp_path / name / LISTS[1]).read_bytes() == GALLERY.encode()


def test_generated_set_has_a_command_of_its_own(tmp_path):
    write_revisited(tmp_path, "gnd_mini_landmarks.pkl")
    prepare_data.ex.run("mini.prepare", config_updates={"mini": {"data_dir": str(tmp_path)}})
    assert (tmp_path / LISTS[0]).read_bytes() == BOXES.encode()


def test_lists_without_resolution_need_no_images(tmp_path):
    write_revisited(tmp_path, "gnd_roxford5k.pkl")
    shutil.rmtree(tmp_path / "jpg")
    options = {"data_dir": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match=r"3 of 3 files .*require_resolution"):
        prepare_data.oxford.run(config_updates=options)
    prepare_data.oxford.run(config_updates={**options, "require_resolution": False})
    assert (tmp_path / LISTS[0]).read_bytes() == BOXES.encode()
    np.testing.assert_array_equal(load_line_list(tmp_path / LISTS[1]).sizes, 0)


def test_file_that_is_no_image_is_named(tmp_path):
    write_revisited(tmp_path, "gnd_roxford5k.pkl")
    (tmp_path / "jpg/zoo_3.jpg").write_text("404 not found")
    with pytest.raises(ValueError, match=r"zoo_3\.jpg is no readable image"):
        prepare_data.oxford.run(config_updates={"data_dir": str(tmp_path)})
    assert not (tmp_path / LISTS[0]).exists(), "nothing is half written"


def test_box_size_and_labels_by_hand():
    assert compute_box_size([136.5, 34.1, 648.5, 955.7]) == (513, 922)
    names = ["christ_church_000179", "ashmolean_000283", "christ_church_1", "a_b_c"]
    # prefixes a_b < ashmolean < christ_church
    assert compute_labels(names) == [2, 1, 2, 0]


def write_gldv2(folder: Path) -> None:
    stems = {
        "train": "ab cd ef".split(),
        "index": "i1 i2 i3".split(),
        "test": "q1 q2 q3 q4".split(),
    }
    for part, names in stems.items():
        for k, stem in enumerate(names):
            path = folder / part / stem[0] / stem[1] / "x" / f"{stem}.jpg"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (10 + k, 20)).save(path)
    meta = folder / "meta"
    meta.mkdir()
    (meta / "train.csv").write_text('id,url,landmark_id\n"ab",u,7\ncd,"a, b",5\nef,u,7\ngone,u,9\n')
    (meta / "index_image_to_landmark.csv").write_text("id,landmark_id\ni1,40\ni2,30\ni3,40\n")
    (meta / "retrieval_solution_v2.1.csv").write_text(
        "id,images,Usage\nq1,i3 i1,Public\nq2,None,Ignored\nq3,i2,Private\nq4,i2,Public\n"
    )


def test_gldv2_lists_and_ground_truth(tmp_path):
    write_gldv2(tmp_path)
    run = prepare_data.gldv2.run(config_updates={"data_dir": str(tmp_path)})
    assert run.result == {"train": 3, "queries": 3, "gallery": 3}
    lists = {name: (tmp_path / name).read_text() for name in ("train_clean.txt", *LISTS)}
    assert lists["train_clean.txt"] == (
        "train/a/b/x/ab.jpg,7,10,20\ntrain/c/d/x/cd.jpg,5,11,20\ntrain/e/f/x/ef.jpg,7,12,20"
    )
    # the label of a query is the landmark of its first positive; the ignored one is left out
    assert lists[LISTS[0]] == (
        "test/q/1/x/q1.jpg,40,10,20\ntest/q/3/x/q3.jpg,30,12,20\ntest/q/4/x/q4.jpg,30,13,20"
    )
    gnd = pickle.loads((tmp_path / "gnd_gld.pkl").read_bytes())
    assert gnd["public"]["qimlist"] == ["q1", "q4"]
    assert [entry["easy"] for entry in gnd["public"]["gnd"]] == [[0, 2], [1]]
    assert [entry["easy"] for entry in gnd["private"]["gnd"]] == [[1]]


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("train.csv", "cd,", "zz,", "1 images not in meta/train.csv: cd"),
        ("train.csv", ",7\n", ",seven\n", r"train\.csv: the last column holds no landmark id"),
        ("retrieval_solution_v2.1.csv", "Private", "Secret", r"solution.*line 4: .*Secret"),
        ("retrieval_solution_v2.1.csv", "q1", "qq", "1 queries without an image in test/: qq"),
        ("retrieval_solution_v2.1.csv", "i3 i1", "i3 i9", "1 positives without .*: i9"),
    ],
)
def test_gldv2_tables_that_do_not_fit_are_named(tmp_path, name, old, new, complaint):
    write_gldv2(tmp_path)
    path = tmp_path / "meta" / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=complaint):
        prepare_data.gldv2.run(config_updates={"data_dir": str(tmp_path)})
