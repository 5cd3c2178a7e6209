"""From a sparse batch to the dense, normalised images the network sees, on the device that needs them.

Shapes: B jets, C channels, H x W image, T towers, nnz stored values.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.batch import Batch, unpack
from jetmae.data.normalisation import Normalisation


class ImageMaker:
    """Densifies and normalises batches of one dataset.

    A stored place p < H * W is a pixel; p = H * W + t stands for all pixels of tower t (data/shards.py).
    """

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
        channels, height, width = self.image_shape
        value, count_BC, index = unpack(batch, channels)
        jet_and_channel = torch.repeat_interleave(count_BC.flatten(), output_size=batch.nonzeros)
        channel = jet_and_channel % channels
        scaled = self._transform(value, self.scale_C[channel]) / self.std_C[channel]
        places = height * width + self._num_towers()
        dense = torch.zeros(batch.jets * channels * places, device=value.device)
        dense[jet_and_channel * places + index] = scaled
        dense = dense.view(batch.jets, channels, places)
        images_BCHW: Tensor = dense[..., : height * width].unflatten(-1, (height, width)) - self._offset()
        if self.tower_channels:
            images_BCHW[:, self.tower_channels] += self._spread_towers(dense[:, self.tower_channels, height * width :])
        return images_BCHW

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

    def _offset(self) -> Tensor:
        return (self.mean_C / self.std_C)[:, None, None]

    def _num_towers(self) -> int:
        _, height, width = self.image_shape
        return (height // self.tower_size) * (width // self.tower_size) if self.tower_channels else 0

    def _spread_towers(self, towers: Tensor) -> Tensor:
        """(B, channels, T) to (B, channels, H, W): every pixel has its tower's value."""
        _, height, width = self.image_shape
        size = self.tower_size
        towers = towers.unflatten(-1, (height // size, width // size))
        return towers.repeat_interleave(size, dim=-2).repeat_interleave(size, dim=-1)
