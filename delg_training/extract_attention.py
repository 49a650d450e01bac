"""Draw the attention of a model over a picture: which places give local features.

    python -m delg_training.extract_attention with image_path=a.jpg output_image=attention.png \
        delf_config_path=delg_scripts/r50delg_gld_config.pbtxt
"""

from sacred import Experiment

from delg_training.delf_config import load_delf_config
from delg_training.extraction_run import choose_gpu
from delg_training.heat_map import draw_heat_map
from delg_training.image_loading import load_image
from delg_training.saved_models import load_model
from utils.paths import REPO_ROOT

ex = Experiment("delg_training_extract_attention", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    image_path = "test_images/image_1.jpg"  # the picture
    delf_config_path = "delg_scripts/r50delg_gld_config.pbtxt"  # DelfConfig with local features
    scale = 1.0  # level of the image pyramid; larger ones see smaller things
    output_image = "attention.png"  # the picture that is drawn
    seed = 0


@ex.automain
def main(image_path, delf_config_path, scale, output_image, _log):
    delf_config = load_delf_config(delf_config_path)
    image = load_image(image_path, delf_config)
    choose_gpu()
    figures = draw_heat_map(load_model(delf_config), image, float(scale), output_image)
    _log.info("%s: attention %s", output_image, figures)
    return figures
