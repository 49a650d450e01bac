"""From the official archive to the lists: byte for byte, safely, and again when interrupted."""

import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rrt_sop.datasets import archive as archive_module
from rrt_sop.prepare_data import ex
from tests.rrt_sop.image_folders import write_products, zip_folder

COUNTS = {"train_images": 24, "train_classes": 8, "test_images": 15, "test_classes": 5}
RESULT = {"train": {"images": 24, "classes": 8}, "test": {"images": 15, "classes": 5}}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An unpacked folder with the lists that are wanted; only read."""
    return write_products(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def zipped(source, tmp_path_factory) -> Path:
    return zip_folder(source, tmp_path_factory.mktemp("zip") / "sop.zip")


def prepare(sop_dir: Path, **options: Any) -> Any:
    return ex.run(config_updates={"sop_dir": str(sop_dir), "sop_url": None, **COUNTS, **options})


def assert_prepared(folder: Path, source: Path) -> None:
    """The same lists and images as in `source`."""
    for path in source.rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(source)).read_bytes() == path.read_bytes(), path
    left = [path.name for path in folder.rglob("*") if ".part" in path.name]
    assert not left, "no half-written file is left"


def test_unpacked_folder_gets_its_lists(source, tmp_path):
    folder = tmp_path / "sop"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("train.txt", "test.txt"))
    assert prepare(folder).result == RESULT
    assert_prepared(folder, source)
    lines = (folder / "train.txt").read_text()
    # class ids from 0, no newline at the end
    assert lines.startswith("chair_final/00001_0.png,0\n")
    assert lines.endswith("chair_final/00008_2.png,7")


def test_blanks_of_the_official_lists_do_not_matter(source, tmp_path):
    folder = Path(shutil.copytree(source, tmp_path / "sop"))
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        text = (folder / name).read_text().replace(" ", "   ").replace("\n", " \r\n")
        (folder / name).write_text(text, newline="")
    prepare(folder)
    assert (folder / "test.txt").read_bytes() == (source / "test.txt").read_bytes()


def test_zip_is_unpacked_beside_its_lists(source, zipped, tmp_path):
    assert prepare(tmp_path / "data/sop", sop_url=str(zipped)).result == RESULT
    assert_prepared(tmp_path / "data/sop", source)


def test_zip_without_a_top_folder_will_do(source, tmp_path):
    flat = tmp_path / "flat.zip"
    with zipfile.ZipFile(flat, "w") as content:
        for path in source.rglob("*"):
            content.write(path, path.relative_to(source))
    prepare(tmp_path / "sop", sop_url=str(flat))
    assert_prepared(tmp_path / "sop", source)


def test_folder_elsewhere_is_linked(source, tmp_path):
    elsewhere = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    folder = tmp_path / "data/sop"
    prepare(folder, sop_url=str(elsewhere))
    assert folder.is_symlink()
    assert_prepared(folder, source)
    assert prepare(folder).result == RESULT, "and is a folder like any other from then on"


def test_generated_set_has_a_named_config():
    run = ex._create_run("print_config", named_configs=["mini"])
    assert run.config["sop_dir"] == "data/mini_products"
    assert [run.config[key] for key in COUNTS] == [None] * 4


def test_official_counts_are_expected_by_default(source):
    with pytest.raises(
        ValueError, match=r"Ebay_train\.txt lists 24 images of 8 classes, expected 59551 of 11318"
    ):
        ex.run(config_updates={"sop_dir": str(source)})
    with pytest.raises(ValueError, match=r"Ebay_test\.txt lists 15 .* 60502 of 11316.*test_images"):
        ex.run(config_updates={"sop_dir": str(source), "train_images": 24, "train_classes": 8})
    any_number = dict.fromkeys(COUNTS)
    assert prepare(source, **any_number).result == RESULT


# ------------------------------------------------------------------ interruptions


def test_unpacking_goes_on_where_it_was_interrupted(source, zipped, tmp_path, monkeypatch):
    written = []
    write = archive_module._write

    def dies(content, info, target):
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(target)
        write(content, info, target)

    monkeypatch.setattr(archive_module, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "sop", sop_url=str(zipped))
    assert not (tmp_path / "sop/Ebay_train.txt").exists(), "the lists come last"
    first = set(written)
    written.clear()
    written.extend([Path()] * 21)  # let it pass
    prepare(tmp_path / "sop", sop_url=str(zipped))
    assert not first & set(written)
    assert_prepared(tmp_path / "sop", source)


class Server(ThreadingHTTPServer):
    """Serves one file; `cut`: bytes after which answers end; `ranges`: whether it knows them."""

    data = b""
    cut: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/sop%20set.zip?x=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start >= len(self.server.data):
            self.send_response(416)
            self.end_headers()
            return
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(zipped) -> Iterator[Server]:
    made = Server()
    made.data = zipped.read_bytes()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_address_is_fetched_and_unpacked(server, source, tmp_path):
    assert prepare(tmp_path / "data/sop", sop_url=server.address).result == RESULT
    assert_prepared(tmp_path / "data/sop", source)
    assert (tmp_path / "data/sop set.zip").read_bytes() == server.data
    prepare(tmp_path / "data/sop", sop_url=server.address)
    assert len(server.asked) == 1, "what is unpacked is not fetched again"


@pytest.mark.parametrize("ranges", [True, False])
def test_fetching_goes_on_where_it_was_cut(server, source, tmp_path, ranges):
    server.cut, server.ranges = 1000, ranges
    with pytest.raises(OSError, match=r"run the command again to go on"):
        prepare(tmp_path / "data/sop", sop_url=server.address)
    assert (tmp_path / "data/sop set.zip.part").stat().st_size == 1000
    server.cut = None
    prepare(tmp_path / "data/sop", sop_url=server.address)
    assert server.asked == [None, "bytes=1000-"]
    assert_prepared(tmp_path / "data/sop", source)


def test_a_part_that_is_whole_is_not_fetched_again(server, source, tmp_path):
    (tmp_path / "sop set.zip.part").write_bytes(server.data)
    prepare(tmp_path / "sop", sop_url=server.address)
    assert_prepared(tmp_path / "sop", source)


def test_address_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(
        OSError, match=r"http://127\.0\.0\.1:9/x\.zip could not be fetched.*sop_url"
    ):
        prepare(tmp_path / "sop", sop_url="http://127.0.0.1:9/x.zip")


# ------------------------------------------------------------------ archives that are refused


def unsafe_zip(path: Path, source: Path, name: str, mode: int = 0, flag: int = 0) -> Path:
    """The set with one more entry."""
    zip_folder(source, path)
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as content:
        content.writestr(info, b"evil")
        info.flag_bits |= flag
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../outside.txt", 0),
        ("Stanford_Online_Products/../../outside.txt", 0),
        ("/outside.txt", 0),
        ("C:/outside.txt", 0),
        ("Stanford_Online_Products\\..\\outside.txt", 0),
        ("Stanford_Online_Products/link", stat.S_IFLNK | 0o777),
        ("Stanford_Online_Products/pipe", stat.S_IFIFO | 0o666),
    ],
)
def test_archive_that_would_leave_its_folder_is_refused_as_a_whole(source, tmp_path, name, mode):
    unsafe = unsafe_zip(tmp_path / "unsafe.zip", source, name, mode)
    with pytest.raises(ValueError, match=r"unsafe\.zip holds 1 entries that would leave its fold"):
        prepare(tmp_path / "deep/sop", sop_url=str(unsafe))
    assert [path.name for path in tmp_path.rglob("*")] == ["unsafe.zip"], "nothing was written"


def test_links_in_the_target_are_not_followed_out_of_it(source, zipped, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "sop"
    folder.mkdir()
    (folder / "chair_final").symlink_to(outside)
    with pytest.raises(ValueError, match=r"through the link .*chair_final"):
        prepare(folder, sop_url=str(zipped))
    assert not list(outside.iterdir())


def test_encrypted_archive_is_refused(source, tmp_path):
    path = zip_folder(source, tmp_path / "secret.zip")
    with zipfile.ZipFile(path, "a") as content:
        content.writestr("Stanford_Online_Products/a.txt", b"x")
        content.infolist()[-1].flag_bits |= 1
    with pytest.raises(ValueError, match=r"secret\.zip holds 1 entries"):
        prepare(tmp_path / "sop", sop_url=str(path))


def test_damaged_and_foreign_archives_are_named(source, zipped, tmp_path):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zipped.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.zip is not a whole zip file.*fetch it again"):
        prepare(tmp_path / "sop", sop_url=str(cut))
    flipped = bytearray(zipped.read_bytes())
    at = flipped.find(b"IDAT") + 40  # inside an image's data
    flipped[at : at + 8] = b"\0" * 8
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"flipped\.zip is not a whole zip file"):
        prepare(tmp_path / "sop", sop_url=str(tmp_path / "flipped.zip"))
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as content:
        content.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"other\.zip holds no Ebay_train\.txt"):
        prepare(tmp_path / "sop", sop_url=str(other))


def test_full_disk_is_told_of_before_anything_is_written(zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(
        archive_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9)
    )
    with pytest.raises(OSError, match=r"unpacking needs 0\.0 GB, .* free some space"):
        prepare(tmp_path / "sop", sop_url=str(zipped))
    assert not list((tmp_path / "sop").iterdir())


# ------------------------------------------------------------------ folders that do not fit


def test_nothing_there_and_nothing_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not hold Ebay_train\.txt .*sop_url"):
        prepare(tmp_path / "sop")
    with pytest.raises(FileNotFoundError, match=r"gone\.zip does not exist"):
        prepare(tmp_path / "sop", sop_url=str(tmp_path / "gone.zip"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"empty does not hold Ebay_train\.txt and Ebay_test"
    ):
        prepare(tmp_path / "sop", sop_url=str(tmp_path / "empty"))


def test_a_folder_in_the_way_is_not_replaced_by_a_link(source, tmp_path):
    (tmp_path / "sop").mkdir()
    with pytest.raises(FileExistsError, match=r"sop is there, but without.*sop_dir="):
        prepare(tmp_path / "sop", sop_url=str(source))


def test_missing_images_are_counted(source, tmp_path):
    folder = Path(shutil.copytree(source, tmp_path / "sop"))
    for path in sorted(folder.glob("chair_final/*"))[:3]:
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match="3 of 39 files do not exist; the archive is unpack"
    ):
        prepare(folder)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("image_id class_id", "id", None),
        ("super_class_id path\n", "\n", r"Ebay_train\.txt begins with 'image_id class_id '"),
        ("1 1 1 chair", "1 one 1 chair", r"Ebay_train\.txt, line 2: '1 one 1 chair_final"),
        ("1 1 1 chair", "1 0 1 chair", "with class ids from 1"),
        ("24 8 1 chair_final/00008_2.png", "24 8 1", r"Ebay_train\.txt, line 25"),
        ("00001_1.png", "00001_0.png", "lists 1 images more than once"),
        ("24 8 1 chair", "24 9 1 chair", "lists 24 images of 9 classes, expected 24 of 8"),
    ],
)
def test_malformed_official_lists_are_named(source, tmp_path, old, new, complaint):
    folder = Path(shutil.copytree(source, tmp_path / "sop"))
    path = folder / "Ebay_train.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    if complaint is None:
        prepare(folder)
        return
    with pytest.raises(ValueError, match=complaint):
        prepare(folder)


def test_classes_in_both_lists_are_refused(source, tmp_path):
    folder = Path(shutil.copytree(source, tmp_path / "sop"))
    path = folder / "Ebay_test.txt"
    path.write_text(path.read_text().replace(" 13 1 ", " 3 1 "))
    with pytest.raises(ValueError, match=r"1 classes are in both lists \(the first is 3\)"):
        prepare(folder)


def test_lists_of_other_content_are_replaced_only_when_asked(source, tmp_path):
    folder = Path(shutil.copytree(source, tmp_path / "sop"))
    (folder / "test.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"test\.txt is there with other content; overwrite="):
        prepare(folder)
    assert (folder / "test.txt").read_text() == "mine"
    prepare(folder, overwrite=True)
    assert (folder / "test.txt").read_bytes() == (source / "test.txt").read_bytes()
