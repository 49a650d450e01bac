"""Set-up of .venv by demo.sh and test.sh, with a stand-in for python3 that installs nothing.

The stand-in runs `-c` code for real (with version and free disk space as a test wants them), makes
the skeleton of an environment for `-m venv` and writes down every `-m pip install`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """#!{python}
import os, shutil, sys, time
from collections import namedtuple
from pathlib import Path

me, args = Path(sys.argv[0]), sys.argv[1:]
knob = lambda name, default: os.environ.get("FAKE_" + name, default)
if args[0] == "-c":
    version = me.with_name("version").read_text()
    sys.version_info = tuple(int(part) for part in version.split("."))
    if "shutil" in args[1]:
        usage = namedtuple("usage", "free")
        shutil.disk_usage = lambda path: usage(float(knob("FREE_GB", "50")) * 1e9)
    if "ensurepip" in args[1] and knob("NO_VENV", ""):
        sys.exit(1)
    sys.argv = ["-c", *args[2:]]
    exec(args[1])
elif args[:2] == ["-m", "venv"]:
    bin_folder = Path(args[2]) / "bin"
    bin_folder.mkdir(parents=True)
    shutil.copy(me, bin_folder / "python")
    shutil.copy(me.with_name("version"), bin_folder / "version")
elif args[:3] == ["-m", "pip", "install"]:
    time.sleep(float(knob("PIP_SECONDS", "0")))
    with open("calls.txt", "a") as log:
        log.write("install " + args[-1] + "\\n")
    if knob("PIP_FAILS", ""):
        sys.exit("No matching distribution")
elif args[:2] != ["-m", "pip"]:
    with open("calls.txt", "a") as log:
        log.write("run " + " ".join(args) + "\\n")
"""


class Checkout:
    """A folder with the set-up file, small requirements and a python3 of its own on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.root.mkdir()
        self.bin.mkdir()
        for name in ("setup_env.sh", "demo.sh", "test.sh"):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "requirements.txt").write_text("one==1  # a comment\n")
        (self.root / "requirements-dev.txt").write_text("-r requirements.txt\ntwo\n")
        self.add_python("python3", "3.11")
        (self.root / "photos").mkdir()

    def add_python(self, name: str, version: str) -> None:
        """A stand-in of that version; others of the same folder share it, so one version a test."""
        file = self.bin / name
        file.write_text(STAND_IN.format(python=sys.executable))
        file.chmod(0o755)
        (self.bin / "version").write_text(version)

    def environment(self, **knobs: str) -> dict[str, str]:
        # bash, sed and the like from the system; no other interpreter than the stand-in
        tools = self.bin.parent / "tools"
        if not tools.exists():
            tools.mkdir()
            for tool in ("bash", "sed", "rm", "mkdir", "mv", "dirname"):
                found = shutil.which(tool)
                assert found is not None
                (tools / tool).symlink_to(found)
        return {"PATH": f"{self.bin}:{tools}", **{f"FAKE_{k}": v for k, v in knobs.items()}}

    def setup(self, requirements: str, **knobs: str) -> subprocess.CompletedProcess[str]:
        command = f"set -euo pipefail; source setup_env.sh; setup_env {requirements}; echo $PYTHON"
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=self.environment(**knobs),
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        """What was installed and run since the last look."""
        file = self.root / "calls.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_installs_once_and_names_the_interpreter(checkout: Checkout) -> None:
    first = checkout.setup("requirements.txt")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(checkout.root / ".venv/bin/python")
    assert checkout.calls() == ["install requirements.txt"]
    second = checkout.setup("requirements.txt")
    assert (second.returncode, second.stderr, checkout.calls()) == (0, "", [])


def test_demo_and_test_share_the_environment(checkout: Checkout) -> None:
    """The test tools are added to what the demo installed; the demo needs nothing after them."""
    for name in ("requirements.txt", "requirements-dev.txt", "requirements.txt"):
        assert checkout.setup(name).returncode == 0
    assert checkout.calls() == ["install requirements.txt", "install requirements-dev.txt"]


def test_changed_requirements_remake_the_environment(checkout: Checkout) -> None:
    checkout.setup("requirements-dev.txt")
    leftover = checkout.root / ".venv/leftover"
    leftover.touch()
    (checkout.root / "requirements.txt").write_text("one==1  # another comment\n")
    checkout.setup("requirements-dev.txt")
    assert leftover.exists(), "a comment is no change"
    (checkout.root / "requirements.txt").write_text("one==2\n")
    result = checkout.setup("requirements.txt")
    assert "requirements.txt or its Python changed" in result.stderr
    assert not leftover.exists()
    assert checkout.calls()[-1] == "install requirements.txt"


def test_another_python_remakes_the_environment(checkout: Checkout) -> None:
    checkout.setup("requirements.txt")
    (checkout.root / ".venv/bin/version").write_text("3.12")  # as after an upgrade of the system
    result = checkout.setup("requirements.txt")
    assert "remaking .venv" in result.stderr
    assert len(checkout.calls()) == 2


def test_failed_installation_is_explained_and_remade(checkout: Checkout) -> None:
    failed = checkout.setup("requirements.txt", PIP_FAILS="1")
    assert failed.returncode == 1
    assert "No matching distribution" in failed.stderr
    assert "HTTPS_PROXY" in failed.stderr
    again = checkout.setup("requirements.txt")
    assert again.returncode == 0
    assert "interrupted" in again.stderr


def test_killed_installation_is_remade(checkout: Checkout) -> None:
    process = subprocess.Popen(
        ["bash", "-c", "source setup_env.sh; setup_env requirements.txt"],
        cwd=checkout.root,
        env=checkout.environment(PIP_SECONDS="60"),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (checkout.root / ".venv/bin/python").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = checkout.setup("requirements.txt")
    assert "interrupted" in result.stderr
    assert (result.returncode, checkout.calls()) == (0, ["install requirements.txt"])


def test_two_runs_install_once(checkout: Checkout) -> None:
    command = ["bash", "-c", "source setup_env.sh; setup_env requirements.txt"]
    runs = [
        subprocess.Popen(
            command,
            cwd=checkout.root,
            env=checkout.environment(PIP_SECONDS="0.5"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    messages = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], messages
    assert checkout.calls() == ["install requirements.txt"]


@pytest.mark.parametrize("version", ["3.8", "3.10", "3.13"])
def test_unsupported_python_is_named_with_a_remedy(checkout: Checkout, version: str) -> None:
    checkout.add_python("python3", version)
    result = checkout.setup("requirements.txt")
    assert result.returncode == 1
    assert f"found: python3 is {version}" in result.stderr
    assert "PYTHON=" in result.stderr
    assert not (checkout.root / ".venv").exists()


def test_another_interpreter_is_found_when_python3_does_not_run(checkout: Checkout) -> None:
    """A pyenv shim without a chosen version exists but fails when it is run."""
    checkout.add_python("python3.12", "3.12")
    (checkout.bin / "python3").write_text(
        "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
    )
    result = checkout.setup("requirements.txt")
    assert result.returncode == 0, result.stderr
    assert "with python3.12 (3.12)" in result.stderr


def test_missing_venv_module_is_explained(checkout: Checkout) -> None:
    result = checkout.setup("requirements.txt", NO_VENV="1")
    assert result.returncode == 1
    assert "python3 (3.11) has no venv module" in result.stderr
    assert "apt install python3-venv" in result.stderr


def test_full_disk_is_found_before_installing(checkout: Checkout) -> None:
    result = checkout.setup("requirements.txt", FREE_GB="2.5")
    assert result.returncode == 1
    assert "2.5 GB are free" in result.stderr
    assert "9 GB are needed" in result.stderr
    assert (checkout.calls(), (checkout.root / ".venv").exists()) == ([], False)


def run_demo(checkout: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "../demo.sh", *arguments],
        cwd=checkout.root / "photos",
        env=checkout.environment(),
        capture_output=True,
        text=True,
    )


def test_demo_passes_arguments_on(checkout: Checkout) -> None:
    """From any folder; a path is meant from where the command was typed."""
    (checkout.root / "photos/mine").mkdir()
    assert run_demo(checkout).returncode == 0
    assert run_demo(checkout, "mine", "--top_k", "20").returncode == 0
    folder = checkout.root / "photos/mine"
    runs = ["run -m rrt_gld.demo", f"run -m rrt_gld.demo {folder} --top_k 20"]
    assert checkout.calls() == ["install requirements.txt", *runs]


def test_demo_names_a_missing_folder_before_it_installs(checkout: Checkout) -> None:
    result = run_demo(checkout, "nowhere")
    assert result.returncode == 2
    assert "nowhere is not a folder" in result.stderr
    assert checkout.calls() == []


def test_demo_help_needs_no_set_up(checkout: Checkout) -> None:
    result = run_demo(checkout, "--help")
    assert "bash demo.sh FOLDER" in result.stdout
    assert checkout.calls() == []
