"""What is predicted of the hidden patches, and how wrong a prediction is.

Shapes: B jets, M masked patches, P = p * p * C values of a patch, ordered (p, p, C), C channels.
"""

import torch
from torch import Tensor

from jetmae.config import Reconstruct
from jetmae.model.mae import normalised_patches, reconstruction_loss


class PixelTarget:
    """The pixels themselves, or each patch shifted and scaled by itself; mean squared error."""

    def __init__(self, settings: Reconstruct, channels: int, device: torch.device):
        self.normalises_patches, self.channels = settings.norm_pix_loss, channels
        weights = settings.channel_weights
        self.channel_weights_C = None if weights is None else torch.tensor(weights, device=device)

    def loss(self, prediction_BMP: Tensor, pixels_BMP: Tensor) -> Tensor:
        """Mean over all of it, a scalar in float32."""
        return reconstruction_loss(
            prediction_BMP,
            pixels_BMP,
            norm_pix_loss=self.normalises_patches,
            channel_weights_C=self.channel_weights_C,
        )

    def of(self, pixels_BMP: Tensor) -> Tensor:
        """What a prediction of these pixels is compared with."""
        return normalised_patches(pixels_BMP.float()) if self.normalises_patches else pixels_BMP

    def to_pixels(self, prediction_BMP: Tensor, pixels_BMP: Tensor) -> Tensor:
        """The predicted pixels; where patches are normalised one by one, with the true patch's mean and variance."""
        if not self.normalises_patches:
            return prediction_BMP
        variance, mean = torch.var_mean(pixels_BMP, dim=-1, keepdim=True)
        return prediction_BMP * (variance + 1e-6).sqrt() + mean

    def sum_per_channel(self, values_BMP: Tensor) -> Tensor:
        """Sums over patches and pixels, (B, C)."""
        pixels_BMpC: Tensor = values_BMP.unflatten(-1, (-1, self.channels))
        return pixels_BMpC.sum((1, 2))

    def sums_per_jet(self, prediction_BMP: Tensor, pixels_BMP: Tensor) -> dict[str, Tensor]:
        """In float64: `loss` (B,), and per channel (B, C) `sse`, `sum` and `sum_of_squares`.

        They are the squared error, and the sum and the sum of squares of the target.
        """
        target_BMP = self.of(pixels_BMP).double()
        loss_B = torch.stack([self.loss(p, t) for p, t in zip(prediction_BMP, pixels_BMP, strict=True)])
        return {
            "sse": self.sum_per_channel((prediction_BMP.double() - target_BMP) ** 2),
            "sum": self.sum_per_channel(target_BMP),
            "sum_of_squares": self.sum_per_channel(target_BMP**2),
            "loss": loss_B.double(),
        }

    def space(self, transform: str) -> str:
        """In words, for the report: in which space errors are measured."""
        per_patch = ", then each patch to mean 0 and variance 1" if self.normalises_patches else ""
        return f"value transform {transform}, then per-channel z-score{per_patch}"
