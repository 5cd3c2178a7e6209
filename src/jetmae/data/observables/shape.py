"""Size and shape of a jet: how much there is in it, and how it is spread.

E_i is what tower i holds, energy or pT; z_i = E_i / sum E, its share; r_i its distance from the barycentre in eta and
phi. An image tells no eta, so the energy of a calorimeter tower stands for its pT.

Shapes: B jets, L towers.
"""

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from jetmae.data.observables.towers import Towers

LEAST_SUM_GEV = 1e-3  # an empty jet counts as this much
LEAST_MASS_GEV = 1.0


@dataclass(frozen=True)
class Spread:
    """Sum of a jet (B,) GeV, shares (B, L), and their second central moments in eta and phi (B,)."""

    sum_B: Tensor
    share_BL: Tensor
    distance_BL: Tensor
    eta_eta_B: Tensor
    phi_phi_B: Tensor
    eta_phi_B: Tensor


def shares(gev_BL: Float32[Tensor, "B L"]) -> tuple[Float32[Tensor, " B"], Float32[Tensor, "B L"]]:
    """The sum of each jet (B,), and the share of each tower (B, L); all 0 for an empty jet."""
    sum_B = gev_BL.sum(dim=1).clamp(min=LEAST_SUM_GEV)
    return sum_B, gev_BL / sum_B[:, None]


def spread(gev_BL: Float32[Tensor, "B L"], towers: Towers) -> Spread:
    """Moments about the barycentre."""
    sum_B, share_BL = shares(gev_BL)
    eta_BL = towers.eta_L - (share_BL * towers.eta_L).sum(dim=1, keepdim=True)
    phi_BL = towers.phi_L - (share_BL * towers.phi_L).sum(dim=1, keepdim=True)
    return Spread(
        sum_B,
        share_BL,
        (eta_BL**2 + phi_BL**2).sqrt(),
        (share_BL * eta_BL**2).sum(dim=1),
        (share_BL * phi_BL**2).sum(dim=1),
        (share_BL * eta_BL * phi_BL).sum(dim=1),
    )


def size_and_mass(jet: Spread) -> dict[str, Tensor]:
    """Logarithms of the sum and of the mass, both in GeV.

    m^2 = sum_{i<j} E_i E_j R_ij^2 = (sum E)^2 sum z_i r_i^2: massless towers at small angles, as in arXiv:1305.0007,
    section 2. A mass below 1 GeV counts as 1 GeV.
    """
    variance_B = jet.eta_eta_B + jet.phi_phi_B
    mass_gev_B = jet.sum_B * variance_B.clamp(min=0).sqrt()
    return {"log_sum_gev": jet.sum_B.log(), "log_mass_gev": mass_gev_B.clamp(min=LEAST_MASS_GEV).log()}


def girth_and_dispersion(jet: Spread) -> dict[str, Tensor]:
    """Girth = sum z_i r_i, in eta and phi (arXiv:1106.3076).

    Dispersion = sqrt(sum z_i^2), no unit: 1 for a single tower, small for many alike (CMS-PAS-JME-13-002).
    """
    return {
        "girth": (jet.share_BL * jet.distance_BL).sum(dim=1),
        "dispersion": (jet.share_BL**2).sum(dim=1).sqrt(),
    }


def axes(jet: Spread) -> dict[str, Tensor]:
    """Half axes of the jet's ellipse, in eta and phi (CMS-PAS-JME-13-002, here with weights z_i).

    They are square roots of the eigenvalues of the matrix of second central moments:
    (trace +- sqrt((m_ee - m_pp)^2 + 4 m_ep^2)) / 2.
    """
    trace_B = jet.eta_eta_B + jet.phi_phi_B
    gap_B = ((jet.eta_eta_B - jet.phi_phi_B) ** 2 + 4 * jet.eta_phi_B**2).sqrt()
    return {
        "major_axis": ((trace_B + gap_B) / 2).clamp(min=0).sqrt(),
        "minor_axis": ((trace_B - gap_B) / 2).clamp(min=0).sqrt(),
    }
