"""Files of ranked lists: the prediction file of the MSLS challenge, and a table for any set."""

import csv
import io
from pathlib import Path

from r2former.datasets.place_set import PlaceSet
from r2former.evaluation import Evaluation, Ranking
from utils.paths import atomic_write

# four comment lines, which the toolkit's reader skips
CHALLENGE_HEADER = (
    "# Place recognition predictions for Mapillary Street-Level Sequences",
    "# task im2im, sequence length 1",
    "# one line per query: its key, then keys of database images, best first",
    "# made by R2Former: {stage}",
)
PREDICTIONS = 100  # of a query, at most


def write_ranked_lists(folder: Path, places: PlaceSet, found: Evaluation) -> list[Path]:
    """`global.csv` and, with reranking, `rerank.csv` in `folder`; returns the paths.

    For the challenge's split: lines of keys as the toolkit reads them. Else a table with the
    columns query, rank, image, value: squared distance, or score of the reranker.
    """
    stages = {"global": found.before}
    if found.after is not None:
        stages["rerank"] = found.after
    write = write_predictions if is_challenge(places) else write_table
    return [write(folder / f"{name}.csv", places, ranking) for name, ranking in stages.items()]


def is_challenge(places: PlaceSet) -> bool:
    """Whether the set is MSLS's split without positions, whose cities are known."""
    return places.query_group is not None and not places.has_positions


def write_predictions(path: Path, places: PlaceSet, ranking: Ranking) -> Path:
    """The challenge's file: four comment lines, then per query its key and its predictions."""
    queries, database = places.keys(places.query_paths), places.keys(places.database_paths)
    lines = [line.format(stage=path.stem) for line in CHALLENGE_HEADER]
    for query, row in zip(queries, ranking.nn_inds[:, :PREDICTIONS].tolist(), strict=True):
        lines.append(" ".join([query, *(database[j] for j in row)]))
    atomic_write(path, ("\n".join(lines) + "\n").encode())
    return path


def write_table(path: Path, places: PlaceSet, ranking: Ranking) -> Path:
    """A csv file with a row per query and rank."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["query", "rank", "image", "value"])
    for q, query in enumerate(places.query_paths):
        pairs = zip(
            ranking.nn_inds[q, :PREDICTIONS].tolist(),
            ranking.values[q, :PREDICTIONS].tolist(),
            strict=True,
        )
        for rank, (j, value) in enumerate(pairs, start=1):
            writer.writerow([query, rank, places.database_paths[j], f"{value:.6g}"])
    atomic_write(path, text.getvalue().encode())
    return path
