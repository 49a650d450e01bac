"""Export the local features of a trained DELF or DELG network as a SavedModel.

    python -m delg_training.export_local_model with ckpt_path=logs/delg_training/delf_weights \
        export_path=FOLDER

Options of the network (`model.use_autoencoder=False`, ...) are those that it was trained with.
"""

from sacred import Experiment

from delg_training.exporting import load_network
from delg_training.models.export import LocalModel, check_export_path, save_model
from delg_training.models.ingredient import model_ingredient, model_options
from utils.paths import REPO_ROOT

ex = Experiment(
    "delg_training_export_local_model",
    ingredients=[model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    ckpt_path = "logs/delg_training/delf_weights"  # prefix of a checkpoint; None: fresh weights
    export_path = "logs/delg_training/local_model"  # folder of the SavedModel; must not exist
    iou = 1.0  # largest overlap of two features' boxes; 1.0: all are kept
    seed = 0  # of fresh weights


@ex.automain
def main(ckpt_path, export_path, iou, seed, _config, _log):
    check_export_path(export_path)
    network = load_network(model_options(), ckpt_path, seed)
    save_model(LocalModel(network, iou), export_path, _config)
    _log.info("%s holds the local features of %s", export_path, ckpt_path)
