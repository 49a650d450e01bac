"""Named configs hold what the published commands pass; loaders follow the options."""

from typing import Any

import pytest
from sacred import Experiment

from r2former.datasets.ingredient import (
    dataset_ingredient,
    load_test_set,
    load_train_set,
    load_val_set,
)
from tests.r2former.street_folders import line_of_places, write_msls_side, write_vg_split

# option: value of spec 1.3, per named config
MSLS = {"dataset_name": "msls", "layout": "msls", "split": "val"}
LARGE = {"queries_per_epoch": 50_000, "cache_refresh_rate": 10_000}
PUBLISHED: dict[str, dict[str, Any]] = {
    "msls": MSLS,
    "msls_challenge": MSLS | {"split": "test"},
    "msls_global": MSLS
    | LARGE
    | {"mining": "partial", "train_batch_size": 16, "negs_num_per_query": 2},
    "msls_rerank": MSLS
    | LARGE
    | {"mining": "global", "neg_hardness": 100, "train_batch_size": 64, "negs_num_per_query": 1},
    "msls_rerank_partial": MSLS | LARGE | {"mining": "partial", "train_batch_size": 64},
    "msls_finetune": MSLS
    | LARGE
    | {"mining": "partial", "train_batch_size": 48, "negs_num_per_query": 2},
    "msls_end_to_end": MSLS
    | LARGE
    | {"mining": "partial", "train_batch_size": 64, "infer_batch_size": 512},
    "pitts30k_finetune": {
        "dataset_name": "pitts30k",
        "split": "test",
        "mining": "full",
        "train_batch_size": 16,
        "negs_num_per_query": 1,
        "queries_per_epoch": 5000,
        "cache_refresh_rate": 1000,
    },
    "tokyo247": {"dataset_name": "tokyo247", "layout": "vg", "split": "test"},
    "mini_streets": {"layout": "vg", "split": "test"},
    "mini_msls": {"layout": "msls", "split": "val"},
}


def call(function: Any, *named: str, **options: Any) -> Any:
    """What `function` returns in a run with these options of the ingredient."""
    ex = Experiment("probe", ingredients=[dataset_ingredient], save_git_info=False)
    ex.main(lambda: function())
    updates = {"dataset": options} if options else {}
    return ex.run(named_configs=[f"dataset.{name}" for name in named], config_updates=updates)


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_configs_hold_the_published_values(name):
    config = call(lambda: None, name).config["dataset"]
    assert {key: config[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_a_folder_set_gives_its_three_splits(tmp_path):
    for i, split in enumerate(("train", "val", "test")):
        write_vg_split(
            tmp_path / "set", split, line_of_places(3 + i, 10.0), line_of_places(2, 300.0)
        )
    options = {"datasets_folder": str(tmp_path), "dataset_name": "set"}
    sizes = [
        (len(made.database_paths), len(made.query_paths))
        for made in (
            call(f, **options).result for f in (load_train_set, load_val_set, load_test_set)
        )
    ]
    # the second query of each split is 270 m or more from its database: dropped in training alone
    assert sizes == [(3, 1), (4, 2), (5, 2)]


def test_an_msls_set_gives_its_splits(tmp_path):
    for city, part in (("goa", "train_val"), ("cph", "train_val"), ("miami", "test")):
        for side, count in (("database", 4), ("query", 2)):
            folder = tmp_path / "set" / part / city / side
            write_msls_side(folder, [f"{city}{side}{i}" for i in range(count)],
                            line_of_places(count, 5.0))  # fmt: skip
    options = {
        **{"datasets_folder": str(tmp_path), "dataset_name": "set", "layout": "msls"},
        **{"train_cities": ["goa"], "val_cities": ["cph"], "test_cities": ["miami"]},
    }
    names = [
        call(function, **options).result.name
        for function in (load_train_set, load_val_set, load_test_set)
    ]
    assert names == ["set train", "set val", "set val"]
    challenge = call(load_test_set, split="test", **options).result
    assert not challenge.has_positions
    assert challenge.keys(challenge.query_paths) == ["miamiquery0", "miamiquery1"]


def test_bad_layouts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.layout is 'flat'"):
        call(load_test_set, layout="flat")
    with pytest.raises(ValueError, match=r"needs dataset\.database_folder"):
        call(load_test_set, layout="own")
    with pytest.raises(ValueError, match="training needs msls or vg"):
        call(load_train_set, layout="own")
