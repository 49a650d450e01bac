"""Write the line lists `path,label,width,height` of the landmark sets.

    python -m rrt_gld.tools.prepare_data                     # Oxford, then Paris
    python -m rrt_gld.tools.prepare_data gldv2.prepare       # Google Landmarks v2
    python -m rrt_gld.tools.prepare_data mini.prepare        # the generated test set

Options of a set stand behind its name: `with oxford.data_dir=DIR paris.require_resolution=False`.
"""

from sacred import Experiment

from rrt_gld.datasets.gldv2_lists import write_gldv2_lists
from rrt_gld.datasets.revisited_lists import write_revisited_lists
from utils.paths import REPO_ROOT


def make_revisited(name: str, folder: str, gnd_file: str, query_size: str) -> Experiment:
    """The sub-experiment of one test set; `query_size` is `box` or `image`."""
    sub = Experiment(name, base_dir=str(REPO_ROOT), save_git_info=False)

    sub.add_config(
        data_dir=folder,  # holds jpg/ and the ground truth
        test_file="test_query.txt",  # line list of the queries, written to data_dir
        index_file="test_gallery.txt",  # line list of the gallery, written to data_dir
        gnd_file=gnd_file,  # ground truth, in data_dir
        require_resolution=True,  # read every image's size; False: 0,0 where the box gives none
        seed=0,
    )

    @sub.main
    def prepare(data_dir, test_file, index_file, gnd_file, require_resolution):
        return write_revisited_lists(
            data_dir, gnd_file, test_file, index_file, query_size, require_resolution
        )

    return sub


# Oxford's queries have the size of their box; the published list of Paris has full image sizes, an
# oversight that is kept: nothing reads them
oxford = make_revisited("oxford", "data/oxford5k", "gnd_roxford5k.pkl", "box")
paris = make_revisited("paris", "data/paris6k", "gnd_rparis6k.pkl", "image")
mini = make_revisited("mini", "data/mini_landmarks", "gnd_mini_landmarks.pkl", "box")
gldv2 = Experiment("gldv2", base_dir=str(REPO_ROOT), save_git_info=False)
ex = Experiment(
    "rrt_gld_prepare_data",
    ingredients=[oxford, paris, mini, gldv2],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)


@ex.config
def config():
    seed = 0


@gldv2.config
def gldv2_config():
    data_dir = "data/gldv2"  # holds train/, index/, test/ and meta/
    train_file = "train_clean.txt"  # line list of the training images, written to data_dir
    test_file = "test_query.txt"  # the same of the queries
    index_file = "test_gallery.txt"  # the same of the gallery
    gnd_file = "gnd_gld.pkl"  # ground truth of the queries, written to data_dir
    require_resolution = True  # read every image's size; False: 0,0
    seed = 0


@gldv2.main
def prepare(data_dir, train_file, test_file, index_file, gnd_file, require_resolution):
    return write_gldv2_lists(
        data_dir, train_file, test_file, index_file, gnd_file, require_resolution
    )


@ex.automain
def main():
    return {"oxford": oxford.commands["prepare"](), "paris": paris.commands["prepare"]()}
