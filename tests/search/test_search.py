"""`python -m search` end to end on a few generated landmarks, and both tables."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from search import __main__ as command
from search import combinations, compact
from search.photographs import load_revisited_set


@pytest.fixture
def photos(mini: Path, tmp_path: Path) -> Path:
    """The gallery of the set as a folder of photographs, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for photo in load_revisited_set(mini).gallery:
        shutil.copy2(photo.path, folder)
    first = sorted(folder.glob("*.jpg"))[0]
    first.rename(folder / "below" / first.name)
    return folder


def run(*arguments: object) -> int:
    return command.main([str(a) for a in arguments])


def read_lists(out: Path) -> dict[str, list[str]]:
    with (out / "ranked.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["query"], []).append(row["image"])
        assert int(row["rank"]) == len(found[row["query"]])
    return found


@pytest.mark.parametrize("rerank", ["none", "geometric", "rrt"])
def test_each_photograph_is_searched_among_the_others(photos, tmp_path, capsys, rerank):
    out = tmp_path / "out"
    assert run("--gallery", photos, "--query", photos, "--rerank", rerank, "--out", out) == 0
    assert capsys.readouterr().out.rstrip().endswith(str(out / "index.html"))
    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 8
    assert not re.search(r"(src|href)=\"https?:", page), "the page asks for nothing from anywhere"
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    lists = read_lists(out)
    assert sorted(lists) == names
    for query, images in lists.items():
        assert sorted([query, *images]) == names, "all others, never itself"


def test_photographs_from_elsewhere_are_found_again_by_geometry(mini, photos, tmp_path):
    """Each query shows a landmark of which the gallery has three views."""
    places = load_revisited_set(mini)
    queries = tmp_path / "queries"
    queries.mkdir()
    for photo in places.queries:
        shutil.copy2(photo.path, queries)
    assert run("--gallery", photos, "--query", queries, "--out", tmp_path / "out") == 0
    for photo, entry in zip(places.queries, places.gnd.gnd, strict=True):
        best = Path(read_lists(tmp_path / "out")[photo.path.name][0]).stem
        assert places.gnd.imlist.index(best) in [*entry["easy"], *entry["hard"]]


def test_the_index_grows_with_the_gallery(photos, tmp_path, caplog):
    def search(query: Path) -> str:
        caplog.clear()
        with caplog.at_level("INFO"):
            assert run("--gallery", photos, "--query", query, "--out", tmp_path / "out") == 0
        return next(m for m in caplog.messages if "described" in m)

    query = sorted(photos.glob("*.jpg"))[0]
    assert search(query).startswith("8 photographs described, 8 in")
    assert search(query).startswith("0 photographs described, 8 in")
    cv2.imwrite(str(photos / "new.jpg"), cv2.imread(str(query))[:, ::-1])
    assert search(query).startswith("1 photographs described, 9 in")
    (photos / "new.jpg").unlink()
    assert search(query).startswith("0 photographs described, 9 in")
    assert len(read_lists(tmp_path / "out")[query.name]) == 7, "what is gone is not found"


def test_compact_kinds_and_neighbourhoods_and_r2former(photos, tmp_path, place_weights):
    query = sorted(photos.glob("*.jpg"))[0]
    common = ("--gallery", photos, "--query", query, "--out", tmp_path / "out", "--workers", 0)
    assert run(*common, "--kind", "1bit", "--refine", "k-reciprocal", "--max-locals", 40) == 0
    assert (
        run(*common, "--global", "r2former", "--weights", place_weights, "--rerank", "r2former")
        == 0
    )
    assert run(*common, "--rerank", "r2former", "--rerank-weights", place_weights) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("index_*")) == [
        "index_r2former_float32", "index_sift_1bit_40", "index_sift_float32",
    ]  # fmt: skip


def test_bad_input_is_explained_in_one_line(photos, tmp_path, capsys, vitgal_weights):
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy2(sorted(photos.glob("*.jpg"))[0], single)
    cases = [
        (("--gallery", tmp_path / "nowhere", "--query", photos), "neither a photograph nor"),
        (("--gallery", single, "--query", single), "nothing but the query"),
        (("--gallery", photos, "--query", photos, "--global", "vitgal"), "--weights"),
        (("--gallery", photos, "--query", photos, "--rerank", "r2former"), "--rerank-weights"),
        (("--gallery", photos, "--query", photos, "--global", "vitgal", "--weights",
          vitgal_weights, "--rerank", "rrt"), "--rerank-weights"),
    ]  # fmt: skip
    for arguments, complaint in cases:
        assert run(*arguments, "--out", tmp_path / "out") == 1
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("search: ")]
        assert len(lines) == 1
        assert complaint in lines[0]
    with pytest.raises(SystemExit):
        run("--gallery", photos, "--query", photos, "--top-k", 0)


def test_an_index_of_other_settings_is_not_mixed(photos, tmp_path, capsys):
    common = ("--gallery", photos, "--query", photos, "--index", tmp_path / "i")
    assert run(*common, "--out", tmp_path / "out") == 0
    assert run(*common, "--out", tmp_path / "out", "--max-locals", 9) == 1
    assert (
        "holds another store (descriptors max_locals 500 instead of 9)" in capsys.readouterr().err
    )


def test_combinations_are_tabled_and_misfits_named(mini, tmp_path, vitgal_weights, place_weights):
    assert combinations.main([
        "--set", str(mini), "--out", str(tmp_path), "--max-locals", "40",
        "--stores", "sift", f"vitgal={vitgal_weights}",
        "--rerankers", "geometric", "rrt", f"r2former={place_weights}",
    ]) == 0  # fmt: skip
    lines = (tmp_path / "table.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| (sift|vitgal) \|", line)]
    # five rankings, alone and with the rerankers that fit: three on sift, two on vitgal
    assert len(rows) == 5 * 4 + 5 * 3
    assert all(re.search(r"\| \d+\.\d\d \| \d+\.\d\d \| [\d.]+ (s|ms a pair) \|$", r) for r in rows)
    assert any(line.startswith("- left out: rrt on vitgal") for line in lines)


def test_compact_stores_are_tabled_and_drawn(mini, tmp_path):
    assert compact.main([
        "--set", str(mini), "--out", str(tmp_path), "--locals", "10", "20",
        "--rerankers", "geometric",
    ]) == 0  # fmt: skip
    lines = (tmp_path / "compact_sift.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == [k for k in ("float32", "float16", "int8", "1bit")
                                        for _ in range(2)]  # fmt: skip
    sizes = [int(row[2].replace(",", "")) for row in rows]
    assert sizes[1] > sizes[3] > sizes[5] > sizes[7], "fewer bits take less space"
    picture = cv2.imread(str(tmp_path / "compact_sift.png"))
    assert picture is not None
    assert np.ptp(picture) == 255


@pytest.mark.parametrize("module", [combinations, compact])
def test_a_table_without_a_set_is_explained(module, tmp_path, capsys):
    assert module.main(["--set", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no ground truth" in capsys.readouterr().err
