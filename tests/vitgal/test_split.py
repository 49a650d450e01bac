"""The split of Google Landmarks v2 against the reference answers, and what it refuses."""

import numpy as np
import pytest

from tests.vitgal.golden_models import load_json
from vitgal.create_train_split import ex
from vitgal.datasets.gldv2 import Landmarks, load_landmarks, load_split, split_landmarks

SPLIT = load_json("train_split.json")


def golden_landmarks() -> Landmarks:
    ids, labels = zip(*SPLIT["rows"], strict=True)
    return Landmarks(np.array(ids), np.array(labels))


def write_list(folder, rows, header="id,landmark_id", name="train.csv"):
    folder.mkdir(exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_lines_equal_the_reference():
    split = split_landmarks(golden_landmarks(), SPLIT["split_ratio"], SPLIT["seed"])
    assert split.train == SPLIT["train"]
    assert split.val == SPLIT["val"]


def test_vectorised_draw_equals_one_draw_per_image():
    landmarks, rng = golden_landmarks(), np.random.RandomState(7)
    order = sorted(range(len(landmarks.ids)), key=lambda i: landmarks.landmark_ids[i])
    numbers = {c: n for n, c in enumerate(sorted(set(landmarks.landmark_ids.tolist())))}
    train, val, seen = [], [], set()
    for i in order:
        name, label = landmarks.ids[i], landmarks.landmark_ids[i]
        line = f"train/{name[0]}/{name[1]}/{name[2]}/{name}.jpg {numbers[label]}"
        first = label not in seen
        seen.add(label)
        (train if first or rng.uniform() >= 0.4 else val).append(line)
    assert tuple(split_landmarks(landmarks, 0.4, 7)) == (train, val)


def test_command_writes_the_files_and_keeps_those_of_another_draw(tmp_path):
    folder = write_list(tmp_path / "gldv2", SPLIT["rows"])
    options = {"data_path": str(folder), "split_ratio": SPLIT["split_ratio"], "seed": SPLIT["seed"]}
    counts = ex.run(config_updates=options).result
    assert counts == {"train": len(SPLIT["train"]), "val": len(SPLIT["val"])}
    assert (folder / "train_split.txt").read_text().splitlines() == SPLIT["train"]
    assert (folder / "test_split.txt").read_text().splitlines() == SPLIT["val"]
    ex.run(config_updates=options)  # the same again is no other split
    with pytest.raises(FileExistsError, match=r"train_split\.txt holds another split.*overwrite"):
        ex.run(config_updates={**options, "seed": 5})
    ex.run(config_updates={**options, "seed": 5, "overwrite": True})
    splits = load_split(folder, "train_split.txt", "test_split.txt")
    assert splits.num_classes == len({label for _, label in SPLIT["rows"]})
    assert len(splits.train_paths) + len(splits.val_paths) == len(SPLIT["rows"])


def test_list_of_landmarks_reads_like_the_list_of_images(tmp_path):
    folder = write_list(tmp_path, [("0abc", 5), ("0abd", 5), ("1abc", 2)])
    write_list(tmp_path, [(5, "0abc 0abd"), (2, "1abc")], "landmark_id,images", "clean.csv")
    first, second = load_landmarks(folder / "train.csv"), load_landmarks(folder / "clean.csv")
    assert first.ids.tolist() == second.ids.tolist() == ["0abc", "0abd", "1abc"]
    assert first.landmark_ids.tolist() == second.landmark_ids.tolist() == [5, 5, 2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id,url\na,b\n", r"columns \['id', 'url'\], expected id and landmark_id.*csv_name"),
        ("id,landmark_id\nabcd,seven\n", "line 2: .*is no image"),
        ("id,landmark_id\nabcd\n", "line 2: .*is no image"),
        ("id,landmark_id\n", "lists no image"),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, complaint):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_landmarks(tmp_path / "train.csv")


def test_bad_ratio_and_ids_are_refused():
    with pytest.raises(ValueError, match=r"split_ratio is 1\.0"):
        split_landmarks(golden_landmarks(), 1.0, 0)
    with pytest.raises(ValueError, match="'ab' has fewer than 3 characters"):
        split_landmarks(Landmarks(np.array(["ab"]), np.array([0])), 0.2, 0)


def test_bad_split_files_name_the_remedy(tmp_path):
    (tmp_path / "train_split.txt").write_text("train/a/b/c/abc.jpg 0\n")
    with pytest.raises(FileNotFoundError, match=r"test_split\.txt does not exist.*create_train"):
        load_split(tmp_path, "train_split.txt", "test_split.txt")
    (tmp_path / "test_split.txt").write_text("train/a/b/c/abd.jpg 4\n")
    with pytest.raises(ValueError, match=r"has class 4, of which train_split\.txt has no image"):
        load_split(tmp_path, "train_split.txt", "test_split.txt")
    (tmp_path / "test_split.txt").write_text("train/a/b/c/abd.jpg\n")
    with pytest.raises(ValueError, match=r"line 1: .*not of the form 'path label'"):
        load_split(tmp_path, "train_split.txt", "test_split.txt")
    (tmp_path / "train_split.txt").write_text("")
    (tmp_path / "test_split.txt").write_text("")
    with pytest.raises(ValueError, match=r"train_split\.txt is empty"):
        load_split(tmp_path, "train_split.txt", "test_split.txt")
