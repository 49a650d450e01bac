"""Write what evaluation needs of a training checkpoint to a small file of its own.

    python -m vitgal.export_weights with weight_path=logs/my_run/checkpoint.pth out=my_weights.pth

Backbone and autoencoder, with the published names; neither classifier nor optimiser. `half=True`
stores half-precision numbers, which evaluation widens again: its rows are those of rounded weights.
"""

import logging

from sacred import Experiment

from utils.paths import REPO_ROOT
from vitgal.models.weights import export_autoencoder

logger = logging.getLogger(__name__)
ex = Experiment("vitgal_export_weights", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    weight_path = "outputs/vitgal_autoencoder/checkpoint.pth"  # of vitgal.experiment_autoencoder
    out = "outputs/vitgal_autoencoder/weights.pth"  # the file that is written
    half = False  # half precision: a file of half the size
    seed = 0  # nothing is drawn


@ex.automain
def main(weight_path: str, out: str, half: bool) -> str:
    path = export_autoencoder(weight_path, out, half)
    logger.info("%s: %.2f MB", path, path.stat().st_size / 1e6)
    return str(path)
