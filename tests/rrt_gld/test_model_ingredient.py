"""The sacred ingredient `model`: defaults, named configurations, sizes."""

import pytest
from sacred import Experiment

from rrt_gld.models.ingredient import make_model, model_ingredient
from tests.golden_recipe import load_manifest

DEFAULTS = {
    "name": None,
    "num_global_features": 2048,
    "num_local_features": 128,
    "seq_len": None,
    "dim_K": None,
    "dim_feedforward": None,
    "nhead": None,
    "num_encoder_layers": None,
    "dropout": 0.0,
    "activation": "relu",
    "normalize_before": False,
}


def make_experiment() -> Experiment:
    ex = Experiment("test_model", [model_ingredient], save_git_info=False)

    @ex.main
    def main():
        return sum(p.numel() for p in make_model().parameters())

    return ex


def test_defaults_are_those_of_the_paper_code():
    config = make_experiment().run("print_config").config["model"]
    ours = {"seed", "similarity_logit"}
    assert {k: v for k, v in config.items() if k not in ours} == DEFAULTS
    assert config["similarity_logit"] is None


def test_RRT_is_the_published_size():
    layout = load_manifest("rrt_gld", "layout.json")["published"]["entries"]
    numbers = 0
    for _, shape, _ in layout:
        count = 1
        for side in shape:
            count *= side
        numbers += count
    assert make_experiment().run(named_configs=["model.RRT"]).result == numbers


def test_RRT_mini_is_smaller_and_takes_overrides():
    ex = make_experiment()
    mini = ex.run(named_configs=["model.RRT_mini"]).result
    larger = ex.run(
        named_configs=["model.RRT_mini"], config_updates={"model": {"num_encoder_layers": 4}}
    ).result
    assert mini < larger < 2_243_201


def test_a_model_without_size_is_refused():
    with pytest.raises(ValueError, match=r"model\.RRT"):
        make_experiment().run()
