"""Fetching the real sets from a server on this machine: resumed, checked, unpacked safely."""

import hashlib
import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import download
from data.sources import SOURCES, Remote, Source, count_pictures, flat_pictures, revisited_truth
from utils.downloads import unpack_tar

NOISE = b"".join(hashlib.sha256(bytes([k])).digest() for k in range(40))  # cannot be compressed
PICTURES = {"set/a.jpg": NOISE, "set/b/c.JPG": b"second", "set/readme.txt": b"text"}


def make_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as content:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            content.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `cut`: bytes after which an answer ends."""

    cut: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data = self.server.files.get(self.path[1:])
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path[1:], wanted))
        if data is None:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:][: self.server.cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def source(server: Server, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A set of one archive with its md5 and one plain file."""
    archive = make_tar(PICTURES)
    server.files = {
        "x.tgz": archive, "x.md5": f"{hashlib.md5(archive).hexdigest()}  x.tgz\n".encode(),
        "list.csv": b"a,b\n",
    }  # fmt: skip
    files = (
        Remote(server.address("x.tgz"), "archives/x.tgz", server.address("x.md5"), "set/jpg",
               flat_pictures),
        Remote(server.address("list.csv"), "set/list.csv"),
    )  # fmt: skip
    made = Source("set", "a set", "small", "https://example.org", files)
    monkeypatch.setattr(download, "SOURCES", (made, SOURCES[-1]))
    return made


def test_archive_is_fetched_checked_and_unpacked(source: Source, server: Server, tmp_path) -> None:
    assert download.main(["set", "--out", str(tmp_path)]) == 0
    found = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "set").rglob("*.*")}
    assert found == {"set/jpg/a.jpg", "set/jpg/c.JPG", "set/list.csv"}
    assert (tmp_path / "set/jpg/a.jpg").read_bytes() == PICTURES["set/a.jpg"]
    assert not (tmp_path / "archives/x.tgz").exists(), "unpacked, so deleted"
    asked = len(server.asked)
    assert download.main(["set", "--out", str(tmp_path)]) == 0
    assert len(server.asked) == asked, "nothing is fetched again"


def test_cut_connection_is_gone_on_with(source: Source, server: Server, tmp_path, capsys) -> None:
    server.cut = 20
    assert download.main(["set", "--out", str(tmp_path), "--parts", "0"]) == 1
    assert "run the command again to go on" in capsys.readouterr().err
    server.cut = None
    assert download.main(["set", "--out", str(tmp_path), "--parts", "0", "--keep"]) == 0
    assert ("x.tgz", "bytes=20-") in server.asked
    assert (tmp_path / "archives/x.tgz").read_bytes() == server.files["x.tgz"]


def test_wrong_checksum_deletes_the_file_and_says_so(source, server, tmp_path, capsys) -> None:
    server.files["x.tgz"] = make_tar({"other.jpg": b"x"})
    assert download.main(["set", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "has md5" in shown
    assert "run the command again" in shown
    assert not (tmp_path / "archives/x.tgz").exists()
    assert (tmp_path / "set/list.csv").is_file(), "one failure does not stop the others"
    assert not (tmp_path / "set/jpg").exists()


def test_missing_file_and_server_are_named(source, server, tmp_path, capsys) -> None:
    del server.files["list.csv"]
    assert download.main(["set", "--out", str(tmp_path)]) == 1
    assert "404" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part"))


def test_sizes_are_asked_for(source, server, capsys) -> None:
    assert download.main(["set", "--sizes", "--parts", "1-1"]) == 0
    assert capsys.readouterr().out.strip().endswith("list.csv  4 bytes")


def test_set_without_files_says_what_to_do(source, tmp_path, capsys) -> None:
    assert download.main([SOURCES[-1].name, "--out", str(tmp_path)]) == 1
    assert "is not fetched by this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "'nowhere' is no set of the list: set"),
     (["set", "--parts", "5"], "expected a range within 0-1"),
     (["set", "--parts", "a-b"], "expected a range within 0-1")],
)  # fmt: skip
def test_wrong_names_and_ranges(source, tmp_path, capsys, arguments, message) -> None:
    assert download.main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as content:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        content.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        make_tar({"../x.jpg": b"1"}), make_tar({"/abs.jpg": b"1"}), make_tar({"a/../../b": b"1"}),
        make_tar({"a\\..\\b": b"1"}), link("x", "/etc/passwd"), link("x", "y", tarfile.LNKTYPE),
        link("x", "", tarfile.FIFOTYPE), link("x", "", tarfile.CHRTYPE),
    ],
)  # fmt: skip
def test_archive_that_would_leave_its_folder_is_refused(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "bad.tar"
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="trusted place"):
        unpack_tar(archive, tmp_path / "out", lambda path: path)
    assert not list(tmp_path.glob("out/*"))
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.tar", "out"}


def test_link_in_the_folder_is_not_followed_out_of_it(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(make_tar({"sub/x.jpg": b"1"}))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="remove the link"):
        unpack_tar(archive, tmp_path / "out", lambda path: path)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("keep", [0, 10, 600, -20, -5])
def test_damaged_archive_is_named(tmp_path: Path, keep: int) -> None:
    archive = tmp_path / "x.tgz"
    archive.write_bytes(make_tar(PICTURES)[:keep])
    with pytest.raises(ValueError, match="is not a whole tar archive"):
        unpack_tar(archive, tmp_path / "out", lambda path: path)
    assert not list((tmp_path / "out").rglob(".*")), "no half-written file"


def test_unpacking_goes_on(tmp_path: Path) -> None:
    archive, out = tmp_path / "x.tgz", tmp_path / "out"
    archive.write_bytes(make_tar(PICTURES))
    assert unpack_tar(archive, out, flat_pictures) == 2
    kept = (out / "a.jpg").stat().st_mtime_ns
    (out / "c.JPG").write_bytes(b"half")
    assert unpack_tar(archive, out, flat_pictures) == 2
    assert (out / "c.JPG").read_bytes() == b"second"
    assert (out / "a.jpg").stat().st_mtime_ns == kept


def test_sets_are_checked_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg/a.jpg").touch()
    count_pictures("jpg", 1)(tmp_path)
    with pytest.raises(ValueError, match="holds 1 pictures, expected 2"):
        count_pictures("jpg", 2)(tmp_path)
    lists = {"easy": [0], "hard": [], "junk": []}
    truth = {"imlist": ["a"], "qimlist": ["q"], "gnd": [lists]}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(truth))
    revisited_truth("gnd.pkl", 1, 1)(tmp_path)
    with pytest.raises(ValueError, match="1 queries and 1 gallery images, expected 70 and 4993"):
        revisited_truth("gnd.pkl", 70, 4993)(tmp_path)


def test_list_shows_every_set_with_its_address(capsys) -> None:
    assert download.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for source in SOURCES:
        assert source.name in shown
        assert bool(source.files) != bool(source.how), "either files or what to do"
    assert "https://s3.amazonaws.com/google-landmark/train/images_000.tar" in shown
    assert download.main([]) == 2


def test_sources_are_consistent() -> None:
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len(names)
    paths = [remote.path for source in SOURCES for remote in source.files]
    assert len(set(paths)) == len(paths)
    addresses = [remote.address for source in SOURCES for remote in source.files]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith(("http://", "https://")) for address in addresses)
    assert json.dumps(addresses)
