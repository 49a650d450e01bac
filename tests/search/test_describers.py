"""Each describer against the system that it runs; what is missing is named."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from r2former.datasets.images import load_image
from r2former.datasets.transforms import HardResize
from rrt_gld.datasets.image_set import ImageSet
from rrt_gld.tools.extract_sift import extract_all, list_pictures
from search.describers import CODEBOOK, make_describer
from search.photographs import list_photographs, load_revisited_set, make_photograph
from search.store import Store
from search.weights import load_vitgal
from tests.search.conftest import make_place_network
from utils.checkpoints import save_checkpoint
from vitgal.datasets.revisited_images import Photograph, local_size, prepare
from vitgal.global_features import describe_images
from vitgal.local_features import LocalSettings, extract_local


@pytest.fixture(scope="module")
def sift_files(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Descriptor files of the set, as rrt_gld makes them."""
    folder = tmp_path_factory.mktemp("files") / "delg_sift"
    pictures = list_pictures(mini, None, "gnd_mini_landmarks.pkl")
    extract_all(pictures, folder, CODEBOOK, 100)
    return folder


def test_sift_and_files_give_the_descriptors_of_rrt_gld(mini, sift_files, tmp_path):
    """Boxes of the queries included; read through both kinds of store."""
    places = load_revisited_set(mini)
    photos = [*places.queries, *places.gallery]
    list_file = tmp_path / "all.txt"
    list_file.write_text("\n".join(f"{photo.path.stem}.jpg,0,0,0" for photo in photos))
    shutil.copytree(sift_files, tmp_path / "delg_sift")
    wanted = ImageSet(tmp_path, "all.txt", "sift")
    for name, delg_dir in (("sift", None), ("delg-files", sift_files)):
        describe = make_describer(name, None, 100, delg_dir, workers=1)
        marked = describe.mark(photos)
        store = Store(tmp_path / f"store_{name}", describe.made_from)
        store.extend(marked, describe, progress=False)
        rows = store.rows_of(marked)
        np.testing.assert_array_equal(store.global_descriptors(rows), wanted.global_descriptors())
        for i, row in enumerate(rows):
            first, second = wanted.load_local(i), store.load_local(int(row))
            np.testing.assert_array_equal(first.descriptors, second.descriptors)
            np.testing.assert_array_equal(first.locations, second.locations)
            np.testing.assert_array_equal(first.scales, second.scales)
        x1, y1, x2, y2 = photos[0].box
        np.testing.assert_allclose(store.frames[rows[0]], [y2 - y1, x2 - x1], atol=1)
        image = cv2.imread(str(photos[-1].path))
        np.testing.assert_array_equal(store.frames[rows[-1]], image.shape[:2])


def test_several_processes_describe_like_one(mini, monkeypatch):
    monkeypatch.setattr("search.describers.FEW", 2)
    photos = list_photographs(mini)[:4]
    found = [list(make_describer("sift", None, 50, None, n)(photos)) for n in (1, 2)]
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first.global_, second.global_)
        np.testing.assert_array_equal(first.local.descriptors, second.local.descriptors)


def test_vitgal_gives_the_descriptors_of_the_system(mini, vitgal_weights):
    """A network of the mini size: images of 256 pixels."""
    places = load_revisited_set(mini)
    photos = [places.queries[0], places.gallery[0]]
    describe = make_describer("vitgal", vitgal_weights, 30, None, 0)
    model = load_vitgal(vitgal_weights)
    for photo, found in zip(photos, describe(photos), strict=True):
        box = None if photo.box is None else tuple(int(x) for x in photo.box)
        picture = Photograph(photo.path, box)
        squeezed = prepare(picture, lambda h, w: (256, 256))[None]
        wanted = describe_images(lambda x: model.retrieval_back_bone(x)["global"], squeezed)
        torch.testing.assert_close(torch.from_numpy(found.global_), wanted[0], rtol=0, atol=1e-5)
        images = prepare(picture, lambda h, w: local_size(h, w, 256))[None]
        (local,) = extract_local(model, images, LocalSettings(num_points=30))
        np.testing.assert_array_equal(found.local.locations, local.locations)
        np.testing.assert_allclose(found.local.descriptors, local.descriptors, atol=1e-5)
        assert found.frame == tuple(images.shape[-2:])
        assert len(found.local) <= 30


def test_r2former_gives_the_descriptors_of_the_network(mini, place_weights):
    places = load_revisited_set(mini)
    photos = [places.queries[0], places.gallery[0]]
    describe = make_describer("r2former", place_weights, None, None, 0)
    net = make_place_network()
    for photo, found in zip(photos, describe(photos), strict=True):
        image = load_image(str(photo.path))
        if photo.box is not None:
            image = image.crop(tuple(int(x) for x in photo.box))
        with torch.inference_mode():
            global_, local = net(HardResize((96, 128))(image)[None])
        np.testing.assert_allclose(found.global_, global_[0], atol=1e-5)
        rows = torch.nn.functional.normalize(local[0, :, 3:], dim=1)
        np.testing.assert_allclose(found.local.descriptors, rows, atol=1e-5)
        np.testing.assert_allclose(found.local.locations, local[0, :, [1, 0]] * 128, atol=1e-3)
        np.testing.assert_allclose(found.local.attention, local[0, :, 2], atol=1e-5)
        assert found.frame == (96, 128)


def test_a_global_model_has_no_local_features(mini, tmp_path):
    net = make_place_network()
    weights = save_checkpoint(
        tmp_path / "global.pth", model_state_dict=net.backbone.state_dict(), epoch_num=1
    )
    describe = make_describer("r2former", weights, None, None, 0)
    store = Store(tmp_path / "store", describe.made_from, "int8", "int8")
    photos = list_photographs(mini)[:2]
    store.extend(photos, describe, progress=False)
    assert not store.has_locals
    with torch.inference_mode():
        wanted = net.embed_global(HardResize((96, 128))(load_image(str(photos[0].path)))[None])
    assert float(store.global_descriptors(np.array([0]))[0] @ wanted[0].numpy()) > 0.999
    reopened = Store(tmp_path / "store", describe.made_from, "int8", "int8")
    assert len(reopened.load_local(0)) == 0


def test_descriptors_extracted_again_count_as_changed(mini, sift_files):
    describe = make_describer("delg-files", None, 100, sift_files)
    photos = list_photographs(mini)[:2]
    before = describe.mark(photos)
    path = sift_files / f"{photos[1].path.stem}.delg_local"
    path.touch()
    after = describe.mark(photos)
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "gist"}, "global is 'gist', expected one of sift, vitgal"),
        ({"name": "vitgal"}, "vitgal needs the weights.*--weights.*sift needs none"),
        ({"name": "r2former"}, "r2former needs the weights"),
        ({"name": "delg-files"}, "name their folder with --delg-dir"),
        ({"name": "sift", "max_locals": 0}, "max_locals is 0"),
    ],
)
def test_what_a_describer_lacks_is_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_describer(**options)


def test_missing_files_are_named(mini, sift_files, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder of DELG descriptors"):
        make_describer("delg-files", delg_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist.*--weights"):
        make_describer("vitgal", tmp_path / "gone.pth")
    photo = make_photograph(next((mini / "jpg").iterdir()), mini)
    other = photo._replace(path=mini / "jpg/other.jpg")
    with pytest.raises(FileNotFoundError, match=r"other\.delg_global"):
        make_describer("delg-files", delg_dir=sift_files).mark([photo, other])


def test_a_damaged_photograph_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    photos = list_photographs(tmp_path)
    with pytest.raises(ValueError, match=r"broken\.jpg is not a picture"):
        list(make_describer("sift", workers=1)(photos))


def test_folders_without_ground_truth_or_photographs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ground truth gnd_\*\.pkl"):
        load_revisited_set(tmp_path)
    with pytest.raises(FileNotFoundError, match="no picture"):
        list_photographs(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a photograph nor a folder"):
        list_photographs(tmp_path / "nowhere")


def test_photographs_are_seen_upright(tmp_path, place_weights):
    """A picture stored lying, with the camera's tag for it, is described like the upright one."""
    rng = np.random.default_rng(0)
    upright = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (160, 120))
    cv2.imwrite(str(tmp_path / "upright.png"), upright)
    lying = Image.fromarray(np.rot90(upright[..., ::-1]))
    tag = Image.Exif()
    tag[0x0112] = 6  # orientation: turn clockwise to see it upright
    lying.save(tmp_path / "lying.png", exif=tag)
    for name, weights in (("sift", None), ("r2former", place_weights)):
        lying_, upright_ = make_describer(name, weights, None, None, 0)(list_photographs(tmp_path))
        np.testing.assert_allclose(lying_.global_, upright_.global_, atol=1e-5)
