"""The download script against a server of files: splits, checksums, resumption, unsafe archives."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.source_tree import ROOT

SCRIPT = ROOT / "delg_training" / "download_dataset.sh"
TABLES = {
    "metadata": (
        *("train.csv", "train_clean.csv", "train_attribution.csv", "train_label_to_category.csv"),
        *("index.csv", "index_image_to_landmark.csv", "index_label_to_category.csv", "test.csv"),
    ),
    "ground_truth": ("recognition_solution_v2.1.csv", "retrieval_solution_v2.1.csv"),
}

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    sums = path.parents[1] / "md5sum" / path.parent.name / f"md5.{path.stem}.txt"
    sums.parent.mkdir(parents=True, exist_ok=True)
    sums.write_text(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A folder in the layout of the official address: 8 train archives, one each of the others."""
    base = tmp_path / "server"
    for part, names in TABLES.items():
        (base / part).mkdir(parents=True)
        for name in names:
            (base / part / name).write_text(f"{name}\n")
    for split, count in (("train", 8), ("index", 1), ("test", 1)):
        for i in range(count):
            name = f"{i:x}/b/c/{i:x}bc{split}.jpg"
            write_archive(base / split / f"images_{i:03d}.tar", {name: f"{split} {i}".encode()})
    return base


def download(server: Path, *counts: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, counts)],
        cwd=server.parent,
        env={**os.environ, "GLDV2_BASE": f"file://{server}"},
        capture_output=True,
        text=True,
    )


def test_all_files_of_the_three_splits_arrive(server: Path) -> None:
    result = download(server, 8, 1, 1)
    assert result.returncode == 0, result.stderr
    root = server.parent / "gldv2_dataset"
    names = {path.name for path in root.rglob("*.csv")}
    assert names == {name for part in TABLES.values() for name in part}
    images = {path.name: path.read_text() for path in root.rglob("*.jpg")}
    expected = {f"{i:x}bctrain.jpg": f"train {i}" for i in range(8)}
    assert images == expected | {"0bcindex.jpg": "index 0", "0bctest.jpg": "test 0"}
    assert (root / "train" / "7" / "b" / "c" / "7bctrain.jpg").is_file()


def test_wrong_checksum_fails_and_is_mended_by_another_start(server: Path) -> None:
    sums = server / "md5sum" / "train" / "md5.images_001.txt"
    right = sums.read_text()
    sums.write_text(f"{'0' * 32}  images_001.tar\n")
    result = download(server, 2, 0, 0)
    assert result.returncode == 1
    assert "images_001.tar: the checksum is not 000" in result.stderr
    assert "train archive 1" in result.stderr
    root = server.parent / "gldv2_dataset"
    assert (root / "train" / "0" / "b" / "c" / "0bctrain.jpg").is_file()
    assert not (root / "train" / "1").exists()
    sums.write_text(right)
    assert download(server, 2, 0, 0).returncode == 0
    assert (root / "train" / "1" / "b" / "c" / "1bctrain.jpg").is_file()


def test_missing_files_are_counted(server: Path) -> None:
    (server / "metadata" / "index.csv").unlink()
    (server / "test" / "images_000.tar").unlink()
    result = download(server, 1, 1, 1)
    assert result.returncode == 1
    assert "2 files could not be had" in result.stderr
    assert "metadata/index.csv" in result.stderr
    assert (server.parent / "gldv2_dataset" / "index" / "0" / "b" / "c" / "0bcindex.jpg").is_file()


def test_cut_off_archive_is_continued_and_whole_ones_are_kept(server: Path) -> None:
    folder = server.parent / "gldv2_dataset" / "train"
    folder.mkdir(parents=True)
    content = (server / "train" / "images_000.tar").read_bytes()
    (folder / "images_000.tar.part").write_bytes(content[:1000])
    assert download(server, 2, 0, 0).returncode == 0
    assert (folder / "images_000.tar").read_bytes() == content
    archive = folder / "images_001.tar"
    before = archive.stat().st_mtime_ns
    assert download(server, 2, 0, 0).returncode == 0
    assert archive.stat().st_mtime_ns == before


def test_archive_that_leaves_its_folder_is_not_unpacked(server: Path) -> None:
    # so many members that their list is longer than a pipe holds
    others = {f"a/b/{'c' * 60}{i}.jpg": b"" for i in range(3000)}
    write_archive(server / "train" / "images_000.tar", {"../../escaped.jpg": b"x", **others})
    result = download(server, 1, 0, 0)
    assert result.returncode == 1
    assert "outside of its folder" in result.stderr
    assert not list(server.parent.rglob("escaped.jpg"))


@pytest.mark.parametrize("counts", [(), (1, 2), (501, 0, 0), (0, 101, 0), (0, 0, 21), ("x", 0, 0)])
def test_wrong_numbers_print_the_usage(server: Path, counts: tuple[object, ...]) -> None:
    result = download(server, *counts)
    assert result.returncode == 2
    assert "usage: download_dataset.sh N_TRAIN N_INDEX N_TEST" in result.stderr
    assert not (server.parent / "gldv2_dataset").exists()
