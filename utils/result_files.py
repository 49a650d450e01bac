"""What an evaluation leaves in its run folder: how it measured, what, and the value of each query.

    result.json         rows, protocol, method, machine
    per_query.npz       names of the queries, and for each metric one value per query
    ranked_lists.json   some queries with their first images before and after reranking
    match_<n>.jpg       pictures of matches, where the run drew some

`utils.report` reads them: the pages of all runs, and the comparison of two.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.array_files import load_arrays
from utils.machine import describe_run
from utils.paths import REPO_ROOT, hash_file, hash_names, require_file
from utils.report_parts import Hit, MatchPicture, RankedList, choose_lists
from utils.results import Row, enforce_tolerance, log_rows, print_rows, row_record
from utils.text_files import read_json_object

RESULT, VALUES, LISTS = "result.json", "per_query.npz", "ranked_lists.json"
FORMAT = 1  # of the three files
KEPT_LISTS = 24  # queries whose ranked lists are kept
BEFORE = "_global"  # suffix of a metric before reranking
TIES = "equal scores: lower gallery index first; equal pair scores: order of the global ranking"
ROUNDING = 0.00501  # a row has two decimals


@dataclass(frozen=True)
class Protocol:
    """What was asked and what counted. Numbers of two protocols do not belong side by side."""

    set: str  # name, with its split
    queries: int
    gallery: int  # images that are searched, distractors included
    query_names: str  # digest of the names, in any order
    gallery_names: str
    crop: str  # what of a query's picture is used: "query box", "whole image", ...
    scales: str  # sizes at which a picture is read
    k: tuple[int, ...]  # cutoffs of the metrics, or of mP@k
    junk: str  # which images of a ranking do not count
    ties: str = TIES


def make_protocol(
    name: str, queries: Sequence[str], gallery: Sequence[str], *, crop: str, scales: str,
    k: Sequence[int], junk: str, distractors: int = 0,
) -> Protocol:  # fmt: skip
    """The protocol of a set, from the names or paths of its images.

    Paths count by their stem, so that two systems which keep a set in different folders agree.
    """
    names = [hash_names(sorted(Path(path).stem for path in paths)) for paths in (queries, gallery)]
    found = f"{names[1][:16]}" + (f" and {distractors} distractors" if distractors else "")
    return Protocol(
        name, len(queries), len(gallery) + distractors, names[0][:16], found, crop, scales,
        tuple(int(value) for value in k), junk,
    )  # fmt: skip


def describe_checkpoint(path: str | Path | None) -> dict[str, Any]:
    """Which file the weights come from, with its hash; None: they are those before training."""
    if path is None:
        return {"weights": "UNTRAINED", "checkpoint_sha256": None}
    return {"weights": str(path), "checkpoint_sha256": hash_file(path)}


@dataclass(frozen=True)
class Record:
    """Everything about one evaluation but its rows.

    `method`: plain values: model, checkpoint and its hash, descriptors and theirs, options.
    `names` (Q,): the queries. `values`: metric -> (Q,) in the unit of the table; their mean, NaN
    left out, is the row of that name. A metric before reranking ends in "_global".
    """

    protocol: Protocol
    method: Mapping[str, Any]
    names: Sequence[str]
    values: Mapping[str, np.ndarray]
    lists: Sequence[RankedList] = ()
    matches: Sequence[MatchPicture] = ()
    device: Any = "cpu"
    ap_name: str = "AP"  # of the ranked lists
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric, values in self.values.items():
            if np.shape(values) != (len(self.names),):
                raise ValueError(
                    f"{metric} has values of shape {np.shape(values)} for {len(self.names)} queries"
                )
        if self.protocol.queries != len(self.names):
            raise ValueError(
                f"{len(self.names)} names, but the protocol has {self.protocol.queries} queries"
            )


def check_rows(rows: Sequence[Row], record: Record) -> None:
    """ValueError where a row is not the mean of its queries' values: one of them is wrong."""
    for row in rows:
        values = record.values.get(row.metric)
        if values is None or np.isnan(values).all():
            continue
        mean = float(np.nanmean(values))
        if not abs(mean - row.measured) <= ROUNDING:
            raise ValueError(
                f"row {row.metric} says {row.measured}, but the values of its queries average "
                f"{mean:.4f}: a defect of this code, not of the data"
            )


def finish(
    run: Any, rows: Sequence[Row], record: Record, script: str | None, strict: bool = False
) -> None:
    """The end of every evaluation: print the rows, log them, keep the record, then judge.

    `script`: title of the table, name in expected.csv; None where the protocol is not the table's.
    Exit code 3 with `strict` when a row is outside its tolerance; the files are there all the same.
    """
    check_rows(rows, record)
    if rows:
        log_rows(run, rows)
        print_rows(rows, script)
    save_record(run, rows, record, script)
    enforce_tolerance(rows, strict)


def save_record(run: Any, rows: Sequence[Row], record: Record, script: str | None = None) -> None:
    """Put the files of the record into the run folder of sacred; without one there are none."""
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(spare)
        pictures = _write_matches(folder, record.matches)
        content = {
            "format": FORMAT,
            "script": script,
            "rows": [row_record(row) for row in rows],
            "protocol": asdict(record.protocol),
            "method": dict(record.method),
            "machine": describe_run(run, record.device),
            "matches": pictures,
            **record.more,
        }
        text = json.dumps(content, indent=1, default=_plain)
        (folder / RESULT).write_text(text + "\n", encoding="utf-8")
        arrays: dict[str, Any] = {
            f"metric {name}": np.asarray(values, np.float64)
            for name, values in record.values.items()
        }
        np.savez_compressed(folder / VALUES, names=np.array(record.names, dtype=np.str_), **arrays)
        if record.lists:
            chosen = {"ap_name": record.ap_name, "lists": _describe_lists(record.lists)}
            (folder / LISTS).write_text(json.dumps(chosen), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            run.add_artifact(str(path), path.name)


def _plain(value: Any) -> Any:
    """numpy numbers, tuples of sacred, paths: as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _write_matches(folder: Path, matches: Sequence[MatchPicture]) -> list[dict[str, str]]:
    entries = []
    for number, match in enumerate(matches, 1):
        name = f"match_{number}.jpg"
        Image.fromarray(match.image).save(folder / name, quality=85)
        entries.append({"file": name, "title": match.title, "caption": match.caption})
    return entries


def _describe_lists(lists: Sequence[RankedList]) -> list[dict[str, Any]]:
    """The lists worth showing: most improved, most worsened, some drawn at random."""
    chosen = [entry for part in choose_lists(lists, KEPT_LISTS) for entry in part.lists]
    return [
        {
            "query": str(entry.query_path),
            "box": None if entry.query_box is None else [float(v) for v in entry.query_box],
            "before": [_describe_hit(hit) for hit in entry.before[:100]],
            "after": [_describe_hit(hit) for hit in entry.after[:10]],
            "ap": [_known(entry.ap_before), _known(entry.ap_after)],
        }
        for entry in chosen
    ]


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _describe_hit(hit: Hit) -> list[Any]:
    return [str(hit.path), hit.label, None if hit.score is None else float(hit.score)]


@dataclass(frozen=True)
class StoredResult:
    """A record read back."""

    folder: Path
    content: Mapping[str, Any]
    names: list[str]
    values: Mapping[str, np.ndarray]

    @property
    def rows(self) -> list[Row]:
        return [read_row(entry) for entry in self.content["rows"]]

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.content["protocol"]


ROW_FIELDS = ("metric", "measured", "expected", "tolerance", "protocol", "source", "interval")


def read_row(entry: Mapping[str, Any]) -> Row:
    """A row as `log_rows` stores it; sacred writes tuples as {"py/tuple": [...]}."""
    known: dict[str, Any] = {name: entry.get(name) for name in ROW_FIELDS}
    interval = known["interval"]
    if isinstance(interval, Mapping):
        interval = interval.get("py/tuple")
    numbers = [known[name] for name in ("measured", "expected", "tolerance")]
    texts = [known[name] for name in ("metric", "protocol", "source")]
    if (
        texts[0] is None
        or numbers[0] is None
        or not all(isinstance(text, str | None) for text in texts)
        or not all(isinstance(x, int | float | None) for x in (*numbers, *(interval or ())))
    ):
        raise ValueError(f"{known} is no row of a results table")
    known["interval"] = None if interval is None else (float(interval[0]), float(interval[1]))
    return Row(**{**known, "protocol": known["protocol"] or ""})


def load_result(folder: str | Path) -> StoredResult:
    """The record of a run folder, or of the newest run with one in a script's folder.

    FileNotFoundError when there is none, ValueError for damaged files; both with the remedy.
    """
    folder = Path(folder)
    if not (folder / RESULT).is_file() and folder.is_dir():
        runs = [p for p in folder.iterdir() if p.name.isdigit() and (p / RESULT).is_file()]
        folder = max(runs, key=lambda path: int(path.name), default=folder)
    hint = "give the folder of an evaluation's run, as `-F logs/<script>` makes it; run it again"
    path = require_file(folder / RESULT, hint)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
        arrays = load_arrays(require_file(folder / VALUES, hint), "")
        names = arrays.pop("names")
        if names.ndim != 1 or names.dtype.kind != "U":
            raise ValueError(f"{VALUES} holds names of type {names.dtype} and shape {names.shape}")
        for key, entry in arrays.items():
            if entry.dtype != np.float64 or entry.shape != names.shape:
                raise ValueError(f"{VALUES} holds {entry.dtype} {entry.shape} as {key!r}")
        values = {key.removeprefix("metric "): entry for key, entry in arrays.items()}
        result = StoredResult(folder, content, names.tolist(), values)
        # entries that are read elsewhere; a run without known positives has no rows
        complete = {"set", "query_names"} <= set(content["protocol"]) and result.rows is not None
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged archives make numpy raise errors of many kinds
        raise ValueError(
            f"{folder} holds a damaged result ({error}); remove it and run it again"
        ) from error
    if version != FORMAT or not complete:
        raise ValueError(f"{path} is no result of this version (format {FORMAT}); run it again")
    return result


def load_lists(folder: Path) -> tuple[str, list[RankedList]]:
    """Name of the AP and the ranked lists of a run folder; none where it has none."""
    path = folder / LISTS
    if not path.is_file():
        return "AP", []
    try:
        content = read_json_object(path, "run the evaluation again")
        return str(content["ap_name"]), [_read_list(entry) for entry in content["lists"]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the evaluation again") from error


def _read_list(entry: Mapping[str, Any]) -> RankedList:
    before, after = (
        [Hit(_locate(path), Path(path).stem, label, score) for path, label, score in entry[key]]
        for key in ("before", "after")
    )
    return RankedList(_locate(entry["query"]), entry["box"], before, after, *entry["ap"])


def _locate(path: str) -> str:
    """A picture by the path that a run used, which may be relative to the repository's root."""
    beside = REPO_ROOT / path
    return str(beside) if not Path(path).is_file() and beside.is_file() else path


NOT_COMPARED = ("set", "k")  # a name may be spelt otherwise; each metric names its own cutoff


def protocol_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In what two protocols differ, in words; empty when numbers may stand side by side.

    The name of the set does not count: the digests of its images do.
    """
    keys = [key for key in {**first, **second} if key not in NOT_COMPARED]
    return [
        f"{key.replace('_', ' ')}: {_word(first.get(key))} / {_word(second.get(key))}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def _word(value: Any) -> str:
    return "not recorded" if value is None else str(value)
