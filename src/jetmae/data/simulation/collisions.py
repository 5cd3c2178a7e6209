"""Proton collisions from Pythia 8: one jet of a wanted class per event, and minimum-bias events for pile-up.

A generator is started once per process and kept: the start takes half a second. Its start always uses the same Pythia
seed, and `reseed` sets the random stream before every block of jets, so what a block holds does not depend on what
the generator made before (`tests/unit/test_simulate.py` would notice).

Sources: Pythia 8.3, arXiv:2203.11601; CMS Open Data jets, arXiv:1807.11916 and arXiv:2104.14659.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.errors import JetmaeError

COLLISION_ENERGY_GEV = 8000.0  # protons in 2012, the run of the CMS Open Data jets
# Jets: anti-kT with R = 0.8 ("AK8"), of the hard collision's visible particles, before detector and pile-up.
JET_RADIUS = 0.8
JET_MIN_PT_GEV = 400.0
JET_MAX_ABS_ETA = 1.37
ANTI_KT = -1  # SlowJet's power of pT
VISIBLE = 2  # SlowJet: leave neutrinos out
REAL_MASSES = 2  # SlowJet: keep each particle's own mass
# Hard scattering: the threshold lies below the jet's, so that radiation can lift a jet over it. The cross section
# falls like a power of pT, another one for every process; events are therefore drawn with weight pT^power. The powers
# make the classes alike (otherwise pT alone would tell top from QCD), and bring both close to the published sample's
# 521 GeV with a standard deviation of 106.
MIN_PARTON_PT_GEV = 380.0
BIAS_REFERENCE_PT_GEV = 400.0
# K_S, Lambda and the like decay inside the tracker and ECAL's inner surface, or reach the calorimeter whole.
DECAY_VOLUME_MM = (1290.0, 3150.0)  # radius, half length
PARTICLES_MAX_ABS_ETA = 3.2  # the image ends at 1.37 + 0.35 + 1.09 = 2.81
MM_PER_CM = 10.0
PYTHIA_MAX_SEED = 900_000_000
START_SEED = 1
MAX_EVENTS_PER_JET = 10_000
OUTGOING_OF_HARDEST = 23  # Pythia status codes
TOP, W_BOSON, GLUON = 6, 24, 21

COMMON_SETTINGS = (
    "Print:quiet = on",
    "Random:setSeed = on",
    f"Random:seed = {START_SEED}",
    f"Beams:eCM = {COLLISION_ENERGY_GEV}",
    "ParticleDecays:limitCylinder = on",
    f"ParticleDecays:xyMax = {DECAY_VOLUME_MM[0]}",
    f"ParticleDecays:zMax = {DECAY_VOLUME_MM[1]}",
)
# Diffractive collisions are left out of pile-up: they put little into the barrel, and cost seven seconds at the start.
PILE_UP_SETTINGS = (*COMMON_SETTINGS, "SoftQCD:nonDiffractive = on")


def hard_settings(bias_power: float, *processes: str) -> tuple[str, ...]:
    return (
        *COMMON_SETTINGS,
        f"PhaseSpace:pTHatMin = {MIN_PARTON_PT_GEV}",
        "PhaseSpace:bias2Selection = on",
        f"PhaseSpace:bias2SelectionPow = {bias_power}",
        f"PhaseSpace:bias2SelectionRef = {BIAS_REFERENCE_PT_GEV}",
        *(f"{process} = on" for process in processes),
    )


@dataclass(frozen=True)
class Jet:
    """Axis, mass and transverse momentum (GeV) of one AK8 jet."""

    eta: float
    phi: float
    mass_gev: float
    pt_gev: float


@dataclass(frozen=True)
class JetClass:
    """How events of one class are generated, and which of their jets count."""

    settings: tuple[str, ...]
    accepts: Callable[[Any, Jet], bool]  # (Pythia event, jet)


def any_jet(event: Any, jet: Jet) -> bool:  # noqa: ARG001  one of several rules
    return True


def holds_whole_top(event: Any, jet: Jet) -> bool:
    """b and both quarks of the W within R = 0.8 of the jet: the three prongs are in the picture."""
    return any(all(distance(event[i], jet) < JET_RADIUS for i in prongs) for prongs in top_prongs(event))


def top_prongs(event: Any) -> list[tuple[int, ...]]:
    """Event indices of (b, quark, quark) of each top; tops stand early in the record, resonances before hadrons."""
    prongs = []
    for index, particle in enumerate(event):
        if particle.idAbs() == TOP and particle.daughter1() != particle.daughter2() and particle.iBotCopyId() == index:
            w_boson, bottom = sorted(particle.daughterList(), key=lambda i: event[i].idAbs() != W_BOSON)[:2]
            prongs.append((bottom, *event[event[w_boson].iBotCopyId()].daughterList()))
        if len(prongs) == 2:
            break
    return prongs


def from_quark(event: Any, jet: Jet) -> bool:
    return any(0 < flavour < TOP for flavour in hard_partons_near(event, jet))


def from_gluon(event: Any, jet: Jet) -> bool:
    return GLUON in hard_partons_near(event, jet)


def hard_partons_near(event: Any, jet: Jet) -> list[int]:
    """|PDG id| of the hardest collision's outgoing partons within half the jet radius of its axis."""
    outgoing = [event[i] for i in range(5, 7) if event[i].statusAbs() == OUTGOING_OF_HARDEST]
    return [parton.idAbs() for parton in outgoing if distance(parton, jet) < JET_RADIUS / 2]


def distance(particle: Any, jet: Jet) -> float:
    """Angular distance sqrt(d_eta^2 + d_phi^2)."""
    phi_difference = np.remainder(particle.phi() - jet.phi + np.pi, 2 * np.pi) - np.pi
    return float(np.hypot(particle.eta() - jet.eta, phi_difference))


JET_CLASSES = {
    "qcd": JetClass(hard_settings(1.5, "HardQCD:all"), any_jet),
    "top": JetClass(
        (
            *hard_settings(0.5, "Top:gg2ttbar", "Top:qqbar2ttbar"),
            "24:onMode = off",
            "24:onIfAny = 1 2 3 4 5",  # W to quarks only: fully hadronic tops
        ),
        holds_whole_top,
    ),
    "gluon": JetClass(hard_settings(2.5, "HardQCD:gg2gg", "HardQCD:qqbar2gg"), from_gluon),
    "quark": JetClass(hard_settings(1.0, "HardQCD:qq2qq", "HardQCD:gg2qqbar", "HardQCD:qqbar2qqbarNew"), from_quark),
}


def import_pythia() -> Any:
    """Pythia 8, an optional extra: it is GPL, so it is neither required nor shipped.

    Raises:
        JetmaeError: it is not installed.
    """
    try:
        import pythia8mc
    except ImportError as error:
        raise JetmaeError(
            f"pythia8mc cannot be imported ({error}): the simulation needs it; pip install -e '.[sim]'"
        ) from error
    return pythia8mc


@cache
def started_pythia(settings: tuple[str, ...]) -> Any:
    """One generator per process and list of settings."""
    pythia = import_pythia().Pythia("", False)
    for setting in settings:
        pythia.readString(setting)
    if not pythia.init():
        raise RuntimeError(f"Pythia refused its settings: {'; '.join(settings)}")
    return pythia


@cache
def jet_finder() -> Any:
    return import_pythia().SlowJet(ANTI_KT, JET_RADIUS, JET_MIN_PT_GEV, PARTICLES_MAX_ABS_ETA, VISIBLE, REAL_MASSES)


class JetSource:
    """Jets of one class, from a random stream that begins anew with the seed."""

    def __init__(self, class_name: str, seed: int) -> None:
        self.jet_class = JET_CLASSES[class_name]
        self.pythia = started_pythia(self.jet_class.settings)
        self.pythia.rndm.init(seed)

    def next_jet(self) -> tuple[Jet, NDArray[np.float64]]:
        """The leading jet that counts, one per event, and the event's particles (N, 9), `PARTICLE_COLUMNS`."""
        for _ in range(MAX_EVENTS_PER_JET):
            if self.pythia.next() and (jet := self.leading_jet()):
                return jet, particle_rows(self.pythia.event)
        raise RuntimeError(f"no jet above {JET_MIN_PT_GEV} GeV in {MAX_EVENTS_PER_JET} events: check the settings")

    def leading_jet(self) -> Jet | None:
        """The hardest jet (SlowJet sorts by pT) inside the acceptance that its class accepts."""
        finder, event = jet_finder(), self.pythia.event
        finder.analyze(event)
        for index in range(finder.sizeJet()):
            momentum = finder.p(index)
            jet = Jet(momentum.eta(), momentum.phi(), finder.m(index), finder.pT(index))
            if abs(jet.eta) < JET_MAX_ABS_ETA and self.jet_class.accepts(event, jet):
                return jet
        return None


def pile_up_events(num_events: int, seed: int) -> list[NDArray[np.float64]]:
    """Particles (N, 9) of minimum-bias events, born around z = 0."""
    pythia = started_pythia(PILE_UP_SETTINGS)
    pythia.rndm.init(seed)
    events: list[NDArray[np.float64]] = []
    while len(events) < num_events:
        if pythia.next():
            events.append(particle_rows(pythia.event))
    return events


def particle_rows(event: Any) -> NDArray[np.float64]:
    """What may meet the detector, as a table float64 (N, 9) with `jetmae.data.simulation.detector.PARTICLE_COLUMNS`."""
    rows = np.array(
        [
            (p.id(), p.charge(), p.px(), p.py(), p.pz(), p.e(), p.xProd(), p.yProd(), p.zProd())
            for p in event
            if p.isFinal() and abs(p.eta()) < PARTICLES_MAX_ABS_ETA
        ]
    ).reshape(-1, 9)
    rows[:, 6:] /= MM_PER_CM
    return rows
