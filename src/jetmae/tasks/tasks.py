"""The tasks: reconstruct what is hidden, or classify. They say what a network is, what its loss is, and how it scores.

| entrypoint | task        | initial weights         | trainable |
|------------|-------------|-------------------------|-----------|
| pretrain   | Reconstruct | random                  | all       |
| finetune   | Classify    | a pretrain run          | all       |
| scratch    | Classify    | random                  | all       |
| probe      | Probe       | a pretrain run, or none | head      |

Shapes: B jets, R those of all ranks, N those of a split, C channels, H W image, L patches, M masked patches, P values
of a patch, F features.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jetmae.config import Experiment
from jetmae.data.images import ImageMaker
from jetmae.data.loader import Batch
from jetmae.engine.optim import parameter_groups
from jetmae.metrics import accuracy, auc, explained_variance
from jetmae.model.classifier import Classifier, LinearProbe
from jetmae.model.mae import MaskedAutoencoder, normalised_patches, reconstruction_loss
from jetmae.model.patches import channel_first, channel_last, patchify, unpatchify
from jetmae.model.vit import Encoder, drop_paths, set_drop_path_noise
from jetmae.runtime.world import World

EXAMPLE_JETS = 4  # of the pictured ones, kept one by one for the report


class Task(Protocol):
    """What a run needs to know. `encoder` is the part that a pretrain run hands on."""

    network: nn.Module
    encoder: nn.Module
    noise_columns: int
    evaluation_name: str

    def make_network(self) -> nn.Module:
        """Another network of the same shape."""

    def parameter_groups(self) -> list[dict]: ...

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a micro-batch."""

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[dict, dict[str, NDArray]]:
        """Metrics over the batches of all ranks, with `loss` among them, and per-jet results in id order."""

    def score(self, metrics: dict) -> float:
        """What the best weights maximise."""

    def evaluation_arrays(self, network: nn.Module, per_jet: dict, batches: Iterable[Batch]) -> dict[str, NDArray]:
        """What the report needs of a split; `batches` are the pictured jets, `network` is whole on this rank."""


@dataclass(frozen=True)
class TaskContext:
    """What every task needs from its surroundings."""

    images: ImageMaker
    world: World

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.image_shape

    def dense(self, batch: Batch, network: nn.Module) -> tuple[Batch, Tensor]:
        """The batch on the device, and its images (B, C, H, W) in the precision of the network."""
        batch = batch.to(self.world.device)
        return batch, self.images(batch).to(precision_of(network))

    def collect(self, ids: list[Tensor], columns: dict[str, list[Tensor]]) -> dict[str, NDArray]:
        """Per-jet results of all ranks, ordered by sample id: `sample_id` (n,) and each column (n, ...)."""
        mine = {"sample_id": ids, **columns}
        whole = {name: torch.cat(parts).cpu().numpy() if parts else None for name, parts in mine.items()}
        ranks = [part for part in self.world.gather(whole) if part["sample_id"] is not None]
        merged = {name: np.concatenate([part[name] for part in ranks]) for name in mine}
        order = np.argsort(merged["sample_id"], kind="stable")
        return {name: column[order] for name, column in merged.items()}


def evenly_spaced(num_jets: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions of 0..num_jets-1 from end to end: of all classes, should the jets be sorted by class."""
    return np.linspace(0, num_jets - 1, min(wanted, num_jets)).astype(np.int64)


def precision_of(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


class ReconstructionTask:
    """Predict the pixels of the hidden patches."""

    evaluation_name = "reconstruction"

    def __init__(self, experiment: Experiment, context: TaskContext, channels: tuple[str, ...]):
        settings = experiment.reconstruct
        self.experiment, self.settings, self.context, self.channels = experiment, settings, context, channels
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.num_patches = self.network.encoder.pos_embed.shape[1] - 1
        self.noise_columns = self.num_patches + len(drop_paths(self.network))
        weights = settings.channel_weights
        self.channel_weights_C = None if weights is None else torch.tensor(weights, device=context.world.device)
        self._mean_image: tuple[Tensor, Tensor] | None = None  # as targets (L, P), and the variance of each value

    def make_network(self) -> MaskedAutoencoder:
        return MaskedAutoencoder(
            self.context.image_shape,
            **self.experiment.model.model_dump(),
            decoder_dim=self.settings.decoder_dim,
            decoder_depth=self.settings.decoder_depth,
            decoder_heads=self.settings.decoder_heads,
        )

    def parameter_groups(self) -> list[dict]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch, images_BCHW = self.context.dense(batch, network)
        set_drop_path_noise(self.network, batch.noise_BN[:, self.num_patches :])
        prediction_BMP, target_BMP, _ = self._predict(network, batch, images_BCHW)
        return self._loss(prediction_BMP, target_BMP)

    def use_mean_image(self, batches: Iterable[Batch]) -> None:
        """From now on `evaluate` also scores the mean image as the prediction for every jet; these jets tell what it
        is, and must not be among those that are evaluated.

        A network that has learnt the average jet, and nothing of the single one, does no better than that.
        """
        world, channels, patch_size = self.context.world, len(self.channels), self.experiment.model.patch_size
        size = (2, self.num_patches, channels * patch_size**2)
        sums_2LP = torch.zeros(size, dtype=torch.float64, device=world.device)  # of the values and of their squares
        num_jets = torch.zeros((), dtype=torch.int64, device=world.device)
        for batch in batches:
            batch = batch.to(world.device)
            patches_BLP = channel_last(patchify(self.context.images(batch), patch_size), channels)
            targets_BLP = self._in_loss_space(patches_BLP)[batch.counts_B].double()
            sums_2LP += torch.stack([targets_BLP.sum(dim=0), (targets_BLP**2).sum(dim=0)])
            num_jets += batch.counts_B.sum()
        num_jets = world.sum(num_jets)
        mean_LP, mean_square_LP = world.sum(sums_2LP) / num_jets
        self._mean_image = mean_LP, (mean_square_LP - mean_LP**2).clamp(min=0) / (num_jets - 1).clamp(min=1)

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[dict, dict[str, NDArray]]:
        """Metrics `loss` and `explained_variance` per channel; per jet and channel `sse`, `sum`, `sum_of_squares` over
        the masked pixels, and their `count`, in the space of the loss; after `use_mean_image` also the
        `sse_of_mean_image`."""
        ids, sums = [], defaultdict(list)
        for batch in batches:
            batch, images_BCHW = self.context.dense(batch, network)
            predicted = self._predict(network, batch, images_BCHW)
            ids.append(batch.ids_B[batch.counts_B])
            for name, values in self._sums_per_jet(*predicted).items():
                sums[name].append(values[batch.counts_B])
        per_jet = self.context.collect(ids, sums)
        pixels = int(self.num_patches - int(self.num_patches * (1 - self.settings.mask_ratio)))
        per_jet["count"] = np.full(len(per_jet["sample_id"]), pixels * self.experiment.model.patch_size**2)
        explained = explained_variance(per_jet["sse"], per_jet["sum"], per_jet["sum_of_squares"], per_jet["count"])
        metrics = {
            "loss": float(per_jet.pop("loss").mean()),
            "explained_variance": dict(zip(self.channels, map(float, explained.value_C), strict=True)),
        }
        return metrics, per_jet

    def score(self, metrics: dict) -> float:
        return -metrics["loss"]

    def pictures(self, network: nn.Module, batch: Batch) -> dict[str, NDArray]:
        """`image`, `reconstruction` (B, C, H, W) in source units and `mask` (B, H, W), True where hidden.

        The reconstruction is the prediction where the image was hidden and the image elsewhere.
        """
        batch, images_BCHW = self.context.dense(batch, network)
        prediction_BMP, target_BMP, masked_BM = self._predict(network, batch, images_BCHW)
        if self.settings.norm_pix_loss:
            variance, mean = torch.var_mean(target_BMP, dim=-1, keepdim=True)
            prediction_BMP = prediction_BMP * (variance + 1e-6).sqrt() + mean
        mask_BCHW = self._on_image(torch.ones_like(prediction_BMP), masked_BM) > 0
        predicted_BCHW = torch.where(mask_BCHW, self._on_image(prediction_BMP, masked_BM), images_BCHW)
        in_source_units = self.context.images.to_source_units
        return {
            "image": in_source_units(images_BCHW.float()).cpu().numpy(),
            "reconstruction": in_source_units(predicted_BCHW.float()).cpu().numpy(),
            "mask": mask_BCHW[:, 0].cpu().numpy(),
        }

    def evaluation_arrays(self, network: nn.Module, per_jet: dict, batches: Iterable[Batch]) -> dict[str, NDArray]:
        """What the report needs: the per-jet sums, example pictures, and mean images over the masked pixels of the
        jets in `batches`."""
        parts = []
        for batch in batches:
            pictures = self.pictures(network, batch)
            label = {} if batch.label_B is None else {"label": batch.label_B.numpy()}
            parts.append({name: array[batch.counts_B.numpy()] for name, array in {**pictures, **label}.items()})
        pictures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        hidden = pictures["mask"][:, None]
        times_hidden = np.maximum(1, hidden.sum(axis=0))
        examples = evenly_spaced(len(hidden), EXAMPLE_JETS)
        return {
            **per_jet,
            **{name: array[examples] for name, array in pictures.items()},
            "mean_image": (pictures["image"] * hidden).sum(axis=0) / times_hidden,
            "mean_reconstruction": (pictures["reconstruction"] * hidden).sum(axis=0) / times_hidden,
            "pictured_jets": np.array(len(hidden)),
            "channels": np.array(self.channels),
            "loss_space": np.array(self._loss_space()),
        }

    def _loss_space(self) -> str:
        per_patch = ", then each patch to mean 0 and variance 1" if self.settings.norm_pix_loss else ""
        return f"value transform {self.experiment.data.transform}, then per-channel z-score{per_patch}"

    def _predict(self, network: nn.Module, batch: Batch, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return network(images_BCHW, batch.noise_BN[:, : self.num_patches], self.settings.mask_ratio)

    def _loss(self, prediction_BMP: Tensor, target_BMP: Tensor) -> Tensor:
        return reconstruction_loss(
            prediction_BMP,
            target_BMP,
            norm_pix_loss=self.settings.norm_pix_loss,
            channel_weights_C=self.channel_weights_C,
        )

    def _in_loss_space(self, target_BMP: Tensor) -> Tensor:
        return normalised_patches(target_BMP.float()) if self.settings.norm_pix_loss else target_BMP

    def _sums_per_jet(self, prediction_BMP: Tensor, target_BMP: Tensor, masked_BM: Tensor) -> dict[str, Tensor]:
        loss_B = torch.stack([self._loss(p, t) for p, t in zip(prediction_BMP, target_BMP, strict=True)])
        target_BMP = self._in_loss_space(target_BMP).double()
        sums = {
            "sse": self._sum_per_channel((prediction_BMP.double() - target_BMP) ** 2),
            "sum": self._sum_per_channel(target_BMP),
            "sum_of_squares": self._sum_per_channel(target_BMP**2),
            "loss": loss_B.double(),
        }
        if self._mean_image is not None:
            mean_BMP, variance_BMP = (values_LP[masked_BM] for values_LP in self._mean_image)
            # The mean of n jets misses that of all by 1/n of their variance, which is no fault of a mean image.
            sums["sse_of_mean_image"] = self._sum_per_channel((mean_BMP - target_BMP) ** 2 - variance_BMP)
        return sums

    def _sum_per_channel(self, values_BMP: Tensor) -> Tensor:
        return values_BMP.unflatten(-1, (-1, len(self.channels))).sum((1, 2))

    def _on_image(self, values_BMP: Tensor, masked_BM: Tensor) -> Tensor:
        """Values of masked patches, ordered (p, p, C), in their places on an image of zeros (B, C, H, W)."""
        size = (len(values_BMP), self.num_patches, values_BMP.shape[2])
        empty_BLP = torch.zeros(size, dtype=values_BMP.dtype, device=values_BMP.device)
        places_BMP = masked_BM[..., None].expand_as(values_BMP)
        patches_BLP = empty_BLP.scatter(1, places_BMP, channel_first(values_BMP, len(self.channels)))
        return unpatchify(patches_BLP, self.context.image_shape, self.experiment.model.patch_size)


class ClassificationTask:
    """Tell class 1 from class 0; everything is trained (finetune, scratch)."""

    evaluation_name = "predictions"

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context = experiment, context
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.noise_columns = len(drop_paths(self.network))

    def make_network(self) -> nn.Module:
        encoder = Encoder(self.context.image_shape, **self.experiment.model.model_dump())
        pooling = self.experiment.classify.pooling
        return Classifier(encoder, patch_size=self.experiment.model.patch_size, pooling=pooling)

    def parameter_groups(self) -> list[dict]:
        optim = self.experiment.optim
        return parameter_groups(self.network, weight_decay=optim.weight_decay, layer_decay=optim.layer_decay)

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        set_drop_path_noise(self.network, batch.noise_BN.to(self.context.world.device))
        return F.binary_cross_entropy_with_logits(self.logits(network, batch), self.labels(batch))

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[dict, dict[str, NDArray]]:
        """Metrics `loss`, `accuracy`, `auc`; per jet `score`, the probability of class 1, and `label`."""
        ids, columns = [], {"score": [], "label": [], "loss": []}
        for batch in batches:
            counts_B = batch.counts_B
            logits_B, label_B = self.logits(network, batch).cpu(), self.labels(batch).cpu()
            loss_B = F.binary_cross_entropy_with_logits(logits_B, label_B, reduction="none")
            ids.append(batch.ids_B[counts_B])
            for name, values in (("score", logits_B.sigmoid()), ("label", label_B), ("loss", loss_B.double())):
                columns[name].append(values[counts_B])
        per_jet = self.context.collect(ids, columns)
        loss, score, label = per_jet.pop("loss"), per_jet["score"], per_jet["label"].astype(np.int8)
        metrics = {
            "loss": float(loss.mean()),
            "accuracy": float(accuracy(score, label).value),
            "auc": float(auc(score, label)),
        }
        return metrics, {**per_jet, "label": label}

    def score(self, metrics: dict) -> float:
        return -metrics["loss"]

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        _, images_BCHW = self.context.dense(batch, network)
        return network(images_BCHW).float()

    def evaluation_arrays(self, network: nn.Module, per_jet: dict, batches: Iterable[Batch]) -> dict[str, NDArray]:
        return {**per_jet, "score": per_jet["score"].astype(np.float32)}

    def labels(self, batch: Batch) -> Tensor:
        return batch.label_B.to(self.context.world.device, torch.float32)


class ProbeTask(ClassificationTask):
    """Tell the classes apart with one linear layer on what a frozen encoder says.

    Nothing random happens to the images and the encoder does not change, so each jet's features are computed once,
    before the first step (`use_features`), and the loop trains on those.
    """

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context = experiment, context
        self.classifier = super().make_network()
        self.encoder = self.classifier.encoder
        self.network = self.make_network()
        self.noise_columns = 0
        self._features: dict[str, tuple[Tensor, Tensor]] = {}  # of a split: ids (N,), ascending, and features (N, F)

    def make_network(self) -> LinearProbe:
        return LinearProbe(self.classifier.num_features)

    def parameter_groups(self) -> list[dict]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits(network, batch), self.labels(batch))

    def use_features(self, split: str, batches: Iterable[Batch], ids: NDArray[np.int64]) -> Tensor:
        """Compute the features of jets of a split and keep them; returns them (N, F) in the order of `ids`, ascending.

        Each rank computes its share and receives the others', so that all see the same numbers. The shares are
        exchanged batch by batch, because the features of millions of jets leave no room for a second copy.
        """
        ids_N, features_NF = torch.from_numpy(ids), torch.full((len(ids), self.classifier.num_features), torch.nan)
        frozen = self.classifier.to(self.context.world.device).eval()
        gather_rows = self.context.world.gather_rows
        with torch.no_grad():
            for batch in batches:
                batch, images_BCHW = self.context.dense(batch, frozen)
                counted_R = gather_rows(batch.counts_B.to(torch.uint8)).bool()
                ids_R, features_RF = gather_rows(batch.ids_B), gather_rows(frozen.features(images_BCHW))
                rows = torch.searchsorted(ids_N, ids_R[counted_R].cpu())
                features_NF[rows] = features_RF[counted_R].cpu()
        self._features[split] = ids_N, features_NF
        return features_NF

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        ids_N, features_NF = self._features[batch.split]
        features_BF = features_NF[torch.searchsorted(ids_N, batch.ids_B.cpu())]
        return network(features_BF.to(self.context.world.device)).float()


def make_task(experiment: Experiment, context: TaskContext, channels: tuple[str, ...]) -> Task:
    """The table at the top of this file."""
    if experiment.task == "pretrain":
        return ReconstructionTask(experiment, context, channels)
    return (ProbeTask if experiment.task == "probe" else ClassificationTask)(experiment, context)
