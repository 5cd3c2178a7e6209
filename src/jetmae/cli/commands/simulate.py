"""data simulate: jet images with Pythia 8, as an HDF5 file."""

import argparse

from jetmae.command_line import typed
from jetmae.data.simulation.simulate import simulate, simulate_sample
from jetmae.errors import JetmaeError


def run(arguments: argparse.Namespace) -> None:
    """One file, or all files of the shipped sample."""
    outputs = [path for path in (arguments.output, arguments.output_option, arguments.sample) if path is not None]
    if len(outputs) != 1:
        raise JetmaeError(
            f"simulate: {len(outputs)} outputs, expected one: OUT.h5 or --sample FOLDER; give one of them"
        )
    if arguments.sample is not None:
        simulate_sample(arguments.sample, workers=arguments.workers, overwrite=arguments.overwrite)
        print(f"sample written to {arguments.sample}")
        return
    simulate(
        outputs[0],
        process=arguments.process,
        num_jets=arguments.jets,
        seed=arguments.seed,
        pile_up=arguments.pile_up,
        labelled=not arguments.unlabelled,
        workers=arguments.workers,
        first_block=arguments.first_block,
        gzip_level=arguments.gzip_level,
        overwrite=arguments.overwrite,
    )
    print(f"{arguments.jets} jets in {outputs[0]}")
    print(f"next: {typed('data convert', outputs[0], '--out', 'DIR')}")
