"""From a sparse batch to the dense, normalised images the network sees, on the device that needs them.

Shapes: B jets, C channels, H x W image, T towers, n stored values.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.batch import Batch, unpack
from jetmae.data.normalisation import Normalisation
from jetmae.data.pixels import SparsePixels


class ImageMaker:
    """Densifies and normalises batches of one dataset."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        normalisation: Normalisation,
        device: torch.device,
        *,
        tower_size: int = 0,
        tower_channels: tuple[int, ...] = (),
    ):
        self.image_shape, self.transform = image_shape, normalisation.transform
        self.tower_size, self.tower_channels = tower_size, list(tower_channels)
        self.scale_C, self.mean_C, self.std_C = (
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (normalisation.scale, normalisation.mean, normalisation.std)
        )

    def __call__(self, batch: Batch) -> Float32[Tensor, "B C H W"]:
        """Normalised images (B, C, H, W), float32: (t(v) - mean) / std."""
        return self.dense(self.sparse(batch))

    def sparse(self, batch: Batch) -> SparsePixels:
        """The stored values of a batch with their jets, channels and places, on the batch's device."""
        channels = self.image_shape[0]
        value_n, count_BC, place_n = unpack(batch, channels)
        image_n = torch.repeat_interleave(count_BC.flatten(), output_size=batch.nonzeros)
        return SparsePixels(value_n, image_n // channels, image_n % channels, place_n, batch.jets)

    def dense(self, pixels: SparsePixels) -> Float32[Tensor, "B C H W"]:
        """Normalised images (B, C, H, W), float32: (t(v) - mean) / std."""
        channel_n = pixels.channel_n
        scaled_n = self._transform(pixels.value_n, self.scale_C[channel_n]) / self.std_C[channel_n]
        return self._on_images(scaled_n, pixels, empty_C=-self.mean_C / self.std_C)

    def source_units(self, pixels: SparsePixels) -> Float32[Tensor, "B C H W"]:
        """Images (B, C, H, W), float32, in the source's units; a tower's value stands in all its pixels."""
        return self._on_images(pixels.value_n, pixels, empty_C=torch.zeros_like(self.mean_C))

    def to_source_units(self, images_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
        """Undo normalisation and transform, e.g. for predictions."""
        transformed = images_BCHW * self.std_C[:, None, None] + self.mean_C[:, None, None]
        scale = self.scale_C[:, None, None]
        if self.transform == "asinh":
            return torch.sinh(transformed) * scale
        if self.transform == "log":
            return torch.sign(transformed) * torch.expm1(transformed.abs()) * scale
        return transformed

    def _transform(self, value: Tensor, scale: Tensor) -> Tensor:
        if self.transform == "asinh":
            return torch.asinh(value / scale)
        if self.transform == "log":
            return torch.sign(value) * torch.log1p(value.abs() / scale)
        return value

    def _on_images(self, value_n: Tensor, pixels: SparsePixels, empty_C: Tensor) -> Tensor:
        """Values at the places of `pixels` on images (B, C, H, W); `empty_C` is an empty pixel, and added to all."""
        channels, height, width = self.image_shape
        places = height * width + self._num_towers()
        image_n = pixels.jet_n * channels + pixels.channel_n
        flat = torch.zeros(pixels.jets * channels * places, device=value_n.device)
        flat[image_n * places + pixels.place_n] = value_n
        dense_BCP = flat.view(pixels.jets, channels, places)
        images_BCHW: Tensor = dense_BCP[..., : height * width].unflatten(-1, (height, width)) + empty_C[:, None, None]
        if self.tower_channels:
            towers_BCT = dense_BCP[:, self.tower_channels, height * width :]
            images_BCHW[:, self.tower_channels] += self._spread_towers(towers_BCT)
        return images_BCHW

    def _num_towers(self) -> int:
        _, height, width = self.image_shape
        return (height // self.tower_size) * (width // self.tower_size) if self.tower_channels else 0

    def _spread_towers(self, towers: Tensor) -> Tensor:
        """(B, channels, T) to (B, channels, H, W): every pixel has its tower's value."""
        _, height, width = self.image_shape
        size = self.tower_size
        towers = towers.unflatten(-1, (height // size, width // size))
        return towers.repeat_interleave(size, dim=-2).repeat_interleave(size, dim=-1)
