"""Work dealt out to processes of one thread each: they are as many as there are cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    make_worker: Callable[..., Callable[[Task], Result]],
    state: tuple[Any, ...],
    tasks: Sequence[Task],
    num_processes: int | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they are done.

    Every process makes its own `make_worker(*state)`, which gets the tasks; all of these must be
    picklable. `num_processes` None: one per core; 1: all is done in this process.
    """
    count = min(num_processes or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        worker = make_worker(*state)
        yield from ((task, worker(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), context.Pool(count, _start, (make_worker, state)) as pool:
        yield from pool.imap_unordered(_work, tasks)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside have one BLAS thread."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_worker: dict[str, Callable[[Any], Any]] = {}  # of this process, where it is a worker


def _start(make_worker: Callable[..., Callable[[Any], Any]], state: tuple[Any, ...]) -> None:
    cv2.setNumThreads(1)
    _worker["own"] = make_worker(*state)


def _work(task: Any) -> tuple[Any, Any]:
    return task, _worker["own"](task)
