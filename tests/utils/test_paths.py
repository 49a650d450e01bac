"""Checks of input files, and writing that never leaves half a file."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from utils.paths import REPO_ROOT, atomic_path, atomic_write, require_file, require_files

# writes past the size limit of the process: a real OSError in the middle of the file
FULL_DISK = """
import resource, sys
from utils.paths import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(sys.argv[1], bytes(100_000))
except OSError as error:
    print(error)
"""


def test_repo_root_holds_the_shared_package():
    assert (REPO_ROOT / "utils" / "paths.py").is_file()


def test_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl does not exist; run first\.sh"):
        require_file(tmp_path / "absent.pkl", "run first.sh")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        require_file(tmp_path, "run first.sh")
    (tmp_path / "there").write_text("x")
    assert require_file(str(tmp_path / "there"), "run first.sh") == tmp_path / "there"


def test_all_missing_files_are_counted_and_the_first_ten_named(tmp_path):
    (tmp_path / "here").write_text("x")
    paths = [tmp_path / "here", *(tmp_path / f"absent{i:02d}" for i in range(12))]
    with pytest.raises(FileNotFoundError) as caught:
        require_files(paths, "extract them")
    message = str(caught.value)
    assert "12 of 13 files do not exist; extract them" in message
    assert [f"absent{i:02d}" in message for i in range(12)] == [True] * 10 + [False] * 2
    assert require_files(paths[:1], "extract them") == paths[:1]


def test_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "table.pkl"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".pkl"  # writers such as OpenCV go by it
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ZeroDivisionError])
def test_interrupted_writing_keeps_the_old_file(tmp_path, error):
    def write_half(target: Path) -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    target = tmp_path / "table.pkl"
    atomic_write(target, b"old")
    with pytest.raises(error):
        write_half(target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_names_file_and_remedy_and_leaves_nothing(tmp_path):
    target = tmp_path / "table.pkl"
    atomic_write(target, b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO_ROOT,
    )
    assert str(target) in done.stdout
    assert "free space" in done.stdout
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_unusable_folder_names_file_and_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="choose another output folder") as caught:
        atomic_write(tmp_path / "file" / "table.pkl", b"x")
    assert "table.pkl" in str(caught.value)
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError, match="taken cannot be written"):
        atomic_write(tmp_path / "taken", b"x")


def test_error_class_and_number_are_kept(tmp_path):
    with pytest.raises(PermissionError) as caught, atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a"))
    assert caught.value.errno == errno.EACCES


def test_missing_input_inside_the_block_keeps_its_own_message(tmp_path):
    absent = Path("elsewhere") / "input.txt"
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a"):
        absent.read_text()
    assert "cannot be written" not in str(caught.value)
