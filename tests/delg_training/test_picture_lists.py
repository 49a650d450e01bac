"""Which pictures are extracted: lists, ground truth, shards."""

from pathlib import Path

import pytest

from delg_training.extraction_run import Picture, Shard, check_stems, make_shard
from delg_training.picture_lists import list_landmarks, list_paths, list_revisited
from tests.delg_training.tiny_sets import save_ground_truth


def test_lists_name_pictures_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("b/two.jpg  \n\na/one.v2.jpg\n")
    assert [p.stem for p in list_paths(file)] == ["two", "one.v2"]
    file.write_text("train/a/x.jpg,5,640,480\n")
    assert list_landmarks(file, "root") == [Picture("x", Path("root/train/a/x.jpg"))]
    file.write_text("\n")
    with pytest.raises(ValueError, match="names no picture"):
        list_paths(file)
    with pytest.raises(FileNotFoundError, match="relative/path"):
        list_landmarks(tmp_path / "none.txt", "root")


def test_queries_have_their_boxes_and_index_pictures_none(tmp_path: Path) -> None:
    truth = save_ground_truth(tmp_path)
    (query,) = list_revisited(truth, "jpg", "query")
    assert query == Picture("p2", Path("jpg/p2.jpg"), (5.4, 6.0, 60.2, 55.0))
    assert [p.box for p in list_revisited(truth, "jpg", "index")] == [None, None]
    with pytest.raises(ValueError, match="image_set is 'gallery', expected one of query, index"):
        list_revisited(truth, "jpg", "gallery")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shard()),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}, Shard()),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
    ],
)  # fmt: skip
def test_shard_comes_from_the_launcher_unless_it_is_given(
    environment: dict[str, str], expected: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert make_shard(None, None) == expected
    assert make_shard(0, 7) == Shard(0, 7)


@pytest.mark.parametrize(
    ("shard", "count", "complaint"),
    [(2, 2, "count from 0 to num_shards - 1"), (-1, 2, "count from 0"), (1, None, "give both")],
)
def test_wrong_shards_are_refused(shard: int, count: int | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_shard(shard, count)


def test_pictures_of_the_same_name_are_refused() -> None:
    one, two = Picture("a", Path("x/a.jpg")), Picture("a", Path("y/a.jpg"))
    check_stems([one, one])
    with pytest.raises(ValueError, match=r"x/a\.jpg and y/a\.jpg share the name a"):
        check_stems([one, two])
