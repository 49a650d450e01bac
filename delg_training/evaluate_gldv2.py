"""Recognition and retrieval metrics of Google Landmarks v2, public and private part.

    python -m delg_training.evaluate_gldv2 with task=retrieval predictions_path=FILE \\
        solution_path=gldv2_dataset/test/retrieval_solution_v2.1.csv
"""

from sacred import Experiment

from delg_training.gldv2_files import read_predictions, read_solution
from delg_training.gldv2_metrics import measure_parts
from utils.paths import REPO_ROOT
from utils.results import log_rows, print_rows

ex = Experiment("delg_training_evaluate_gldv2", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    task = "retrieval"  # retrieval or recognition
    solution_path = f"gldv2_dataset/test/{task}_solution_v2.1.csv"  # id,images|landmarks,Usage
    seed = 0


@ex.automain
def main(task, solution_path, predictions_path, _run):
    solution = read_solution(solution_path, task)
    predictions = read_predictions(predictions_path, solution, task)
    rows = measure_parts(task, predictions, solution)
    log_rows(_run, rows)
    print_rows(rows, f"Google Landmarks v2, {task}")
    return {row.metric: row.measured for row in rows}
