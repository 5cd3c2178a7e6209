"""Jet observables as a target beside the hidden patches: hand-made physics, distilled into the network.

A textbook's observables tell jets apart better than a network that has seen few labels. To regress them from the whole
jet teaches the encoder to say them. That is no self-supervision from pixels alone, and whoever shows a result of it has
to say so.

Shapes: B jets, W of them whose observables are regressed, F observables.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jetmae.data.batch import Batch
from jetmae.data.observables import observable_names, observables
from jetmae.tasks.task import Jets, TaskContext

LIMIT = 4.0  # standard deviations: an observable further out counts as this far


class ObservablesTarget:
    """Every jet's turn comes in one of `every` steps."""

    def __init__(self, context: TaskContext, *, weight: float, every: int):
        self.context, self.weight, self.every = context, weight, every
        self.size = len(observable_names(context.channels)) if weight else 0
        self.mean_F, self.std_F = torch.zeros(self.size), torch.ones(self.size)

    def learn(self, batches: Iterable[Batch]) -> None:
        """Mean and standard deviation of each observable over these jets."""
        images, device = self.context.images, self.context.world.device
        parts = []
        for batch in batches:
            moved = batch.to(device)
            parts.append(self._of(images.source_units(images.sparse(moved)))[moved.counts_B])
        std_F, self.mean_F = torch.std_mean(torch.cat(parts).double(), dim=0, correction=0)
        self.mean_F, self.std_F = self.mean_F.float(), torch.where(std_F > 0, std_F, 1.0).float()

    def turns(self, batch: Batch) -> Int[Tensor, " W"]:
        """The rows of the jets whose turn it is: a matter of the jet and the step, not of the batch that it is in.

        Never none: where it is nobody's turn, the first stands in, and does not count in the loss.
        """
        rows_W = self._is_turn(batch).nonzero()[:, 0]
        return rows_W if len(rows_W) else torch.zeros(1, dtype=torch.int64, device=rows_W.device)

    def loss(self, prediction_WF: Float[Tensor, "W F"], jets: Jets, rows_W: Int[Tensor, " W"]) -> Float[Tensor, ""]:
        """Weighted mean squared error. Divided by how many jets have their turn on average, as masks are."""
        images_WCHW = self.context.images.source_units(jets.pixels)[rows_W]
        target_WF = ((self._of(images_WCHW) - self.mean_F) / self.std_F).clamp(-LIMIT, LIMIT)
        error_W = ((prediction_WF.float() - target_WF) ** 2).mean(dim=1)
        counted_W = self._is_turn(jets.batch)[rows_W]
        return self.weight * (error_W * counted_W).sum() * self.every / len(jets.images_BCHW)

    def _is_turn(self, batch: Batch) -> Tensor:
        return (batch.ids_B + batch.step) % self.every == 0

    def _of(self, images_BCHW: Tensor) -> Tensor:
        return observables(images_BCHW, self.context.channels)
