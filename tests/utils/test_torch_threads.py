"""Work in threads of which each has one thread of torch's own."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from utils.torch_threads import map_in_threads, workers


def test_threads_are_confined_and_the_setting_comes_back():
    before = torch.get_num_threads()
    assert map_in_threads(lambda x: x * x, range(20), 2) == [x * x for x in range(20)]
    inside = map_in_threads(lambda _: torch.get_num_threads(), range(5), 2)
    assert inside == [1] * 5
    assert torch.get_num_threads() == before
    # a thread started afterwards begins with the old setting too
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_an_error_of_one_item_ends_the_others():
    calls = []

    def fail_at_first(item):
        calls.append(item)
        if item == 0:
            raise RuntimeError("damaged item")
        time.sleep(0.01)

    with pytest.raises(RuntimeError, match="damaged item"):
        map_in_threads(fail_at_first, range(1000), 2)
    assert len(calls) < 1000


def test_kept_threads_run_torch_on_one_each_and_the_caller_on_all():
    before = torch.get_num_threads()
    assert set(workers().map(lambda _: torch.get_num_threads(), range(50))) == {1}
    assert torch.get_num_threads() == before
    assert workers() is workers()
    with ThreadPoolExecutor(1) as pool:  # a thread started afterwards begins with the old setting
        assert pool.submit(torch.get_num_threads).result() == before
