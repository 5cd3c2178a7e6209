"""Pretraining: predict what is hidden.

Shapes: B jets, R those of all ranks, C channels, H W image, L patches, M asked patches, P pixel values of a patch, V
predicted values of a patch, G groups of channels.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jetmae.config import Experiment, Reconstruct
from jetmae.data.batch import Batch
from jetmae.data.order import some_jets
from jetmae.data.patch_sums import PatchSums
from jetmae.data.rank_batches import RankBatches
from jetmae.engine.optim import parameter_groups
from jetmae.metrics import explained_variance
from jetmae.model.mae import MaskedAutoencoder, View
from jetmae.model.patches import channel_first, channel_last, patchify, split_patches, take_patches, unpatchify
from jetmae.model.tokens import Tokens, tokens_of
from jetmae.model.vit import drop_paths, set_drop_path_noise
from jetmae.runtime.liveness.phases import with_phases
from jetmae.tasks.mask_tables import MaskTables, fit_mask_tables
from jetmae.tasks.masking import Masking, groups_of, masking_of
from jetmae.tasks.mean_image import MeanImage, mean_image_of
from jetmae.tasks.region import Region
from jetmae.tasks.targets.choice import make_target
from jetmae.tasks.targets.observables import ObservablesTarget
from jetmae.tasks.targets.sums import SumsTarget
from jetmae.tasks.targets.target import Truth
from jetmae.tasks.task import Columns, Jets, Metrics, Task, TaskContext

EXAMPLE_JETS = 4  # of the pictured ones, kept one by one for the report
CLOSURE_UNITS = ("GeV", "hits")
REFERENCE_JETS = 2000  # training jets that scales and the mean image of a target come from


@dataclass(frozen=True)
class Prediction:
    """Of a batch: values of the asked patches (B, M, V), the truth, and what was hidden there; None: all of it.

    And observables of whole jets, if they were asked for.
    """

    values_BMV: Tensor
    truth: Truth
    hidden_BMC: Tensor | None
    observables_WF: Tensor | None


class ReconstructionTask(Task):
    """Hide parts of each jet, predict them, compare."""

    network: MaskedAutoencoder
    evaluation_name = "reconstruction"
    scores_training_jets = True
    draws_pictures = True

    def __init__(self, experiment: Experiment, context: TaskContext):
        self.experiment, self.context, self.channels = experiment, context, context.channels
        self.settings = experiment.reconstruct or Reconstruct()
        self.num_patches = context.grid[0] * context.grid[1]
        self.group_of_channel = groups_of(self.settings, context.channels)
        self.num_groups = 1 + max(self.group_of_channel)
        self.masking = masking_of(self.settings, self.num_patches, self.num_groups)
        self.hides_alike = self.settings.masks is None and experiment.model.tokens == "all"
        self.target = make_target(self.settings, context, None if self.hides_alike else self.masking.hidden_fraction)
        weight, every = self.settings.observables_weight, self.settings.observables_every
        self.observables = ObservablesTarget(context, weight=weight, every=every)
        self.region = Region(experiment, context)
        self.network = self.make_network()
        self.encoder = self.network.encoder
        self.augmentation = context.augmentation(experiment.augment)
        mask_columns = self.num_patches if self.hides_alike else self.masking.noise_columns
        self.noise_parts = (mask_columns, len(drop_paths(self.network)), self.augmentation.noise_columns)
        self.noise_columns = sum(self.noise_parts)
        self.mean_image: MeanImage | None = None
        self.tables: MaskTables | None = None

    def make_network(self) -> MaskedAutoencoder:
        settings = self.settings
        return MaskedAutoencoder(
            self.context.image_shape,
            **self.experiment.model.model_dump(exclude={"tokens"}),
            decoder=settings.decoder,
            decoder_dim=settings.decoder_dim,
            decoder_depth=settings.decoder_depth,
            decoder_heads=settings.decoder_heads,
            patch_values=self.target.values,
            groups=self.num_groups if self.num_groups > 1 else 0,
            has_offset=settings.mean_image_offset,
            observables=self.observables.size,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network, weight_decay=self.experiment.optim.weight_decay)

    def prepare(self, batches: RankBatches) -> None:
        """What the target has to know of training jets. Every rank looks at the same ones, so all know the same."""
        self.batches = batches
        self.target.learn(self.context.some_sums(self._reference_jets()))
        if self.settings.mean_image_offset:
            self.network.set_offset(self.target.offset())
        if self.observables.size:
            self.observables.learn(self._reference_jets())

    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch = batch.to(self.context.world.device)
        _, path_noise_BN, change_noise_BN = batch.noise_BN.split(self.noise_parts, dim=1)
        set_drop_path_noise(self.network, path_noise_BN)
        jets = self.context.look(batch, network, lambda pixels: self.augmentation(pixels, change_noise_BN))
        whole_W = self.observables.turns(batch) if self.observables.size else None
        predicted = self._predict(network, jets, whole_W)
        loss = self.target.loss(predicted.values_BMV, predicted.truth, predicted.hidden_BMC)
        if whole_W is None or predicted.observables_WF is None:
            return loss
        return loss + self.observables.loss(predicted.observables_WF, jets, whole_W)

    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        """Metrics `loss` and `explained_variance` per channel, and sums of each jet.

        The columns are, per jet and channel, `sse`, `sum` and `sum_of_squares` over what is hidden, in the space of
        the target, and its `count`; after `learn_reference` also the `sse_of_mean_image`.
        """
        ids, sums = [], defaultdict(list)
        for batch in batches:
            jets = self.context.look(batch, network)
            ids.append(jets.batch.ids_B[jets.batch.counts_B])
            predicted = self._predict(network, jets)
            found = self._sums_per_jet(predicted) | self._by_mask(network, jets)
            if self.tables is not None and isinstance(self.target, SumsTarget):
                found |= self._closure(predicted, self.target)
            for name, values in found.items():
                sums[name].append(values[jets.batch.counts_B])
        per_jet = self.context.collect(ids, sums)
        loss = float(per_jet.pop("loss").mean())
        explained = explained_variance(*(per_jet[name] for name in ("sse", "sum", "sum_of_squares", "count")))
        per_channel = dict(zip(self.channels, map(float, explained.value_C), strict=True))
        return {"loss": loss, "explained_variance": per_channel}, per_jet

    def learn_reference(self, training_jets: Iterable[Batch]) -> None:
        """From now on `evaluate` also scores the mean image of these jets as the prediction for every jet.

        They must not be among those that are evaluated. Where sums over patches are predicted, it also scores each kind
        of mask by itself, beside other simple predictors.
        """
        self.mean_image = mean_image_of(training_jets, self._all_targets, self.context.world)
        if isinstance(self.target, SumsTarget) and not self.hides_alike:
            self.tables = fit_mask_tables(
                self._masked_sums, self.context.spaces, self.masking, self.group_of_channel, self.context.grid
            )

    def pictures(self, network: nn.Module, batch: Batch) -> dict[str, NDArray[Any]]:
        """`image`, `reconstruction` (B, C, H, W) in source units, `mask` and `mask_of_channels`, True where hidden.

        The reconstruction is the prediction where the image was hidden and the image elsewhere. `mask` (B, H, W) is
        True where any channel is hidden, `mask_of_channels` is (B, C, H, W).
        """
        jets = self.context.look(batch, network)
        predicted = self._predict(network, jets)
        pixels_BMP = self.target.to_pixels(predicted.values_BMV, predicted.truth)
        hidden_BMP = torch.ones_like(pixels_BMP)
        if predicted.hidden_BMC is not None:
            hidden_BMP = predicted.hidden_BMC.to(pixels_BMP.dtype).repeat(1, 1, self.context.patch_size**2)
        mask_BCHW = self._on_image(hidden_BMP, predicted.truth.asked_BM) > 0
        image_BCHW = self.context.images.to_source_units(jets.images_BCHW.float())
        shown_BCHW = torch.where(mask_BCHW, self._on_image(pixels_BMP, predicted.truth.asked_BM), image_BCHW)
        return {
            "image": image_BCHW.cpu().numpy(),
            "reconstruction": shown_BCHW.cpu().numpy(),
            "mask": mask_BCHW.any(dim=1).cpu().numpy(),
            "mask_of_channels": mask_BCHW.cpu().numpy(),
        }

    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        """The per-jet sums, example pictures, and mean images over the hidden pixels of the jets in `batches`."""
        pictures = self._all_pictures(network, batches)
        hidden = pictures["mask_of_channels"]
        times_hidden = np.maximum(1, hidden.sum(axis=0))
        examples = evenly_spaced(len(hidden), EXAMPLE_JETS)
        return {
            **per_jet,
            **{name: array[examples] for name, array in pictures.items()},
            "mean_image": (pictures["image"] * hidden).sum(axis=0) / times_hidden,
            "mean_reconstruction": (pictures["reconstruction"] * hidden).sum(axis=0) / times_hidden,
            "pictured_jets": np.array(len(hidden)),
            "channels": np.array(self.channels),
            "loss_space": np.array(self.target.space()),
        }

    def _all_pictures(self, network: nn.Module, batches: Iterable[Batch]) -> Columns:
        """The pictures of all jets that count, and their labels if they have some."""
        parts = []
        for batch in batches:
            label = {} if batch.label_B is None else {"label": batch.label_B.numpy()}
            columns = {**self.pictures(network, batch), **label}
            parts.append({name: array[batch.counts_B.numpy()] for name, array in columns.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _reference_jets(self, limit: int = REFERENCE_JETS) -> Iterator[Batch]:
        split = self.batches.train_split
        jets = self.batches.alone(split, some_jets(self.batches.ids(split), limit))
        return with_phases(jets, "reference jets")

    def _masked_sums(self) -> Iterator[tuple[PatchSums, Tensor]]:
        """What simple predictors are fitted to: as many training jets as are scored, REFERENCE_JETS at most."""
        limit = min(REFERENCE_JETS, self.experiment.data.evaluation_jets or REFERENCE_JETS)
        for batch in self._reference_jets(limit):
            moved = batch.to(self.context.world.device)
            sums = self.context.sums(self.context.images.sparse(moved))
            yield sums.of(moved.counts_B), moved.noise_BN[moved.counts_B, : self.noise_parts[0]]

    def _by_mask(self, network: nn.Module, jets: Jets) -> dict[str, Tensor]:
        """Columns of each kind of mask, after `learn_reference`."""
        columns: dict[str, Tensor] = {}
        if self.tables is None or not isinstance(self.target, SumsTarget):
            return columns
        for kind, masking in self.tables.maskings.items():
            predicted = self._predict(network, jets, masking=masking)
            hidden_BLC = self.tables.hidden(kind, jets.batch.noise_BN[:, : self.noise_parts[0]])
            columns |= self.tables.columns(kind, jets.sums, hidden_BLC, self.target.expected(predicted.values_BMV))
        return columns

    def _closure(self, predicted: Prediction, target: SumsTarget) -> dict[str, Tensor]:
        """Sums over jets (B,) of channels with a known unit: as they are, and with hidden patches as predicted."""
        columns: dict[str, Tensor] = {}
        true_BLC = predicted.truth.sums.absolute_BLC
        hidden_BLC, expected_BLC = predicted.hidden_BMC, target.expected(predicted.values_BMV).get("sums")
        if hidden_BLC is None or expected_BLC is None:
            return columns
        shown_BLC = torch.where(hidden_BLC, expected_BLC, true_BLC)
        for number, (channel, unit) in enumerate(zip(self.channels, self.context.units, strict=True)):
            if unit in CLOSURE_UNITS:
                name = f"closure/{channel}_{unit.lower()}"
                columns[f"{name}/truth"] = true_BLC[..., number].sum(dim=1)
                columns[f"{name}/reconstructed"] = shown_BLC[..., number].sum(dim=1)
        return columns

    def _predict(
        self, network: nn.Module, jets: Jets, whole_W: Tensor | None = None, masking: Masking | None = None
    ) -> Prediction:
        """`whole_W` are the rows of jets whose observables are asked for too."""
        patches_BLP = patchify(jets.images_BCHW, self.context.patch_size)
        noise_BN = jets.batch.noise_BN[:, : self.noise_parts[0]]
        if self.hides_alike:  # the seed's way: as many patches of each jet, and only they are predicted
            kept_BK, asked_BM = split_patches(noise_BN, self.settings.mask_ratio)
            view, seen_BLP, hidden_BLC = View(Tokens(kept_BK), asked_BM), patches_BLP, None
        else:
            hidden_BLG = (masking or self.masking)(noise_BN)
            hidden_BLC = hidden_BLG[..., self.group_of_channel]
            seen_BLP = patches_BLP * ~hidden_BLC.repeat_interleave(self.context.patch_size**2, dim=2)
            view = self._view(hidden_BLG, hidden_BLC, jets.sums)
        whole = None if whole_W is None else (patches_BLP[whole_W], self.region.tokens(jets.sums.of(whole_W)))
        values_BMV, observables_WF = network(seen_BLP, view, whole)
        truth = self._truth(patches_BLP, jets.sums, view.asked_BM)
        return Prediction(values_BMV, truth, hidden_BLC, observables_WF)

    def _view(self, hidden_BLG: Tensor, hidden_BLC: Tensor, sums: PatchSums) -> View:
        seen_BLC = ~hidden_BLC
        if self.experiment.model.tokens == "occupied":
            seen_BLC = seen_BLC & (sums.absolute_BLC > 0)
        tokens = tokens_of(seen_BLC.any(dim=2))
        hidden_BKG = take_patches(hidden_BLG, tokens.kept_BK) if self.num_groups > 1 else None
        return View(tokens, hidden_BKG=hidden_BKG)

    def _truth(self, patches_BLP: Tensor, sums: PatchSums, asked_BM: Tensor | None) -> Truth:
        if asked_BM is not None:
            patches_BLP = take_patches(patches_BLP, asked_BM)
            absolute, signed = (take_patches(s, asked_BM) for s in (sums.absolute_BLC, sums.signed_BLC))
            sums = PatchSums(absolute, signed)
        return Truth(channel_last(patches_BLP, len(self.channels)), sums, asked_BM)

    def _sums_per_jet(self, predicted: Prediction) -> dict[str, Tensor]:
        """In float64: `loss` (B,), and (B, C) `sse`, `sum`, `sum_of_squares` and `count`."""
        true = self.target.answer(predicted.truth)
        sums = per_channel(self.target.guess(predicted.values_BMV), true, predicted.hidden_BMC)
        sums["loss"] = self.target.loss_per_jet(predicted.values_BMV, predicted.truth, predicted.hidden_BMC).double()
        if self.mean_image is not None:
            asked_BM = predicted.truth.asked_BM
            squared_error = self.mean_image.squared_error(true.double(), asked_BM)
            sums["sse_of_mean_image"] = sum_where(squared_error, predicted.hidden_BMC)
        return sums

    def _all_targets(self, batch: Batch) -> Tensor:
        """Of every patch of each jet, hidden or not (B, L, values, C), in the space of the report."""
        jets = self.context.look(batch, self.network)
        truth = self._truth(patchify(jets.images_BCHW, self.context.patch_size), jets.sums, None)
        return self.target.answer(truth)

    def _on_image(self, values_BMP: Tensor, asked_BM: Tensor | None) -> Tensor:
        """Values of asked patches, ordered (p, p, C), in their places on an image of zeros (B, C, H, W)."""
        patches_BLP = channel_first(values_BMP, len(self.channels))
        if asked_BM is not None:
            size = (len(values_BMP), self.num_patches, values_BMP.shape[2])
            empty_BLP = torch.zeros(size, dtype=values_BMP.dtype, device=values_BMP.device)
            patches_BLP = empty_BLP.scatter(1, asked_BM[..., None].expand_as(patches_BLP), patches_BLP)
        return unpatchify(patches_BLP, self.context.image_shape, self.context.patch_size)


def per_channel(expected_BMVC: Tensor, true_BMVC: Tensor, hidden_BMC: Tensor | None) -> dict[str, Tensor]:
    """Over what is hidden, (B, C) float64: squared error, sum and sum of squares of the truth, and its number."""
    true_BMVC = true_BMVC.double()
    return {
        "sse": sum_where((expected_BMVC.double() - true_BMVC) ** 2, hidden_BMC),
        "sum": sum_where(true_BMVC, hidden_BMC),
        "sum_of_squares": sum_where(true_BMVC**2, hidden_BMC),
        "count": sum_where(torch.ones_like(true_BMVC), hidden_BMC),
    }


def sum_where(values_BMVC: Tensor, hidden_BMC: Tensor | None) -> Tensor:
    """Over patches and their values, (B, C)."""
    if hidden_BMC is not None:
        values_BMVC = values_BMVC * hidden_BMC[:, :, None]
    return values_BMVC.sum((1, 2))


def evenly_spaced(num_jets: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions of 0..num_jets-1 from end to end: of all classes, should the jets be sorted by class."""
    return np.linspace(0, num_jets - 1, min(wanted, num_jets)).astype(np.int64)
