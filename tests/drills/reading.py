"""Reads damaged files of given formats, thousands in one process, and says what came of it.

    python -m tests.drills.reading COUNT SEED OUT MODULE[:FORMAT]...

MODULE holds a table FORMATS; OUT receives the outcome as JSON after every format. The process may
take little memory beyond what it has, and each read little time. Exit code 0 unless it broke down.
"""

import faulthandler
import hashlib
import json
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from tests.drills.damage_kinds import damage
from tests.drills.payloads import make_payloads

MEMORY = 1 << 30  # bytes beyond those that the process has before the first damaged file
SECONDS = 20  # for one read
REFUSALS = (ValueError, FileNotFoundError)
# thousands of small files are rewritten: in memory, where there is such a folder
MEMORY_FOLDER = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)
MANY = 50  # damaged files of a format, below which fewer kinds of code are tried
SHOWN = 40  # defects that a report lists
NO_MEMORY = ("allocate memory", "not enough memory", "MemoryError", "bad_alloc")


class Format(NamedTuple):
    """Files that belong together, and all that reads them."""

    make: Callable[[Path], object]  # write them into an empty folder
    files: tuple[str, ...]  # those that are damaged, relative to the folder; may hold a star
    read: Callable[[Path], Any]  # their content; asserts what its users rely on
    exact: bool = False  # a record vouches for the content: other content is a defect


class Contract(AssertionError):  # noqa: N818
    """A reader gave something that its own docstring rules out."""


class TooSlow(BaseException):
    """A read did not end; no reader may catch it."""


def require(holds: object, what: str) -> None:
    """Contract unless `holds`."""
    if not holds:
        raise Contract(what)


@dataclass
class Report:
    """What came of the damaged files of one format."""

    name: str
    mutations: int = 0
    refused: int = 0  # with a ValueError or FileNotFoundError that names the file
    same: int = 0  # read as if nothing had happened
    other: int = 0  # read, with other content that is as valid
    defects: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)  # defects in few words: how often


# ---------------------------------------------------------------------------- one read


def digest(value: Any) -> str:
    """Of content: numbers, arrays, texts and containers of them."""
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode())
        plain = value.dtype.kind == "O"
        state.update(repr(value.tolist()).encode() if plain else np.ascontiguousarray(value).data)
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(state, vars(value))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            state.update(repr(key).encode())
            _feed(state, entry)
    elif isinstance(value, list | tuple):
        state.update(f"{len(value)}:".encode())
        for entry in value:
            _feed(state, entry)
    else:
        state.update(repr(value).encode())


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TooSlow if the block takes longer."""
    previous = signal.signal(signal.SIGALRM, _ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, is that the memory did not suffice."""
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def judge(form: Format, folder: Path, whole: str) -> str:
    """ "refused", "same" or "other"; else the defect in words."""
    try:
        with alarm(SECONDS):
            found = digest(form.read(folder))
    except REFUSALS as error:
        if _ran_out_of_memory(error):
            return f"took more memory than the file explains: {_describe(error)}"
        names = [Path(name).name for name in form.files]
        if not any(name in str(error) for name in (*names, str(folder))):
            return f"refused without naming the file: {_describe(error)}"
        return "refused"
    except TooSlow:
        return f"did not end in {SECONDS} s"
    except Contract as error:
        return f"read against its contract: {error}"
    except BaseException as error:
        return f"broke down: {_describe(error)}"
    if found == whole:
        return "same"
    return "read as other content in spite of a record" if form.exact else "other"


def _describe(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "drills" not in code.co_filename and "site-packages" not in code.co_filename:
            place = f" at {Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:160]!r}{place}"


# ---------------------------------------------------------------------------- one format


def _read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _restore(folder: Path, pristine: dict[Path, bytes]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path not in pristine:
            path.unlink()
    for path, content in pristine.items():
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def _expand(folder: Path, files: Sequence[str]) -> Iterator[str]:
    for name in files:
        found = sorted(folder.glob(name))
        require(found, f"there is no file {name}")
        yield from (str(path.relative_to(folder)) for path in found)


def drill(name: str, form: Format, count: int, seed: int, trace: Path | None = None) -> Report:
    """Damage the files of a format `count` times, in turn, then try the files that carry code.

    `trace`: receives what is being read, for the case that the process does not survive it.
    """
    report = Report(name)
    with tempfile.TemporaryDirectory(dir=MEMORY_FOLDER) as scratch:
        folder, marker = Path(scratch, "set"), Path(scratch, "code_ran")
        folder.mkdir()
        form.make(folder)
        pristine = _read_all(folder)
        form = form._replace(files=tuple(_expand(folder, form.files)))
        whole = digest(form.read(folder))
        require(digest(form.read(folder)) == whole, f"{name}: two reads of whole files differ")
        _restore(folder, pristine)
        payloads = make_payloads(marker)
        if count < MANY:
            payloads = {kind: payloads[kind] for kind in list(payloads)[::4]}
        for number in range(count + len(payloads) * len(form.files)):
            file = form.files[number % len(form.files)]
            rng = np.random.default_rng([seed, number])
            if number < count:
                kind, content = damage(file, pristine[folder / file], rng)
            else:
                kind = list(payloads)[(number - count) // len(form.files)]
                content = payloads[kind]
            if trace is not None:
                trace.write_text(f"{name}: {kind} of {file}, number {number}")
            (folder / file).write_bytes(content)
            verdict = judge(form, folder, whole)
            if marker.exists():
                verdict = "code of the file was run"
                marker.unlink()
            _note(report, verdict, f"{kind} of {file}, number {number}")
            _restore(folder, pristine)
    return report


def _note(report: Report, verdict: str, what: str) -> None:
    report.mutations += 1
    if verdict in ("refused", "same", "other"):
        setattr(report, verdict, getattr(report, verdict) + 1)
        return
    words = re.sub(r"\d+|0x\w+", "#", verdict)[:120]
    report.kinds[words] = report.kinds.get(words, 0) + 1
    if len(report.defects) < SHOWN:
        report.defects.append(f"{what}: {verdict}")


def limit_memory(extra: int = MEMORY) -> None:
    """No more address space than now and `extra` bytes."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + extra, size + extra))


def main(argv: list[str]) -> int:
    count, seed, out, *names = argv
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    formats: dict[str, Format] = {}
    for name in names:
        module, _, chosen = name.partition(":")
        table = import_module(module).FORMATS
        formats |= {key: table[key] for key in ([chosen] if chosen else table)}
    for form in formats.values():  # what a first read loads does not count
        with tempfile.TemporaryDirectory(dir=MEMORY_FOLDER) as scratch:
            form.make(Path(scratch))
            form.read(Path(scratch))
    limit_memory()
    reports = []
    for name, form in formats.items():
        trace = Path(out).with_suffix(".trace")
        reports.append(asdict(drill(name, form, int(count), int(seed), trace)))
        Path(out).write_text(json.dumps(reports))
    return 0


if __name__ == "__main__":
    # under its own name: the tables of formats import this module
    raise SystemExit(import_module("tests.drills.reading").main(sys.argv[1:]))
