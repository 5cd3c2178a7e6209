"""The pixels of the hidden patches, as the seed predicts them.

Shapes: B jets, M masked patches, P = p * p * C values of a patch, ordered (p, p, C), C channels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.config import Reconstruct
from jetmae.data.images import ImageMaker
from jetmae.model.mae import normalised_patches, reconstruction_loss
from jetmae.tasks.targets.target import Target, Truth


class PixelTarget(Target):
    """The pixels themselves, or each patch shifted and scaled by itself; mean squared error."""

    def __init__(self, settings: Reconstruct, images: ImageMaker, patch_pixels: int, device: torch.device):
        self.normalises_patches, self.images = settings.norm_pix_loss, images
        self.channels = images.image_shape[0]
        self.values = self.channels * patch_pixels
        weights = settings.channel_weights
        self.channel_weights_C = None if weights is None else torch.tensor(weights, device=device)

    def loss(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, ""]:
        """Mean over all of it. Whole patches are hidden (config.py sees to it), so all of it counts."""
        return reconstruction_loss(
            prediction_BMV,
            truth.pixels_BMP,
            norm_pix_loss=self.normalises_patches,
            channel_weights_C=self.channel_weights_C,
        )

    def loss_per_jet(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, " B"]:
        error_BMpC = (self.guess(prediction_BMV.float()) - self.answer(truth).float()) ** 2
        if self.channel_weights_C is not None:
            error_BMpC = error_BMpC * (self.channel_weights_C / self.channel_weights_C.mean())
        loss_B: Tensor = error_BMpC.mean((1, 2, 3))
        return loss_B

    def guess(self, prediction_BMV: Float[Tensor, "B M V"]) -> Float[Tensor, "B M values C"]:
        pixels_BMpC: Tensor = prediction_BMV.unflatten(-1, (-1, self.channels))
        return pixels_BMpC

    def answer(self, truth: Truth) -> Float[Tensor, "B M values C"]:
        pixels_BMP = truth.pixels_BMP
        if self.normalises_patches:
            pixels_BMP = normalised_patches(pixels_BMP.float())
        pixels_BMpC: Tensor = pixels_BMP.unflatten(-1, (-1, self.channels))
        return pixels_BMpC

    def to_pixels(self, prediction_BMV: Tensor, truth: Truth) -> Float[Tensor, "B M P"]:
        """Where patches are normalised one by one, with the true patch's mean and variance."""
        if self.normalises_patches:
            variance, mean = torch.var_mean(truth.pixels_BMP, dim=-1, keepdim=True)
            prediction_BMV = prediction_BMV * (variance + 1e-6).sqrt() + mean
        return in_source_units(prediction_BMV, self.images).flatten(-2)

    def space(self) -> str:
        per_patch = ", then each patch to mean 0 and variance 1" if self.normalises_patches else ""
        return f"value transform {self.images.transform}, then per-channel z-score{per_patch}"


def in_source_units(pixels_BMP: Float[Tensor, "B M P"], images: ImageMaker) -> Float[Tensor, "B M pixels C"]:
    """Normalised pixels, ordered (p, p, C), in the units of the source."""
    pixels_BCMp = pixels_BMP.float().unflatten(-1, (-1, images.image_shape[0])).permute(0, 3, 1, 2)
    return images.to_source_units(pixels_BCMp).permute(0, 2, 3, 1)


def squared_pixel_error(prediction_BMP: Tensor, pixels_BMP: Tensor, channels: int) -> Float[Tensor, "B M C"]:
    """Mean over the pixels of each patch and channel."""
    error_BMC: Tensor = ((prediction_BMP - pixels_BMP.float()) ** 2).unflatten(-1, (-1, channels)).mean(dim=-2)
    return error_BMC
