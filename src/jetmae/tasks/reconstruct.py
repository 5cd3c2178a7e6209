"""Pretraining: predict the pixels of the hidden patches.

Shapes: B jets, R those of all ranks, C channels, H W image, L patches, M masked patches, P values of a patch.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jetmae.config import Experiment, Reconstruct
from jetmae.data.batch import Batch
from jetmae.engine.optim import parameter_groups
from jetmae.metrics import explained_variance
from jetmae.model.mae import MaskedAutoencoder
from jetmae.model.patches import channel_first, channel_last, patchify, unpatchify
from jetmae.model.vit import drop_paths, set_drop_path_noise
from jetmae.tasks.mean_image import MeanImage, mean_image_of
from jetmae.tasks.targets import PixelTarget
from jetmae.tasks.task import Columns, Metrics, Task, TaskContext

EXAMPLE_JETS = 4  # of the pictured ones, kept one by one for the report


class ReconstructionTask(Task):
    """Hide patches, predict them, compare."""

    network: MaskedAutoencoder
    evaluation_name = "reconstruction"
    scores_training_jets = True
    draws_pictures = True

    def __init__(self, experiment: Experiment, context: TaskContext, channels: tuple[str, ...]):
        self.experiment, self.context, self.channels = experiment, context, channels
        self.settings = experiment.reconstruct or Reconstruct()
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.num_patches = self.network.encoder.pos_embed.shape[1] - 1
        self.noise_columns = self.num_patches + len(drop_paths(self.network))
        self.target = PixelTarget(self.settings, len(channels), context.world.device)
        self.mean_image: MeanImage | None = None

    def make_network(self) -> MaskedAutoencoder:
        return MaskedAutoencoder(
            self.context.image_shape,
            **self.experiment.model.model_dump(),
            decoder_dim=self.settings.decoder_dim,
            decoder_depth=self.settings.decoder_depth,
            decoder_heads=self.settings.decoder_heads,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch, images_BCHW = self.context.dense(batch, network)
        set_drop_path_noise(self.network, batch.noise_BN[:, self.num_patches :])
        prediction_BMP, pixels_BMP, _ = self._predict(network, batch, images_BCHW)
        return self.target.loss(prediction_BMP, pixels_BMP)

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        """Metrics `loss` and `explained_variance` per channel, and sums of each jet.

        The columns are, per jet and channel, `sse`, `sum` and `sum_of_squares` over the masked pixels in the space of
        the loss, and per jet their `count`; after `learn_reference` also the `sse_of_mean_image`.
        """
        ids, sums = [], defaultdict(list)
        for batch in batches:
            moved, images_BCHW = self.context.dense(batch, network)
            predicted = self._predict(network, moved, images_BCHW)
            ids.append(moved.ids_B[moved.counts_B])
            for name, values in self._sums_per_jet(*predicted).items():
                sums[name].append(values[moved.counts_B])
        per_jet = self.context.collect(ids, sums)
        per_jet["count"] = np.full(len(per_jet["sample_id"]), self._masked_pixels())
        loss = float(per_jet.pop("loss").mean())
        explained = explained_variance(*(per_jet[name] for name in ("sse", "sum", "sum_of_squares", "count")))
        per_channel = dict(zip(self.channels, map(float, explained.value_C), strict=True))
        return {"loss": loss, "explained_variance": per_channel}, per_jet

    def learn_reference(self, training_jets: Iterable[Batch]) -> None:
        """From now on `evaluate` also scores the mean image of these jets as the prediction for every jet.

        They must not be among those that are evaluated.
        """
        size = (self.num_patches, len(self.channels) * self.experiment.model.patch_size**2)
        self.mean_image = mean_image_of(training_jets, self._all_targets, size, self.context.world)

    def pictures(self, network: nn.Module, batch: Batch) -> dict[str, NDArray[Any]]:
        """`image`, `reconstruction` (B, C, H, W) in source units and `mask` (B, H, W), True where hidden.

        The reconstruction is the prediction where the image was hidden and the image elsewhere.
        """
        batch, images_BCHW = self.context.dense(batch, network)
        prediction_BMP, pixels_BMP, masked_BM = self._predict(network, batch, images_BCHW)
        mask_BCHW = self._on_image(torch.ones_like(prediction_BMP), masked_BM) > 0
        predicted_BCHW = self._on_image(self.target.to_pixels(prediction_BMP, pixels_BMP), masked_BM)
        shown_BCHW = torch.where(mask_BCHW, predicted_BCHW, images_BCHW)
        in_source_units = self.context.images.to_source_units
        return {
            "image": in_source_units(images_BCHW.float()).cpu().numpy(),
            "reconstruction": in_source_units(shown_BCHW.float()).cpu().numpy(),
            "mask": mask_BCHW[:, 0].cpu().numpy(),
        }

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        """The per-jet sums, example pictures, and mean images over the masked pixels of the jets in `batches`."""
        pictures = self._all_pictures(network, batches)
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
            "loss_space": np.array(self.target.space(self.experiment.data.transform)),
        }

    def _all_pictures(self, network: nn.Module, batches: Iterable[Batch]) -> Columns:
        """The pictures of all jets that count, and their labels if they have some."""
        parts = []
        for batch in batches:
            label = {} if batch.label_B is None else {"label": batch.label_B.numpy()}
            columns = {**self.pictures(network, batch), **label}
            parts.append({name: array[batch.counts_B.numpy()] for name, array in columns.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _predict(self, network: nn.Module, batch: Batch, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction and true pixels (B, M, P) of the masked patches, and which they are (B, M)."""
        noise_BL = batch.noise_BN[:, : self.num_patches]
        predicted: tuple[Tensor, Tensor, Tensor] = network(images_BCHW, noise_BL, self.settings.mask_ratio)
        return predicted

    def _sums_per_jet(self, prediction_BMP: Tensor, pixels_BMP: Tensor, masked_BM: Tensor) -> dict[str, Tensor]:
        sums = self.target.sums_per_jet(prediction_BMP, pixels_BMP)
        if self.mean_image is not None:
            squared_error = self.mean_image.squared_error(self.target.of(pixels_BMP).double(), masked_BM)
            sums["sse_of_mean_image"] = self.target.sum_per_channel(squared_error)
        return sums

    def _all_targets(self, batch: Batch) -> Tensor:
        """Of every patch of each jet, hidden or not (B, L, P)."""
        patches_BLP = patchify(self.context.images(batch), self.experiment.model.patch_size)
        return self.target.of(channel_last(patches_BLP, len(self.channels)))

    def _masked_pixels(self) -> int:
        """Of one channel of one jet."""
        kept = int(self.num_patches * (1 - self.settings.mask_ratio))
        return (self.num_patches - kept) * self.experiment.model.patch_size**2

    def _on_image(self, values_BMP: Tensor, masked_BM: Tensor) -> Tensor:
        """Values of masked patches, ordered (p, p, C), in their places on an image of zeros (B, C, H, W)."""
        size = (len(values_BMP), self.num_patches, values_BMP.shape[2])
        empty_BLP = torch.zeros(size, dtype=values_BMP.dtype, device=values_BMP.device)
        places_BMP = masked_BM[..., None].expand_as(values_BMP)
        patches_BLP = empty_BLP.scatter(1, places_BMP, channel_first(values_BMP, len(self.channels)))
        return unpatchify(patches_BLP, self.context.image_shape, self.experiment.model.patch_size)


def evenly_spaced(num_jets: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions of 0..num_jets-1 from end to end: of all classes, should the jets be sorted by class."""
    return np.linspace(0, num_jets - 1, min(wanted, num_jets)).astype(np.int64)
