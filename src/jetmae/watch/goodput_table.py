"""What `runs.py goodput` prints."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from rich.table import Table

from jetmae.watch.goodput import Costs, best_interval_s, lifetimes_s, simulate_goodput
from jetmae.watch.measured_times import MeasuredTime
from jetmae.watch.tables import console, percent, short_duration

NUM_GPUS = tuple(2**power for power in range(3, 15))
FAILURES = 4000  # simulated for each number of GPUs: the time that is not productive is known to about 2 %
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Outlook:
    """What to expect of a number of GPUs."""

    num_gpus: int
    failures_per_day: float
    best_steps: int  # between two saves
    best_goodput: float
    present_goodput: float


def outlook(costs: Costs, num_gpus: int, *, step_s: float, interval_s: float, mtbf_gpu_s: float) -> Outlook:
    """Simulate. One GPU that fails ends the whole job: with n GPUs the time between failures is n times shorter."""
    mtbf_s = mtbf_gpu_s / num_gpus
    steps = max(1, round(best_interval_s(costs, mtbf_s) / step_s))
    best, present = (
        simulate_goodput(costs, every_s, lifetimes_s(mtbf_s, seed=0), FAILURES * mtbf_s).goodput
        for every_s in (steps * step_s, interval_s)
    )
    return Outlook(num_gpus, DAY_S / mtbf_s, steps, best, present)


def print_goodput(times: Mapping[str, MeasuredTime], mtbf_gpu_s: float, mtbf_origin: str) -> None:
    """`times` has step_s, interval_s, and the costs of a failure and a save."""
    seconds = {name: time.value_s for name, time in times.items()}
    costs = Costs(**{field.name: seconds[field.name] for field in fields(Costs)})
    step_s, interval_s = seconds["step_s"], seconds["interval_s"]
    rows = [outlook(costs, n, step_s=step_s, interval_s=interval_s, mtbf_gpu_s=mtbf_gpu_s) for n in NUM_GPUS]
    out = console()
    out.print(_times(times, mtbf_gpu_s, mtbf_origin))
    out.print()
    out.print(_outlooks(rows, step_s, interval_s))
    out.print(
        f"\nSimulated, {FAILURES:,} failures each. Steps, saves and starts are taken as equally long on all of them."
    )


def _times(times: Mapping[str, MeasuredTime], mtbf_gpu_s: float, mtbf_origin: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, time in times.items():
        table.add_row(name.removesuffix("_s").replace("_", " "), f"{time.value_s:.4g} s", time.origin)
    table.add_row("mtbf gpu", f"{mtbf_gpu_s / 3600:,.0f} h", mtbf_origin)
    return table


def _outlooks(rows: list[Outlook], step_s: float, interval_s: float) -> Table:
    present = f"every {interval_s / step_s:,.0f} steps"
    table = Table(box=None, pad_edge=False)
    for name in ("GPUs", "failures/day", "best interval", "in steps", "goodput", present):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.num_gpus:,}",
            f"{row.failures_per_day:.3g}",
            short_duration(row.best_steps * step_s),
            f"{row.best_steps:,}",
            percent(row.best_goodput),
            percent(row.present_goodput),
        )
    return table
