"""Probing: one linear layer on features that stay as they are, such as what a frozen encoder says.

Shapes: B jets, N jets of a split, F features.
"""

from abc import abstractmethod
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
from jetmae.tasks.features import encoder_features, features_of
from jetmae.tasks.region import Region
from jetmae.tasks.task import Columns, Metrics, Task, TaskContext


class FeatureProbe(Task):
    """One linear layer on fixed features of the jets.

    Nothing random happens to the images and what makes the features does not change, so each jet's features are
    computed once, before the first step (`prepare`), and the loop trains on those.
    """

    network: LinearProbe
    evaluation_name = "predictions"
    jet_columns = ("pt_gev", "mass_gev")
    noise_columns = 0

    def __init__(self, experiment: Experiment, context: TaskContext, num_features: int):
        self.experiment, self.context, self.num_features = experiment, context, num_features
        self.network = self.make_network()
        self.features: dict[str, tuple[Tensor, Tensor]] = {}
        """of each split: ids (N,), ascending, and features (N, F)"""

    @abstractmethod
    def look(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch on the device, and the features (B, F) of its jets."""

    def make_network(self) -> LinearProbe:
        return LinearProbe(self.num_features)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def prepare(self, batches: RankBatches) -> None:
        """Compute the features of all jets that the run uses, and the statistics of the training jets'."""
        for split in batches.datasets:
            jets = with_phases(self.context.world.each(batches.of_split(split)), "features")
            ids_N, features_NF, _ = features_of(self.context, self.look, self.num_features, jets, batches.ids(split))
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


class ProbeTask(FeatureProbe):
    """The features are those of a frozen encoder; the head alone is trained."""

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.classifier, self.region = make_classifier(experiment, context), Region(experiment, context)
        self.encoder = self.classifier.encoder
        super().__init__(experiment, context, self.classifier.num_features)

    def look(self, batch: Batch) -> tuple[Batch, Tensor]:
        return encoder_features(self.context, self.classifier, self.region, batch)
