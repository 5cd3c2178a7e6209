"""All observables of a jet, by name.

They need no label, do not change if the image is mirrored, and are finite for an empty jet.

Shapes: B jets, C channels, H W image, L towers, F observables.
"""

from functools import lru_cache

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.jet_channels import JET_CHANNELS, TOWER_PIXELS, check_jet_images
from jetmae.data.observables.correlations import energy_correlations
from jetmae.data.observables.rings import ring_sums
from jetmae.data.observables.shape import axes, girth_and_dispersion, size_and_mass, spread
from jetmae.data.observables.subjets import find_seeds, seed_distances, seed_shares, subjettiness
from jetmae.data.observables.towers import Towers, on_pixels, tower_grid_of, tower_sums
from jetmae.data.observables.tracks import displaced_tracks, find_tracks, highest_displacements, multiplicities


def observables(images_BCHW: Float32[Tensor, "B C H W"], channels: tuple[str, ...]) -> Float32[Tensor, "B F"]:
    """Observables (B, F) of images in source units, in the order of `observable_names`.

    `channels` names those of the images; the roles are found by name. The values have to be in the units of
    JET_CHANNELS, which an image cannot tell: `check_jet_channels` looks at what the dataset says.

    Raises:
        DataError: a channel is missing, or the image is no grid of towers.
    """
    return torch.stack(list(_by_name(images_BCHW, channels).values()), dim=1)


@lru_cache(maxsize=4)
def observable_names(channels: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the observables of such images.

    Raises:
        DataError: a channel is missing.
    """
    return tuple(_by_name(torch.zeros(1, len(channels), TOWER_PIXELS, TOWER_PIXELS), channels))


def _by_name(images_BCHW: Tensor, channels: tuple[str, ...]) -> dict[str, Tensor]:
    height, width = images_BCHW.shape[2:]
    check_jet_images(channels, height, width)
    ordered_BCHW = images_BCHW[:, [channels.index(channel) for channel in JET_CHANNELS]]
    image = dict(zip(JET_CHANNELS, ordered_BCHW.unbind(1), strict=True))
    towers = tower_grid_of(height, width, images_BCHW.device)
    in_jet_HW = on_pixels(towers.in_jet(), height, width)
    tracks = find_tracks(image["track_pt"], image["d0"], image["dz"], in_jet_HW)
    vertex_pt_BHW = (tracks.pt_gev_BP * tracks.of_vertex_BP).view_as(image["track_pt"])
    calorimeter = _in("calorimeter", image["ecal"].abs() + image["hcal"].abs(), towers)
    vertex = _in("vertex", vertex_pt_BHW, towers)
    rings = ring_sums(tower_sums(ordered_BCHW), towers, tuple(JET_CHANNELS))
    return (
        calorimeter | vertex | rings | highest_displacements(tracks) | displaced_tracks(tracks) | multiplicities(tracks)
    )


def _in(where: str, gev_BHW: Tensor, grid: Towers) -> dict[str, Tensor]:
    """Shape and substructure of one map of energy or pT within the jet."""
    gev_BL, towers = tower_sums(gev_BHW[:, None])[:, 0, grid.in_jet()], grid.of(grid.in_jet())
    jet, seeds = spread(gev_BL, towers), find_seeds(gev_BL, towers)
    found = size_and_mass(jet) | girth_and_dispersion(jet) | axes(jet) | energy_correlations(gev_BL, towers)
    found |= seed_shares(seeds) | seed_distances(seeds) | subjettiness(gev_BL, towers, seeds)
    return {f"{where}_{name}": values for name, values in found.items()}
