"""The download of released models, from archives of our own behind file:// addresses."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.source_tree import ROOT

SCRIPT = ROOT / "delg_scripts/download_models.sh"
DELG = (
    "r50delg_gld_20200814",
    "r101delg_gld_20200814",
    "r50delg_gldv2clean_20200914",
    "r101delg_gldv2clean_20200914",
)


def make_archive(folder: Path, name: str) -> None:
    """As released: one folder of the archive's name."""
    inside = folder / name
    inside.mkdir(parents=True)
    (inside / "saved_model.pb").write_text(name)
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(inside, name)
    shutil.rmtree(inside)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script, so that it writes beside itself in a folder of the test."""
    copy = tmp_path / "scripts" / SCRIPT.name
    copy.parent.mkdir()
    shutil.copy(SCRIPT, copy)
    return copy


def run(script: Path, source: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DELF_MODELS_URL": f"file://{source}"}
    command = ["bash", str(script), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_four_models_are_brought_and_kept(script: Path, tmp_path: Path) -> None:
    for name in DELG:
        make_archive(tmp_path / "source", name)
    result = run(script, tmp_path / "source")
    assert result.returncode == 0, result.stderr
    for name in DELG:
        model = script.parent / "parameters" / name / "saved_model.pb"
        assert model.read_text() == name
    shutil.rmtree(tmp_path / "source")
    again = run(script, tmp_path / "source")
    assert again.returncode == 0
    assert again.stdout.count("is there already") == 4
    assert sorted(p.name for p in (script.parent / "parameters").iterdir()) == sorted(DELG)


def test_an_archive_that_cannot_be_had_fails_and_the_others_come(
    script: Path, tmp_path: Path
) -> None:
    make_archive(tmp_path / "source", DELG[1])
    result = run(script, tmp_path / "source", DELG[0], DELG[1])
    assert result.returncode == 1
    assert f"failed: {DELG[0]}" in result.stderr
    assert (script.parent / "parameters" / DELG[1] / "saved_model.pb").is_file()
    assert not (script.parent / "parameters" / DELG[0]).exists()


def test_damaged_archive_leaves_no_model(script: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / f"{DELG[0]}.tar.gz").write_bytes(b"<html>not here</html>")
    assert run(script, tmp_path / "source", DELG[0]).returncode == 1
    assert list((script.parent / "parameters").iterdir()) == [], "nor the damaged archive"
    make_archive(tmp_path / "source", DELG[0])
    assert run(script, tmp_path / "source", DELG[0]).returncode == 0


def test_interrupted_download_is_gone_on_with(script: Path, tmp_path: Path) -> None:
    make_archive(tmp_path / "source", DELG[0])
    parameters = script.parent / "parameters"
    parameters.mkdir()
    whole = (tmp_path / "source" / f"{DELG[0]}.tar.gz").read_bytes()
    (parameters / f"{DELG[0]}.tar.gz.part").write_bytes(whole[:50])
    assert run(script, tmp_path / "source", DELG[0]).returncode == 0
    assert [path.name for path in parameters.iterdir()] == [DELG[0]]


def test_unknown_archive_is_refused_with_the_choices(script: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path, "r50delg")
    assert result.returncode == 2
    assert DELG[0] in result.stderr
    assert not (script.parent / "parameters").exists()


def test_help_names_the_archives(script: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path, "--help")
    assert result.returncode == 0
    assert "rn101_af_gldv2clean_20200814" in result.stdout
