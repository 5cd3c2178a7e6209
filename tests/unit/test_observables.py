"""Observables against closed forms, and against other programs' numbers."""

import math

import pytest
import torch

from jetmae.data.jet_channels import JET_CHANNELS, check_jet_channels
from jetmae.data.observables import observable_names, observables
from jetmae.errors import DataError

CHANNELS = ("track_pt", "d0", "dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")
UNITS = ("GeV", "cm", "cm", "GeV", "GeV", "hits", "hits", "hits")
PIXELS, CENTRE = 125, 62
TOWER = 0.087
Hit = tuple[str, int, int, float]
"""Channel, row and column of a tower from the central one, value."""


def image_of(*hits: Hit, channels: tuple[str, ...] = CHANNELS) -> torch.Tensor:
    """Images (1, C, H, W) with each value in the middle pixel of a tower."""
    images_BCHW = torch.zeros(1, len(channels), PIXELS, PIXELS)
    for channel, row, column, value in hits:
        images_BCHW[0, channels.index(channel), CENTRE + 5 * row, CENTRE + 5 * column] = value
    return images_BCHW


def observed(*hits: Hit) -> dict[str, float]:
    values_BF = observables(image_of(*hits), CHANNELS)
    return dict(zip(observable_names(CHANNELS), values_BF[0].tolist(), strict=True))


def track(row: int, column: int, pt_gev: float, d0_cm: float = 0.001, dz_cm: float = 0.01) -> list[Hit]:
    return [("track_pt", row, column, pt_gev), ("d0", row, column, d0_cm), ("dz", row, column, dz_cm)]


def busy_images(jets: int = 6) -> torch.Tensor:
    """Sparse images of signed values, densest in the middle as jets are."""
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(PIXELS) - CENTRE
    density_HW = torch.exp(-(places[:, None] ** 2 + places**2).sqrt() / 15)
    shape = (jets, len(CHANNELS), PIXELS, PIXELS)
    filled = torch.rand(shape, generator=generator) < 0.1 * density_HW
    values = torch.empty(shape).exponential_(0.5, generator=generator)
    values[:, 1:3] = 0.2 * torch.randn((jets, 2, PIXELS, PIXELS), generator=generator)
    return values * filled


def test_there_are_112_names_that_differ():
    names = observable_names(CHANNELS)
    assert len(names) == len(set(names)) == 112
    assert observables(busy_images(), CHANNELS).shape == (6, 112)


def test_one_hit_has_no_mass_and_no_size():
    found = observed(("hcal", 2, -3, 50.0))
    assert found["calorimeter_log_sum_gev"] == pytest.approx(math.log(50))
    assert found["calorimeter_log_mass_gev"] == 0  # below 1 GeV counts as 1 GeV
    for name in ("girth", "major_axis", "minor_axis", "tau_1", "tau_4", "seed_2_share", "seeds_1_2_distance"):
        assert found[f"calorimeter_{name}"] == pytest.approx(0, abs=1e-6), name
    assert found["calorimeter_dispersion"] == found["calorimeter_seed_1_share"] == 1
    assert found["calorimeter_log_e2_beta1"] == pytest.approx(math.log(1e-4))
    assert found["calorimeter_log_e3_beta1"] == pytest.approx(math.log(1e-7))


@pytest.mark.parametrize("row", [4, -6])
def test_two_equal_hits(row):
    distance = math.hypot(row - 1, 3) * TOWER
    found = observed(("ecal", row, 3, 40.0), ("hcal", 1, 0, 40.0))
    shape = {name.removeprefix("calorimeter_"): value for name, value in found.items()}
    assert shape["log_mass_gev"] == pytest.approx(math.log(40 * distance), abs=1e-5)  # m^2 = E_1 E_2 R^2
    assert shape["girth"] == pytest.approx(distance / 2, rel=1e-5)
    assert shape["dispersion"] == pytest.approx(math.sqrt(0.5))
    assert shape["major_axis"] == pytest.approx(distance / 2, rel=1e-5)
    assert shape["minor_axis"] == pytest.approx(0, abs=1e-4)
    for beta in (1, 2):
        assert shape[f"log_e2_beta{beta}"] == pytest.approx(math.log(0.25 * distance**beta + 1e-4), abs=1e-5)
        assert shape[f"log_e3_beta{beta}"] == pytest.approx(math.log(1e-7))
    assert [shape[f"seed_{n}_share"] for n in (1, 2, 3)] == [0.5, 0.5, 0]
    assert shape["seeds_1_2_distance"] == pytest.approx(distance, rel=1e-5)
    assert shape["tau_1"] == pytest.approx(distance / 2, rel=1e-5)
    assert shape["tau_2"] == shape["tau_21"] == 0


def test_three_equal_hits_in_a_triangle():
    found = observed(("ecal", 0, 0, 10.0), ("ecal", 3, 0, 10.0), ("ecal", 0, 4, 10.0))
    sides = [side * TOWER for side in (3, 4, 5)]
    e2, e3 = sum(sides) / 9, math.prod(sides) / 27
    assert found["calorimeter_log_e2_beta1"] == pytest.approx(math.log(e2 + 1e-4), abs=1e-5)
    assert found["calorimeter_log_e3_beta1"] == pytest.approx(math.log(e3 + 1e-7), abs=1e-5)
    expected = math.log((e3 + 1e-7) / (e2 + 1e-4) ** 3)
    assert found["calorimeter_log_d2_beta1"] == pytest.approx(expected, abs=1e-5)
    assert found["calorimeter_tau_2"] > 0 == found["calorimeter_tau_3"]


@pytest.mark.parametrize(
    ("beta", "e2", "e3"),
    [(1, 0.1141833708043275, 0.0023008026873553833), (2, 0.04459491906721538, 0.00016828712023740853)],
)
def test_correlations_are_those_of_energyflow_and_the_mass_is_that_of_fastjet(beta, e2, e3):
    """EnergyFlow 1.4.0: EFP of a line / 2 and of a triangle / 6, measure hadr. FastJet 3.5.2: anti-kt, R = 1.

    FastJet's mass is exact, ours is that of small angles: 3 per mille apart for this jet.
    """
    hits = ((0, 0, 200.0), (1, 3, 120.0), (-2, -3, 60.0), (4, -1, 20.0), (-5, 2, 5.0))
    found = observed(*(("ecal", *hit) for hit in hits))
    assert found[f"calorimeter_log_e2_beta{beta}"] == pytest.approx(math.log(e2 + 1e-4), abs=1e-5)
    assert found[f"calorimeter_log_e3_beta{beta}"] == pytest.approx(math.log(e3 + 1e-7), abs=1e-5)
    assert found["calorimeter_log_mass_gev"] == pytest.approx(math.log(85.32187790005278), abs=0.005)


def test_soft_seeds_are_at_no_distance():
    assert observed(("ecal", 0, 0, 99.0), ("ecal", 5, 0, 1.0))["calorimeter_seeds_1_2_distance"] == 0
    assert observed(("ecal", 0, 0, 97.0), ("ecal", 5, 0, 3.0))["calorimeter_seeds_1_2_distance"] > 0


def test_what_lies_outside_the_jet_is_in_the_last_ring_alone():
    inside, outside = observed(("ecal", 0, 9, 5.0)), observed(("ecal", 0, 10, 5.0))
    assert inside["calorimeter_log_sum_gev"] == pytest.approx(math.log(5))
    assert outside["calorimeter_log_sum_gev"] == pytest.approx(math.log(1e-3))
    assert (inside["ecal_ring_5"], inside["ecal_ring_6"]) == pytest.approx((math.log(6), 0))
    assert (outside["ecal_ring_5"], outside["ecal_ring_6"]) == pytest.approx((0, math.log(6)))


def test_a_ring_begins_at_its_inner_edge():
    found = observed(("ecal", 0, 3, 5.0), ("hcal", 5, 0, 5.0))
    assert found["ecal_ring_4"] == found["hcal_ring_5"] == pytest.approx(math.log(6))


def test_rings_take_the_size_of_signed_values():
    found = observed(("d0", 0, 0, -0.25), ("dz", 1, 0, 1.0), ("dz", 1, 1, -2.0))
    assert found["d0_ring_1"] == pytest.approx(math.log(1.25))
    assert found["dz_ring_2"] == pytest.approx(math.log(4))


def test_displaced_tracks_are_counted_in_standard_deviations():
    """At 9 GeV sigma is hypot(10, 10) um."""
    sigma_cm = math.hypot(0.001, 0.001)
    found = observed(*track(0, 0, 9.0, -5 * sigma_cm), *track(0, 1, 9.0, 3.5 * sigma_cm), *track(3, 0, 9.0))
    assert found["displacement_1"] == pytest.approx(math.log(6), rel=1e-5)
    assert found["displacement_2"] == pytest.approx(math.log(4.5), rel=1e-5)
    assert [found[f"tracks_above_{n}_sigma"] for n in (2, 4, 8)] == [2, 1, 0]
    assert found["log_pt_gev_above_3_sigma"] == pytest.approx(math.log(1 + 18), rel=1e-5)
    assert found["log_pt_gev_above_6_sigma"] == 0


@pytest.mark.parametrize(
    ("hits", "counts"),
    [
        (track(0, 0, 9.0, 0.1, dz_cm=0.5), False),  # another collision
        (track(0, 0, 0.9, 0.1), False),  # soft
        (track(0, 0, 9.0, 0.6), False),  # a long-lived particle
        (track(0, 10, 9.0, 0.1), False),  # outside the jet
        (track(0, 0, 9.0, 0.1), True),
    ],
)
def test_only_good_tracks_of_the_vertex_are_displaced(hits, counts):
    assert (observed(*hits)["displacement_1"] > 0) == counts


def test_multiplicities():
    found = observed(*track(0, 0, 9.0), *track(1, 0, 1.0), *track(0, 2, 6.0, dz_cm=3.0), *track(12, 0, 7.0))
    assert (found["vertex_tracks"], found["all_tracks"]) == (2, 4)
    assert found["log_hard_pt_gev"] == pytest.approx(math.log(9))
    assert found["vertex_log_sum_gev"] == pytest.approx(math.log(10))


@pytest.mark.parametrize("sides", [(2,), (3,), (2, 3)])
def test_mirrored_images_have_the_same_observables(sides):
    images = busy_images()
    mirrored = images.flip(sides)
    mirrored[:, 1:3] *= -1
    torch.testing.assert_close(observables(mirrored, CHANNELS), observables(images, CHANNELS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [1, -1])
def test_where_nothing_is_left_a_seed_has_no_place_of_its_own(side):
    """The soft tower belongs to the hard one, and is the jet's first or last."""
    found = observed(("ecal", -9 * side, -1 * side, 9.0), ("ecal", -9 * side, -3 * side, 1.0))
    assert found["calorimeter_tau_4"] == found["calorimeter_tau_1"] == pytest.approx(0.1 * 2 * TOWER)


def test_jets_do_not_know_of_each_other():
    images = busy_images()
    one_by_one = torch.cat([observables(image[None], CHANNELS) for image in images])
    torch.testing.assert_close(observables(images, CHANNELS), one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [torch.zeros(2, 8, PIXELS, PIXELS), busy_images() * 1e4, busy_images() * 1e-6])
def test_empty_and_extreme_jets_are_finite(images):
    assert torch.isfinite(observables(images, CHANNELS)).all()


def test_channels_are_found_by_name():
    other = ("bpix3", "extra", "hcal", "ecal", "dz", "d0", "track_pt", "bpix1", "bpix2")
    images = busy_images()
    renamed = torch.stack(
        [images[:, CHANNELS.index(name)] if name in CHANNELS else torch.ones(6, PIXELS, PIXELS) for name in other],
        dim=1,
    )
    assert torch.equal(observables(renamed, other), observables(images, CHANNELS))
    assert observable_names(other) == observable_names(CHANNELS)


def test_a_missing_channel_is_refused():
    with pytest.raises(DataError, match=r"without d0, dz: the images have track_pt, ecal"):
        observable_names(("track_pt", "ecal", "hcal", "bpix1", "bpix2", "bpix3"))


def test_an_image_that_is_no_grid_of_towers_is_refused():
    with pytest.raises(DataError, match="128x125 pixels: expected multiples of 5"):
        observables(torch.zeros(1, 8, 128, 125), CHANNELS)


def test_unknown_units_are_refused_with_those_found_and_those_expected():
    check_jet_channels(CHANNELS, UNITS)
    check_jet_channels(CHANNELS[::-1], UNITS[::-1])
    assert tuple(JET_CHANNELS.items()) == tuple(zip(CHANNELS, UNITS, strict=True))
    with pytest.raises(DataError, match=r"track_pt in unknown, .*expected track_pt in GeV, d0 in cm") as caught:
        check_jet_channels(CHANNELS, ("unknown",) * 8)
    assert "\n" not in str(caught.value)
