"""Real photographs (marker `data`): what reranking gains on them, exact and at one bit."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from search import __main__ as command
from search.describers import make_describer
from search.measuring import measure, select
from search.photographs import make_photograph
from search.rerankers import make_reranker
from search.store import Store
from utils.revisited import load_ground_truth

pytestmark = pytest.mark.data


def recall_at_1(table: Path) -> float:
    """Share of frames whose first image is of the same clip."""
    lists: dict[str, list[str]] = defaultdict(list)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            lists[row["query"]].append(row["image"])
    clips = [
        (query.rpartition("_frame")[0], images[0].rpartition("_frame")[0])
        for query, images in lists.items()
    ]
    assert len(clips) == 60
    return float(np.mean([first == second for first, second in clips]))


@pytest.mark.parametrize("kind", ["float32", "1bit"])
def test_reranking_finds_more_places_of_an_office_tower(reference_data, tmp_path, kind):
    """Measured: 46.7 % globally, 71.7 % by geometry, 61.7 % by the matcher trained on drawings."""
    folder = reference_data / "real/places_ie_tower/images"
    found = {}
    for rerank in ("none", "rrt", "geometric"):
        arguments = ["--gallery", folder, "--query", folder, "--rerank", rerank, "--kind", kind]
        arguments += ["--out", tmp_path, "--top-k", 59, "--lists", 1]
        assert command.main([str(argument) for argument in arguments]) == 0
        found[rerank] = recall_at_1(tmp_path / "ranked.csv")
    assert found["none"] > 0.4
    assert found["rrt"] > found["none"] + 0.05
    assert found["geometric"] > found["none"] + 0.15


def test_geometry_solves_the_small_set_of_landmarks(reference_data, tmp_path):
    """Four queries, nine images; the data's own README has mAP medium 99 for SIFT and geometry."""
    folder = reference_data / "real/landmarks"
    gnd = load_ground_truth(folder / "gnd_mini.pkl")
    queries = [
        make_photograph(folder / "images" / f"{name}.jpg", folder, tuple(entry["bbx"]))
        for name, entry in zip(gnd.qimlist, gnd.gnd, strict=True)
    ]
    gallery = [make_photograph(folder / "images" / f"{name}.jpg", folder) for name in gnd.imlist]
    describe = make_describer("sift", None, 500, None, 1)
    store = Store(tmp_path, describe.made_from)
    store.extend([*queries, *gallery], describe, progress=False)
    sets = select(store, queries, gallery, gnd)
    assert measure(sets, make_reranker("geometric", "sift"), progress=False).medium > 98
