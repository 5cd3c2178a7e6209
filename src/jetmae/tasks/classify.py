"""Fine-tuning and training from scratch: tell class 1 from class 0.

Shapes: B jets, R those of all ranks, C channels, H W image.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from jetmae.config import Classify, Experiment
from jetmae.data.batch import Batch
from jetmae.data.rank_batches import RankBatches
from jetmae.engine.optim import parameter_groups
from jetmae.metrics import accuracy, auc
from jetmae.model.classifier import Classifier
from jetmae.model.vit import Encoder, drop_paths, set_drop_path_noise
from jetmae.runtime.liveness.phases import with_phases
from jetmae.tasks.features import encoder_features, features_of, fit_head
from jetmae.tasks.region import Region
from jetmae.tasks.task import Columns, Metrics, Task, TaskContext


class ClassificationTask(Task):
    """Encoder and head are trained."""

    network: Classifier
    evaluation_name = "predictions"
    jet_columns = ("pt_gev", "mass_gev")

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context = experiment, context
        self.settings = experiment.classify or Classify()
        self.region = Region(experiment, context)
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.augmentation = context.augmentation(experiment.augment)
        dropped = self.region.num_patches if experiment.augment.drop_tokens else 0
        self.noise_parts = (len(drop_paths(self.network)), self.augmentation.noise_columns, dropped)
        self.noise_columns = sum(self.noise_parts)

    def make_network(self) -> Classifier:
        return make_classifier(self.experiment, self.context)

    def parameter_groups(self) -> list[dict[str, Any]]:
        optim = self.experiment.optim
        return parameter_groups(self.network, weight_decay=optim.weight_decay, layer_decay=optim.layer_decay)

    def prepare(self, batches: RankBatches) -> None:
        """Scale the features of the head, and give it a first guess: a logistic regression on what the encoder says."""
        if not self.settings.normalise_features:
            return
        split = batches.train_split
        jets = with_phases(self.context.world.each(batches.of_split(split)), "features")
        look = partial(encoder_features, self.context, self.network, self.region)
        _, features_NF, label_N = features_of(self.context, look, self.network.num_features, jets, batches.ids(split))
        self.network.set_statistics(features_NF)
        if self.settings.head_from_probe:
            scaled_NF = self.network.scaled(features_NF.to(self.context.world.device)).cpu().numpy()
            head = fit_head(scaled_NF, label_N.numpy())
            self.network.set_head(*self.context.world.gather(head)[0])  # rank 0's: processors may round differently

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch = batch.to(self.context.world.device)
        path_noise_BN, change_noise_BN, token_noise_BN = batch.noise_BN.split(self.noise_parts, dim=1)
        set_drop_path_noise(self.network, path_noise_BN)
        jets = self.context.look(batch, network, lambda pixels: self.augmentation(pixels, change_noise_BN))
        logits_B = network(*self.region(jets, token_noise_BN if token_noise_BN.shape[1] else None)).float()
        return F.binary_cross_entropy_with_logits(logits_B, labels_of(batch))

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        return evaluate_classifier(self.context, batches, lambda batch: self.logits(network, batch))

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B,) float32."""
        logits_B: Tensor = network(*self.region(self.context.look(batch, network)))
        return logits_B.float()

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        return predictions(per_jet)


def make_classifier(experiment: Experiment, context: TaskContext) -> Classifier:
    """The encoder and the head of an experiment, untrained."""
    settings = experiment.classify or Classify()
    encoder = Encoder(context.image_shape, **experiment.model.model_dump(exclude={"tokens"}))
    return Classifier(
        encoder,
        grid=context.grid,
        patch_size=context.patch_size,
        pooling=settings.pooling,
        normalise_features=settings.normalise_features,
    )


def labels_of(batch: Batch) -> Tensor:
    """(B,) float32.

    Raises:
        ValueError: the jets have none; plan.py refuses such data before.
    """
    if batch.label_B is None:
        raise ValueError(f"jets of split {batch.split} have no labels")
    return batch.label_B.float()


def evaluate_classifier(
    context: TaskContext, batches: Iterable[Batch], logits_of: Callable[[Batch], Tensor]
) -> tuple[Metrics, Columns]:
    """Metrics `loss`, `accuracy`, `auc`; per jet `score`, the probability of class 1, and `label`. Collective."""
    ids: list[Tensor] = []
    columns: dict[str, list[Tensor]] = {"score": [], "label": [], "loss": []}
    for batch in batches:
        logits_B, label_B = logits_of(batch).cpu(), labels_of(batch).cpu()
        loss_B = F.binary_cross_entropy_with_logits(logits_B, label_B, reduction="none")
        ids.append(batch.ids_B[batch.counts_B])
        for name, values in (("score", logits_B.sigmoid()), ("label", label_B), ("loss", loss_B.double())):
            columns[name].append(values[batch.counts_B])
    per_jet = context.collect(ids, columns)
    loss, score, label = per_jet.pop("loss"), per_jet["score"], per_jet["label"].astype(np.int8)
    metrics = {
        "loss": float(loss.mean()),
        "accuracy": float(accuracy(score, label).value),
        "auc": float(auc(score, label)),
    }
    return metrics, {**per_jet, "label": label}


def predictions(per_jet: Columns) -> Columns:
    """What the report needs of a classifier's results."""
    return {**per_jet, "score": per_jet["score"].astype(np.float32)}
