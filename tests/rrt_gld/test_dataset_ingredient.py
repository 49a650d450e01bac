"""The named configurations and fixed option names of the specification."""

from typing import Any

import pytest
from sacred import Experiment

from rrt_gld import evaluate_revisited, experiment
from rrt_gld.datasets.ingredient import dataset_ingredient

DESC_NAMES = ("r50_gldv1", "r50_gldv2", "r101_gldv1", "r101_gldv2")
TEST_TXT = ("test_query.txt", "test_gallery.txt")
DEFAULTS = {
    **dict.fromkeys(("name", "desc_name", "train_data_dir", "test_data_dir")),
    **dict.fromkeys(("train_txt", "test_txt", "test_gnd_file")),
    "batch_size": 36,
    "test_batch_size": 36,
    "max_sequence_len": 500,
    "sampler": "random",
    "num_workers": 8,
    "pin_memory": True,
    "recalls": [1, 5, 10],
    "num_candidates": 100,
}
TRAINING = {
    "epochs": 15,
    "lr": 1e-4,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 5e-4,
    "optim": "adamw",
    "scheduler": "multistep",
    "scheduler_tau": [16, 18],
    "scheduler_gamma": 0.1,
    "max_norm": 0.0,
    "seed": 0,
    "visdom_port": None,
    "visdom_freq": 100,
    "cpu": False,
    "cudnn_flag": "benchmark",
    "temp_dir": "outputs/temp",
    "no_bias_decay": False,
    "loss": "bce",
    "resume": None,
}
EVALUATION = {
    "cpu": False,
    "cudnn_flag": "benchmark",
    "temp_dir": "logs/temp",
    "resume": None,
    "seed": 0,
    "visdom_port": None,
    "visdom_freq": 20,
    "top_k": 100,
}
SETS = {  # train_txt, train_data_dir, test_data_dir, test_gnd_file, sampler
    "roxford": ("test_query.txt", "data/oxford5k", "data/oxford5k", "gnd_roxford5k.pkl", "random"),
    "rparis": ("test_query.txt", "data/paris6k", "data/paris6k", "gnd_rparis6k.pkl", "random"),
    "gldv2_roxford": ("train.txt", "data/gldv2", "data/oxford5k", "gnd_roxford5k.pkl", "triplet"),
}
KEYS = ("train_txt", "train_data_dir", "test_data_dir", "test_gnd_file", "sampler")


def config_of(*named: str) -> dict[str, Any]:
    """The dataset's options under these named configurations."""
    ex = Experiment("probe", ingredients=[dataset_ingredient], save_git_info=False)

    @ex.main
    def main(dataset):
        return dict(dataset)

    return ex.run(named_configs=[f"dataset.{name}" for name in named]).result


def test_defaults_are_the_published_ones():
    config = config_of()
    assert {key: config[key] for key in DEFAULTS} == DEFAULTS
    assert config["local_mean"] is None
    assert config["scale_map"] == "published"
    assert config["min_positives"] == 5


@pytest.mark.parametrize("desc", DESC_NAMES)
@pytest.mark.parametrize("name", SETS)
def test_published_named_configurations(name, desc):
    config = config_of(f"{name}_{desc}")
    expected: dict[str, Any] = dict(zip(KEYS, SETS[name], strict=True))
    expected |= {"name": f"{name}_{desc}", "desc_name": desc, "test_txt": TEST_TXT}
    found = {key: config[key] for key in expected}
    found["test_txt"] = tuple(found["test_txt"])
    assert found == expected
    for key in ("batch_size", "max_sequence_len", "num_candidates", "local_mean", "cache_locals"):
        assert config[key] == config_of()[key], f"{key} keeps its default"


def test_generated_set_is_evaluated_and_trained_alike():
    test, train = config_of("mini_sift"), config_of("gldv2_mini_sift")
    for key in ("desc_name", "max_sequence_len", "local_mean", "scale_map", "test_data_dir"):
        assert test[key] == train[key], key
    assert (test["name"], test["test_gnd_file"]) == ("mini_landmarks", "gnd_mini_landmarks.pkl")
    assert (train["train_data_dir"], train["train_txt"]) == ("data/mini_gldv2", "train.txt")
    assert train["batch_size"] % 3 == 0


def test_generated_set_has_delg_descriptors_too():
    """As published: not centred, the first 500."""
    sift, delg, defaults = config_of("mini_sift"), config_of("mini_delg"), config_of()
    assert delg["desc_name"] == "mini"
    for key in ("name", "test_data_dir", "test_txt", "test_gnd_file"):
        assert delg[key] == sift[key], key
    for key in ("max_sequence_len", "local_mean", "scale_map"):
        assert delg[key] == defaults[key], key


@pytest.mark.parametrize(
    ("ex", "expected"), [(experiment.ex, TRAINING), (evaluate_revisited.ex, EVALUATION)]
)
def test_entry_points_have_the_published_options(ex, expected, capsys):
    run = ex.run("print_config")
    assert {key: run.config[key] for key in expected} == expected
