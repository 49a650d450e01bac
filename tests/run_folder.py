"""A run with sacred's run folder, and what every evaluation has to leave in it."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sacred.observers import FileStorageObserver

from utils.result_files import StoredResult, load_result


@contextmanager
def observed(experiment: Any, folder: Path) -> Iterator[Path]:
    """Within the block runs of the experiment write their folders, `folder`/1 the first one."""
    experiment.observers.append(FileStorageObserver(str(folder)))
    try:
        yield folder / "1"
    finally:
        experiment.observers.clear()


PROTOCOL = {
    *("set", "queries", "gallery", "query_names", "gallery_names"),
    *("crop", "scales", "k", "junk", "ties"),
}
MACHINE = {
    *("started", "wall_time_seconds", "peak_memory_mib", "device", "processes", "seed", "versions"),
}


def check_record(
    folder: Path, metrics: dict[str, Any], whole: Collection[str] = ()
) -> StoredResult:
    """Every entry is there, and the values of the queries average to the metrics; the record.

    `whole`: metrics that are kept without a value by query.
    """
    result = load_result(folder)
    assert set(result.protocol) == PROTOCOL
    assert set(result.content["machine"]) == MACHINE
    assert result.content["machine"]["peak_memory_mib"]["process"] > 1
    assert result.content["machine"]["seed"] == 0
    assert len(result.names) == result.protocol["queries"] > 0
    for row in result.rows:
        if not row.metric.endswith("_gain"):
            assert row.measured == metrics[row.metric]
        if row.metric not in whole and not row.metric.endswith("_gain"):
            assert abs(np.nanmean(result.values[row.metric]) - row.measured) < 0.006
            assert row.interval is not None
    stored = json.loads((folder / "info.json").read_text())["rows"]
    assert stored == result.content["rows"]
    return result
