"""Locks: between processes, not within one; gone with their holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.locks import Lock
from utils.paths import REPO_ROOT, atomic_path, atomic_write

HOLDER = """
import sys, time
from utils.locks import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_or_waits_until_the_holder_is_no_more(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    holder = hold(path)
    with pytest.raises(RuntimeError, match=r"another process writes to .*rows\.npy"):
        Lock(path, wait=False)
    holder.send_signal(signal.SIGKILL)
    with Lock(path):  # waits for the end of the killed one
        assert (tmp_path / ".rows.npy.lock").is_file()
    assert list(tmp_path.iterdir()) == []
    holder.wait()


def test_one_process_may_claim_twice_and_a_fork_lets_go_of_nothing(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "a")
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / ".a.lock").is_file()
    Lock(tmp_path / "a", wait=False).release()
    lock.release()
    lock.release()


KILLED = """
import os, signal, sys
from pathlib import Path
from utils.paths import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_killed_processes_are_removed_and_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "table.jpg"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPO_ROOT)
    left = list(tmp_path.iterdir())
    assert [p.name.startswith(".table.") and ".part.jpg" in p.name for p in left] == [True]
    with atomic_path(tmp_path / "busy.jpg") as mine:  # of a process that is there
        mine.write_bytes(b"x")
        other = tmp_path / "b"
        atomic_write(other, b"y")
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
