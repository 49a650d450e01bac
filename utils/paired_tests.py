"""Is one run better than another beyond chance? Tests on the differences of single queries.

Both take (Q,) differences, second minus first, of the same queries; queries that count in neither
run are left out before. Neither assumes a distribution.
"""

import numpy as np
from scipy.special import bdtr

BLOCK_NUMBERS = 4_000_000  # signs drawn at once
EXACT_UP_TO = 16  # differences other than 0, whose 2^n signs are all tried


def permutation_test(differences: np.ndarray, n: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean difference when the two runs may be swapped query by query.

    All 2^m assignments for up to 16 differences other than 0, else `n` random ones, of which the
    observed one counts as one more: p is never 0. Fisher's randomisation test.
    """
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0
    observed = abs(moved.sum()) * (1 - 1e-12)  # equal sums may differ in their last digit
    if len(moved) <= EXACT_UP_TO:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        sums = (1.0 - 2.0 * patterns) @ moved
        return float((np.abs(sums) >= observed).mean())
    rng, extreme = np.random.default_rng(seed), 0
    block = max(1, BLOCK_NUMBERS // len(moved))
    for start in range(0, n, block):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(block, n - start), len(moved)))
        extreme += int((np.abs(signs @ moved) >= observed).sum())
    return (1 + extreme) / (1 + n)


def sign_test(differences: np.ndarray) -> tuple[int, int, int, float]:
    """(gained, lost, equal, p): exact two-sided sign test on the queries that changed.

    For values of 0 and 100, as of recall, this is McNemar's test.
    """
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    changed = gained + lost
    if changed == 0:
        return 0, 0, len(differences), 1.0
    p = min(1.0, 2 * float(bdtr(min(gained, lost), changed, 0.5)))
    return gained, lost, len(differences) - changed, p
