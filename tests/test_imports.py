"""Who may import whom; torch and TensorFlow apart; importing a module starts nothing."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import (
    JOINING_FOLDERS,
    OTHER_FOLDERS,
    ROOT,
    SYSTEMS,
    TENSORFLOW_SYSTEMS,
    TORCH_SYSTEMS,
    existing,
    imports_of,
    module_name,
    python_files,
)

# of utils, with files split off them (knn_exact.py)
TORCH_MODULES = (
    *("checkpoints", "distributed", "divergence", "interruption", "knn"),
    *("packed", "pair", "torch"),
)
LIBRARIES = (
    *("torch", "torchvision", "tensorflow", "keras", "numpy", "scipy", "sacred", "faiss", "cv2"),
    *("PIL", "timm", "safetensors", "matplotlib", "sklearn", "pydegensac", "tqdm", "pytest"),
)

# A fresh interpreter imports the modules; it reports which frameworks came along, which files of
# the checkout that are no code were opened, and whether anything asked the network.
IMPORTER = """
import importlib, json, os, sys
root, modules = sys.argv[1], sys.argv[2:]
sys.path.insert(0, root)
opened, asked = [], []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.abspath(arguments[0])
        inside = path.startswith(root + os.sep) and not path.startswith(sys.prefix + os.sep)
        if inside and not path.endswith((".py", ".pyc")) and "__pycache__" not in path:
            opened.append(path)
    elif event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        asked.append(event)
sys.addaudithook(watch)
for module in modules:
    importlib.import_module(module)
frameworks = [name for name in ("torch", "tensorflow", "sacred") if name in sys.modules]
print(json.dumps({"frameworks": frameworks, "opened": opened, "asked": asked}))
"""


def import_fresh(modules: list[str], root: Path = ROOT) -> dict[str, list[str]]:
    result = subprocess.run(
        [sys.executable, "-B", "-c", IMPORTER, str(root), *modules],
        cwd=root,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def modules_of(folder: str) -> list[str]:
    return [module_name(path) for path in python_files(folder)]


@pytest.mark.parametrize("system", [*existing(SYSTEMS), "data", "hubconf", *JOINING_FOLDERS])
def test_importing_a_system_keeps_frameworks_apart_and_starts_nothing(system: str) -> None:
    modules = [system] if (ROOT / f"{system}.py").exists() else modules_of(system)
    if not modules:
        pytest.skip(f"{system} has no module yet")
    seen = import_fresh(modules)
    forbidden = "torch" if system in TENSORFLOW_SYSTEMS else "tensorflow"
    assert forbidden not in seen["frameworks"]
    assert (seen["opened"], seen["asked"]) == ([], []), "importing must not start anything"


def test_most_of_utils_needs_neither_framework() -> None:
    """One interpreter for all of utils but its torch modules, which both kinds of system share."""
    modules = [
        name for name in modules_of("utils") if not name.split(".")[1:2] or not is_torch(name)
    ]
    seen = import_fresh(modules)
    assert seen == {"frameworks": [], "opened": [], "asked": []}


def is_torch(module: str) -> bool:
    return module.split(".")[1].split("_")[0] in TORCH_MODULES


def test_guard_sees_frameworks_files_and_network(tmp_path: Path) -> None:
    """The fresh interpreter really reports what the tests above forbid."""
    (tmp_path / "notes.txt").touch()
    (tmp_path / "guilty.py").write_text(
        "import sys, types\nimport socket\nopen('notes.txt')\n"
        "sys.modules['tensorflow'] = types.ModuleType('tensorflow')\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), 0.01)\nexcept OSError:\n    pass\n"
    )
    seen = import_fresh(["guilty"], tmp_path)
    assert seen["frameworks"] == ["tensorflow"]
    assert seen["opened"] == [str(tmp_path / "notes.txt")]
    assert "socket.connect" in seen["asked"]


@pytest.mark.parametrize("system", existing(SYSTEMS))
def test_systems_import_no_other_system(system: str) -> None:
    allowed = {system, *(["delg_training"] if system == "delg_scripts" else [])}
    for path in python_files(system):
        forbidden = {*SYSTEMS, *JOINING_FOLDERS} - allowed
        others = {name.split(".")[0] for name in imports_of(path)} & forbidden
        assert not others, f"{path.relative_to(ROOT)} imports {others}"


def test_utils_imports_no_system_and_no_sacred() -> None:
    for path in python_files("utils"):
        found = {name.split(".")[0] for name in imports_of(path)}
        outside = {"sacred", "tensorflow", "tests", "data", "benchmarks"}
        forbidden = found & {*SYSTEMS, *JOINING_FOLDERS, *outside}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"
        if "torch" in found:
            assert is_torch(module_name(path)), (
                f"{path.name} imports torch; only {TORCH_MODULES} may"
            )


@pytest.mark.parametrize("system", existing(TENSORFLOW_SYSTEMS))
def test_tensorflow_systems_use_no_torch_module_of_utils(system: str) -> None:
    for path in python_files(system):
        for name in imports_of(path):
            assert name.split(".")[0] != "torch", f"{path.name} imports torch"
            in_utils = name.startswith("utils.")
            assert not (in_utils and is_torch(name)), f"{path.name} imports {name}"


@pytest.mark.parametrize("system", existing(TORCH_SYSTEMS))
def test_torch_systems_import_no_tensorflow(system: str) -> None:
    for path in python_files(system):
        names = {name.split(".")[0] for name in imports_of(path)}
        assert not names & {"tensorflow", "keras"}, f"{path.relative_to(ROOT)}"


@pytest.mark.parametrize("folder", JOINING_FOLDERS)
def test_folders_that_join_systems_need_no_tensorflow(folder: str) -> None:
    """Descriptors of TensorFlow's systems enter as files; options come from the command line."""
    for path in python_files(folder):
        names = {name.split(".")[0] for name in imports_of(path)}
        forbidden = names & {"tensorflow", "keras", "sacred", *TENSORFLOW_SYSTEMS}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


@pytest.mark.parametrize("system", existing(SYSTEMS))
def test_datasets_and_models_do_not_import_each_other(system: str) -> None:
    for folder, other in (("datasets", "models"), ("models", "datasets")):
        for path in sorted((ROOT / system / folder).glob("**/*.py")):
            found = [n for n in imports_of(path) if n.startswith(f"{system}.{other}")]
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize("system", existing(SYSTEMS))
def test_sacred_stays_at_the_edge(system: str) -> None:
    """Only ingredients and entry points (which call their experiment `ex`) import sacred."""
    for path in python_files(system):
        if path.name == "ingredient.py" or "sacred" not in {
            n.split(".")[0] for n in imports_of(path)
        }:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
        names = {t.id for node in assigned for t in node.targets if isinstance(t, ast.Name)}
        assert "ex" in names, f"{path.relative_to(ROOT)} imports sacred, but has no experiment ex"


def test_every_folder_of_code_is_known_to_these_tests() -> None:
    folders = {path.parent.name for path in ROOT.glob("[!.]*/*.py")} - {"logs"}
    assert folders <= {*SYSTEMS, *OTHER_FOLDERS}


def all_modules() -> list[Path]:
    files = [path for folder in (*SYSTEMS, *OTHER_FOLDERS) for path in python_files(folder)]
    return [*files, *ROOT.glob("*.py")]


def test_no_module_carries_the_name_of_a_library() -> None:
    taken = {*sys.stdlib_module_names, *LIBRARIES}
    clashes = [str(p.relative_to(ROOT)) for p in all_modules() if p.stem in taken]
    assert not clashes


def test_libraries_of_the_list_exist() -> None:
    """The list above holds import names; a typing error in it would weaken the test."""
    optional = {"tensorflow", "keras", "timm", "pydegensac"}  # large or rare; not needed everywhere
    for name in set(LIBRARIES) - optional:
        assert importlib.util.find_spec(name) is not None, name


def test_nobody_edits_sys_path() -> None:
    for path in all_modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        edits = [node for node in ast.walk(tree) if ast.unparse(node) == "sys.path"]
        assert not edits, f"{path.relative_to(ROOT)}: run it as python -m from the root"
