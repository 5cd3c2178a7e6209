"""Fine-tuning and training from scratch: tell class 1 from class 0.

Shapes: B jets, R those of all ranks, C channels, H W image.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from jetmae.config import Classify, Experiment
from jetmae.data.batch import Batch
from jetmae.engine.optim import parameter_groups
from jetmae.metrics import accuracy, auc
from jetmae.model.classifier import Classifier
from jetmae.model.vit import Encoder, drop_paths, set_drop_path_noise
from jetmae.tasks.task import Columns, Metrics, Task, TaskContext


class ClassificationTask(Task):
    """Encoder and head are trained."""

    network: Classifier
    evaluation_name = "predictions"
    jet_columns = ("pt_gev", "mass_gev")

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context = experiment, context
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.noise_columns = len(drop_paths(self.network))

    def make_network(self) -> Classifier:
        return make_classifier(self.experiment, self.context.image_shape)

    def parameter_groups(self) -> list[dict[str, Any]]:
        optim = self.experiment.optim
        return parameter_groups(self.network, weight_decay=optim.weight_decay, layer_decay=optim.layer_decay)

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch = batch.to(self.context.world.device)
        set_drop_path_noise(self.network, batch.noise_BN)
        return F.binary_cross_entropy_with_logits(self.logits(network, batch), labels_of(batch))

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        return evaluate_classifier(self.context, batches, lambda batch: self.logits(network, batch))

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B,) float32."""
        _, images_BCHW = self.context.dense(batch, network)
        logits_B: Tensor = network(images_BCHW)
        return logits_B.float()

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        return predictions(per_jet)


def make_classifier(experiment: Experiment, image_shape: tuple[int, int, int]) -> Classifier:
    """The encoder and the head of an experiment, untrained."""
    settings = experiment.classify or Classify()
    encoder = Encoder(image_shape, **experiment.model.model_dump())
    return Classifier(encoder, patch_size=experiment.model.patch_size, pooling=settings.pooling)


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
