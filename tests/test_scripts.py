"""Every row script resolves: entry point, named configs and options exist. Nothing is carried out.

A stand-in for python writes down its arguments; the recorded module is then asked, in this process,
to print its configuration with the same options.
"""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from tests.source_tree import ROOT, TENSORFLOW_SYSTEMS
from utils.results import load_expected

FIRST_LINES = ["#!/usr/bin/env bash"]
HEADER_KEYS = ("Needs", "Writes")  # and Expected, where the row has a number: test_readmes.py
PLAIN = ("set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/../.."')
PYTHON_CALL = '"${PYTHON:-python}" -m '
STAND_IN = """#!{python}
import json, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""

# Scripts that a system's document names; a renamed or lost one fails here.
FEATURES = ("r50_gldv1", "r50_gldv2", "r101_gldv1", "r101_gldv2")
NAMED = {
    "rrt_gld/rrt_scripts": (
        *(
            f"eval_{f}_{s}_{k}"
            for f in FEATURES
            for s in ("roxf", "rpar")
            for k in ("global", "rerank")
        ),
        *(f"train_{feature}" for feature in FEATURES),
        *("eval_mini_global", "eval_mini_rerank", "train_mini"),
    ),
    "rrt_sop/rrt_scripts": (
        *(
            f"{step}_{stage}_{size}"
            for step in ("eval", "train")
            for stage in ("global", "rerank_frozen", "rerank_finetune")
            for size in ("r50", "mini")
        ),
        *("nn_inds_train_r50", "nn_inds_train_mini", "eval_untrained_mini"),
    ),
    "vitgal/scripts": (
        *(
            row
            for v in ("s12", "s24")
            for s in ("roxf", "rpar", "roxf_1m", "rpar_1m")
            for row in (f"eval_{v}_{s}_global", f"extract_{v}_{s}", f"eval_{v}_{s}_rerank")
        ),
        *(f"eval_{stage}_xcit_mini" for stage in ("untrained", "global", "rerank")),
        "extract_xcit_mini",
    ),
    "r2former/scripts": (
        "test",
        *(f"eval_{row}" for row in ("msls_val", "msls_challenge", "msls_val_global")),
        *(f"eval_{row}" for row in ("pitts30k", "tokyo247", "rsf", "st_lucia")),
        *(f"eval_{row}_finetuned" for row in ("pitts30k", "tokyo247")),
        *(f"eval_{row}_streets_mini" for row in ("untrained", "global", "reranking", "end_to_end")),
        *(f"{step}_global_streets_deit_mini" for step in ("train", "eval")),
    ),
}


def all_scripts() -> list[Path]:
    """Row scripts of all systems but TensorFlow's, which are replayed beside its other tests."""
    found = sorted(ROOT.glob("*/*scripts/*.sh"))
    return [path for path in found if path.relative_to(ROOT).parts[0] not in TENSORFLOW_SYSTEMS]


def test_no_two_scripts_share_a_name() -> None:
    """A script's runs go to the folder of its name below logs/."""
    names = [path.stem for path in all_scripts()]
    assert [name for name in names if names.count(name) > 1] == []


def commands(script: Path) -> list[str]:
    """Lines of the script that are neither comment nor blank, continued lines joined."""
    text = script.read_text().replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def recorded_calls(script: Path, folder: Path, *options: str) -> list[list[str]]:
    """Argument lists of the script's Python calls."""
    log, python = folder / "calls.jsonl", folder / "python"
    python.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)
    log.unlink(missing_ok=True)
    # from another folder: a script must find the repository's root itself
    environment = {**os.environ, "PYTHON": str(python)}
    subprocess.run(["bash", str(script), *options], env=environment, cwd=folder, check=True)
    return [json.loads(line) for line in log.read_text().splitlines()]


def module_of(call: list[str]) -> str:
    """The module behind the last -m, which skips a launcher such as torch.distributed.run."""
    return call[len(call) - call[::-1].index("-m")]


def check_call(call: list[str]) -> None:
    """The module's experiment knows all options, and nothing that its main requires is left out."""
    module = module_of(call)
    ex = import_module(module).ex
    updates = call[call.index("with") :] if "with" in call else []
    try:
        run = ex.run_commandline([module, "print_config", *updates])
    except SystemExit as error:
        raise AssertionError(f"{' '.join(call)}: sacred ended with {error.code}") from None
    needed = ex.commands[ex.default_command].signature.positional_args
    absent = [n for n in needed if not n.startswith("_") and n not in run.config]
    assert not absent, f"{' '.join(call)}: {module} requires {absent}"


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_options_of_script_exist(script: Path, tmp_path: Path) -> None:
    calls = recorded_calls(script, tmp_path)
    assert calls, "the script calls nothing"
    for call in calls:
        check_call(call)


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_script_holds_no_logic(script: Path) -> None:
    """Comments, `set`, `cd` and Python calls; anything else belongs into a module."""
    first, second, *calls = commands(script)
    assert (first, second) == PLAIN
    assert script.read_text().splitlines()[:1] == FIRST_LINES
    for line in calls:
        assert line.startswith(PYTHON_CALL), line
        assert not re.search(r"[;|&`<>]|\$\(", line), f"logic in {line!r}"


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_script_passes_options_on(script: Path, tmp_path: Path) -> None:
    for call in recorded_calls(script, tmp_path, "seed=7", "top word=a b"):
        assert call[-2:] == ["seed=7", "top word=a b"]
        assert "with" in call, "options would not reach sacred"


@pytest.mark.parametrize("script", all_scripts(), ids=lambda path: path.stem)
def test_header_says_what_is_needed_and_written(script: Path, tmp_path: Path) -> None:
    header = [line for line in script.read_text().splitlines() if line.startswith("#")][1:]
    for key in HEADER_KEYS:
        assert any(line.startswith(f"# {key}:") for line in header), f"no line '# {key}:'"
    written = " ".join(header).partition("Writes:")[2]
    for call in recorded_calls(script, tmp_path):
        for flag, folder in pairwise(call):
            if flag == "-F":
                assert folder.startswith("logs/"), f"runs are written below logs/, not {folder}"
                assert folder in written, f"'Writes:' does not name {folder}"


@pytest.mark.parametrize("folder", NAMED)
def test_scripts_of_the_document_are_there(folder: str) -> None:
    found = {path.stem for path in (ROOT / folder).glob("*.sh")}
    assert set(NAMED[folder]) - found == set()


def test_scripts_with_expected_values_are_there() -> None:
    tables = sorted(ROOT.glob("*/expected.csv"))
    assert tables
    for table in tables:
        scripts = {path.stem for path in table.parent.glob("*scripts/*.sh")}
        assert set(load_expected(table)) - scripts == set(), (
            f"{table} names scripts that are not there"
        )


# The guard itself: what it has to find, on an experiment made up here.
EXPERIMENT = """
from sacred import Experiment
ex = Experiment("made_up", save_git_info=False)
@ex.config
def config():
    top_k = 100
@ex.named_config
def short():
    top_k = 10
@ex.automain
def main(top_k, resume):
    raise AssertionError("a script must not be carried out")
"""


@pytest.fixture
def made_up_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "made_up_experiment.py").write_text(EXPERIMENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up_experiment", raising=False)
    return "made_up_experiment"


def test_guard_accepts_a_right_call(made_up_module: str) -> None:
    check_call(["-m", made_up_module, "-F", "logs/x", "with", "short", "resume=a.pt", "top_k=5"])
    launched = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", made_up_module]
    check_call([*launched, "with", "resume=a.pt"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["resume=a.pt", "top_kk=5"], "sacred ended with 1"),
        (["resume=a.pt", "shorter"], "sacred ended with 1"),
        (["top_k=5"], r"requires \['resume'\]"),
    ],
)
def test_guard_finds_wrong_options(made_up_module: str, options: list[str], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_call(["-m", made_up_module, "with", *options])
