"""Subjets: the hardest towers of a jet that are not close to each other, and how well they explain the rest.

Shapes: B jets, L towers, S seeds, P pairs of seeds.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.observables.shape import shares
from jetmae.data.observables.towers import Towers

SEEDS = 4
SEED_RADIUS = 0.22  # in eta and phi: towers this near belong to a seed
PAIRED_SEEDS = 3
LEAST_PAIRED_SHARE = 0.02  # a softer seed is at no distance
LEAST_TAU = 1e-3  # in eta and phi, added to the denominator of a ratio


@dataclass(frozen=True)
class Seeds:
    """From the hardest to the softest."""

    share_BS: Float32[Tensor, "B S"]
    """of the energy, within SEED_RADIUS"""
    eta_BS: Float32[Tensor, "B S"]
    phi_BS: Float32[Tensor, "B S"]


def find_seeds(gev_BL: Float32[Tensor, "B L"], towers: Towers) -> Seeds:
    """Take the hardest tower and all within SEED_RADIUS of it, four times.

    A jet with nothing left repeats its first, so that no seed lies where there is nothing.
    """
    sum_B, _ = shares(gev_BL)
    left_BL, first_B, found = gev_BL, gev_BL.argmax(dim=1), []
    for _ in range(SEEDS):
        hardest_B, tower_B = left_BL.max(dim=1)
        tower_B = torch.where(hardest_B > 0, tower_B, first_B)
        eta_B, phi_B = towers.eta_L[tower_B], towers.phi_L[tower_B]
        near_BL = _distance(towers, eta_B[:, None], phi_B[:, None]) < SEED_RADIUS
        share_B = torch.where(hardest_B > 0, (gev_BL * near_BL).sum(dim=1) / sum_B, 0.0)
        found.append((share_B, eta_B, phi_B))
        left_BL = left_BL * ~near_BL
    return Seeds(*(torch.stack(parts, dim=1) for parts in zip(*found, strict=True)))


def seed_shares(seeds: Seeds) -> dict[str, Tensor]:
    """Share of the energy within 0.22 of each seed, no unit. A core that two seeds claim counts for both."""
    return {f"seed_{n + 1}_share": seeds.share_BS[:, n] for n in range(SEEDS)}


def seed_distances(seeds: Seeds) -> dict[str, Tensor]:
    """Distances between the three hardest seeds in eta and phi; 0 if the softer one has less than 2 % of the energy."""
    found = {}
    for a, b in combinations(range(PAIRED_SEEDS), 2):
        eta_B, phi_B = seeds.eta_BS[:, a] - seeds.eta_BS[:, b], seeds.phi_BS[:, a] - seeds.phi_BS[:, b]
        is_there_B = seeds.share_BS[:, b] > LEAST_PAIRED_SHARE
        found[f"seeds_{a + 1}_{b + 1}_distance"] = (eta_B**2 + phi_B**2).sqrt() * is_there_B
    return found


def subjettiness(gev_BL: Float32[Tensor, "B L"], towers: Towers, seeds: Seeds) -> dict[str, Tensor]:
    """tau_N = sum_i z_i min_n R_in in eta and phi, N = 1 to 4, and tau_N / tau_{N-1} without unit (arXiv:1011.2268).

    The axes are the first N seeds, not the ones that minimise tau_N, so a tau is an upper bound.
    """
    _, share_BL = shares(gev_BL)
    distance_BLS = _distance(towers, seeds.eta_BS[:, :, None], seeds.phi_BS[:, :, None]).transpose(1, 2)
    tau = [(share_BL * distance_BLS[..., : n + 1].amin(dim=2)).sum(dim=1) for n in range(SEEDS)]
    ratios = {f"tau_{n + 1}{n}": tau[n] / (tau[n - 1] + LEAST_TAU) for n in range(1, SEEDS)}
    return {f"tau_{n + 1}": tau[n] for n in range(SEEDS)} | ratios


def _distance(towers: Towers, eta: Tensor, phi: Tensor) -> Tensor:
    """From places (..., 1) to all towers (..., L)."""
    return ((towers.eta_L - eta) ** 2 + (towers.phi_L - phi) ** 2).sqrt()
