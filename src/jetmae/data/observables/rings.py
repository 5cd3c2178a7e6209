"""How each channel falls off with the distance from the axis.

Shapes: B jets, C channels, L towers.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.observables.towers import JET_RADIUS_TOWERS, Towers

RING_EDGES_TOWERS = (0.5, 1.6, 3.0, 5.0, JET_RADIUS_TOWERS)  # 0.04, 0.14, 0.26, 0.44, 0.83 in eta and phi
RINGS = len(RING_EDGES_TOWERS) + 1


def ring_sums(
    sums_BCL: Float32[Tensor, "B C L"], towers: Towers, channels: tuple[str, ...]
) -> dict[str, Float32[Tensor, " B"]]:
    """log(1 + sum of abs(value)) in six rings around the axis, in each channel's own unit.

    Rings as in a differential jet shape (CDF, hep-ex/0505013). The last one is all that lies outside the jet.
    """
    edges = torch.tensor(RING_EDGES_TOWERS, device=sums_BCL.device)
    ring_L = torch.bucketize(towers.radius_towers_L, edges, right=True)
    log_sums = [torch.log1p(sums_BCL[:, :, ring_L == ring].sum(dim=2)) for ring in range(RINGS)]
    return {
        f"{channel}_ring_{ring + 1}": log_sums[ring][:, c]
        for ring in range(RINGS)
        for c, channel in enumerate(channels)
    }
