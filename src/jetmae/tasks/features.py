"""What a frozen encoder says of the jets of a split, and a head that is fitted to it.

Shapes: B jets, N jets of a split, R jets of all ranks in a batch, F features.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jetmae.data.batch import Batch
from jetmae.metrics import auc
from jetmae.model.classifier import Classifier
from jetmae.tasks.region import Region
from jetmae.tasks.task import TaskContext

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1)  # C of scikit-learn's logistic regression
INNER_SHARE = 0.75  # of the training jets, to choose among them


def encoder_features(
    context: TaskContext, classifier: Classifier, region: Region, batch: Batch
) -> tuple[Batch, Tensor]:
    """The batch on the device, and what a frozen encoder says of its jets (B, F)."""
    frozen = classifier.to(context.world.device).eval()
    jets = context.look(batch, frozen)
    return jets.batch, frozen.features(*region(jets))


def features_of(
    context: TaskContext,
    look: Callable[[Batch], tuple[Batch, Tensor]],
    num_features: int,
    batches: Iterable[Batch],
    ids: NDArray[np.int64],
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (N,), which ascend, features (N, F) and labels (N,) of these jets; label 0 where there are none. Collective.

    `look` gives a batch on the device and the features (B, F) of its jets. Each rank computes its share and receives
    the others', so that all see the same numbers. The shares are exchanged batch by batch, because the features of
    millions of jets leave no room for a second copy.
    """
    ids_N, label_N = torch.from_numpy(ids), torch.zeros(len(ids), dtype=torch.int64)
    features_NF, gather_rows = torch.full((len(ids), num_features), torch.nan), context.world.gather_rows
    with torch.no_grad():
        for batch in batches:
            moved, features_BF = look(batch)
            label_B = torch.zeros_like(moved.ids_B) if moved.label_B is None else moved.label_B.long()
            counted_R = gather_rows(moved.counts_B.to(torch.uint8)).bool()
            ids_R, features_RF, label_R = map(gather_rows, (moved.ids_B, features_BF, label_B))
            rows = torch.searchsorted(ids_N, ids_R[counted_R].cpu())
            features_NF[rows], label_N[rows] = features_RF[counted_R].cpu(), label_R[counted_R].cpu()
    return ids_N, features_NF, label_N


def fit_head(features_NF: NDArray[np.float32], label_N: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Weights (F,) and bias of a logistic regression on scaled features.

    The strength of its penalty is the one of INVERSE_PENALTIES that is best on the last quarter of these jets, if it is
    fitted to the others. Jets of one class alone give a head of zeros.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # takes a second to import

    def fitted(penalty: float, jets: slice) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=1000).fit(features_NF[jets], label_N[jets])

    inner = int(INNER_SHARE * len(label_N))
    if len(np.unique(label_N)) < 2:
        return np.zeros(features_NF.shape[1]), 0.0
    best = INVERSE_PENALTIES[1]
    if len(np.unique(label_N[:inner])) == len(np.unique(label_N[inner:])) == 2:
        scores = [auc(fitted(c, slice(inner)).decision_function(features_NF[inner:]), label_N[inner:])
                  for c in INVERSE_PENALTIES]  # fmt: skip
        best = INVERSE_PENALTIES[int(np.argmax(scores))]
    model = fitted(best, slice(None))
    return model.coef_[0], float(model.intercept_[0])
