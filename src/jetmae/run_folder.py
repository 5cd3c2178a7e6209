"""The folder of a run: every path in it, and the lines of its records. Standard library only.

    config.yaml        the resolved experiment; frozen at the first start
    launch.json        how it was started: command, code version, packages, layout
    attempts.jsonl     one line per start and per end
    .lease-N.json      who owns the folder; the highest N counts (runtime/lease.py)
    metrics.jsonl      one line per logged step and per evaluation
    timeline.jsonl     one line per restore and per save: how long it took
    logs/              text output of each rank
    tensorboard/
    checkpoints/       step-00001234/, LAST
    weights/           best.safetensors
    evaluation/        what the finished network says of train and test data
    COMPLETED          exists when the run has nothing left to do

The folder is the only input of a resume and is named by the experiment, not by a job.
"""

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.files import cannot_write, fsync, write_text

WITHOUT_A_WORD = "ended without a word"  # message of an end that the next attempt wrote, long after it
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")


@dataclass(frozen=True)
class RunFolder:
    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def launch(self) -> Path:
        return self.root / "launch.json"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        return self.root / "timeline.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best_weights(self) -> Path:
        return self.root / "weights" / "best.safetensors"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def completed(self) -> Path:
        return self.root / "COMPLETED"

    def start_attempt(self, **place: object) -> dict:
        """Append the line of a start, and return it.

        `place` are its `start_token`, `job_id`, `restart_count`, `world_size` and `hosts`.
        """
        attempt = 1 + sum(line["event"] == "start" for line in read_lines(self.attempts))
        line = {"event": "start", "attempt": attempt, **place, "committed_step": self.last_commit()}
        append_line(self.attempts, {**line, "time_s": time.time()})
        return line

    def end_attempt(self, start: dict, *, cause: str, message: str | None, resumed_step: int | None = None) -> None:
        """Append the line of the end of an attempt; what was committed is read from the checkpoints."""
        resumed_step = start["committed_step"] if resumed_step is None else resumed_step
        names = ("attempt", "start_token", "job_id", "restart_count", "world_size", "hosts")
        place = {name: start.get(name) for name in names}
        outcome = {"resumed_step": resumed_step, "last_committed_step": self.last_commit()}
        append_line(
            self.attempts,
            {"event": "end", **place, "cause": cause, "message": message, **outcome, "time_s": time.time()},
        )

    def amend_last_attempt(self, **facts: object) -> None:
        """Put what became known later into the last line, by replacing the file.

        Raises:
            JetmaeError: it cannot be written.
        """
        *earlier, last = read_lines(self.attempts)
        lines = (*earlier, {**last, **facts})
        try:
            write_text(self.attempts, "".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise cannot_write(self.attempts, error) from error

    def has_ever_committed(self) -> bool:
        """Whether the records tell of a checkpoint, even if none is there any more."""
        return any((line.get("last_committed_step") or line.get("committed_step") or 0) > 0
                   for line in read_lines(self.attempts))  # fmt: skip

    def last_commit(self) -> int:
        """Step of the newest checkpoint, 0 if there is none."""
        names = sorted(path.name for path in self.checkpoints.glob("step-????????"))
        return int(names[-1].removeprefix("step-")) if names else 0


def append_line(path: Path, content: dict) -> None:
    """Append one JSON object as one line, on disk when this returns; and so is the name of the file, which a process
    may have made that was killed before it could flush it.

    Raises:
        JetmaeError: it cannot be written.
    """
    try:
        cut_torn_tail(path)
        with path.open("a") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cut_torn_tail(path: Path) -> None:
    """Remove a last line that is not whole, so that the next one does not continue it or come after it.

    A killed writer leaves the beginning of a line, or a whole one that is not on disk, which it is when this returns.
    A power failure may leave the end of one, with zeros before it.
    """
    if path.exists():
        with path.open("r+b") as file:
            content = file.read()
            begin = content.rfind(b"\n", 0, -1) + 1
            if not content.endswith(b"\n") or _object(content[begin:]) is None:
                file.truncate(begin)
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file, without what a crash has left of others: a last line that is not whole, and
    zeros where lines had been written and not flushed.

    Raises:
        JetmaeError: another line is not a JSON object.
    """
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    objects = []
    for number, line in enumerate(lines, start=1):
        content = _object(line)
        if content is not None:
            objects.append(content)
        elif number < len(lines) and "\0" not in line:
            raise JetmaeError(
                f"{path} line {number} is not a JSON object: {line[:60]!r}; move that line away, try again"
            )
    return objects


def _object(line: str | bytes) -> dict | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def find_run(name: str, runs_dir: Path) -> RunFolder:
    """The run called `name`: a folder path, or a name below the runs folder.

    Raises:
        JetmaeError: there is no such run.
    """
    for root in (Path(name), runs_dir / name):
        if (root / "config.yaml").is_file():
            return RunFolder(root.resolve())
    known = sorted(str(path.parent.relative_to(runs_dir)) for path in runs_dir.glob("**/config.yaml"))
    listed = ", ".join(known[:8]) if known else "none yet"
    raise JetmaeError(f"no run {name!r} in {runs_dir}: expected a run folder or one of: {listed}")


def new_run(name: str, runs_dir: Path) -> RunFolder:
    """The folder for a run called `name`, which stays below the runs folder.

    Raises:
        JetmaeError: the name could lead elsewhere or confuse a shell.
    """
    if not RUN_NAME.fullmatch(name):
        raise JetmaeError(f"run name {name!r}: expected letters, digits and . _ + - in parts joined by /")
    return RunFolder(runs_dir.resolve() / name)


def runs_folder(option: str | None) -> Path:
    """--runs-dir, else JETMAE_RUNS, else runs/ of the working directory."""
    return Path(option or os.environ.get("JETMAE_RUNS") or "runs")
