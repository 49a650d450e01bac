"""Draw the patches that match in a pair of images, as in the paper's figure (R2Former, CVPR'23).

    python -m r2former.match_pair with resume=FILE query_image=a.jpg database_image=b.jpg

Writes match_pair.jpg into output_dir and says how the reranker scores the pair.
"""

from pathlib import Path

import torch
from sacred import Experiment

from r2former.datasets.ingredient import dataset_ingredient
from r2former.match_pictures import draw_pair, save_picture
from r2former.models.ingredient import load_model, model_ingredient
from utils.distributed import start_ranks
from utils.paths import REPO_ROOT, require_file

ex = Experiment(
    "r2former_match_pair",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    cpu = False  # stay on the CPU where there is a GPU
    output_dir = "logs/match_pair"  # gets match_pair.jpg
    seed = 0


@ex.automain
def main(cpu, resume, query_image, database_image, output_dir, seed, dataset, _log):
    torch.manual_seed(seed)
    paths = [str(require_file(path, "give an image")) for path in (query_image, database_image)]
    net = load_model(resume).to(start_ranks(cpu).device)
    drawn = draw_pair(net, paths, tuple(dataset["resize"]))
    path = save_picture(Path(output_dir) / "match_pair.jpg", drawn.picture)
    _log.info("%s: %d matches, score %.3f", path, len(drawn.matches.similarity), drawn.score)
    return {"matches": len(drawn.matches.similarity), "score": drawn.score}
