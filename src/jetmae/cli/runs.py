#!/usr/bin/env python3
"""Look at runs, and act on their jobs.

    python jobs/runs.py list
    python jobs/runs.py status RUN...        where it is, when it ends, its attempts, where its time went
    python jobs/runs.py logs RUN [-f]        what it prints; -f follows it across requeues until it is complete
    python jobs/runs.py cancel RUN...        end its job; the command that launched it goes on where it stopped
    python jobs/runs.py requeue RUN          stop its job now and let it start again
    python jobs/runs.py tensorboard [RUN...]
    python jobs/runs.py report RUN...        one HTML page with its pictures, and the comparison as a table
    python jobs/runs.py goodput [RUN]        how often to save, and what remains of the time, on 8 to 16,384 GPUs

RUN is a run's name or folder; a folder of runs means all of them.
"""

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from jetmae.errors import JetmaeError, exit_with_one_line

COMMAND_TIMEOUT_S = 60
LLAMA_MTBF_GPU_H = 54 * 24 * 16_384 / 419  # arXiv:2407.21783, section 3.3.4: 419 unexpected interruptions in 54 days
TIMES = {  # of a goodput simulation: what a run shows, or an option gives
    "step_s": "an optimizer step",
    "interval_s": "training between two saves at present",
    "save_stall_s": "training is held by a save",
    "save_s": "from the beginning of a save until it is committed",
    "restore_s": "reading a checkpoint",
    "start_s": "from the start of a job to its first step, without restoring",
    "requeue_s": "from the end of a job to its next start",
    "lost_s": "from the last logged step to the end of a job that failed",
}


def main() -> int | None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word, as any program
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", help="default: $JETMAE_RUNS, or runs/")
    commands = parser.add_subparsers(dest="command", required=True)
    _add(commands, "list", list_runs, "all runs: state, step, ETA, speed, job")
    _add(commands, "status", print_statuses, "everything about a run", runs="+")
    logs = _add(commands, "logs", print_logs, "what a run prints", runs="1")
    logs.add_argument("-f", "--follow", action="store_true", help="until the run is complete, across requeues")
    logs.add_argument("--rank", type=_rank, metavar="N", help="all output of one rank instead of the run's log")
    _add(commands, "cancel", cancel, "end the job of a run", runs="+")
    _add(commands, "requeue", requeue, "stop the job of a run and let it start again", runs="1")
    board = _add(commands, "tensorboard", serve_tensorboard, "curves of these or of all runs, through ssh", runs="*")
    board.add_argument("--port", type=_port, help="default: a free one")
    report = _add(commands, "report", write_report, "write report/report.html", runs="+")
    report.add_argument("--out", type=Path, help="folder to write into (default: report/ beside the runs)")
    report.add_argument("--title", help="default: the name of the folder that holds the runs")
    goodput = _add(commands, "goodput", simulate_goodput, "what failures cost, by number of GPUs", runs="?")
    for name, meaning in TIMES.items():
        option, number = "--" + name.replace("_", "-"), _positive if name in ("step_s", "interval_s") else _seconds
        goodput.add_argument(option, type=number, metavar="S", help=f"{meaning} (default: measured on RUN)")
    mtbf_help = "mean time between failures of one GPU, in hours (default: 50,700, Llama 3's on 16,384 GPUs)"
    goodput.add_argument("--mtbf-gpu-h", type=_positive, metavar="H", help=mtbf_help)
    arguments = parser.parse_args()
    return arguments.do(arguments)


def _add(commands, name: str, do, description: str, *, runs: str = "") -> argparse.ArgumentParser:
    """A subcommand on as many runs as `runs` says: none, "1", "?", "+" or "*"."""
    parser = commands.add_parser(name, help=description)
    parser.add_argument("--runs-dir", default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # also behind the command
    if runs:
        parser.add_argument("runs", metavar="RUN", nargs=1 if runs == "1" else runs)
    parser.set_defaults(do=do)
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 1 to 65535")
    return int(text)


def _rank(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the number of a rank, from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value_s = float(text)
    except ValueError:
        value_s = math.nan
    if not 0 <= value_s < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value_s


def _positive(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def list_runs(arguments: argparse.Namespace) -> None:
    from jetmae.run_folder import RunFolder, runs_folder
    from jetmae.watch.status import queue_for, status_of
    from jetmae.watch.tables import print_list

    runs_dir = runs_folder(arguments.runs_dir)
    runs = [RunFolder(config.parent) for config in sorted(runs_dir.glob("**/config.yaml"))]
    if not runs:
        print(f"no runs in {runs_dir.resolve()}")
        return
    queue = queue_for(runs)
    rows = []
    for run in runs:
        task, total_steps = task_and_steps(run)
        rows.append((str(run.root.relative_to(runs_dir)), task, status_of(run, queue, total_steps=total_steps)))
    print_list(rows)


def print_statuses(arguments: argparse.Namespace) -> None:
    from jetmae.watch.status import ledger_of, queue_for, status_of
    from jetmae.watch.tables import print_status

    runs = chosen_runs(arguments)
    queue = queue_for(runs)
    for run in runs:
        task, total_steps = task_and_steps(run)
        status = status_of(run, queue, total_steps=total_steps)
        if run is not runs[0]:
            print()
        print_status(run.root.name, task, status, ledger_of(status))


def print_logs(arguments: argparse.Namespace) -> int:
    from jetmae.watch.logs import Reader, follow, log_files
    from jetmae.watch.status import queue_for, status_of

    run = only_run(arguments)
    status = lambda: status_of(run, queue_for([run]))  # noqa: E731
    reader = Reader(lambda: log_files(run, arguments.rank))
    if not arguments.follow:
        if not reader.copy():
            who = "the run" if arguments.rank is None else f"rank {arguments.rank}"
            print(f"{run.root} is {status().state}; {who} has written nothing", file=sys.stderr)
        return 0
    follow(reader, has_ended=lambda: status().has_ended)
    print(f"{run.root} is {status().state}", file=sys.stderr)
    return 0 if run.completed.exists() else 1


def cancel(arguments: argparse.Namespace) -> None:
    runs = chosen_runs(arguments)
    for run in runs:
        status = status_now(run)
        if status.job_id is None and status.state == "running":
            raise JetmaeError(f"{run.root} is trained by processes of {' '.join(status.hosts)}, not by a Slurm job: "
                              "press Ctrl-C where it was launched")  # fmt: skip
        if status.has_ended or status.job_id is None:
            print(f"{run.root} is {status.state}: nothing to cancel")
            continue
        slurm("scancel", status.job_id)
        print(f"job {status.job_id} cancelled; {run.root} keeps its checkpoints, and its launch command goes on there")


def requeue(arguments: argparse.Namespace) -> None:
    run = only_run(arguments)
    status = status_now(run)
    if status.state == "complete":
        raise JetmaeError(f"{run.root} is complete: another --name starts anew")
    if status.queued_job is None:
        raise JetmaeError(f"{run.root} is {status.state} and has no job to requeue: start it again{_launch_hint(run)}")
    if status.queued_job.waits:
        raise JetmaeError(f"job {status.job_id} waits in the queue already ({status.queued_job.reason}): expected a"
                          " running one; see squeue --start for when it begins")  # fmt: skip
    slurm("scontrol", "requeue", status.job_id)
    print(f"job {status.job_id} requeued; it goes on from its last checkpoint")


def serve_tensorboard(arguments: argparse.Namespace) -> None:
    from jetmae.run_folder import runs_folder
    from jetmae.watch import board

    if not arguments.runs:
        board.serve(["--logdir", str(runs_folder(arguments.runs_dir))], arguments.port)
    runs = chosen_runs(arguments)
    home = os.path.commonpath([run.root.parent for run in runs])
    board.serve(board.named({os.path.relpath(run.root, home): run.tensorboard for run in runs}), arguments.port)


def write_report(arguments: argparse.Namespace) -> None:
    from jetmae.report import comparison, page

    folders = [run.root for run in chosen_runs(arguments)]
    home = Path(os.path.commonpath([folder.parent for folder in folders]))
    written = page.write_report(folders, arguments.out or home / "report", title=arguments.title or home.name)
    comparison.print_table(comparison.comparison_table(folders))
    print(f"report: {written}")


def simulate_goodput(arguments: argparse.Namespace) -> None:
    from jetmae.watch.goodput_table import print_goodput
    from jetmae.watch.measured_times import chosen_times

    given_s = {name: getattr(arguments, name) for name in TIMES}
    times = chosen_times(given_s, times_of_run(arguments) if arguments.runs else {})
    typed_h = arguments.mtbf_gpu_h
    origin = "--mtbf-gpu-h" if typed_h else "Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs"
    print_goodput(times, 3600 * (typed_h or LLAMA_MTBF_GPU_H), origin)


def times_of_run(arguments: argparse.Namespace) -> dict:
    """What the run named on the command line has shown.

    Raises:
        JetmaeError: it has never started.
    """
    from jetmae.config import read_experiment
    from jetmae.watch.measured_times import measured_times
    from jetmae.watch.status import ledger_of, queue_for, status_of

    arguments.runs = [arguments.runs]
    run = only_run(arguments)
    ledger = ledger_of(status_of(run, queue_for([run])))
    if ledger is None:
        raise JetmaeError(f"{run.root} has never started: expected a run to measure; or give all figures and no RUN")
    return measured_times(ledger, checkpoint_steps=read_experiment(run.config).log.checkpoint_steps)


def chosen_runs(arguments: argparse.Namespace) -> list:
    """The runs named on the command line, each once, in that order."""
    from jetmae.run_folder import RunFolder, runs_folder

    runs_dir = runs_folder(arguments.runs_dir)
    folders = [folder for name in arguments.runs for folder in run_folders(name, runs_dir)]
    return [RunFolder(folder) for folder in dict.fromkeys(folders)]


def only_run(arguments: argparse.Namespace):
    runs = chosen_runs(arguments)
    if len(runs) != 1:
        names = ", ".join(run.root.name for run in runs)
        raise JetmaeError(f"{arguments.runs[0]} holds {len(runs)} runs: expected one of {names}")
    return runs[0]


def run_folders(name: str, runs_dir: Path) -> list[Path]:
    """The run called `name`, or all runs below a folder of that name, in the order of their first start."""
    from jetmae.run_folder import find_run

    for folder in (Path(name), runs_dir / name):
        if not (folder / "config.yaml").exists() and (inside := list(folder.glob("*/config.yaml"))):
            return sorted(
                (path.parent.resolve() for path in inside), key=lambda run: (run / "config.yaml").stat().st_mtime
            )
    return [find_run(name, runs_dir).root]


def task_and_steps(run) -> tuple[str, int | None]:
    """A run's task and how long it is planned to be; its data may have moved since."""
    from jetmae.config import read_experiment
    from jetmae.plan import make_plan

    experiment = read_experiment(run.config)
    try:
        return experiment.task, make_plan(experiment, 1).total_steps
    except JetmaeError:
        return experiment.task, experiment.optim.steps


def status_now(run):
    """A run's status, from a Slurm that has to answer if the run has a job.

    Raises:
        JetmaeError: Slurm does not answer.
    """
    from jetmae.watch.status import queue_for, status_of

    queue = queue_for([run])
    status = status_of(run, queue)
    if queue is None and not status.has_ended:
        raise JetmaeError(f"Slurm does not say what job {status.job_id} of {run.root} is doing: expected an answer of"
                          " squeue; try again, on a machine that has Slurm's commands")  # fmt: skip
    return status


def slurm(*command: str) -> None:
    """A Slurm command that has to succeed.

    Raises:
        JetmaeError: with what it said.
    """
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JetmaeError(f"{shlex.join(command)}: {error}; try again where Slurm answers") from None
    if finished.returncode:
        raise JetmaeError(f"{shlex.join(command)} was refused: {finished.stderr.strip()}; see squeue --me")


def _launch_hint(run) -> str:
    from jetmae.watch.records import read_object

    launch = read_object(run.launch)
    if not launch.get("command"):
        return ", as it was submitted before"
    return f": cd {shlex.quote(launch['working_directory'])} && python {shlex.join(launch['command'])}"


if __name__ == "__main__":
    exit_with_one_line(main)
