"""What the visible part of a jet says about each of its patches, as features of a linear model.

All features are deviations from the mean image, so that a patch about which nothing is known gets the mean image.

Shapes: B jets, L patches (row by row on a grid of rows x columns), C channels, V deviations, R rings, Z zones,
F features, G groups.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.tasks.predictors.mean_image import MeanImagePredictor

RING_EDGES = (0.0, 0.5, 1.1, 1.6, 2.9, 5.0)
"""Distances from a patch, in patches; the first ring is the patch itself, where another channel may be visible."""
CLASS_EDGES = (0.5, 1.6, 3.0, 5.0, 8.0)
"""Distances from the jet's axis, in patches: in each class other neighbours matter."""
ZONE_EDGES = (3.0, 9.5)
"""Distances from the axis, in patches: core, jet, and what is around it."""
SIGNED_LIMIT = 20.0
"""Signed sums count up to so many scales: a few displaced tracks would outweigh all others."""


class NeighbourFeatures:
    """Deviations and features of the patches of a jet.

    The V deviations are log sums and absolute sums of all channels, then the signed sums of signed channels.
    """

    def __init__(self, mean_image: MeanImagePredictor, grid: tuple[int, int], group_of_channel: Sequence[int]):
        """`grid` is (rows, columns) of patches; channels of a group are always hidden together."""
        self.mean_image, self.spaces, self.grid = mean_image, mean_image.spaces, grid
        device = self.spaces.scale_C.device
        distance_L = distances_from_axis(grid).to(device)
        self.class_L = torch.bucketize(distance_L, torch.tensor(CLASS_EDGES, device=device))
        zone_L = torch.bucketize(distance_L, torch.tensor(ZONE_EDGES, device=device), right=True)
        self.zone_LZ = F.one_hot(zone_L, len(ZONE_EDGES) + 1).float()
        self.kernels_R1KK = ring_kernels().to(device)
        channel_C = torch.arange(len(group_of_channel), device=device)
        self.channel_V = torch.cat([channel_C, channel_C, channel_C[self.spaces.is_signed_C]])
        groups = sorted(set(group_of_channel))
        self.first_of_group = [group_of_channel.index(group) for group in groups]
        self.group_V = [groups.index(group_of_channel[channel]) for channel in self.channel_V.tolist()]
        self.scale_V, self.mean_LV = self._scale(), self._mean()
        self.classes = len(CLASS_EDGES) + 1
        rings, zones = len(RING_EDGES) - 1, len(ZONE_EDGES) + 1
        columns = len(self.channel_V)
        self.width = columns * (rings + zones) + len(self.first_of_group) * rings + 2 * len(channel_C) + 1

    def deviations(
        self, absolute_BLC: Float[Tensor, "B L C"], signed_BLC: Float[Tensor, "B L C"]
    ) -> Float[Tensor, "B L V"]:
        """From the mean image, in units of `scale_V`."""
        signed_BLS = signed_BLC[..., self.spaces.is_signed_C]
        limit_S = SIGNED_LIMIT * self.spaces.scale_C[self.spaces.is_signed_C]
        columns = [self.spaces.log_sums(absolute_BLC), absolute_BLC, signed_BLS.clamp(-limit_S, limit_S)]
        values_BLV = torch.cat(columns, dim=-1)
        return (values_BLV - self.mean_LV) / self.scale_V

    def sums(self, deviations_BLV: Float[Tensor, "B L V"]) -> dict[str, Float[Tensor, "B L C"]]:
        """The inverse of `deviations`: sums in each space, absolute ones not below 0."""
        values_BLV = deviations_BLV * self.scale_V + self.mean_LV
        channels = len(self.spaces.scale_C)
        log_sums_BLC, sums_BLC, signed_BLS = values_BLV.tensor_split([channels, 2 * channels], dim=-1)
        sums_BLC = sums_BLC.clamp(min=0)
        sums_BLC[..., self.spaces.is_signed_C] = signed_BLS
        return {"log_sums": log_sums_BLC.clamp(min=0), "sums": sums_BLC}

    def __call__(
        self, deviations_BLV: Float[Tensor, "B L V"], hidden_BLC: Bool[Tensor, "B L C"]
    ) -> Float[Tensor, "B L F"]:
        """Features of every patch; hidden deviations are not looked at."""
        hidden_BLV = hidden_BLC[..., self.channel_V]
        seen_BLV = torch.where(hidden_BLV, 0.0, deviations_BLV)
        visible_BLC = (~hidden_BLC).float()
        count_BLCR = self._ring_sums(visible_BLC)
        ring_BLVR = self._ring_sums(seen_BLV) / count_BLCR.clamp(min=1)[:, :, self.channel_V]
        parts = [
            ring_BLVR.flatten(2),
            (count_BLCR[:, :, self.first_of_group] > 0).flatten(2).float(),
            self._zone_means(seen_BLV, visible_BLC),
            self._mean_image_features(len(hidden_BLC)),
        ]
        return torch.cat(parts, dim=-1)

    def _ring_sums(self, values_BLV: Tensor) -> Tensor:
        """Over the rings around each patch (B, L, V, R)."""
        jets, patches, columns = values_BLV.shape
        images_N1HW = values_BLV.transpose(1, 2).reshape(-1, 1, *self.grid)
        # In full precision: the visible patches are counted in this way too.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            rings_NRHW = F.conv2d(images_N1HW, self.kernels_R1KK, padding=self.kernels_R1KK.shape[-1] // 2)
        return rings_NRHW.view(jets, columns, -1, patches).permute(0, 3, 1, 2)

    def _zone_means(self, seen_BLV: Tensor, visible_BLC: Tensor) -> Tensor:
        """Of what is visible in each zone of the jet (B, L, Z * V): every patch knows the whole jet."""
        sums_BZV = torch.einsum("blv,lz->bzv", seen_BLV, self.zone_LZ)
        count_BZV = torch.einsum("blc,lz->bzc", visible_BLC, self.zone_LZ)[..., self.channel_V]
        means_BF = (sums_BZV / count_BZV.clamp(min=1)).flatten(1)
        return means_BF[:, None].expand(-1, seen_BLV.shape[1], -1)

    def _mean_image_features(self, jets: int) -> Tensor:
        """The mean image at each patch, and a constant (B, L, 2 C + 1)."""
        both = 2 * len(self.spaces.scale_C)
        mean_LF = F.pad(self.mean_LV[:, :both] / self.scale_V[:both], (0, 1), value=1.0)
        return mean_LF.expand(jets, -1, -1)

    def _scale(self) -> Tensor:
        """Of log sums 1, of absolute sums their mean over all patches, of signed sums the channel's scale."""
        mean_C = self.mean_image.absolute_LC.mean(dim=0)
        scale_C = self.spaces.scale_C
        return torch.cat(
            [torch.ones_like(mean_C), torch.where(mean_C > 0, mean_C, 1.0), scale_C[self.spaces.is_signed_C]]
        )

    def _mean(self) -> Tensor:
        mean = self.mean_image.mean
        return torch.cat(
            [mean["log_sums"], self.mean_image.absolute_LC, mean["sums"][:, self.spaces.is_signed_C]], dim=-1
        )


def distances_from_axis(grid: tuple[int, int]) -> Float[Tensor, " L"]:
    """Of the patches' centres from the centre of the image, in patches."""
    row, column = (torch.arange(size) - (size - 1) / 2 for size in grid)
    return torch.hypot(row[:, None], column[None]).flatten()


def ring_kernels() -> Float[Tensor, "R 1 K K"]:
    """1 in each ring, 0 outside of it."""
    reach = int(RING_EDGES[-1])
    distance_KK = distances_from_axis((2 * reach + 1, 2 * reach + 1)).view(2 * reach + 1, -1)
    rings = [(distance_KK >= low) & (distance_KK < high) for low, high in pairwise(RING_EDGES)]
    return torch.stack(rings)[:, None].float()
