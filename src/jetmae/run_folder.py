"""The folder of a run: every path in it, and how it is found by its name. Standard library only.

    config.yaml        the resolved experiment; frozen at the first start
    launch.json        how it was started: command, code version, packages, layout (records/launch.py)
    code/              the code that the run runs (launch/snapshot.py); code-1/ ... what it ran before
    attempts.jsonl     one line per start and per end (records/attempts.py)
    .lease-N.json      who owns the folder; the highest N counts (runtime/lease.py)
    metrics.jsonl      one line per logged step and per evaluation (records/metrics.py)
    timeline.jsonl     one line per restore and per save: how long it took (records/timeline.py)
    logs/              text output of each rank
    tensorboard/
    checkpoints/       step-00001234/, LAST
    weights/           best.safetensors
    evaluation/        what the finished network says of train and test data
    COMPLETED          exists when the run has nothing left to do

The folder is the only input of a resume and is named by the experiment, not by a job.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jetmae.errors import JetmaeError

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
    def code(self) -> Path:
        return self.root / "code"

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
    def compiled(self) -> Path:
        return self.root / "compiled"

    @property
    def completed(self) -> Path:
        return self.root / "COMPLETED"

    def last_commit(self) -> int:
        """Step of the newest checkpoint, 0 if there is none."""
        names = sorted(path.name for path in self.checkpoints.glob("step-????????"))
        return int(names[-1].removeprefix("step-")) if names else 0


def runs_below(runs_dir: Path) -> list[Path]:
    """All run folders below a folder, sorted. Links count under their own names; what cannot be read is left out."""
    found: list[Path] = []
    seen: set[Path] = set()
    for name, inside, files in os.walk(runs_dir, followlinks=True):
        folder = Path(name)
        if folder.is_symlink() and folder.resolve() in seen:
            inside.clear()  # links may lead in a circle
        seen.add(folder.resolve())
        if "config.yaml" in files:
            found.append(folder)
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether this is a run folder that can be looked into."""
    try:
        return (folder / "config.yaml").is_file()
    except OSError:  # the name is too long, or somebody else's folder is on the way
        return False


def find_run(name: str, runs_dir: Path) -> RunFolder:
    """The run called `name`: a folder path, or a name below the runs folder.

    Raises:
        JetmaeError: there is no such run.
    """
    for root in (Path(name), runs_dir / name):
        if is_run(root):
            return RunFolder(root.resolve())
    known = [str(path.relative_to(runs_dir)) for path in runs_below(runs_dir)]
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
