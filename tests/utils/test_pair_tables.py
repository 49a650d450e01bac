"""Tables of pair scores: filled in blocks, resumed, shared out; the order that follows."""

import numpy as np
import pytest
import torch

from utils.distributed import Ranks
from utils.pair_tables import fill_table, rerank_table
from utils.row_store import Store

TABLE = np.arange(15, dtype=np.float32).reshape(5, 3)


def test_new_order_is_stable_and_cut_to_the_scores():
    """Equal scores keep the order of the table; its last column is not reranked."""
    nn_inds, scores = np.array([[7, 8, 9, 1], [4, 5, 6, 2]]), np.array([[1, 2, 1], [0, 0, 3]])
    reranked, values = rerank_table(nn_inds, scores)
    assert reranked.tolist() == [[8, 7, 9], [6, 4, 5]]
    assert values.tolist() == [[2, 1, 1], [3, 0, 0]]
    with pytest.raises(ValueError, match=r"scores are \(2, 3\), the neighbour table is \(2, 2\)"):
        rerank_table(nn_inds[:, :2], scores)
    with pytest.raises(ValueError, match="1 of 3 pair scores are not finite"):
        rerank_table(nn_inds[:1], np.array([[0, np.inf, 0]]))


@pytest.mark.parametrize("block_pairs", [1, 6, 100])
def test_blocks_make_the_whole_table(block_pairs):
    seen = []

    def score(part: slice) -> np.ndarray:
        seen.append((part.start, part.stop))
        return TABLE[part]

    found = fill_table(score, TABLE.shape, block_pairs, progress=False)
    np.testing.assert_array_equal(found, TABLE)
    assert (
        seen
        == {
            1: [(i, i + 1) for i in range(5)],
            6: [(0, 2), (2, 4), (4, 5)],
            100: [(0, 5)],
        }[block_pairs]
    )


def test_interrupted_table_goes_on_after_its_finished_rows(tmp_path):
    def interrupted(part: slice) -> np.ndarray:
        if part.start == 4:
            raise KeyboardInterrupt
        return TABLE[part]

    path, rest = tmp_path / "scores.npy", []
    with pytest.raises(KeyboardInterrupt):
        fill_table(interrupted, TABLE.shape, 6, store=Store(TABLE.shape, path), progress=False)

    def score(part: slice) -> np.ndarray:
        rest.append(part.start)
        return TABLE[part]

    found = fill_table(score, TABLE.shape, 6, store=Store(TABLE.shape, path), progress=False)
    np.testing.assert_array_equal(found, TABLE)
    assert rest == [4]


def test_ranks_share_the_blocks(monkeypatch):
    """Rank 1 of 2 scores the second block of two rows; the sum, played here, brings the others."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        others = torch.from_numpy(TABLE.copy())
        others[2:4] = 0
        assert tensor[:2].eq(0).all(), "what another rank scores is left at zero"
        return tensor + others

    monkeypatch.setattr(Ranks, "sum_", sum_)
    found = fill_table(lambda part: TABLE[part], TABLE.shape, 6, Ranks(1, 2), progress=False)
    np.testing.assert_array_equal(found, TABLE)
