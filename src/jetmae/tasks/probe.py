"""Probing: one linear layer on what a frozen encoder says.

Shapes: B jets, N jets of a split, F features.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetmae.config import Experiment
from jetmae.data.batch import Batch
from jetmae.data.rank_batches import RankBatches
from jetmae.engine.optim import parameter_groups
from jetmae.model.classifier import LinearProbe
from jetmae.runtime.liveness.phases import with_phases
from jetmae.tasks.classify import evaluate_classifier, labels_of, make_classifier, predictions
from jetmae.tasks.features import features_of
from jetmae.tasks.region import Region
from jetmae.tasks.task import Columns, Metrics, Task, TaskContext


class ProbeTask(Task):
    """The head alone is trained.

    Nothing random happens to the images and the encoder does not change, so each jet's features are computed once,
    before the first step (`prepare`), and the loop trains on those.
    """

    network: LinearProbe
    evaluation_name = "predictions"
    jet_columns = ("pt_gev", "mass_gev")
    noise_columns = 0

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context = experiment, context
        self.classifier, self.region = make_classifier(experiment, context), Region(experiment, context)
        self.encoder = self.classifier.encoder
        self.network = self.make_network()
        self.features: dict[str, tuple[Tensor, Tensor]] = {}
        """of each split: ids (N,), ascending, and features (N, F)"""

    def make_network(self) -> LinearProbe:
        return LinearProbe(self.classifier.num_features)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def prepare(self, batches: RankBatches) -> None:
        """Compute the features of all jets that the run uses, and the statistics of the training jets'."""
        for split in batches.datasets:
            jets = with_phases(self.context.world.each(batches.of_split(split)), "features")
            ids_N, features_NF, _ = features_of(self.context, self.classifier, self.region, jets, batches.ids(split))
            self.features[split] = ids_N, features_NF
        self.network.set_statistics(self.features[batches.train_split][1])

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        logits_B = self.logits(network, batch)
        return F.binary_cross_entropy_with_logits(logits_B, labels_of(batch).to(logits_B.device))

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        return evaluate_classifier(self.context, batches, lambda batch: self.logits(network, batch))

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B,) float32."""
        ids_N, features_NF = self.features[batch.split]
        features_BF = features_NF[torch.searchsorted(ids_N, batch.ids_B.cpu())]
        logits_B: Tensor = network(features_BF.to(self.context.world.device))
        return logits_B.float()

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        return predictions(per_jet)
