"""Simulated jets in a source layout of our own: Pythia 8 collisions, pile-up, a CMS-like detector, HDF5.

Jets are made in blocks of a fixed number. A block's random streams follow from (seed, block number, class) alone, and
blocks are written in order: the file is the same, bit for bit, whatever the number of worker processes.

The file: `jet` (n, 8, 125, 125) float32, raw GeV (cm for d0 and dz, counts for hits), `m` and `pT` (n,) float32 GeV of
the jet, `Y` (n,) uint8 unless unlabelled. Everything needed to understand and to repeat it is in the root attributes.

    collisions.py  Pythia: one jet of a class, minimum-bias events
    detector.py    particles to image
    simulate.py    blocks, workers, files, and the shipped sample
"""

import os
import signal
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from jetmae.data.simulation import collisions, detector
from jetmae.errors import JetmaeError
from jetmae.files import make_folder, written_aside
from jetmae.progress import Progress

FORMAT, FORMAT_VERSION = "jetmae-source", 1
# Class names in label order: the signal is 1.
PROCESSES = {"top_vs_qcd": ("qcd", "top"), "quark_vs_gluon": ("gluon", "quark")}
IMAGE_SHAPE = (len(detector.CHANNELS), detector.IMAGE_PIXELS, detector.IMAGE_PIXELS)
JETS_PER_BLOCK = 64  # two to three seconds of work: enough to hide the hand-over, short enough for a live bar
# Pile-up is drawn from a pool made anew for every block and shared by its classes. At 20 vertices per jet an event
# serves about seven times, each time turned by another phi and perhaps mirrored in z; across blocks, and so across
# files, never. Fresh events for every jet would take two thirds of the time.
POOL_EVENTS_PER_BLOCK = 192
VERTEX_SPREAD_CM = (
    5.0  # standard deviation along the beam of all vertices; across it the 15 um are below d0's resolution
)
# Measured per jet with 20 vertices: gzip level 4 5.8 KB in 3 ms, 6 5.4 KB in 2 ms, 9 5.0 KB in 11 ms. HDF5's shuffle
# filter makes images as empty as these larger, not smaller (8.4 KB at level 6): it takes each value's bytes to four
# places, and each place pays for the run of zeros before it.
GZIP_LEVEL = 6
SAMPLE_GZIP_LEVEL = 9
# The oldest format that every HDF5 reads; fixed, so that the library's version does not change the bytes.
HDF5_VERSIONS = ("earliest", "v108")
COLLISION_STREAM, POOL_STREAM, DETECTOR_STREAM, ORDER_STREAM = range(4)  # last part of a random stream's key
Advance = Callable[[int], None]  # told the number of jets that have just been done
BOTH_CLASSES = 2  # the "class" of a stream that belongs to neither


@dataclass(frozen=True)
class Block:
    """One unit of work: `num_jets` jets of a file, at most `JETS_PER_BLOCK`."""

    number: int
    num_jets: int
    seed: int
    process: str
    pile_up: float  # mean number of further vertices per jet
    gzip_level: int


@dataclass(frozen=True)
class SimulatedBlock:
    """The jets of a block in file order."""

    images: list[bytes]  # one HDF5 chunk each, as `compressed_image` makes it
    columns: dict[str, NDArray[Any]]  # (n,) each: `m` and `pT` float32 GeV, `Y` uint8


@dataclass(frozen=True)
class SampleFile:
    """One file of the shipped sample."""

    name: str
    num_jets: int
    seed: int
    labelled: bool


# Every file has its own seed: no jet stands in two of them. The sizes fill 18 MB.
SAMPLE_PROCESS, SAMPLE_PILE_UP = "top_vs_qcd", 20.0
SAMPLE = (
    SampleFile("unlabelled_train.h5", 1850, 101, labelled=False),
    SampleFile("unlabelled_test.h5", 200, 102, labelled=False),
    SampleFile("train.h5", 500, 103, labelled=True),
    SampleFile("validation.h5", 200, 104, labelled=True),
    SampleFile("test.h5", 700, 105, labelled=True),
)


def simulate(
    output: Path,
    *,
    process: str,
    num_jets: int,
    seed: int,
    pile_up: float = 20.0,
    labelled: bool = True,
    workers: int = 1,
    first_block: int = 0,
    gzip_level: int = GZIP_LEVEL,
    overwrite: bool = False,
) -> None:
    """Write one file of simulated jets, both classes in equal numbers.

    Args:
        process: `top_vs_qcd` or `quark_vs_gluon`.
        pile_up: mean number of further collisions per jet (Poisson); 0 for none.
        labelled: False leaves `Y` out of the file.
        workers: worker processes; they change the speed, never the content.
        first_block: where to begin in the seed's sequence of blocks of 64 jets. Several jobs with one seed and
            disjoint ranges make one large set.
        gzip_level: 1 to 9; 9 is a tenth smaller than 6, and five times slower to write.

    Raises:
        JetmaeError: an option out of range, an output that exists, a folder that cannot be written, no Pythia.
    """
    output = Path(output)
    check_options(process, num_jets, seed, pile_up, workers, first_block, gzip_level)
    refuse_existing([output], overwrite)
    collisions.import_pythia()
    make_folder(output.parent)
    blocks = blocks_of(process, num_jets, seed, pile_up, first_block, gzip_level)
    with written_aside(output) as aside, Progress(output.name, num_jets) as progress:
        write_file(aside, output.name, blocks, labelled, workers, progress.advance)


def simulate_sample(folder: Path, *, workers: int = 1, overwrite: bool = False) -> None:
    """Write the five files of the shipped sample (`SAMPLE`), the same bits every time."""
    folder = Path(folder)
    refuse_existing([folder / item.name for item in SAMPLE], overwrite)
    for item in SAMPLE:
        simulate(
            folder / item.name,
            process=SAMPLE_PROCESS,
            num_jets=item.num_jets,
            seed=item.seed,
            pile_up=SAMPLE_PILE_UP,
            labelled=item.labelled,
            workers=workers,
            gzip_level=SAMPLE_GZIP_LEVEL,
            overwrite=overwrite,
        )


def check_options(
    process: str, num_jets: int, seed: int, pile_up: float, workers: int, first_block: int, gzip_level: int
) -> None:
    if process not in PROCESSES:
        raise JetmaeError(f"unknown process {process!r}: expected one of {', '.join(PROCESSES)}; choose one of them")
    expectations = {
        "number of jets": (num_jets, num_jets >= 1, "at least 1"),
        "seed": (seed, seed >= 0, "at least 0"),
        "pile-up": (pile_up, 0 <= pile_up <= 300, "0 to 300 vertices"),
        "number of workers": (workers, workers >= 1, "at least 1"),
        "first block": (first_block, first_block >= 0, "at least 0"),
        "gzip level": (gzip_level, 1 <= gzip_level <= 9, "1 to 9"),
    }
    for name, (value, fits, expected) in expectations.items():
        if not fits:
            raise JetmaeError(f"{name} is {value}: expected {expected}; correct the option")


def refuse_existing(outputs: list[Path], overwrite: bool) -> None:
    existing = [str(output) for output in outputs if output.exists()]
    if existing and not overwrite:
        raise JetmaeError(f"{', '.join(existing)} exists: expected a new file; choose another name or add --overwrite")


def blocks_of(process: str, num_jets: int, seed: int, pile_up: float, first_block: int, gzip_level: int) -> list[Block]:
    starts = range(0, num_jets, JETS_PER_BLOCK)
    return [
        Block(first_block + index, min(JETS_PER_BLOCK, num_jets - start), seed, process, pile_up, gzip_level)
        for index, start in enumerate(starts)
    ]


def file_attributes(blocks: list[Block], labelled: bool, name: str) -> dict[str, object]:
    """What the file says about itself; nothing that changes from one run to the next."""
    first, num_jets = blocks[0], sum(block.num_jets for block in blocks)
    command = (
        f"python jobs/data.py simulate --process {first.process} --jets {num_jets} --seed {first.seed} "
        f"--pile-up {first.pile_up:g} --first-block {first.number} --gzip-level {first.gzip_level}"
        f"{'' if labelled else ' --unlabelled'} --output {name}"
    )
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "channels": list(detector.CHANNELS),
        "units": list(detector.CHANNEL_UNITS),
        "classes": list(PROCESSES[first.process]),
        "process": first.process,
        "generator": "pythia8mc",
        "generator_version": version("pythia8mc"),
        "seed": first.seed,
        "first_block": first.number,
        "num_blocks": len(blocks),
        "jets_per_block": JETS_PER_BLOCK,
        "pile_up": float(first.pile_up),
        "mantissa_bits": detector.KEPT_MANTISSA_BITS,
        "command": command,
    }


def write_file(path: Path, name: str, blocks: list[Block], labelled: bool, workers: int, advance: Advance) -> None:
    """Images go to the file as they come, the short columns at the end."""
    with h5py.File(path, "x", libver=HDF5_VERSIONS) as file:
        file.attrs.update(file_attributes(blocks, labelled, name))
        images = create_image_dataset(file, sum(block.num_jets for block in blocks), blocks[0].gzip_level)
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("m", "pT", *(("Y",) if labelled else ()))}
        positions = count()
        for block in simulated_blocks(blocks, workers):
            for image in block.images:
                images.id.write_direct_chunk((next(positions), 0, 0, 0), image)
            for column, parts in columns.items():
                parts.append(block.columns[column])
            advance(len(block.images))
        for column, parts in columns.items():
            file.create_dataset(column, data=np.concatenate(parts), track_times=False)


def create_image_dataset(file: h5py.File, num_jets: int, gzip_level: int) -> h5py.Dataset:
    """One image per chunk: chunks are compressed by the workers, and any jet can be read alone."""
    return file.create_dataset(
        "jet",
        (num_jets, *IMAGE_SHAPE),
        np.float32,
        chunks=(1, *IMAGE_SHAPE),
        compression="gzip",
        compression_opts=gzip_level,
        track_times=False,
    )


def compressed_image(image: NDArray[np.float32], gzip_level: int) -> bytes:
    """One HDF5 chunk, as the library's own gzip filter would make it."""
    return zlib.compress(image.astype("<f4").tobytes(), gzip_level)


def simulated_blocks(blocks: list[Block], workers: int) -> Iterator[SimulatedBlock]:
    """Blocks in order. At most a few per worker are under way, so memory does not grow with the file.

    Even one worker is a process of its own: Pythia prints, and its prints are silenced there. Spawned, not forked:
    the progress bar's thread must not be copied.
    """
    waiting: deque[Future[SimulatedBlock]] = deque()
    num_processes = min(workers, len(blocks))
    executor = ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), initializer=enter_worker)
    try:
        for block in blocks:
            waiting.append(executor.submit(simulate_block, block))
            if len(waiting) >= 3 * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def enter_worker() -> None:
    """Standard output goes nowhere, C++ prints included; an interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # file descriptor 1, which C++ writes to


def simulate_block(block: Block) -> SimulatedBlock:
    """All jets of one block, both classes, in their final order."""
    labels = block_labels(block)
    pool = pile_up_pool(block)
    images: list[bytes] = [b""] * block.num_jets
    kinematics = np.empty((2, block.num_jets), np.float32)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        for place, (image, jet) in zip(places, simulated_jets(block, int(label), len(places), pool), strict=True):
            images[place] = compressed_image(image, block.gzip_level)
            kinematics[:, place] = jet.mass_gev, jet.pt_gev
    mass_gev, pt_gev = detector.round_mantissa(kinematics)
    return SimulatedBlock(images, {"m": mass_gev, "pT": pt_gev, "Y": labels})


def block_labels(block: Block) -> NDArray[np.uint8]:
    """uint8 (n,): as many of one class as of the other, mixed. An odd jet goes to the class the block number names."""
    labels = (np.arange(block.num_jets) + block.number) % 2
    return stream(block, BOTH_CLASSES, ORDER_STREAM).permutation(labels).astype(np.uint8)


def pile_up_pool(block: Block) -> list[NDArray[np.float64]]:
    """Minimum-bias events, particles (N, 9) each; none where no pile-up is wanted."""
    num_events = POOL_EVENTS_PER_BLOCK if block.pile_up > 0 else 0
    return collisions.pile_up_events(num_events, pythia_seed(block, BOTH_CLASSES, POOL_STREAM)) if num_events else []


def simulated_jets(
    block: Block, label: int, num_jets: int, pool: list[NDArray[np.float64]]
) -> Iterator[tuple[NDArray[np.float32], collisions.Jet]]:
    """Images float32 (8, 125, 125) and jets of one class."""
    source = collisions.JetSource(PROCESSES[block.process][label], pythia_seed(block, label, COLLISION_STREAM))
    generator = stream(block, label, DETECTOR_STREAM)
    for _ in range(num_jets):
        jet, rows = source.next_jet()
        vertex_z_cm = generator.normal(0.0, VERTEX_SPREAD_CM)
        rows[:, detector.PARTICLE_COLUMNS.index("z_cm")] += vertex_z_cm
        particles = detector.Particles.from_rows(np.concatenate([rows, *pile_up_rows(pool, block.pile_up, generator)]))
        image = detector.jet_image(
            particles, vertex_z_cm=vertex_z_cm, jet_eta=jet.eta, jet_phi=jet.phi, generator=generator
        )
        yield image, jet


def pile_up_rows(
    pool: list[NDArray[np.float64]], mean_vertices: float, generator: Generator
) -> list[NDArray[np.float64]]:
    """Particles (N, 9) of a Poisson number of further collisions, each turned, mirrored and put at a z of its own."""
    if not pool:
        return []
    chosen = generator.integers(len(pool), size=generator.poisson(mean_vertices))
    turns = np.exp(1j * generator.uniform(0, 2 * np.pi, chosen.size))
    mirrors = generator.choice([-1.0, 1.0], chosen.size)
    vertices = generator.normal(0.0, VERTEX_SPREAD_CM, chosen.size)
    return [placed(pool[c], t, m, z) for c, t, m, z in zip(chosen, turns, mirrors, vertices, strict=True)]


def placed(rows: NDArray[np.float64], turn: complex, mirror: float, vertex_z_cm: float) -> NDArray[np.float64]:
    """A copy of an event (N, 9) turned about the beam, mirrored in z, and moved along the beam."""
    identity, px, py, pz, energy, x, y, z = rows[:, :2], *rows.T[2:]
    momentum, birth = (px + 1j * py) * turn, (x + 1j * y) * turn
    moved = [momentum.real, momentum.imag, mirror * pz, energy, birth.real, birth.imag, mirror * z + vertex_z_cm]
    return np.column_stack([identity, *moved])


def stream(block: Block, label: int, purpose: int) -> Generator:
    """The random stream of one block, class and purpose."""
    return default_rng(SeedSequence([block.seed, block.number, label, purpose]))


def pythia_seed(block: Block, label: int, purpose: int) -> int:
    """A seed in Pythia's range, 1 to 900,000,000."""
    return int(stream(block, label, purpose).integers(1, collisions.PYTHIA_MAX_SEED, endpoint=True))
