"""Tasks dealt out to processes: each done once, by a worker of its own process, on one thread."""

import os

import pytest

from utils.worker_pool import THREAD_VARIABLES, run_tasks


class Adder:
    """Adds a number; tells its process and how many threads a BLAS may have there."""

    def __init__(self, added: int) -> None:
        self.added = added

    def __call__(self, task: int) -> tuple[int, int, str | None]:
        if task == 13:
            raise ValueError("task 13 cannot be done")
        return task + self.added, os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_task_is_done_once(num_processes, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    found = list(run_tasks(Adder, (100,), range(10), num_processes))
    assert sorted((task, result[0]) for task, result in found) == [(i, 100 + i) for i in range(10)]
    own_process = {result[1] == os.getpid() for _, result in found}
    assert own_process == {num_processes == 1}
    if num_processes > 1:
        assert {result[2] for _, result in found} == {"1"}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"


def test_an_error_reaches_the_caller_and_the_environment_stays(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="task 13"):
        list(run_tasks(Adder, (0,), [13, 14], 2))
    assert not set(THREAD_VARIABLES) & set(os.environ)


def test_nothing_to_do_starts_nothing():
    assert list(run_tasks(Adder, (0,), [], None)) == []
