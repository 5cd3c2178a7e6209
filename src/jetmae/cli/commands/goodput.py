"""runs goodput: what failures would cost on 8 to 16,384 GPUs, and how often to save."""

import argparse

from jetmae.cli.commands.chosen_runs import only_run
from jetmae.cli.runs import GOODPUT_TIMES
from jetmae.config import read_experiment
from jetmae.errors import JetmaeError
from jetmae.watch.goodput_table import print_goodput
from jetmae.watch.measured_times import MeasuredTime, chosen_times, measured_times
from jetmae.watch.status import ledger_of, queue_for, status_of

LLAMA_MTBF_GPU_H = 54 * 24 * 16_384 / 419  # arXiv:2407.21783, section 3.3.4: 419 unexpected interruptions in 54 days


def run(arguments: argparse.Namespace) -> None:
    """From the times that a run has shown, and those that were typed."""
    given_s = {name: getattr(arguments, name) for name in GOODPUT_TIMES}
    times = chosen_times(given_s, times_of_run(arguments) if arguments.runs else {})
    typed_h = arguments.mtbf_gpu_h
    origin = "--mtbf-gpu-h" if typed_h else "Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs"
    print_goodput(times, 3600 * (typed_h or LLAMA_MTBF_GPU_H), origin)


def times_of_run(arguments: argparse.Namespace) -> dict[str, MeasuredTime]:
    """What the run named on the command line has shown.

    Raises:
        JetmaeError: it has never started.
    """
    arguments.runs = [arguments.runs]
    folder = only_run(arguments)
    ledger = ledger_of(status_of(folder, queue_for([folder])))
    if ledger is None:
        raise JetmaeError(f"{folder.root} has never started: expected a run to measure; or give all times and no RUN")
    return measured_times(ledger, checkpoint_steps=read_experiment(folder.config).log.checkpoint_steps)
