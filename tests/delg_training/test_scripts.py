"""Every row script of the TensorFlow systems resolves; tests/test_scripts.py has the others."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from delg_training.retrieval_rows import EXPECTED
from tests.source_tree import ROOT
from tests.test_scripts import (
    FIRST_LINES,
    HEADER_KEYS,
    PYTHON_CALL,
    check_call,
    commands,
    recorded_calls,
)
from tests.test_scripts import all_scripts as scripts_of_other_systems
from utils.results import load_expected

FOLDERS = {"delg_training/scripts": "/../..", "delg_scripts": "/.."}  # and the way to the root
DOWNLOADS = ("download_models",)  # call no Python; the tests of downloading are others
MODELS = ("r50_gldv1", "r50_gldv2", "r101_gldv1", "r101_gldv2")
NAMED = {
    "delg_training/scripts": (
        *("train_delf", "train_delg", "match_example"),
        *("export_local", "export_global", "export_local_and_global"),
        *(f"eval_delg_{model}_{s}_global" for model in MODELS for s in ("roxf", "rpar")),
        *("eval_delg_r50_gldv1_roxf_gv", "eval_delg_rn101_af_gldv2_roxf_global"),
        *("train_mini", "export_mini", "extract_mini"),
    ),
    "delg_scripts": tuple(
        f"extract_{name}_{model}" for name in ("gldv2", "oxford", "paris") for model in MODELS
    ),
}


FURTHER = ("seed=7", "top word=a b")  # options that a user gives
Calls = Callable[[Path], list[list[str]]]


def all_scripts() -> list[Path]:
    found = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.sh"))
    return [path for path in found if path.stem not in DOWNLOADS]


@pytest.fixture(scope="module")
def calls_of(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """Python calls of a script with further options behind it; it is started once."""
    known: dict[Path, list[list[str]]] = {}

    def recall(script: Path) -> list[list[str]]:
        if script not in known:
            folder = tmp_path_factory.mktemp(script.stem)
            known[script] = recorded_calls(script, folder, *FURTHER)
        return known[script]

    return recall


def folder_of(script: Path) -> str:
    return str(script.parent.relative_to(ROOT))


def log_folders(script: Path) -> list[str]:
    """Folders behind -F, from the text: nothing is carried out."""
    return re.findall(r" -F (\S+)", " ".join(commands(script)))


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_options_of_script_exist(script: Path, calls_of: Calls) -> None:
    calls = calls_of(script)
    assert calls, "the script calls nothing"
    for call in calls:
        check_call(call[: -len(FURTHER)])


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_script_holds_no_logic_and_passes_options_on(script: Path, calls_of: Calls) -> None:
    first, second, *calls = commands(script)
    way = FOLDERS[folder_of(script)]
    assert (first, second) == (
        "set -euo pipefail",
        f'cd "$(dirname "${{BASH_SOURCE[0]}}"){way}"',
    )
    assert script.read_text().splitlines()[:1] == FIRST_LINES
    for line in calls:
        assert line.startswith(PYTHON_CALL), line
        assert not re.search(r"[;|&`<>]|\$\(", line), f"logic in {line!r}"
    for call in calls_of(script):
        assert tuple(call[-len(FURTHER) :]) == FURTHER
        assert "with" in call, "options would not reach sacred"


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_header_says_what_is_needed_and_written(script: Path, calls_of: Calls) -> None:
    header = [line for line in script.read_text().splitlines() if line.startswith("#")][1:]
    for key in HEADER_KEYS:
        assert any(line.startswith(f"# {key}:") for line in header), f"no line '# {key}:'"
    written = " ".join(header).partition("Writes:")[2]
    for call in calls_of(script):
        for flag, folder in pairwise(call):
            if flag == "-F":
                assert folder.startswith("logs/"), f"runs are written below logs/, not {folder}"
                assert folder in written, f"'Writes:' does not name {folder}"


def test_no_two_scripts_of_any_system_share_a_log_folder() -> None:
    own, others = all_scripts(), scripts_of_other_systems()
    taken = {folder for script in others for folder in log_folders(script)}
    folders = [folder for script in own for folder in sorted(set(log_folders(script)))]
    assert sorted(set(folders) & taken) == []
    assert [folder for folder in folders if folders.count(folder) > 1] == []


@pytest.mark.parametrize("folder", NAMED)
def test_scripts_of_the_document_are_there(folder: str) -> None:
    found = {path.stem for path in (ROOT / folder).glob("*.sh")}
    assert set(NAMED[folder]) - found == set()


def test_rows_are_held_against_their_own_expected_values() -> None:
    """A script that names a row names itself; every row with expected values is some script's."""
    rows = []
    for script in all_scripts():
        named = re.findall(r" row=(\S+)", " ".join(commands(script)))
        assert named in ([], [script.stem])
        rows += named
    assert set(load_expected(EXPECTED)) - set(rows) == set()
