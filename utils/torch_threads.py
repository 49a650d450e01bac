"""Work shared out to threads in which torch's kernels run on one thread each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Any], Result], items: Sequence[Any] | np.ndarray, threads: int
) -> list[Result]:
    """[function(item) for item in items], each call confined to one of `threads` threads.

    The kernels inside run on the calling thread alone. An interrupt waits for the calls under way.
    """
    if threads == 1 and torch.get_num_threads() == 1:
        return [function(item) for item in items]
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
        # a worker's setting is its own, but also what threads started later would begin with
        torch.set_num_threads(before)


def workers() -> ThreadPoolExecutor:
    """As many kept threads as torch has, for numpy calls and torch kernels, which run on one each.

    Kept, because threads that are made anew for every call fetch all their memory anew.
    """
    return _pool(torch.get_num_threads())


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    started = Barrier(size)

    def confine() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes up the setting of all when it is first asked for
        started.wait()

    pool = ThreadPoolExecutor(size, initializer=confine)
    list(pool.map(lambda _: None, range(size)))
    torch.set_num_threads(size)  # see above
    return pool
