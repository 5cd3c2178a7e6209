"""The textbook's answer: classifiers on hand-made observables, which a network has to be measured against.

Shapes: B jets, N jets of a split, C channels, H W image, F observables.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from jetmae.config import Experiment
from jetmae.data.batch import Batch
from jetmae.data.observables import observable_names, observables
from jetmae.data.rank_batches import RankBatches
from jetmae.runtime.liveness.phases import enter_phase
from jetmae.tasks.boosted_trees import scores_of_trees
from jetmae.tasks.probe import FeatureProbe
from jetmae.tasks.task import Columns, TaskContext


class ObservablesProbe(FeatureProbe):
    """A logistic regression on observables instead of an encoder's features; and boosted trees beside it."""

    def __init__(self, experiment: Experiment, context: TaskContext):
        super().__init__(experiment, context, len(observable_names(context.channels)))
        self.training_features_NF, self.training_label_N = torch.empty(0, self.num_features), np.empty(0, np.int64)

    def look(self, batch: Batch) -> tuple[Batch, Tensor]:
        moved, images = batch.to(self.context.world.device), self.context.images
        return moved, observables(images.source_units(images.sparse(moved)), self.context.channels)

    def prepare(self, batches: RankBatches) -> None:
        super().prepare(batches)
        ids_N, self.training_features_NF = self.features[batches.train_split]
        label_N = batches.datasets[batches.train_split].column("label")
        assert label_N is not None, "plan.py refuses jets without labels"
        self.training_label_N = label_N[ids_N.numpy()]

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        """The probe's predictions, and `score_of_boosted_trees` (n,) unless all training jets are of one class."""
        arrays = super().evaluation_arrays(network, per_jet, batches)
        enter_phase("evaluate: boosted trees")
        ids_N, features_NF = self.features[next(iter(batches)).split]
        scored_NF = features_NF[torch.searchsorted(ids_N, torch.from_numpy(per_jet["sample_id"]))]
        scores = scores_of_trees(
            self.training_features_NF.numpy(), self.training_label_N, scored_NF.numpy(), seed=self.experiment.seed
        )
        return arrays if scores is None else {**arrays, "score_of_boosted_trees": scores}
