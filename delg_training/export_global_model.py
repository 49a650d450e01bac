"""Export the global descriptors of a trained network as a SavedModel.

    python -m delg_training.export_global_model with model.delg ckpt_path=PREFIX export_path=FOLDER
    python -m delg_training.export_global_model with model.delg kaggle ckpt_path=PREFIX ...

`kaggle` gives the form of the Google Landmark Retrieval challenge: picture in, one descriptor out.
"""

from sacred import Experiment

from delg_training.exporting import load_global_network
from delg_training.models.export import GlobalModel, check_export_path, save_model
from delg_training.models.ingredient import model_ingredient, model_options
from utils.paths import REPO_ROOT

ex = Experiment(
    "delg_training_export_global_model",
    ingredients=[model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    ckpt_path = "logs/delg_training/delf_weights"  # prefix of a checkpoint; None: fresh weights
    export_path = "logs/delg_training/global_model"  # folder of the SavedModel; must not exist
    input_scales_list = None  # scales fixed in the model; None: it is fed scales and their choice
    multi_scale_pool_type = None  # None: a row per scale; average or sum: one vector for all
    normalize_global_descriptor = False  # to unit length, after pooling
    seed = 0  # of fresh weights


@ex.named_config
def kaggle():
    input_scales_list = [0.70710677, 1.0, 1.4142135]
    multi_scale_pool_type = "sum"
    normalize_global_descriptor = True


@ex.automain
def main(
    ckpt_path, export_path, input_scales_list, multi_scale_pool_type, normalize_global_descriptor,
    seed, _config, _log,
):  # fmt: skip
    check_export_path(export_path)
    network = load_global_network(model_options(), ckpt_path, seed)
    exported = GlobalModel(
        network, input_scales_list, multi_scale_pool_type, normalize_global_descriptor
    )
    save_model(exported, export_path, _config)
    _log.info("%s holds the global descriptors of %s", export_path, ckpt_path)
