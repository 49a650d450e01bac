"""Processes that are killed, run out of disk or meet each other, in the middle of what they write.

    python -m tests.drills.interruptions OUT ROUNDS SEED DRILL,DRILL... MODULE[:STAGE]...

MODULE holds a table STAGES; OUT receives the outcome as JSON. One process loads the libraries and
forks for every run, so that a run takes as long as its work. Drills:

    kill    a run dies, then another one goes on to the end: the same bytes as without
    disk    the disk is full: an error names the file, nothing half-written is left, the next run
            goes on to the same bytes
    pair    two runs at the same time end with the same bytes, or one of them is refused in words
"""

import errno
import hashlib
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.drills.reading import MEMORY_FOLDER

SECONDS = 120  # for one run
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate")
NO_SPACE = ("No space left", "File too large")
REFUSED = ("another process", "holds another", "is there already", "was made")

Outcome = dict[str, str]  # what a finished stage leaves: name -> digest


class Stage(NamedTuple):
    """Something that writes files, and can be run again after it was cut short."""

    prepare: Callable[[Path], object]  # write the inputs into an empty folder
    run: Callable[[Path, Path], object]  # (inputs, outputs): from the start, or from where it stood
    outcome: Callable[[Path], Outcome] | None = None  # of the outputs; None: all files
    drills: tuple[str, ...] = ("kill", "disk", "pair")


@dataclass
class Report:
    """What came of one stage in one drill."""

    name: str
    drill: str
    runs: int = 0
    cut: int = 0  # runs that were really killed, or refused for want of space, or two at once
    defects: list[str] = field(default_factory=list)


def all_files(folder: Path) -> Outcome:
    """Digest of every file by its name; hidden ones too, but for empty locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (path.suffix == ".lock" and not path.stat().st_size)
    }


# ---------------------------------------------------------------------------- runs


class Ended(NamedTuple):
    """How a forked run ended."""

    signal: int  # 0: by itself
    error: str  # empty: well
    seconds: float


Setup = Callable[[], object]


def fork(work: Callable[[], object], setup: Setup, log: Path) -> int:
    """Start `work` in a fork; its error, if any, goes to `log`. Returns the process."""
    process = os.fork()
    if process:
        return process
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        error = ""
        try:
            setup()
            work()
        except BaseException as found:
            error = f"{type(found).__name__}: {found}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        os.environ["DRILL_OVER"] = "1"
        log.write_text(error)
    finally:
        os._exit(0)


def wait(process: int, log: Path, kill_after: float | None = None) -> Ended:
    """Until the run ends; it is killed after `kill_after` seconds."""
    start = time.monotonic()
    deadline = start + SECONDS
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        passed = time.monotonic() - start
        if done:
            break
        if (kill_after is not None and passed >= kill_after) or time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.0005)
    if os.WIFSIGNALED(status):
        late = passed >= SECONDS
        return Ended(os.WTERMSIG(status), "did not end" if late else "", passed)
    return Ended(0, log.read_text() if log.is_file() else "no word of how it ended", passed)


def run_once(
    work: Callable[[], object],
    log: Path,
    setup: Setup = lambda: None,
    kill_after: float | None = None,
) -> Ended:
    """One run to its end."""
    log.unlink(missing_ok=True)
    return wait(fork(work, setup, log), log, kill_after)


def watch_changes(
    folder: Path, act: Callable[[int, str], object], events: tuple[str, ...] = CHANGES
) -> None:
    """From now on `act(n, path)` before the n-th change in `folder`: open to write, rename, ..."""
    prefix, count = str(folder), [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in events:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(prefix):
            if "DRILL_OVER" not in os.environ:
                count[0] += 1
                act(count[0], os.fsdecode(path))

    sys.addaudithook(hook)


def die_at_change(folder: Path, number: int) -> Setup:
    """Killed before the change of that number."""

    def act(count: int, _: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: watch_changes(folder, act)


def limit_files(size: int, deadly: bool) -> Setup:
    """No file may grow beyond `size` bytes: the write dies (`deadly`) or fails in the middle."""

    def setup() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return setup


def fail_at_change(folder: Path, number: int) -> Setup:
    """No space from the change of that number on."""

    def act(count: int, path: str) -> None:
        if count >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    return lambda: watch_changes(folder, act, ("os.mkdir",))


def jitter(folder: Path, seed: int) -> Setup:
    """Short pauses before changes, so that two runs meet in many ways."""
    rng = np.random.default_rng([seed, os.getpid()])
    return lambda: watch_changes(folder, lambda *_: time.sleep(float(rng.uniform(0, 0.004))))


# ---------------------------------------------------------------------------- drills


class Drill:
    """One stage in a folder of its own, with what it leaves when nothing happens."""

    def __init__(self, name: str, stage: Stage, folder: Path) -> None:
        self.name, self.stage, self.folder = name, stage, folder
        self.inputs, self.log = folder / "inputs", folder / "log"
        self.inputs.mkdir()
        ended = run_once(lambda: stage.prepare(self.inputs), self.log)
        assert not ended.error, f"{name}: {ended.error}"
        self.out = folder / "out"  # the same path for all runs: it may be part of what is written
        changes = folder / "changes"

        def count(number: int, _: str) -> None:
            descriptor = os.open(changes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, str(number).encode())
            os.close(descriptor)

        self._empty()
        ended = self.run(lambda: watch_changes(self.out, count))
        if ended.error or ended.signal:
            raise RuntimeError(f"{name}: {ended}")
        self.expected, self.seconds = self.outcome(), ended.seconds
        assert self.expected, f"{name} leaves nothing"
        sizes = [path.stat().st_size for path in self.out.rglob("*") if path.is_file()]
        self.changes, self.largest = int(changes.read_text() or 0), max(sizes)

    def _empty(self) -> None:
        """A new folder for the outputs."""
        if self.out.exists():
            for path in sorted(self.out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.out.mkdir(exist_ok=True)

    def run(self, setup: Setup = lambda: None, kill_after: float | None = None) -> Ended:
        """One run of the stage."""
        return run_once(lambda: self.stage.run(self.inputs, self.out), self.log, setup, kill_after)

    def outcome(self) -> Outcome:
        """What the outputs are."""
        return (self.stage.outcome or all_files)(self.out)

    def compare(self) -> str:
        """In what the outputs differ from those of an undisturbed run; empty: in nothing."""
        try:
            found = self.outcome()
        except Exception as error:
            return f"the outputs cannot be read: {type(error).__name__}: {error}"
        names = [n for n in {**self.expected, **found} if self.expected.get(n) != found.get(n)]
        return "" if not names else f"other outputs: {sorted(names)[:6]}"

    def finish(self) -> str:
        """Run the stage again, to its end; the defect in words."""
        ended = self.run()
        if ended.error or ended.signal:
            return f"the next run failed: {ended.error or ended.signal}"
        return self.compare()

    def leftovers(self) -> list[str]:
        """Temporary files of `atomic_path`."""
        return [path.name for path in self.out.rglob(".*.part*")]


def numbers(rng: np.random.Generator, highest: int, count: int) -> list[int]:
    """`count` different numbers from 1 on, all of them where there are fewer."""
    highest = max(1, highest)
    return sorted((1 + rng.permutation(highest)[:count]).tolist())


def kill(drill: Drill, rounds: int, rng: np.random.Generator) -> Report:
    """Killed before a change, within a write, at any moment; each time the next run goes on."""
    report = Report(drill.name, "kill")
    ways: list[tuple[str, Setup, float | None]] = [
        *((f"before change {n}", die_at_change(drill.out, n), None)
          for n in numbers(rng, drill.changes, rounds)),
        *((f"at byte {n}", limit_files(n, True), None)
          for n in numbers(rng, drill.largest - 1, max(1, rounds // 2))),
        *((f"after {t:.3f} s", lambda: None, float(t))
          for t in rng.uniform(0, drill.seconds, max(1, rounds // 2))),
    ]  # fmt: skip
    for what, setup, after in ways:
        drill._empty()
        ended = drill.run(setup, after)
        report.runs += 1
        report.cut += ended.signal > 0
        if ended.error:
            report.defects.append(f"{what}: {ended.error}")
        elif problem := drill.finish():
            report.defects.append(f"{what}: {problem}")
        elif left := drill.leftovers():
            report.defects.append(f"{what}: {left} are left")
    return report


def fill_disk(drill: Drill, rounds: int, rng: np.random.Generator) -> Report:
    """No space at a change or within a write."""
    report = Report(drill.name, "disk")
    ways = [
        *((f"no space at change {n}", fail_at_change(drill.out, n))
          for n in numbers(rng, drill.changes, rounds)),
        *((f"no space behind byte {n}", limit_files(n, False))
          for n in numbers(rng, drill.largest - 1, rounds)),
    ]  # fmt: skip
    for what, setup in ways:
        drill._empty()
        ended = drill.run(setup)
        report.runs += 1
        if ended.signal:
            report.defects.append(f"{what}: died of signal {ended.signal}")
        elif ended.error:
            report.cut += 1
            if (
                not any(text in ended.error for text in NO_SPACE)
                or str(drill.out) not in ended.error
            ):
                report.defects.append(f"{what}: not explained: {ended.error[:300]}")
            if left := drill.leftovers():
                report.defects.append(f"{what}: {left} are left")
        if problem := drill.finish():
            report.defects.append(f"{what}: {problem}")
    return report


def meet(drill: Drill, rounds: int, rng: np.random.Generator) -> Report:
    """Two at once."""
    report = Report(drill.name, "pair")
    for round_ in range(rounds):
        drill._empty()
        seeds = rng.integers(2**31, size=2)
        logs = [drill.folder / f"log{i}" for i in range(2)]
        for log in logs:
            log.unlink(missing_ok=True)
        processes = [  # both are started before either is waited for
            fork(lambda: drill.stage.run(drill.inputs, drill.out), jitter(drill.out, int(s)), log)
            for s, log in zip(seeds, logs, strict=True)
        ]
        ends = [wait(process, log) for process, log in zip(processes, logs, strict=True)]
        report.runs += 1
        report.cut += 1
        bad = [end for end in ends if end.signal or end.error]
        refused = [end for end in bad if any(text in end.error for text in REFUSED)]
        if len(bad) > len(refused) or len(bad) == 2:
            report.defects.append(f"round {round_}: {[end.error or end.signal for end in bad]}")
        elif problem := (drill.finish() if refused else drill.compare()):
            report.defects.append(f"round {round_}: {problem}")
        elif left := drill.leftovers():
            report.defects.append(f"round {round_}: {left} are left")
    return report


DRILLS = {"kill": kill, "disk": fill_disk, "pair": meet}


def run_stages(names: list[str], chosen: list[str], rounds: int, seed: int) -> Iterator[Report]:
    """The chosen drills of every stage that takes part in them."""
    for name in names:
        module, _, only = name.partition(":")
        table: dict[str, Stage] = import_module(module).STAGES
        for key in [only] if only else table:
            parts = [part for part in chosen if part in table[key].drills]
            if not parts:
                continue
            with tempfile.TemporaryDirectory(prefix="drill_", dir=MEMORY_FOLDER) as folder:
                drill = Drill(key, table[key], Path(folder))
                for part in parts:
                    rng = np.random.default_rng([seed, len(key), rounds])
                    yield DRILLS[part](drill, rounds, rng)


def main(argv: list[str]) -> int:
    out, rounds, seed, chosen, *names = argv
    logging.disable(logging.CRITICAL)
    reports: list[Any] = []
    for report in run_stages(names, chosen.split(","), int(rounds), int(seed)):
        reports.append(asdict(report))
        Path(out).write_text(json.dumps(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(import_module("tests.drills.interruptions").main(sys.argv[1:]))
