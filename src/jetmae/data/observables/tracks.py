"""Tracks of the primary vertex, and those of them that miss it: what b quarks leave behind.

A pixel counts as one track, with the summed pT, d0 and dz of those in it: more than one are rare.

Shapes: B jets, H W image, P = H W pixels, T tracks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

VERTEX_MAX_DZ_CM = 0.2  # further along the beam lie other collisions
D0_RESOLUTION_CM = (0.0010, 0.0090)  # constant, and divided by pT in GeV (CMS tracking, arXiv:1405.6569)
RESOLUTION_MIN_PT_GEV = 0.3
DISPLACED_MIN_PT_GEV, DISPLACED_MAX_D0_CM = 1.0, 0.5  # softer ones are uncertain, K_S and Lambda are further off
HARD_MIN_PT_GEV = 5.0
LEAST_HARD_SUM_GEV = 0.1
HIGHEST = 4  # most displaced tracks
COUNTED_ABOVE, SUMMED_ABOVE = (2, 4, 8), (3, 6)  # sigma


@dataclass(frozen=True)
class Tracks:
    """What the pixels of a jet say of tracks, (B, P)."""

    pt_gev_BP: Float32[Tensor, "B P"]
    significance_BP: Float32[Tensor, "B P"]
    """abs(d0) in standard deviations; 0 where it is not measured well"""
    of_vertex_BP: Bool[Tensor, "B P"]
    """in the jet and from the primary vertex"""


def find_tracks(
    pt_gev_BHW: Float32[Tensor, "B H W"],
    d0_cm_BHW: Float32[Tensor, "B H W"],
    dz_cm_BHW: Float32[Tensor, "B H W"],
    in_jet_HW: Bool[Tensor, "H W"],
) -> Tracks:
    """Tracks of the vertex, and abs(d0) / sigma of those above 1 GeV with abs(d0) < 5 mm.

    sigma = hypot(10 um, 90 um / pT), pT in GeV.
    """
    of_vertex_BHW = (pt_gev_BHW > 0) & (dz_cm_BHW.abs() < VERTEX_MAX_DZ_CM) & in_jet_HW
    constant_cm, per_pt = D0_RESOLUTION_CM
    sigma_cm_BHW = (constant_cm**2 + (per_pt / pt_gev_BHW.clamp(min=RESOLUTION_MIN_PT_GEV)) ** 2).sqrt()
    good_BHW = of_vertex_BHW & (pt_gev_BHW > DISPLACED_MIN_PT_GEV) & (d0_cm_BHW.abs() < DISPLACED_MAX_D0_CM)
    significance_BHW = d0_cm_BHW.abs() / sigma_cm_BHW * good_BHW
    return Tracks(*(pixels.flatten(1) for pixels in (pt_gev_BHW, significance_BHW, of_vertex_BHW)))


def highest_displacements(tracks: Tracks) -> dict[str, Tensor]:
    """log(1 + abs(d0) / sigma) of the four most displaced tracks, no unit; track counting as in arXiv:1211.4462."""
    highest_BT = torch.log1p(tracks.significance_BP.topk(HIGHEST, dim=1).values)
    return {f"displacement_{n + 1}": highest_BT[:, n] for n in range(HIGHEST)}


def displaced_tracks(tracks: Tracks) -> dict[str, Tensor]:
    """Numbers of tracks with abs(d0) above 2, 4 and 8 sigma; log(1 + their summed pT in GeV) above 3 and 6 sigma."""
    numbers = {
        f"tracks_above_{sigma}_sigma": (tracks.significance_BP > sigma).sum(dim=1).float() for sigma in COUNTED_ABOVE
    }
    sums = {
        f"log_pt_gev_above_{sigma}_sigma": torch.log1p((tracks.pt_gev_BP * (tracks.significance_BP > sigma)).sum(dim=1))
        for sigma in SUMMED_ABOVE
    }
    return numbers | sums


def multiplicities(tracks: Tracks) -> dict[str, Tensor]:
    """Numbers of tracks in the jet from the vertex, and of all in the image; log of the vertex's pT above 5 GeV.

    A sum below 0.1 GeV counts as 0.1 GeV.
    """
    hard_gev_B = (tracks.pt_gev_BP * (tracks.of_vertex_BP & (tracks.pt_gev_BP > HARD_MIN_PT_GEV))).sum(dim=1)
    return {
        "vertex_tracks": tracks.of_vertex_BP.sum(dim=1).float(),
        "all_tracks": (tracks.pt_gev_BP > 0).sum(dim=1).float(),
        "log_hard_pt_gev": hard_gev_B.clamp(min=LEAST_HARD_SUM_GEV).log(),
    }
