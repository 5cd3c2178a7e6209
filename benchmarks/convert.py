"""Jets per second of converting a gzip HDF5 file: ours, and the loop that one would write first.

    python benchmarks/convert.py --markdown benchmarks/results/convert_HARDWARE_DATE.md

Both read the same files on one core and write the same kind of shard with the same function. The peer is
`images[i]` through h5py, `numpy.nonzero`, and one shard at the end; it neither checks values, nor divides jets into
splits, nor looks for towers, nor computes normalisation constants. Ours is the whole command. Runs alternate, so that
what else the machine does hits both; the medians count.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from jetmae.data.convert.convert import convert
from jetmae.data.shards import Manifest, SparseJets, write_shard

SIDE, CHANNELS, TOWER_SIZE, HCAL = 125, 8, 5, 4
NONZEROS_PER_CHANNEL = (100, 100, 100, 450, 0, 130, 130, 130)  # like simulated jets with 20 pile-up collisions
OCCUPIED_TOWERS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hardware", default="2-core x86-64 virtual machine", help="for the result's text")
    parser.add_argument("--markdown", type=Path, help="write the result there")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            (name, *measure(path, arguments.rounds)) for name, path in sources(Path(folder), arguments.jets).items()
        ]
    text = report(rows, arguments)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


def sources(folder: Path, jets: int) -> dict[str, Path]:
    """Files of random sparse jets as they are found in the wild: one gzip chunk per jet."""
    images = random_images(jets)
    last = np.ascontiguousarray(np.moveaxis(images, 1, 3))
    layouts = {
        "channels last": (last, {}),
        "channels last, shuffled bytes": (last, {"shuffle": True}),
        "channels first (our source layout)": (images, {}),
    }
    paths = {}
    for number, (name, (array, options)) in enumerate(layouts.items()):
        paths[name] = folder / f"{number}.h5"
        with h5py.File(paths[name], "w") as file:
            file.create_dataset("jet", data=array, chunks=(1, *array.shape[1:]), compression="gzip", **options)
            file["Y"] = np.arange(jets) % 2
    return paths


def random_images(jets: int) -> np.ndarray:
    """float32 (N, 8, 125, 125), 10 mantissa bits as in simulated files, HCAL constant within towers."""
    generator = np.random.default_rng(0)
    images = np.zeros((jets, CHANNELS, SIDE, SIDE), np.float32)
    towers = np.zeros((jets, (SIDE // TOWER_SIZE) ** 2), np.float32)
    for jet in range(jets):
        for channel, count in enumerate(NONZEROS_PER_CHANNEL):
            images[jet, channel].reshape(-1)[generator.integers(0, SIDE**2, count)] = generator.exponential(size=count)
        towers[jet, generator.integers(0, towers.shape[1], OCCUPIED_TOWERS)] = generator.exponential(
            size=OCCUPIED_TOWERS
        )
    towers = towers.reshape(jets, SIDE // TOWER_SIZE, SIDE // TOWER_SIZE)
    images[:, HCAL] = towers.repeat(TOWER_SIZE, axis=1).repeat(TOWER_SIZE, axis=2)
    images.view(np.uint32)[...] &= np.uint32(0xFFFFE000)
    return images


def measure(source: Path, rounds: int) -> tuple[float, float, float]:
    """Median jets per second of ours, of the peer, and of ours per second of CPU time."""
    with h5py.File(source) as file:
        jets = len(file["jet"])
    seconds = {ours: [], peer: []}
    for _ in range(rounds + 1):  # the first round fills the page cache and the imports
        for convert_with, elapsed in seconds.items():
            elapsed.append(timed(convert_with, source))
    medians = {name: np.median(elapsed[1:], axis=0) for name, elapsed in seconds.items()}
    return jets / medians[ours][0], jets / medians[peer][0], jets / medians[ours][1]


def timed(convert_with: Callable[[Path, Path], None], source: Path) -> tuple[float, float]:
    """Seconds on the wall and on the CPU."""
    output = source.with_suffix(".out")
    started_at_s, cpu_started_at_s = time.perf_counter(), time.process_time()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        convert_with(source, output)
    elapsed_s = time.perf_counter() - started_at_s, time.process_time() - cpu_started_at_s
    shutil.rmtree(output)
    return elapsed_s


def ours(source: Path, output: Path) -> None:
    convert([str(source)], output)


def peer(source: Path, output: Path) -> None:
    """One jet at a time; channels last become channels first by a transposed view."""
    output.mkdir()
    counts, indices, values = [], [], []
    with h5py.File(source) as file:
        images, label = file["jet"], file["Y"][()]
        last = images.shape[3] == CHANNELS
        for row in range(len(images)):
            image = images[row].transpose(2, 0, 1) if last else images[row]
            channel, y, x = np.nonzero(image)
            counts.append(np.bincount(channel, minlength=CHANNELS))
            indices.append(y * SIDE + x)
            values.append(image[channel, y, x])
    jets = SparseJets(np.stack(counts), np.concatenate(indices), np.concatenate(values), np.arange(len(label)), label)
    names = tuple(map(str, range(CHANNELS)))
    manifest = Manifest((CHANNELS, SIDE, SIDE), names, names, ("0", "1"), 0, {})
    write_shard(output / "train-00000.h5", jets, manifest=manifest, tower_channels=())


def _line(name: str, ours_per_s: float, peer_per_s: float, ours_per_cpu_s: float) -> str:
    ratio = ours_per_s / peer_per_s
    return f"| {name} | {ours_per_s:,.0f} | {peer_per_s:,.0f} | {ratio:.1f} | {ours_per_cpu_s:,.0f} |"


def report(rows: list[tuple[str, float, float, float]], arguments: argparse.Namespace) -> str:
    jets, rounds = arguments.jets, arguments.rounds
    lines = [
        "# Conversion of gzip HDF5, one core",
        "",
        f"`python benchmarks/convert.py --jets {jets} --rounds {rounds}` on a {arguments.hardware}, pinned to one core",
        (
            f"that other work may share; medians of {rounds} alternating rounds; generated sparse jets, 8 x 125 x 125"
            " float32, one gzip chunk per jet."
        ),
        "Ours is the whole command: checks, division into splits, towers, hashes, normalisation constants, manifest.",
        "The peer reads `images[i]` through h5py, takes `numpy.nonzero` and writes one shard.",
        "",
        "| source | ours, jets/s | h5py loop, jets/s | ratio | ours, jets per CPU second |",
        "|---|---|---|---|---|",
        *(_line(*row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
