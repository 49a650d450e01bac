"""Tables, expected values and scripts agree; every relative link of every README leads somewhere.

The expected numbers of a system live in its `expected.csv`. Its scripts repeat theirs in the header
line `# Expected:`, and its README in the table row (or cell) that links the script.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.source_tree import JOINING_FOLDERS, ROOT, SYSTEMS, existing, own_files, python_files
from utils.results import Expected, load_expected

LINK = re.compile(r"!?\[(?P<text>(?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)[^)]*\)")
OUTSIDE = ("http://", "https://", "mailto:")
# A number of a table: with decimals, so that "top_k 100" or "mP@10" is none.
NUMBER = re.compile(r"(?<![\w.@])\d+\.\d+(?![\w.]*\d)")


def readmes() -> list[Path]:
    """Every Markdown file of the repository; found without git, which a download may lack."""
    patterns = ("*.md", "*/*.md", "*/*/*.md")
    found = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    parts = [path.relative_to(ROOT).parts for path in found]
    return [
        path
        for path, (top, *below) in zip(found, parts, strict=True)
        if not top.startswith(".") and (top not in ("data", "logs") or below == ["README.md"])
    ]


def prose(path: Path) -> str:
    """The text without its code blocks and code spans, where brackets are no links."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda span: span[0].replace("](", "] ("), text)


def anchors(path: Path) -> set[str]:
    """Names that a link can follow `#` with, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(path), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def dead_links(path: Path, files: set[Path]) -> list[str]:
    """Relative links of a Markdown file to no file of `files`, no folder of them, no heading."""
    dead = []
    text = prose(path)
    inner = [match for outer in LINK.finditer(text) for match in LINK.finditer(outer["text"])]
    for match in [*LINK.finditer(text), *inner]:  # a picture within a link is one itself
        target = match["target"]
        if target.startswith(OUTSIDE):
            continue
        name, _, fragment = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        is_folder = any(file.is_relative_to(goal) for file in files)
        if not is_folder or (fragment and goal.suffix == ".md" and fragment not in anchors(goal)):
            dead.append(target)
    return dead


@pytest.mark.parametrize("readme", readmes(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_of_the_repository(readme: Path) -> None:
    """A file that git ignores (data, logs, weights) is missing from a fresh clone: not linked."""
    assert dead_links(readme, set(own_files())) == []


@pytest.mark.parametrize("system", existing(SYSTEMS))
def test_every_system_has_a_readme_that_the_first_page_links(system: str) -> None:
    targets = {match["target"].split("#")[0] for match in LINK.finditer(prose(ROOT / "README.md"))}
    assert (ROOT / system / "README.md").is_file()
    assert targets & {f"{system}/README.md", f"{system}/", system}


def cells_linking(readme: Path, script: str) -> list[tuple[str, str]]:
    """(cell, row) of every table cell with a link to the script."""
    rows = [
        line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    found = []
    for row in rows:
        for cell in row.strip("|").split("|"):
            targets = [match["target"] for match in LINK.finditer(cell)]
            if any(Path(target).name == f"{script}.sh" for target in targets):
                found.append((cell, row))
    return found


def numbers(text: str) -> list[float]:
    """Numbers with decimals, without what stands in brackets or behind a plus-minus sign."""
    text = LINK.sub(lambda match: match["text"], text)
    text = re.sub(r"\([^)]*\)|(±|\+-)\s*[\d.]+", " ", text)
    return sorted(float(number) for number in NUMBER.findall(text))


def wanted(entries: dict[str, Expected]) -> list[float]:
    """The numbers that a header or a cell has to show: those with an expected value."""
    return sorted(entry.value for entry in entries.values())


def expected_line(script: Path) -> str:
    """What follows `# Expected:` in the header, up to the next key; empty without that line."""
    header = "\n".join(x for x in script.read_text().splitlines() if x.startswith("#"))
    match = re.search(r"^# Expected:(.*?)(?=^# [A-Z]\w+:|\Z)", header, flags=re.M | re.S)
    return match[1] if match else ""


def systems_with_expected() -> list[str]:
    return [path.parent.name for path in sorted(ROOT.glob("*/expected.csv"))]


@pytest.mark.parametrize("system", systems_with_expected())
def test_script_headers_show_the_expected_values(system: str) -> None:
    table = load_expected(ROOT / system / "expected.csv")
    for script in sorted((ROOT / system).glob("*scripts/*.sh")):
        entries = table.get(script.stem, {})
        if entries or script.stem.startswith("eval_"):
            shown = numbers(expected_line(script))
            assert shown == wanted(entries), (
                f"{script.name}: 'Expected:' against {system}/expected.csv"
            )


@pytest.mark.parametrize("system", systems_with_expected())
def test_readme_rows_show_the_expected_values(system: str) -> None:
    readme = ROOT / system / "README.md"
    for script, entries in load_expected(ROOT / system / "expected.csv").items():
        cells = cells_linking(readme, script)
        assert cells, f"{readme.relative_to(ROOT)} links {script}.sh from no table row"
        for cell, row in cells:
            shown = numbers(cell) or numbers(row)
            missing = [value for value in wanted(entries) if value not in shown]
            assert not missing, f"{script}: {missing} not in '{row}'"
            if numbers(cell):
                assert shown == wanted(entries), f"{script}: '{cell.strip()}'"


@pytest.mark.parametrize("system", systems_with_expected())
def test_numbers_of_the_first_page_are_expected_values(system: str) -> None:
    """A cell that links a script shows its values, or some of them, or no number at all."""
    table = load_expected(ROOT / system / "expected.csv")
    for script in sorted((ROOT / system).glob("*scripts/*.sh")):
        known = wanted(table.get(script.stem, {}))
        for cell, _ in cells_linking(ROOT / "README.md", script.stem):
            wrong = [number for number in numbers(cell) if number not in known]
            assert not wrong, f"README.md, {script.stem}: {wrong} not among {known}"


def test_first_page_has_rows_of_every_system() -> None:
    for system in systems_with_expected():
        scripts = (ROOT / system).glob("*scripts/eval_*.sh")
        assert any(cells_linking(ROOT / "README.md", script.stem) for script in scripts), system


@pytest.mark.parametrize("system", existing(SYSTEMS))
def test_every_script_is_linked_from_a_row(system: str) -> None:
    readme = ROOT / system / "README.md"
    scripts = sorted((ROOT / system).glob("*scripts/*.sh")) + sorted(ROOT.glob(f"{system}/*.sh"))
    lost = [script.name for script in scripts if not cells_linking(readme, script.stem)]
    assert not lost, f"no table row of {readme.relative_to(ROOT)} links {lost}"


def lost_modules(readme: Path, modules: list[Path]) -> list[str]:
    """Modules of a folder that its README neither links, alone or by their subfolder, nor names.

    A command is named as `folder.module`, as behind `python -m`.
    """
    folder, text = readme.parent, readme.read_text(encoding="utf-8")
    linked = {match["target"].split("#")[0].rstrip("/") for match in LINK.finditer(prose(readme))}
    lost = []
    for path in modules:
        name = path.relative_to(folder)
        ways = {str(name), *(str(part) for part in name.parents if part.parts)}
        dotted = ".".join((folder.name, *name.with_suffix("").parts))
        if not ways & linked and not re.search(rf"\b{re.escape(dotted)}\b", text):
            lost.append(str(name))
    return lost


@pytest.mark.parametrize("folder", existing((*SYSTEMS, *JOINING_FOLDERS)))
def test_readme_names_every_module(folder: str) -> None:
    modules = [p for p in python_files(folder) if p.name not in ("__init__.py", "__main__.py")]
    lost = lost_modules(ROOT / folder / "README.md", modules)
    assert not lost, f"{folder}/README.md names neither {lost} nor the folder that they lie in"


def test_first_page_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("bash demo.sh", "bash test.sh"):
        assert command in text
    assert subprocess.run(["bash", "demo.sh", "--help"], cwd=ROOT).returncode == 0
    assert subprocess.run(["bash", "test.sh", "--help"], cwd=ROOT).returncode == 0


# The guard itself, on texts made up here.


GONE = ("gone.md", "sub/README.md#other", "gone.png", "gone2.png")


def test_guard_finds_dead_links_and_headings(tmp_path: Path) -> None:
    page, other = tmp_path / "README.md", tmp_path / "sub/README.md"
    other.parent.mkdir()
    other.write_text("# A heading: with `code`\n")
    page.write_text(
        "[a](sub/README.md) [b](sub/) [c](sub/README.md#a-heading-with-code) [d](https://x.y/z)\n"
        "[e](gone.md) [f](sub/README.md#other) ![g](gone.png)\n[![h](gone2.png)](sub/)\n"
        "```\n[code](not_a_link)\n```\n`[span](neither)`\n"
    )
    assert dead_links(page, {page, other}) == [*GONE]


def test_guard_reads_numbers_of_rows_and_headers(tmp_path: Path) -> None:
    assert numbers("mAP medium 75.5, hard 56.4 (top_k 100, 0.1 off); mP@10 ± 0.3") == [56.4, 75.5]
    assert numbers("[75.5 / 56.4](rrt_scripts/eval_1.5_x.sh)") == [56.4, 75.5]
    assert numbers("r50_gldv1, version 1.2.3") == []
    script = tmp_path / "eval_x.sh"
    script.write_text(
        "#!/bin/bash\n# A row.\n# Expected: medium 75.5,\n#   hard 56.4.\n# Needs: 3.3.\n"
    )
    assert numbers(expected_line(script)) == [56.4, 75.5]
    readme = tmp_path / "README.md"
    readme.write_text(
        "| a | [1.5](s/eval_x.sh) | 2.5 |\n[no row](s/eval_x.sh)\n| [y](s/eval_y.sh) |\n"
    )
    assert cells_linking(readme, "eval_x") == [
        (" [1.5](s/eval_x.sh) ", "| a | [1.5](s/eval_x.sh) | 2.5 |")
    ]


def test_guard_finds_modules_that_no_page_names(tmp_path: Path) -> None:
    page = tmp_path / "system/README.md"
    page.parent.mkdir()
    page.write_text("[a](a.py) [models](models/) `python -m system.tool` system.tool_box\n")
    names = ("a.py", "models/b.py", "tool.py", "box.py", "tools/c.py")
    assert lost_modules(page, [page.parent / name for name in names]) == ["box.py", "tools/c.py"]
