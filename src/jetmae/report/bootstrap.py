"""How much would a number change with other test jets? Paired bootstrap: all predictions meet the same drawn jets.

Efron, Ann. Statist. 7 (1979) 1. The draws are those of a fixed seed, so equal jets in equal order give pairs, and a
report made twice has the same numbers. R replicates, N jets.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jetmae.metrics import Floats

REPLICATES = 400  # the standard deviation is then known to 4 %


def drawn_jets(num_jets: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the jets of each replicate, (N,): as many as there are, some several times."""
    random = np.random.default_rng(0)
    for _ in range(REPLICATES):
        yield random.integers(0, num_jets, num_jets)


def auc_replicates(scores_N: ArrayLike, labels_N: ArrayLike) -> Floats:
    """(R,) AUC of each replicate; nan for one that has a single class."""
    _, rank_N = np.unique(np.asarray(scores_N), return_inverse=True)
    is_signal_N = np.asarray(labels_N) == 1
    num_ranks = int(rank_N.max(initial=-1)) + 1
    return np.array([_auc(rank_N[drawn], is_signal_N[drawn], num_ranks) for drawn in drawn_jets(len(rank_N))])


def _auc(rank_N: NDArray[np.int64], is_signal_N: NDArray[np.bool_], num_ranks: int) -> float:
    """Of scores that are given by their ranks: sorting once is enough for all replicates. Ties count one half."""
    signal = np.bincount(rank_N[is_signal_N], minlength=num_ranks)
    background = np.bincount(rank_N[~is_signal_N], minlength=num_ranks)
    num_pairs = signal.sum() * background.sum()
    below = np.cumsum(background) - background / 2
    return float(signal @ below / num_pairs) if num_pairs else float("nan")
