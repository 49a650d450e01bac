"""Rerank the global top-k of Revisited Oxford / Paris and print mAP (RRT, ICCV'21).

    python -m rrt_gld.evaluate_revisited with dataset.roxford_r50_gldv1 model.RRT resume=FILE

Needs the neighbour table of rrt_gld.tools.prepare_topk_revisited.
"""

from pathlib import Path

import torch
from sacred import Experiment

from rrt_gld.datasets.ingredient import dataset_ingredient, load_test_set
from rrt_gld.evaluation import evaluate, save_evaluation
from rrt_gld.models.ingredient import make_model, model_ingredient
from rrt_gld.result_record import make_reranked_record
from rrt_gld.rows import PUBLISHED_TOP_K, finish, script_name
from utils.checkpoints import load_released
from utils.distributed import observe_first_rank_only, start_ranks, stop_ranks
from utils.paths import REPO_ROOT, require_file
from utils.result_files import describe_checkpoint

ex = Experiment(
    "rrt_gld_evaluate_revisited",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_first_rank_only)


@ex.config
def config():
    cpu = False  # stay on the CPU where there is a GPU
    cudnn_flag = "benchmark"  # benchmark or deterministic
    temp_dir = "logs/temp"  # the reranked lists are written here
    resume = None  # checkpoint with the weights; None: freshly initialised ones, as before training
    seed = 0
    visdom_port = None  # accepted and ignored
    visdom_freq = 20  # accepted and ignored
    top_k = 100  # head of the global ranking that is reranked; the paper's AQE rows: 200
    precision = "float32"  # float32 or bf16 (linear maps in bfloat16: faster, not for the table)
    strict = False  # exit code 3 when a row is outside its tolerance


@ex.capture
def load_model(resume: str | None, seed: int) -> torch.nn.Module:
    """The matcher with the weights of the file `resume`."""
    torch.manual_seed(seed)
    model = make_model()
    if resume is not None:
        hint = "fetch the released checkpoints (see rrt_gld/README.md) or train one"
        load_released(model, require_file(resume, hint))
    return model


@ex.capture
def describe_model(top_k: int, precision: str, dataset: dict, model: dict) -> dict:
    """What the record says of the method."""
    scale_map = dataset["scale_map"]
    return {"model": model["name"], "top_k": top_k, "precision": precision, "scale_map": scale_map}


@ex.automain
def main(resume, cpu, cudnn_flag, temp_dir, top_k, precision, strict, dataset, model, _run):
    torch.backends.cudnn.deterministic = cudnn_flag == "deterministic"
    ranks = start_ranks(cpu)
    test = load_test_set(model["num_local_features"], model["num_global_features"])
    matcher = load_model().to(ranks.device)
    found = evaluate(matcher, test, top_k, tuple(dataset["recalls"]), ranks, precision)
    stop_ranks()
    name = f"{model['name']}_{dataset['name']}"
    weights = model["name"] if resume is not None else f"{model['name']} UNTRAINED"
    protocol = f"{weights}, top {top_k} reranked, {len(found.reranked.pairs)} pairs scored"
    if ranks.is_first:
        _run.add_artifact(str(save_evaluation(Path(temp_dir) / f"{name}_ranks.npz", found, top_k)))
        as_published = top_k == PUBLISHED_TOP_K and precision == "float32"
        script = script_name("rerank", dataset["name"], dataset["desc_name"])
        method = {**describe_model(), **describe_checkpoint(resume)}
        record = make_reranked_record(test, found, dataset["recalls"], method, ranks.device)
        expected = script if as_published else None
        finish(_run, found.metrics, record, expected, protocol, strict)
    return {**found.metrics, "top_k": top_k}
