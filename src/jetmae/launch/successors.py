"""The starts of a run where jobs cannot be requeued: elements of an array, one after the other.

    python -m jetmae.launch.successors RUN_DIR

runs in the batch shell before the ranks. Exit code 3: this start has nothing to do, because the run is complete, or
three starts in a row have brought no new committed step; then the later starts are cancelled too. Whoever submits a run
with --no-requeue submits all of its starts at once (launch/submission.py). Standard library only.
"""

import os
import sys
from pathlib import Path

from jetmae.errors import exit_with_one_line
from jetmae.launch.budget import STARTS_WITHOUT_PROGRESS, starts_without_progress
from jetmae.records.attempts import read_attempts
from jetmae.run_folder import RunFolder
from jetmae.slurm.command import ask
from jetmae.slurm.job_terms import SUCCESSORS

NOTHING_TO_DO = 3


def main() -> int:
    folder = RunFolder(Path(sys.argv[1]))
    reason = why_not_begin(folder)
    if reason is None:
        return 0
    print(f"jetmae: {reason}", flush=True)
    cancel_later_starts()
    return NOTHING_TO_DO


def why_not_begin(folder: RunFolder) -> str | None:
    """Why this start has nothing to do; None if it has."""
    if folder.completed.exists():
        return "the run is complete"
    element, first = (os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN"))
    if element == first:  # somebody has just submitted it
        return None
    fruitless = starts_without_progress(read_attempts(folder.attempts))
    if fruitless >= STARTS_WITHOUT_PROGRESS:
        return f"{fruitless} starts in a row without a new committed step: not started"
    return None


def are_used() -> bool:
    """Whether this job is one of several starts that were submitted together."""
    return SUCCESSORS in os.environ


def later_starts() -> str | None:
    """The starts after this one, as Slurm's programs name them: 7_[3-9]; None if this is the last."""
    array, element, last = (os.environ.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID", "TASK_MAX"))
    if not (array and element.isdecimal() and last.isdecimal()) or int(element) >= int(last):
        return None
    return f"{array}_[{int(element) + 1}-{last}]"


def cancel_later_starts() -> None:
    """They are of this run alone."""
    if starts := later_starts():
        ask("scancel", starts)


if __name__ == "__main__":
    exit_with_one_line(main)
