"""Energy correlation functions: angles between pairs and triples of towers, weighted with their shares.

Shapes: B jets, L towers, K of them.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.observables.shape import shares
from jetmae.data.observables.towers import Towers

HARDEST_TOWERS = 30  # hold nearly all energy, and keep the triples few
ANGULAR_EXPONENTS = (1, 2)
LEAST_PAIRS, LEAST_TRIPLES = 1e-4, 1e-7  # added before a logarithm is taken


def energy_correlations(gev_BL: Float32[Tensor, "B L"], towers: Towers) -> dict[str, Tensor]:
    """Logarithms of e2, e3 and D2 = e3 / e2^3 for beta = 1 and 2; no units.

    e2 = sum_{i<j} z_i z_j R_ij^beta and e3 = sum_{i<j<k} z_i z_j z_k (R_ij R_jk R_ki)^beta over the 30 hardest towers
    (arXiv:1305.0007; D2: arXiv:1409.6298).
    """
    share_BK, distance_BKK = _hardest(gev_BL, towers)
    found: dict[str, Tensor] = {}
    for beta in ANGULAR_EXPONENTS:
        angle_BKK = distance_BKK**beta
        e2_B = torch.einsum("bi,bj,bij->b", share_BK, share_BK, angle_BKK) / 2  # each pair comes twice
        weighted_BKK = share_BK[:, :, None] * angle_BKK
        e3_B = torch.einsum("bij,bji->b", weighted_BKK @ weighted_BKK, weighted_BKK) / 6  # each triple six times
        log_e2_B, log_e3_B = (e2_B + LEAST_PAIRS).log(), (e3_B + LEAST_TRIPLES).log()
        found |= {f"log_e2_beta{beta}": log_e2_B, f"log_e3_beta{beta}": log_e3_B}
        found[f"log_d2_beta{beta}"] = log_e3_B - 3 * log_e2_B
    return found


def _hardest(gev_BL: Tensor, towers: Towers) -> tuple[Tensor, Tensor]:
    """Shares (B, K) of the hardest towers, and the distances between them (B, K, K) in eta and phi."""
    _, share_BL = shares(gev_BL)
    share_BK, tower_BK = share_BL.topk(min(HARDEST_TOWERS, share_BL.shape[1]), dim=1)
    eta_BK, phi_BK = towers.eta_L[tower_BK], towers.phi_L[tower_BK]
    eta_BKK, phi_BKK = (side[:, :, None] - side[:, None] for side in (eta_BK, phi_BK))
    return share_BK, (eta_BKK**2 + phi_BKK**2).sqrt()
