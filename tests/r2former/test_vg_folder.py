"""Sets named by position: order, positions, weights, and what is refused; positives by radius."""

from pathlib import Path

import numpy as np
import pytest

from r2former.datasets.place_set import PlaceSet, within_radius
from r2former.datasets.vg_folder import list_images, load_folders, load_vg_set, read_weights
from tests.golden_recipe import array, load_manifest
from tests.r2former.street_folders import (
    line_of_places,
    write_image,
    write_vg_images,
    write_vg_split,
)

MINING, PREFIX = "mining.json", "r2former/dev/mining"
RADII = {"hard_positives": 10, "soft_positives": 25}


def made_set(queries: np.ndarray, database: np.ndarray) -> PlaceSet:
    names = [f"d{i}.jpg" for i in range(len(database))], [f"q{i}.jpg" for i in range(len(queries))]
    return PlaceSet("made", "all", *names, database, queries)


def test_positives_are_those_of_the_reference():
    golden = load_manifest("r2former", MINING)
    given = golden["settings"]
    queries, database = (
        array(f"{PREFIX}/utm_{side}", (given[count], 2)).astype(np.float64) * given["utm_scale"]
        for side, count in (("q", "queries"), ("db", "database"))
    )
    places = made_set(queries, database)
    assert np.flatnonzero(places.positives(10).counts).tolist() == golden["kept_queries"]
    kept = places.with_positives_only(10)
    for name, radius in RADII.items():
        assert [row.tolist() for row in kept.positives(radius)] == golden[name]


def test_positives_equal_a_plain_loop_with_groups():
    rng = np.random.default_rng(0)
    queries, database = rng.uniform(0, 100, (40, 2)), rng.uniform(0, 100, (90, 2))
    query_group, database_group = rng.integers(0, 3, 40), rng.integers(0, 3, 90)
    found = within_radius(queries, database, 20.0, query_group, database_group)
    expected = [
        (q, d)
        for q in range(40)
        for d in range(90)
        if query_group[q] == database_group[d] and np.hypot(*(queries[q] - database[d])) <= 20.0
    ]
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == expected


def test_the_radius_itself_is_included():
    # 15, 20: 25 m away exactly; a hair more: not
    database = np.array([[15.0, 20.0], [15.0, np.nextafter(20.0, 21.0) + 1e-9]])
    assert made_set(np.zeros((1, 2)), database).positives(25)[0].tolist() == [0]


def test_queries_without_positives_are_dropped_from_everything_alike():
    database = np.array([[0.0, 0.0], [20.0, 0.0], [1000.0, 0.0]])
    queries = np.array([[500.0, 0.0], [1.0, 0.0], [999.0, 0.0]])
    places = made_set(queries, database)
    places.positives(25)
    kept = places.with_positives_only(10)
    assert kept.query_paths == ["q1.jpg", "q2.jpg"]
    assert kept.query_utm is not None
    np.testing.assert_array_equal(kept.query_utm, queries[1:])
    for radius, expected in ((10, [[0], [2]]), (25, [[0, 1], [2]])):
        assert [row.tolist() for row in kept.positives(radius)] == expected


def test_no_positive_at_all_is_refused():
    places = made_set(np.array([[500.0, 0.0]]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no query of made has a database image within 10 m"):
        places.with_positives_only(10)


def test_a_set_is_read_in_the_order_of_the_paths(tmp_path):
    root = tmp_path / "town@home" / "set"
    write_vg_split(root, "test", line_of_places(4, 10.0), line_of_places(2, 10.0, shift=1.0))
    write_vg_images(root / "images" / "test" / "database" / "a", [(5000.0, 7000.0)])
    places = load_vg_set(tmp_path / "town@home", "set", "test")
    assert places.database_paths == sorted(places.database_paths)
    assert len(places.database_paths) == 5
    assert places.database_utm is not None
    assert places.database_utm[0].tolist() == [5000.0, 7000.0]
    # "@" sorts before "a": the street, then the folder a, whose image stands where the first does
    assert [row.tolist() for row in places.positives(9.5)] == [[0, 1, 4], [1, 2]]


def test_names_without_positions_are_refused_in_a_set_and_accepted_as_own_folders(tmp_path):
    root = tmp_path / "set" / "images" / "test"
    for side in ("database", "queries"):
        write_image(root / side / "one.jpg", 0)
    with pytest.raises(ValueError, match=r"1 of 1 file names give no position; name every image @"):
        load_vg_set(tmp_path, "set", "test")
    own = load_folders(root / "database", root / "queries")
    assert not own.has_positions
    with pytest.raises(ValueError, match="own folders has no positions"):
        own.positives(25)


@pytest.mark.parametrize("name", ["one.jpg", "@abc@7000.00@.jpg", "@5000@inf@.jpg"])
def test_single_names_without_position_are_named(tmp_path, name):
    write_vg_images(tmp_path / "database", line_of_places(3, 10.0))
    write_vg_images(tmp_path / "queries", line_of_places(3, 10.0))
    write_image(tmp_path / "database" / name, 0)
    with pytest.raises(ValueError, match=f"1 of 4 file names give no position(.|\n)*{name}"):
        load_folders(tmp_path / "database", tmp_path / "queries")


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_vg_set(tmp_path, "set", "test")
    with pytest.raises(ValueError, match="holds no image"):
        list_images(tmp_path)


def test_weights_follow_the_notes_of_the_names():
    def path(note: str) -> str:
        return f"/x/@1@2@17@T@a@{note}@.jpg"

    paths = [path("day_forward"), path("night_forward"), path("night_sideways"), path("")]
    # 1; 1 + 4/2; 1 + 4/2 + 4/1; 1: sum 12
    np.testing.assert_allclose(read_weights(paths), np.array([1, 3, 7, 1]) / 12)
    with pytest.raises(ValueError, match="mining=msls_weighted needs MSLS"):
        read_weights([path(""), path("day_forward")])


def test_weights_are_loaded_with_the_set(tmp_path: Path):
    root = tmp_path / "set" / "images" / "train"
    write_vg_images(root / "database", line_of_places(3, 10.0))
    notes = ["night_forward", "day_forward", "day_forward"]
    write_vg_images(root / "queries", line_of_places(3, 10.0), notes)
    weights = load_vg_set(tmp_path, "set", "train", with_weights=True).query_weights
    assert weights is not None
    np.testing.assert_allclose(weights, np.array([4, 1, 1]) / 6)
    assert load_vg_set(tmp_path, "set", "train").query_weights is None
