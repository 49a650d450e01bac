"""Files that `utils` reads: descriptors, tables, pickles, checkpoints, results, archives."""

import io
import json
import pickle
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.drills.reading import Format, require
from utils import descriptors
from utils.checkpoints import load_released, load_state, save_checkpoint
from utils.checkpoints_safetensors import to_safetensors
from utils.descriptors import LocalFeatures
from utils.downloads import unpack_tar
from utils.knn import build_nn_table
from utils.nn_tables import load_nn_inds, record_path, save_nn_inds
from utils.pickles import load_foreign
from utils.report_runs import read_run
from utils.result_files import LISTS, RESULT, VALUES, load_lists, load_result
from utils.results import load_expected
from utils.revisited import KINDS, load_ground_truth

WIDTH, QUERIES, GALLERY, COLUMNS = 12, 5, 9, 4


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def finite(array: np.ndarray, dtype: Any, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """`array`, if it is of that type and shape (None: any size) and finite."""
    require(array.dtype == dtype, f"{what} is {array.dtype}")
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True)
    )
    require(fits, f"{what} has shape {array.shape}")
    require(np.isfinite(array).all(), f"{what} is not finite")
    return array


# ---------------------------------------------------------------------------- descriptors


def make_locals(count: int = 6) -> LocalFeatures:
    draw = rng()
    return LocalFeatures(
        draw.uniform(0, 300, (count, 2)), draw.uniform(0.5, 2, count),
        draw.standard_normal((count, WIDTH)), draw.uniform(0, 9, count),
    )  # fmt: skip


def read_global(folder: Path) -> np.ndarray:
    found = descriptors.read_global(folder / "a.delg_global", WIDTH)
    return finite(found, np.float32, (WIDTH,), "descriptor")


def read_local(folder: Path, name: str, width: int | None = WIDTH) -> Any:
    found = descriptors.read_local(folder / name, width)
    n, columns = len(found), found.descriptors.shape[1]
    require(width is None or columns == width, f"width {columns}")
    for part, shape in (("locations", (n, 2)), ("scales", (n,)), ("attention", (n,)),
                        ("descriptors", (n, columns)), ("orientations", (n,))):  # fmt: skip
        finite(getattr(found, part), np.float32, shape, part)
    require(len(descriptors.read_local(folder / name, width, 3)) == min(n, 3), "max_features")
    require(descriptors.count_local(folder / name, width) == n, "count_local")
    return found


def read_datums(folder: Path) -> Any:
    array = descriptors.read_datum(folder / "a.datum")
    require(array.dtype in (np.float32, np.uint32), f"datum {array.dtype}")
    pair = descriptors.read_datum_pair(folder / "pair.datum")
    for part in (array, *pair):
        require(np.isfinite(part).all(), "datum is not finite")
    return [array, *pair]


def write_datums(folder: Path) -> None:
    descriptors.write_datum(folder / "a.datum", rng().random((3, 4)))
    whole = np.arange(9, dtype=np.uint32) * 999
    descriptors.write_datum_pair(folder / "pair.datum", rng().random(5), whole)


def write_loose(folder: Path) -> None:
    """Local features with unpacked lists and in another order: what only the slow reader takes."""
    from utils.wire_format import FIXED32, length_delimited, tag_of

    values = rng().standard_normal((4, WIDTH)).astype("<f4")
    features = []
    for row in values:
        floats = b"".join(tag_of(1, FIXED32) + value.tobytes() for value in row)
        datum = length_delimited(2, floats) + length_delimited(
            1, length_delimited(1, bytes([WIDTH]))
        )
        tail = b"".join(tag_of(n, FIXED32) + row[n].tobytes() for n in (6, 2, 3, 4))
        features.append(length_delimited(1, tail + length_delimited(1, datum)))
    (folder / "a.delf").write_bytes(b"".join(features))


# ---------------------------------------------------------------------------- neighbour tables

MADE_FROM = {"set": "drill", "names": "0123abcd", "k": COLUMNS}


def make_table(folder: Path) -> None:
    table = rng().integers(0, GALLERY, (QUERIES, COLUMNS))
    save_nn_inds(folder / "nn.pkl", table, MADE_FROM)


def make_released_table(folder: Path) -> None:
    make_table(folder)
    record_path(folder / "nn.pkl").unlink()


def read_table(folder: Path) -> np.ndarray:
    table = load_nn_inds(folder / "nn.pkl", MADE_FROM, QUERIES, GALLERY, 3)
    require(table.min() >= 0 and table.max() < GALLERY, "indices out of range")
    return finite(table, np.int64, (QUERIES, None), "table")


def build_table(folder: Path) -> np.ndarray:
    vectors = rng().standard_normal((20, 6)).astype(np.float32)
    return build_nn_table(
        vectors, 3, folder, "set", {"set": "drill"}, block_rows=8, progress=False, device="cpu"
    )


BLOCKS = tuple(f"set_nn_{start:09d}.pkl{end}" for start in (0, 8, 16) for end in ("", ".json"))

# ---------------------------------------------------------------------------- pickles


def make_truth() -> dict[str, Any]:
    gnd = [
        {"bbx": [1.0, 2.0, 30.0, 40.5], "easy": [q], "hard": [q + 1, q + 2], "junk": np.array([7])}
        for q in range(3)
    ]
    return {"imlist": [f"i{i}" for i in range(GALLERY)], "qimlist": ["q0", "q1", "q2"], "gnd": gnd}


def read_truth(folder: Path, name: str) -> Any:
    truth = load_ground_truth(folder / name)
    require(len(truth.qimlist) == len(truth.gnd), "queries without ground truth")
    require(all(isinstance(n, str) for n in (*truth.imlist, *truth.qimlist)), "names are no text")
    for entry in truth.gnd:
        lists = [np.asarray(entry[kind]) for kind in KINDS]
        together = np.concatenate([part.astype(np.int64) for part in lists])
        require(all(p.size == 0 or p.dtype.kind in "iu" for p in lists), "indices are no integers")
        require(((together >= 0) & (together < len(truth.imlist))).all(), "indices out of range")
        require(len(set(together.tolist())) == len(together), "an image in two lists")
        if "bbx" in entry:
            finite(np.asarray(entry["bbx"], np.float64), np.float64, (4,), "box")
    return [list(truth.imlist), list(truth.qimlist), [dict(entry) for entry in truth.gnd]]


def make_matlab(folder: Path) -> None:
    from scipy.io import savemat

    content = make_truth()
    kinds = ("bbx", "easy", "hard", "junk")
    gnd = np.empty(3, dtype=[(kind, object) for kind in kinds])
    for row, entry in zip(gnd, content["gnd"], strict=True):
        row["bbx"] = np.array(entry["bbx"])
        for kind in KINDS:
            row[kind] = np.array(entry[kind], dtype=np.float64) + 1
    names = {key: np.array(content[key], dtype=object) for key in ("imlist", "qimlist")}
    savemat(folder / "gnd.mat", {**names, "gnd": gnd}, do_compression=False)


def make_features(folder: Path) -> None:
    content = {
        "names": ["a", "b", "ü"], "vectors": rng().standard_normal((3, 4)).astype(np.float32),
        "more": (1, 2.5, None, True, {3, 4}, b"bytes", 2**70, np.float64(0.5)),
    }  # fmt: skip
    (folder / "features.pkl").write_bytes(pickle.dumps(content, protocol=2))


# ---------------------------------------------------------------------------- checkpoints


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def checkpoint() -> dict[str, Any]:
    return {
        "state": make_net().state_dict(), "epoch": 3, "lr": 1e-3, "args": {"k": (1, 2)},
        "optim": {"state": {0: {"step": torch.tensor(3.0), "exp": torch.ones(3)}}, "groups": [[0]]},
    }  # fmt: skip


def make_legacy(folder: Path) -> None:
    torch.save(checkpoint(), folder / "net.pth", _use_new_zipfile_serialization=False)


def make_plain_safetensors(folder: Path) -> None:
    """As others write it: without a card."""
    to_safetensors(make_net().state_dict(), folder / "net.safetensors")
    (folder / "net.safetensors.json").unlink()


def read_checkpoint(folder: Path, name: str) -> Any:
    content = load_state(folder / name)
    require(isinstance(content, dict), "no dict")
    net = load_released(make_net(), folder / name)
    for key, value in net.state_dict().items():
        require(torch.isfinite(value).all(), f"{key} is not finite")
    return [net.state_dict(), repr(content)]


# ---------------------------------------------------------------------------- results


def make_result(folder: Path) -> None:
    row = {
        "metric": "M_map", "measured": 50.0, "expected": 49.5, "tolerance": 1.0, "protocol": "p",
        "source": "own", "interval": [40.0, 60.0],
    }  # fmt: skip
    protocol = {"set": "s", "queries": 3, "gallery": 2, "query_names": "0f", "k": [1, 5]}
    content = {
        "format": 1, "script": "eval_x", "rows": [row], "protocol": protocol, "method": {},
        "machine": {"device": "cpu"}, "matches": [],
    }  # fmt: skip
    (folder / RESULT).write_text(json.dumps(content))
    arrays: dict[str, Any] = {"metric M_map": np.array([25.0, 75.0, np.nan])}
    np.savez_compressed(folder / VALUES, names=np.array(["a", "b", "c"]), **arrays)
    hits = [["g0.jpg", "easy", 0.5], ["g1.jpg", "negative", None]]
    entry = {
        "query": "q.jpg",
        "box": [1, 2, 3, 4],
        "before": hits,
        "after": hits,
        "ap": [0.2, None],
    }
    (folder / LISTS).write_text(json.dumps({"ap_name": "AP", "lists": [entry]}))


def read_result(folder: Path) -> Any:
    result = load_result(folder)
    for name, values in result.values.items():
        require(values.shape == (len(result.names),), f"{name} has shape {values.shape}")
        require(values.dtype == np.float64, f"{name} is {values.dtype}")
    require(all(isinstance(name, str) for name in result.names), "names are no text")
    for row in result.rows:
        require(isinstance(row.metric, str) and isinstance(row.measured, int | float), "row")
    return [result.content, result.names, result.values, result.rows, load_lists(folder)]


RUN_FILES = ("config.json", "run.json", "metrics.json", "info.json")


def make_run(folder: Path) -> None:
    contents: dict[str, Any] = {
        "config.json": {"seed": 0, "model": {"name": "x"}},
        "run.json": {
            "status": "COMPLETED", "start_time": "2024-01-02T03:04:05", "meta": {
                "options": {"UPDATE": ["seed=1"]}},
        },
        "metrics.json": {"train.loss": {"steps": [0, 1], "values": [0.5, 0.25], "timestamps": []}},
        "info.json": {"rows": [{"metric": "M", "measured": 1.0, "interval": {"py/tuple": [0, 2]}}]},
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))


def read_sacred(folder: Path) -> Any:
    run = read_run(folder)
    for curve in run.curves:
        require(len(curve.steps) == len(curve.values), "curve")
    for row in run.rows:
        require(isinstance(row.metric, str) and isinstance(row.measured, int | float), "row")
    require(isinstance(run.status, str) and all(isinstance(o, str) for o in run.options), "run")
    return [run.status, run.started, run.rows, run.curves, run.options]


def make_expected(folder: Path) -> None:
    lines = ["script,metric,value,tolerance,source", "eval_a,M_map,75.5,0.2,paper"]
    lines += ["eval_a,H_map,56.4,0.2,paper", "eval_b,R@1,5.17,0.01,own"]
    (folder / "expected.csv").write_text("\n".join(lines) + "\n")


def read_expected(folder: Path) -> Any:
    table = load_expected(folder / "expected.csv")
    for rows in table.values():
        for entry in rows.values():
            require(np.isfinite([entry.value, entry.tolerance]).all(), "not finite")
            require(entry.tolerance >= 0 and entry.source in ("paper", "own"), "tolerance, source")
    return table


# ---------------------------------------------------------------------------- archives


def make_tar(folder: Path, name: str) -> None:
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as archive:
        for number in range(3):
            content = rng().bytes(700 * number)
            info = tarfile.TarInfo(f"jpg/{number}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def read_tar(folder: Path, name: str) -> Any:
    out = folder / "unpacked"
    unpack_tar(folder / name, out, lambda path: path)
    found = sorted(path for path in out.rglob("*") if path.is_file())
    require(all(path.suffix != ".part" and ".part" not in path.name for path in found), "part")
    return [[str(path.relative_to(out)), path.read_bytes()] for path in found]


FORMATS = {
    "delg_global": Format(
        lambda f: descriptors.write_global(f / "a.delg_global", rng().random(WIDTH)),
        ("a.delg_global",), read_global,
    ),
    "delg_local": Format(
        lambda f: descriptors.write_local(f / "a.delg_local", make_locals()), ("a.delg_local",),
        partial(read_local, name="a.delg_local"),
    ),
    "delf_loose": Format(write_loose, ("a.delf",), partial(read_local, name="a.delf", width=None)),
    "datum": Format(write_datums, ("a.datum", "pair.datum"), read_datums),
    "neighbour_table": Format(make_table, ("nn.pkl", "nn.pkl.json"), read_table, exact=True),
    "neighbour_table_released": Format(make_released_table, ("nn.pkl",), read_table),
    "knn_cache": Format(build_table, BLOCKS, build_table, exact=True),
    "ground_truth_pickle": Format(
        lambda f: (f / "gnd.pkl").write_bytes(pickle.dumps(make_truth(), protocol=3)),
        ("gnd.pkl",), partial(read_truth, name="gnd.pkl"),
    ),
    "ground_truth_matlab": Format(make_matlab, ("gnd.mat",), partial(read_truth, name="gnd.mat")),
    "feature_pickle": Format(
        make_features, ("features.pkl",), lambda f: repr(load_foreign(f / "features.pkl"))
    ),
    "checkpoint": Format(
        lambda f: save_checkpoint(f / "net.pt", **checkpoint()), ("net.pt",),
        partial(read_checkpoint, name="net.pt"),
    ),
    "checkpoint_legacy": Format(
        make_legacy, ("net.pth",), partial(read_checkpoint, name="net.pth")
    ),
    "safetensors": Format(
        lambda f: to_safetensors(checkpoint(), f / "net.safetensors"),
        ("net.safetensors", "net.safetensors.json"),
        partial(read_checkpoint, name="net.safetensors"),
    ),
    "safetensors_alone": Format(
        make_plain_safetensors, ("net.safetensors",),
        partial(read_checkpoint, name="net.safetensors"),
    ),
    "result_record": Format(make_result, (RESULT, VALUES, LISTS), read_result),
    "run_folder": Format(make_run, RUN_FILES, read_sacred),
    "expected_csv": Format(make_expected, ("expected.csv",), read_expected),
    "tar": Format(partial(make_tar, name="a.tar"), ("a.tar",), partial(read_tar, name="a.tar")),
    "tar_gz": Format(
        partial(make_tar, name="a.tar.gz"), ("a.tar.gz",), partial(read_tar, name="a.tar.gz"),
    ),
}  # fmt: skip
