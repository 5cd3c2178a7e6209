"""What is hidden of a jet: whole patches, groups of channels in single patches, or whole groups.

A group is what one detector measures: hiding it where its neighbours are seen asks for what detectors say of one
another, which hiding whole patches never does (arXiv:2503.19331 calls it channel masking).

    patches        the int(L * ratio) patches, rounded up, with the largest noise, in all groups: MAE's mask
    patch_groups   each group of each patch by itself, with probability `ratio`
    groups         patches as above, and in all others 1 to G - 1 whole groups of the jet

Shapes: B jets, L patches, G groups, N noise columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.config import Mask, Reconstruct
from jetmae.errors import JetmaeError

ONE_DETECTOR = (("d0", "dz"), ("bpix1", "bpix2", "bpix3"))
"""Channels by name: both impact parameters of a track, hits of one particle in three pixel layers."""


@dataclass(frozen=True)
class Masking:
    """Draws one of `masks` for each jet. Columns of the noise: which mask, how many groups, which groups, patches."""

    masks: tuple[Mask, ...]
    patches: int
    groups: int

    @property
    def noise_columns(self) -> int:
        return 2 + self.groups + self.patches * self.groups

    @property
    def hidden_fraction(self) -> float:
        """Of a channel's patches, on average over jets."""
        total = sum(mask.probability for mask in self.masks)
        hidden: float = sum(mask.probability * self._fraction(mask) for mask in self.masks)
        return hidden / total

    def only(self, mask: Mask) -> "Masking":
        """The same with this mask alone."""
        return Masking((mask,), self.patches, self.groups)

    def __call__(self, noise_BN: Float[Tensor, "B N"]) -> Bool[Tensor, "B L G"]:
        """True where hidden."""
        drawn_B = self._draw(noise_BN[:, 0])
        hidden_BLG = torch.zeros((len(noise_BN), self.patches, self.groups), dtype=torch.bool, device=noise_BN.device)
        for number, mask in enumerate(self.masks):
            hidden_BLG |= self._hidden(mask, noise_BN) & (drawn_B == number)[:, None, None]
        return hidden_BLG

    def _draw(self, noise_B: Tensor) -> Tensor:
        shares = torch.tensor([mask.probability for mask in self.masks], device=noise_B.device).cumsum(0)
        return torch.bucketize(noise_B * shares[-1], shares[:-1], right=True)

    def _hidden(self, mask: Mask, noise_BN: Tensor) -> Tensor:
        noise_BLG = noise_BN[:, 2 + self.groups :].unflatten(1, (self.patches, self.groups))
        if mask.kind == "patch_groups":
            return torch.less(noise_BLG, mask.ratio)
        hidden_BL1 = hidden_patches(noise_BLG[..., 0], mask.ratio)[..., None]
        if mask.kind == "patches":
            return hidden_BL1.expand(-1, -1, self.groups)
        return hidden_BL1 | self._hidden_groups(noise_BN[:, 1 : 2 + self.groups])[:, None]

    def _hidden_groups(self, noise_BN: Tensor) -> Tensor:
        """(B, G): 1 to G - 1 of them, each number equally often."""
        wanted_B = 1 + (noise_BN[:, 0] * (self.groups - 1)).long()
        return noise_BN[:, 1:].argsort(dim=1).argsort(dim=1) < wanted_B[:, None]

    def _fraction(self, mask: Mask) -> float:
        if mask.kind == "patch_groups":
            return mask.ratio
        patches = 1 - int(self.patches * (1 - mask.ratio)) / self.patches
        return patches if mask.kind == "patches" else patches + (1 - patches) / 2


def hidden_patches(noise_BL: Float[Tensor, "B L"], ratio: float) -> Bool[Tensor, "B L"]:
    """The int(L * (1 - ratio)) patches with the smallest noise are kept, as in facebookresearch/mae."""
    kept = int(noise_BL.shape[1] * (1 - ratio))
    return noise_BL.argsort(dim=1, stable=True).argsort(dim=1) >= kept


def groups_of(settings: Reconstruct, channels: Sequence[str]) -> list[int]:
    """The number of each channel's group. Where no mask hides groups, all channels are one.

    Raises:
        JetmaeError: the groups are not a division of these channels, or too few for a mask.
    """
    kinds = [mask.kind for mask in settings.masks or () if mask.kind != "patches"]
    if not kinds:
        return [0] * len(channels)
    groups = detectors(channels) if settings.groups is None else settings.groups
    named = [name for group in groups for name in group]
    if sorted(named) != sorted(channels):
        raise JetmaeError(
            f"reconstruct.groups names the channels {', '.join(named)}; expected each of {', '.join(channels)} once"
        )
    if len(groups) < 2:
        raise JetmaeError(
            f"reconstruct.masks has kind {kinds[0]}, but the channels {', '.join(channels)} are one group: expected two"
            " or more in reconstruct.groups, or masks of kind patches alone"
        )
    return [next(g for g, group in enumerate(groups) if name in group) for name in channels]


def detectors(channels: Sequence[str]) -> list[tuple[str, ...]]:
    """Channels of one detector that say much the same of a jet, then each of the others by itself."""
    known = [tuple(name for name in group if name in channels) for group in ONE_DETECTOR]
    together = {name for group in known for name in group}
    return [group for group in known if group] + [(name,) for name in channels if name not in together]


def masking_of(settings: Reconstruct, patches: int, groups: int) -> Masking:
    """The masks of the settings, or the seed's."""
    masks = settings.masks or (Mask(kind="patches", ratio=settings.mask_ratio),)
    return Masking(masks, patches, groups)
