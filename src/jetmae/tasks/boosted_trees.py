"""Boosted decision trees: what a physicist would train on a table of observables.

Shapes: N training jets, M jets to be scored, F features.
"""

import numpy as np
from numpy.typing import NDArray

FEW_JETS = 500  # below this a leaf may hold five jets, from there on it needs twenty


def scores_of_trees(
    features_NF: NDArray[np.float32], label_N: NDArray[np.int64], scored_MF: NDArray[np.float32], *, seed: int
) -> NDArray[np.float32] | None:
    """Probability of class 1 (M,) from trees that are fitted to N labelled jets; None if all of those are of one class.

    Small trees, learned slowly: the settings were chosen once for 100 to 3,000 jets and are not tuned to a dataset.
    """
    if len(np.unique(label_N)) < 2:
        return None
    # It takes a second to import, which only this task is to pay.
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]

    trees = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.05,
        max_leaf_nodes=8,
        l2_regularization=1.0,
        min_samples_leaf=5 if len(label_N) < FEW_JETS else 20,
        random_state=seed,
    )
    scores: NDArray[np.float32] = trees.fit(features_NF, label_N).predict_proba(scored_MF)[:, 1].astype(np.float32)
    return scores
