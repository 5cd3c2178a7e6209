"""From the particles of one event to an 8-channel jet image: a parametrised CMS barrel, pure numpy.

Coordinates: z along the beam, phi about it, eta = asinh(z / r). Lengths in cm, momenta and energies in GeV, the field
along +z. The image is the grid of ECAL crystals around the leading HCAL tower of the jet, eta down the rows, phi along
the columns; 5 x 5 crystals are one tower, so a 5 x 5 patch of the image is exactly one tower.

Sources: [CMS] the detector, JINST 3 (2008) S08004; [PF] particle flow, arXiv:1706.04965; [TRK] tracking,
arXiv:1405.6569; [E2E] end-to-end images of jets, arXiv:1807.11916 and arXiv:2104.14659.
What is left out: material before the calorimeter (no conversions, no bremsstrahlung), the endcaps' own granularity
(the barrel grid goes on to |eta| = 3.05), hadron showers wider than a tower, fake tracks, merged pixel clusters.

Shape letters: N particles, T tracks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

CHANNELS = ("track_pt", "d0", "dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")
CHANNEL_UNITS = ("GeV", "cm", "cm", "GeV", "GeV", "hits", "hits", "hits")

# Grid. A barrel crystal spans 0.0174 in eta and phi, a tower 5 x 5 crystals ([CMS]). 360 crystals close
# the circle. The image is 125 crystals wide ([E2E]), which is 25 towers; the odd number puts one tower in the middle.
PIXEL_ETA = 0.0174
PIXELS_AROUND = 360
PIXEL_PHI = 2 * np.pi / PIXELS_AROUND
PIXELS_PER_TOWER = 5
TOWERS_AROUND = PIXELS_AROUND // PIXELS_PER_TOWER
TOWERS_ALONG = 70  # |eta| < 3.045: a centre at 1.37 + 4 towers leaves room for 12 more on either side
TOWER_ETA, TOWER_PHI = PIXELS_PER_TOWER * PIXEL_ETA, PIXELS_PER_TOWER * PIXEL_PHI
IMAGE_TOWERS = 25
IMAGE_PIXELS = IMAGE_TOWERS * PIXELS_PER_TOWER
CENTRE_SEARCH_TOWERS = 4  # the leading tower is looked for within 4 towers (0.35) of the jet axis

# Geometry ([CMS]): solenoid, ECAL barrel front face and endcap front face, pixel barrel layers.
FIELD_TESLA = 3.8
ECAL_RADIUS_CM = 129.0
ECAL_HALF_LENGTH_CM = 315.0
PIXEL_LAYER_RADII_CM = (4.4, 7.3, 10.2)  # three layers, as CMS had until 2016
PIXEL_HALF_LENGTH_CM = 26.5
CM_PER_GEV = 100.0 / (0.299792458 * FIELD_TESLA)  # radius of curvature of a unit charge, per GeV of pT
# A neutral particle flies on a circle of 10 km: off by 0.1 mm at the calorimeter, and one formula serves all.
NEUTRAL_RADIUS_CM = 1.0e6

# Tracks, after the summary of [TRK]: 94 % of the hadrons of top events are found for |eta| < 0.9 and 85 % beyond,
# practically all isolated muons; pT is good to 1.5 % between 1 and 10 GeV and to 2.8 % at 100 GeV, d0 (dz) to 90 um
# (150 um) at 1 GeV and 10 um (30 um) at 100 GeV. A particle born outside the pixels leaves no seed there, and one born
# beyond 60 cm too few hits for a track; in between we let the efficiency fall linearly.
TRACK_MAX_ABS_ETA = 2.5
TRACK_MIN_PT_GEV = 0.3
TRACK_CENTRAL_ABS_ETA = 0.9
TRACK_EFFICIENCY_CENTRAL, TRACK_EFFICIENCY_FORWARD = 0.94, 0.85
TRACK_EFFICIENCY_MUON = 0.99
TRACK_FULL_EFFICIENCY_RADIUS_CM = 4.4
TRACK_LAST_RADIUS_CM = 60.0
TRACK_PT_RESOLUTION = (0.015, 0.00024)  # relative: constant, and per GeV of pT
D0_RESOLUTION_CM = (0.0010, 0.0090)  # constant, and divided by pT in GeV
DZ_RESOLUTION_CM = (0.0030, 0.0150)
PIXEL_HIT_EFFICIENCY = 0.99

# ECAL ([CMS], test beam): relative resolution 2.8 % / sqrt(E), 40 MeV of noise per crystal (0.12 GeV in 3 x 3), 0.3 %.
# Cells count from 80 MeV on, which is two sigma of the noise ([PF], barrel).
ECAL_STOCHASTIC = 0.028
ECAL_NOISE_GEV = 0.040
ECAL_CONSTANT = 0.003
ECAL_THRESHOLD_GEV = 0.080
# A crystal is one Moliere radius wide; an electron in its middle leaves about 78 % there. A lateral profile
# exp(-|x| / length) in eta and in phi gives that with this length, in crystal widths: (1 - exp(-0.5 / length))^2.
SHOWER_LENGTH_PIXELS = 0.233
# Hadrons: the crystals are 1.1 interaction lengths deep, so 1 - exp(-1.1) of them begin to shower there and leave an
# evenly distributed part of their energy. The others, and muons, leave what a minimum ionising
# particle leaves: 0.25 GeV in ECAL, 2 GeV in HCAL (muons only).
ECAL_INTERACTION_PROBABILITY = 0.67
MIP_ECAL_GEV = 0.25
MIP_HCAL_GEV = 2.0
# HCAL ([PF], hadrons in ECAL and HCAL together): 110 % / sqrt(E) and 9 %; cells count from 0.8 GeV on (barrel).
HCAL_STOCHASTIC = 1.10
HCAL_CONSTANT = 0.09
HCAL_THRESHOLD_GEV = 0.8

# Stored numbers keep 10 mantissa bits, a relative precision of 2^-11 = 0.05 %: six times finer than the best
# resolution above (0.3 %), and the files become several times smaller. 10 bits are also what float16 has.
KEPT_MANTISSA_BITS = 10
FLOAT32_MANTISSA_BITS = 23

ELECTRON, MUON, PHOTON = 11, 13, 22
NEUTRINOS = (12, 14, 16)
PARTICLE_COLUMNS = ("pdg_id", "charge", "px", "py", "pz", "energy", "x_cm", "y_cm", "z_cm")


@dataclass(frozen=True)
class Particles:
    """Particles that live long enough to meet the detector; every field is float64 (N,)."""

    abs_pdg_id: NDArray[np.float64]
    charge: NDArray[np.float64]
    momentum_gev: NDArray[np.complex128]  # complex: px + i py
    pz_gev: NDArray[np.float64]
    energy_gev: NDArray[np.float64]
    vertex_cm: NDArray[np.complex128]  # complex: where it was born, x + i y
    vertex_z_cm: NDArray[np.float64]

    @classmethod
    def from_rows(cls, rows: NDArray[np.float64]) -> "Particles":
        """From a table (N, 9) with `PARTICLE_COLUMNS`; neutrinos, which nothing sees, are left out."""
        pdg_id, charge, px, py, pz, energy, x, y, z = rows[~np.isin(np.abs(rows[:, 0]), NEUTRINOS)].T
        return cls(np.abs(pdg_id), charge, px + 1j * py, pz, energy, x + 1j * y, z)


@dataclass(frozen=True)
class Helix:
    """Paths in the field; transverse points are complex numbers x + i y in cm, every field is (N,)."""

    start: NDArray[np.complex128]
    start_z: NDArray[np.float64]
    centre: NDArray[np.complex128]
    radius: NDArray[np.float64]
    sense: NDArray[np.float64]  # +1 turns clockwise, as a positive charge in a field along +z does
    slope: NDArray[np.float64]  # dz per transverse length: sinh(eta)

    @classmethod
    def of(cls, particles: Particles) -> "Helix":
        pt_gev = np.abs(particles.momentum_gev)
        charged = particles.charge != 0
        sense = np.where(particles.charge < 0, -1.0, 1.0)
        radius = np.where(
            charged, CM_PER_GEV * pt_gev / np.where(charged, np.abs(particles.charge), 1), NEUTRAL_RADIUS_CM
        )
        centre = particles.vertex_cm - 1j * sense * radius * particles.momentum_gev / pt_gev
        return cls(particles.vertex_cm, particles.vertex_z_cm, centre, radius, sense, particles.pz_gev / pt_gev)

    def turn_to_cylinder(self, cylinder_radius_cm: float) -> NDArray[np.float64]:
        """The angle (N,) turned until the path first leaves the cylinder; infinite if it never does.

        A point on the circle is at the squared distance d^2 + R^2 + 2 d R cos(theta) from the beam, theta being its
        angle about the centre counted from the line beam-centre.
        """
        distance = np.abs(self.centre)
        cosine = (cylinder_radius_cm**2 - distance**2 - self.radius**2) / (2 * distance * self.radius)
        theta_start = np.angle(self.start - self.centre) - np.angle(self.centre)
        theta_there = np.arccos(np.clip(cosine, -1, 1))
        turns = [np.mod(self.sense * (theta_start - sign * theta_there), 2 * np.pi) for sign in (1, -1)]
        leaves = (np.abs(cosine) <= 1) & (np.abs(self.start) < cylinder_radius_cm)
        return np.where(leaves, np.minimum(*turns), np.inf)

    def turn_to_endcap(self, half_length_cm: float) -> NDArray[np.float64]:
        """The angle (N,) turned until |z| reaches the half length; infinite for a path at constant z."""
        with np.errstate(divide="ignore"):
            return (np.copysign(half_length_cm, self.slope) - self.start_z) / (self.slope * self.radius)

    def point_after(self, turn: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """Transverse point (N,) complex and z (N,), in cm."""
        point = self.centre + (self.start - self.centre) * np.exp(-1j * self.sense * turn)
        return point, self.start_z + self.slope * self.radius * turn

    def perigee(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Signed impact parameter d0, z, and direction phi (each (N,)) where the path is nearest to the beam line.

        d0 is positive when the path passes the beam with negative angular momentum about it, as CMS's dxy, which is
        -L_z / pT of a straight path; CMS's d0 is -dxy.
        """
        distance = np.abs(self.centre)
        phi = np.angle(1j * self.sense * self.centre)
        nearest = self.centre * (distance - self.radius) / distance
        turned = -self.sense * np.angle((self.start - self.centre) / (nearest - self.centre))
        return self.sense * (self.radius - distance), self.start_z - self.slope * self.radius * turned, phi


@dataclass(frozen=True)
class Window:
    """The image's place on the detector: the tower in its middle, counted from phi = 0 and from the lowest eta."""

    tower_row: int
    tower_column: int

    def positions(
        self, eta: NDArray[np.float64], phi: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Row and column (N,) each, in pixels with their fraction; outside 0 to 125 is outside the image."""
        first_row = (self.tower_row - IMAGE_TOWERS // 2 - TOWERS_ALONG // 2) * PIXELS_PER_TOWER
        first_column = (self.tower_column - IMAGE_TOWERS // 2) * PIXELS_PER_TOWER
        return eta / PIXEL_ETA - first_row, np.mod(phi / PIXEL_PHI - first_column, PIXELS_AROUND)

    def sum(
        self, eta: NDArray[np.float64], phi: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Weights (N,) summed in the pixels (125, 125) they fall into."""
        rows, columns = self.positions(eta, phi)
        return sum_on_grid(np.floor(rows), np.floor(columns), weight, (IMAGE_PIXELS, IMAGE_PIXELS))

    def cut(self, towers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The image's 25 x 25 towers out of all (70, 72)."""
        rows = np.arange(self.tower_row - IMAGE_TOWERS // 2, self.tower_row + IMAGE_TOWERS // 2 + 1)
        columns = np.arange(self.tower_column - IMAGE_TOWERS // 2, self.tower_column + IMAGE_TOWERS // 2 + 1)
        return towers[np.ix_(rows, columns % TOWERS_AROUND)]


def jet_image(
    particles: Particles, *, vertex_z_cm: float, jet_eta: float, jet_phi: float, generator: Generator
) -> NDArray[np.float32]:
    """The detector's picture, float32 (8, 125, 125) in `CHANNELS` order and `CHANNEL_UNITS`, of one jet.

    `vertex_z_cm` is the primary vertex; the jet axis only says where to look for the leading HCAL tower.
    """
    helix = Helix.of(particles)
    eta, phi = calorimeter_positions(helix)
    ecal_gev, hcal_gev = deposited_energy(particles, generator)
    towers = hcal_towers(eta, phi, hcal_gev, generator)
    window = window_around(towers, jet_eta, jet_phi)
    channels = [
        *track_channels(particles, helix, window, vertex_z_cm, generator),
        ecal_channel(eta, phi, ecal_gev, window, generator),
        spread_towers(window.cut(towers)),
        *(pixel_hits(particles, helix, window, radius, vertex_z_cm, generator) for radius in PIXEL_LAYER_RADII_CM),
    ]
    return round_mantissa(np.stack(channels).astype(np.float32))


def calorimeter_positions(helix: Helix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """eta and phi (N,) on the ECAL front face, seen from the detector's centre; NaN for what starts outside it.

    Below 0.73 GeV a charged particle cannot reach the barrel: it spirals on to an endcap.
    """
    turn = np.minimum(helix.turn_to_cylinder(ECAL_RADIUS_CM), helix.turn_to_endcap(ECAL_HALF_LENGTH_CM))
    starts_inside = (np.abs(helix.start) < ECAL_RADIUS_CM) & (np.abs(helix.start_z) < ECAL_HALF_LENGTH_CM)
    point, z = helix.point_after(np.where(starts_inside & np.isfinite(turn), turn, np.nan))
    return np.arcsinh(z / np.abs(point)), np.angle(point)


def deposited_energy(particles: Particles, generator: Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each particle leaves in ECAL and in HCAL, GeV, (N,) each, before the resolution."""
    kind, energy = particles.abs_pdg_id, particles.energy_gev
    begins_shower = generator.random(energy.size) < ECAL_INTERACTION_PROBABILITY
    shower_part = generator.random(energy.size)
    mip = np.where(particles.charge != 0, np.minimum(MIP_ECAL_GEV, energy), 0.0)
    ecal = np.where(begins_shower, shower_part * energy, mip)
    hcal = energy - ecal
    electromagnetic, muon = (kind == ELECTRON) | (kind == PHOTON), kind == MUON
    ecal = np.where(electromagnetic, energy, np.where(muon, mip, ecal))
    hcal = np.where(electromagnetic, 0.0, np.where(muon, np.minimum(MIP_HCAL_GEV, energy - mip), hcal))
    return ecal, hcal


def hcal_towers(
    eta: NDArray[np.float64], phi: NDArray[np.float64], energy_gev: NDArray[np.float64], generator: Generator
) -> NDArray[np.float64]:
    """Measured energy, GeV, of all towers (70, 72); a deposit goes to the tower behind the ECAL crystal it hits."""
    rows, columns = np.floor(eta / TOWER_ETA + TOWERS_ALONG // 2), np.floor(np.mod(phi, 2 * np.pi) / TOWER_PHI)
    towers = sum_on_grid(rows, columns, energy_gev, (TOWERS_ALONG, TOWERS_AROUND))
    sigma = np.sqrt(HCAL_STOCHASTIC**2 * towers + (HCAL_CONSTANT * towers) ** 2)
    return above_threshold(towers, sigma, HCAL_THRESHOLD_GEV, generator)


def ecal_channel(
    eta: NDArray[np.float64],
    phi: NDArray[np.float64],
    energy_gev: NDArray[np.float64],
    window: Window,
    generator: Generator,
) -> NDArray[np.float64]:
    """Measured energy, GeV, of the crystals (125, 125); each deposit is shared among 3 x 3 crystals."""
    rows, columns = window.positions(eta, phi)
    deposits = (np.abs(rows - IMAGE_PIXELS / 2) < IMAGE_PIXELS) & (energy_gev > 0)
    near_rows, row_shares = shower_shares(rows[deposits])
    near_columns, column_shares = shower_shares(columns[deposits])
    shares = energy_gev[deposits, None, None] * row_shares[:, :, None] * column_shares[:, None, :]
    crystal_rows, crystal_columns = np.broadcast_arrays(near_rows[:, :, None], near_columns[:, None, :] % PIXELS_AROUND)
    crystals = sum_on_grid(crystal_rows, crystal_columns, shares, (IMAGE_PIXELS, IMAGE_PIXELS))
    sigma = np.sqrt(ECAL_STOCHASTIC**2 * crystals + ECAL_NOISE_GEV**2 + (ECAL_CONSTANT * crystals) ** 2)
    return above_threshold(crystals, sigma, ECAL_THRESHOLD_GEV, generator)


def shower_shares(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices (N, 3) of the crystals before, at and after a position in crystal widths, and their shares (N, 3)."""
    index = np.floor(position).astype(np.int64)
    edges = (index[:, None] + np.arange(-1, 3)) - position[:, None]
    integral = 0.5 + 0.5 * np.sign(edges) * -np.expm1(-np.abs(edges) / SHOWER_LENGTH_PIXELS)
    return index[:, None] + np.arange(-1, 2), np.diff(integral, axis=1)


def above_threshold(
    energy_gev: NDArray[np.float64], sigma_gev: NDArray[np.float64], threshold_gev: float, generator: Generator
) -> NDArray[np.float64]:
    """Smear every cell that was hit, and empty those that stay below the threshold."""
    hit = np.nonzero(energy_gev)
    measured = generator.normal(energy_gev[hit], sigma_gev[hit])
    result = np.zeros_like(energy_gev)
    result[hit] = np.where(measured >= threshold_gev, measured, 0.0)
    return result


def spread_towers(towers_gev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Towers (25, 25) as pixels (125, 125): each of a tower's 25 pixels holds the same 1/25 of its energy."""
    share = towers_gev / PIXELS_PER_TOWER**2
    return share.repeat(PIXELS_PER_TOWER, axis=0).repeat(PIXELS_PER_TOWER, axis=1)


def track_channels(
    particles: Particles, helix: Helix, window: Window, vertex_z_cm: float, generator: Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """pT, d0 and dz summed per pixel, with sign, of the tracks found, at their direction nearest to the beam."""
    d0, z, phi = helix.perigee()
    pt = np.abs(particles.momentum_gev)
    found = track_is_found(particles, generator)
    pt, d0, dz, eta, phi = (values[found] for values in (pt, d0, z - vertex_z_cm, np.arcsinh(helix.slope), phi))
    constant, per_gev = TRACK_PT_RESOLUTION
    measured_pt = pt * np.maximum(generator.normal(1.0, np.hypot(constant, per_gev * pt)), 0.1)
    measured_d0 = generator.normal(d0, np.hypot(D0_RESOLUTION_CM[0], D0_RESOLUTION_CM[1] / pt))
    measured_dz = generator.normal(dz, np.hypot(DZ_RESOLUTION_CM[0], DZ_RESOLUTION_CM[1] / pt))
    return window.sum(eta, phi, measured_pt), window.sum(eta, phi, measured_d0), window.sum(eta, phi, measured_dz)


def track_is_found(particles: Particles, generator: Generator) -> NDArray[np.bool_]:
    """Acceptance and efficiency, bool (N,)."""
    pt_gev, birth_radius = np.abs(particles.momentum_gev), np.abs(particles.vertex_cm)
    abs_eta = np.abs(np.arcsinh(particles.pz_gev / pt_gev))
    accepted = (particles.charge != 0) & (pt_gev > TRACK_MIN_PT_GEV) & (abs_eta < TRACK_MAX_ABS_ETA)
    efficiency = np.where(abs_eta < TRACK_CENTRAL_ABS_ETA, TRACK_EFFICIENCY_CENTRAL, TRACK_EFFICIENCY_FORWARD)
    efficiency = np.where(particles.abs_pdg_id == MUON, TRACK_EFFICIENCY_MUON, efficiency)
    lost_length = TRACK_LAST_RADIUS_CM - TRACK_FULL_EFFICIENCY_RADIUS_CM
    efficiency = efficiency * np.clip((TRACK_LAST_RADIUS_CM - birth_radius) / lost_length, 0, 1)
    found: NDArray[np.bool_] = accepted & (generator.random(pt_gev.size) < efficiency)
    return found


def pixel_hits(
    particles: Particles,
    helix: Helix,
    window: Window,
    layer_radius_cm: float,
    vertex_z_cm: float,
    generator: Generator,
) -> NDArray[np.float64]:
    """Hits per pixel (125, 125) on one layer of the pixel barrel.

    eta is counted from the primary vertex: seen from the detector's centre, a vertex 5 cm off would move the hits of
    the first layer by a whole unit of eta, out of the jet.
    """
    turn = helix.turn_to_cylinder(layer_radius_cm)
    crosses = (particles.charge != 0) & np.isfinite(turn)
    point, z = helix.point_after(np.where(crosses, turn, 0.0))
    hit = crosses & (np.abs(z) < PIXEL_HALF_LENGTH_CM) & (generator.random(z.size) < PIXEL_HIT_EFFICIENCY)
    eta = np.arcsinh((z[hit] - vertex_z_cm) / layer_radius_cm)
    return window.sum(eta, np.angle(point[hit]), np.ones(eta.size))


def sum_on_grid(
    rows: NDArray[Any], columns: NDArray[Any], weight: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Sum weights at whole-numbered rows and columns (all one shape); what lies outside, or nowhere (NaN), is lost."""
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    flat = rows[inside].astype(np.int64) * shape[1] + columns[inside].astype(np.int64)
    sums: NDArray[np.float64] = np.bincount(flat, weight[inside], shape[0] * shape[1]).astype(np.float64, copy=False)
    return sums.reshape(shape)


def window_around(towers_gev: NDArray[np.float64], jet_eta: float, jet_phi: float) -> Window:
    """Centred on the highest of the towers (70, 72) within 4 towers of the jet axis, as in [E2E]."""
    row = int(np.floor(jet_eta / TOWER_ETA)) + TOWERS_ALONG // 2
    column = int(np.floor(jet_phi / TOWER_PHI))
    offsets = np.arange(-CENTRE_SEARCH_TOWERS, CENTRE_SEARCH_TOWERS + 1)
    near = towers_gev[np.ix_(row + offsets, (column + offsets) % TOWERS_AROUND)]
    down, right = np.unravel_index(np.argmax(near), near.shape)
    return Window(row + int(offsets[down]), (column + int(offsets[right])) % TOWERS_AROUND)


def round_mantissa(values: NDArray[np.float32], kept_bits: int = KEPT_MANTISSA_BITS) -> NDArray[np.float32]:
    """Round finite float32 values to the nearest number with `kept_bits` mantissa bits.

    Half of the last kept bit is added to the magnitude and the rest cut off; a carry moves into the exponent, which
    is what rounding up to the next power of two means. Zero and the sign stay.
    """
    dropped_bits = FLOAT32_MANTISSA_BITS - kept_bits
    half = np.uint32((1 << dropped_bits) >> 1)
    mask = np.uint32(0xFFFFFFFF << dropped_bits & 0xFFFFFFFF)
    return ((np.ascontiguousarray(values, np.float32).view(np.uint32) + half) & mask).view(np.float32)
