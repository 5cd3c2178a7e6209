"""Jets a second that one core makes ready for training: ours, and with one random generator for each jet.

    python benchmarks/loader.py --data data/sample --markdown benchmarks/results/loader_HARDWARE_DATE.md

A step's noise comes from one counter-based stream, at the place of the rank's share. The peer is how it was before:
one generator of the same kind for each jet. The last rows are whole batches, sparse, as they go to the device. Rounds
alternate, so that what else the machine does hits all; the medians count. One thread, files in the page cache.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jetmae.data.batch import make_batch
from jetmae.data.order import global_batch
from jetmae.data.shards import JetDataset
from jetmae.randomness import Purpose, uniform_block, uniform_rows

SEED = 0
Noise = Callable[[int, int, int], NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/sample"))
    parser.add_argument("--split", default="unlabelled_train")
    parser.add_argument("--jets", type=int, default=256, help="of a batch")
    parser.add_argument("--columns", type=int, default=625, help="noise columns: one for each patch")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--hardware", default="2-core x86-64 virtual machine", help="for the result's text")
    parser.add_argument("--markdown", type=Path, help="write the result there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = report(measure(arguments), arguments)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


def one_stream(step: int, jets: int, columns: int) -> NDArray[np.float32]:
    return uniform_block(SEED, Purpose.TRAIN_NOISE, step, range(jets), columns)


def one_generator_per_jet(step: int, jets: int, columns: int) -> NDArray[np.float32]:
    return uniform_rows(SEED, Purpose.TRAIN_NOISE, [(step, position) for position in range(jets)], columns)


NOISES: dict[str, Noise] = {"one stream (ours)": one_stream, "one generator per jet": one_generator_per_jet}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Median jets a second of each way, the noise alone and then whole batches."""
    dataset = JetDataset(arguments.data, arguments.split)
    ways: dict[str, Callable[[int], object]] = {}
    for name, noise in NOISES.items():
        ways[f"noise: {name}"] = lambda step, noise=noise: noise(step, arguments.jets, arguments.columns)
    for name, noise in NOISES.items():
        ways[f"batch: {name}"] = lambda step, noise=noise: whole_batch(dataset, noise, step, arguments)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(arguments.rounds + 1):  # the first round fills caches
        for name, way in ways.items():
            started_at_s = time.perf_counter()
            way(step)
            seconds[name].append(time.perf_counter() - started_at_s)
    return {name: arguments.jets / float(np.median(elapsed[1:])) for name, elapsed in seconds.items()}


def whole_batch(dataset: JetDataset, noise: Noise, step: int, arguments: argparse.Namespace) -> object:
    ids = global_batch(step, num_jets=len(dataset), batch_size=arguments.jets, seed=SEED)
    jets = dataset.gather(ids)
    return make_batch(dataset.split, jets, ids, noise(step, arguments.jets, arguments.columns), step=step)


def report(jets_per_s: dict[str, float], arguments: argparse.Namespace) -> str:
    options = f"--jets {arguments.jets} --columns {arguments.columns} --rounds {arguments.rounds}"
    lines = [
        "# Batches for training, made by one core",
        "",
        f"`python benchmarks/loader.py {options}` on a {arguments.hardware}",
        f"that other work shares. {arguments.jets} jets a batch, {arguments.columns} noise columns, one thread,",
        "files in the page cache; medians of alternating rounds. A batch is sparse, as it goes to the device.",
        "",
        "| | jets/s | ours is faster by |",
        "|---|---|---|",
    ]
    for name, rate in jets_per_s.items():
        ours = jets_per_s[name.partition(":")[0] + ": one stream (ours)"]
        lines.append(f"| {name} | {rate:,.0f} | {ours / rate:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
