"""A run's text output, followed across requeues and resubmissions."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from jetmae.records.attempts import parse_attempts
from jetmae.records.json_lines import readable_lines
from jetmae.records.launch import readable_launch
from jetmae.run_folder import RunFolder

POLL_S = 0.5
STATE_POLL_S = 10.0  # to spare Slurm's controller


def log_files(run: RunFolder, rank: int | None) -> list[Path]:
    """run.log, or what one rank printed in every job and every local start, oldest first."""
    if rank is None:
        files = [run.logs / "run.log"]
    else:
        # The jobs of an array have their output in a folder beside the runs.
        folders = (run.logs, run.root.parent / "logs")
        files = [folder / f"{job}_{rank}_log.out" for job in jobs_of(run) for folder in folders]
        files.append(run.logs / f"rank-{rank}.log")
    return sorted(filter(Path.exists, files), key=lambda path: path.stat().st_mtime)


def jobs_of(run: RunFolder) -> list[str]:
    """The ids of all Slurm jobs that have trained this run or will do so next."""
    lines = parse_attempts(readable_lines(run.attempts))
    job_ids = [*(line.job_id for line in lines), readable_launch(run.launch).job_id]
    return list(dict.fromkeys(job_id for job_id in job_ids if job_id))


class Reader:
    """Copies to stdout what has been added to the files since the last time."""

    def __init__(self, files: Callable[[], list[Path]]):
        self._files = files
        self._read_bytes: dict[Path, int] = {}

    def copy(self) -> bool:
        """Copy what is new. True if there was something."""
        sizes_bytes = [self._copy(path) for path in self._files()]
        return sum(sizes_bytes) > 0

    def _copy(self, path: Path) -> int:
        with path.open("rb") as file:
            file.seek(self._read_bytes.get(path, 0))
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the rest is copied when its line is complete
        self._read_bytes[path] = self._read_bytes.get(path, 0) + len(whole)
        sys.stdout.write(whole.decode(errors="replace"))
        sys.stdout.flush()
        return len(whole)


def follow(reader: Reader, has_ended: Callable[[], bool]) -> None:
    """Copy until the run has ended; go on while it waits in the queue."""
    asked_at_s = -STATE_POLL_S
    while True:
        ended = False
        if time.monotonic() - asked_at_s >= STATE_POLL_S:
            ended, asked_at_s = has_ended(), time.monotonic()
        reader.copy()
        if ended:
            return
        time.sleep(POLL_S)
