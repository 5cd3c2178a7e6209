"""Reading a run folder for the report: its configuration, its records, and the results of its evaluation.

The layout of the result files is written in the docstrings below and is a public contract. A file may be missing,
because reports are also made while runs are going on. A file that is there must be readable.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from jetmae.errors import DataError, JetmaeError
from jetmae.records.attempts import AttemptLine, read_attempts
from jetmae.records.json_lines import read_lines
from jetmae.records.json_object import Json
from jetmae.records.metrics import NEEDED, MetricsLine, number_of, parse_metrics_line

# The order of every table, legend and chapter: the result first, what it rests on last.
KINDS = ("finetune", "scratch", "probe", "random probe", "pretrain")


@dataclass(frozen=True)
class Predictions:
    """`evaluation/predictions_<split>.npz`: one entry per jet."""

    score: NDArray[np.float32]  # probability of class 1
    label: NDArray[np.int8]
    sample_id: NDArray[np.int64]  # the same jet has the same number in every run
    classes: tuple[str, str]
    pt_gev: NDArray[np.float32] | None = None
    mass_gev: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Reconstruction:
    """`evaluation/reconstruction_<split>.npz`: E example jets, sums over n evaluated jets; C channels, HxW pixels."""

    channels: tuple[str, ...]
    units: tuple[str, ...]
    image: NDArray[np.float32]  # (E, C, H, W) in source units
    reconstruction: NDArray[np.float32]  # (E, C, H, W) what the network predicted, in source units
    mask: NDArray[np.bool_]  # (E, H, W) True = hidden from the encoder
    sse: NDArray[np.float64]  # (n, C) over the masked pixels of each jet, in the space of the loss
    sum: NDArray[np.float64]  # (n, C)
    sum_of_squares: NDArray[np.float64]  # (n, C)
    count: NDArray[np.int64]  # (n,) masked pixels per channel
    mean_image: NDArray[np.float32]  # (C, H, W) in source units, over the pictured jets, where masked
    mean_reconstruction: NDArray[np.float32]  # (C, H, W)
    loss_space: str  # what was done to the values before the loss
    sse_of_mean_image: NDArray[np.float64] | None = None  # (n, C) as `sse`, of the mean training jet
    pictured_jets: int | None = None  # number of jets that the mean images are made from
    label: NDArray[np.int8] | None = None  # (E,)
    classes: tuple[str, str] | None = None


@dataclass(frozen=True)
class RecordedRun:
    """One run folder, read once. `metrics` holds one entry per split and step, in order of the steps."""

    folder: Path
    name: str
    kind: str  # one of KINDS
    config: dict[str, Any]
    config_text: str
    metrics: tuple[MetricsLine, ...]
    attempts: tuple[AttemptLine, ...]
    completed: bool

    def series(self, split: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Jets seen and the metric of this name, of all lines of a split that have both; each (lines,) float64."""
        rows = [(line.samples, number_of(line, name)) for line in self.metrics if line.split == split]
        points = np.array([row for row in rows if None not in row], dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def last(self, split: str) -> MetricsLine | None:
        """The newest line of a split, if there is one."""
        return next((line for line in reversed(self.metrics) if line.split == split), None)

    def predictions(self, split: str = "test") -> Predictions | None:
        """Scores of every jet of a split; None as long as the run has not been evaluated on it."""
        arrays = _read_arrays(self.folder / "evaluation" / f"predictions_{split}.npz", Predictions)
        if arrays is None:
            return None
        values: dict[str, Any] = {**arrays, "classes": _class_names(arrays["classes"])}
        return Predictions(**values)

    def reconstruction(self, split: str) -> Reconstruction | None:
        """Example pictures and sums for a split; None as long as the run has not been evaluated on it."""
        arrays = _read_arrays(self.folder / "evaluation" / f"reconstruction_{split}.npz", Reconstruction)
        if arrays is None:
            return None
        values: dict[str, Any] = {**arrays, "classes": _class_names(arrays.get("classes", np.array([])))}
        values |= {key: tuple(arrays[key].astype(str).tolist()) for key in ("channels", "units")}
        values |= {key: arrays[key].item() for key in ("loss_space", "pictured_jets") if key in arrays}
        return Reconstruction(**values)


def read_runs(folders: Iterable[Path]) -> list[RecordedRun]:
    """All runs, each folder once, in the order of `KINDS` and then by name; names are made to differ."""
    unique = dict.fromkeys(Path(folder).resolve() for folder in folders)
    if not unique:
        raise JetmaeError("no run folder given; name at least one, such as runs/pretrain")
    runs = sorted(map(read_run, unique), key=lambda run: (KINDS.index(run.kind), run.name))
    if not any(run.metrics for run in runs):
        names = ", ".join(run.name for run in runs)
        raise JetmaeError(f"no metrics in {names} yet: metrics.jsonl is missing or empty; try again after a few steps")
    return _distinct_names(runs)


def read_run(folder: Path) -> RecordedRun:
    """Read config, metrics and attempts of one run folder."""
    config_text, config = _read_config(folder)
    return RecordedRun(
        folder=folder,
        name=folder.name,
        kind=_kind(folder, config),
        config=config,
        config_text=config_text,
        metrics=_latest_per_step(folder / "metrics.jsonl"),
        attempts=tuple(read_attempts(folder / "attempts.jsonl")),
        completed=(folder / "COMPLETED").exists(),
    )


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise JetmaeError(f"{folder} is not a run folder: it has no config.yaml; name a folder such as runs/pretrain")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JetmaeError(f"{path} is not YAML ({str(error).splitlines()[0]}); restore it from the launch") from error
    if not isinstance(config, dict):
        raise JetmaeError(f"{path} holds {type(config).__name__}, expected a mapping; restore it from the launch")
    return text, config


def _kind(folder: Path, config: dict[str, Any]) -> str:
    task = config.get("task")
    kind = "random probe" if task == "probe" and config.get("init_from") == "random" else str(task)
    if kind not in KINDS:
        expected = "pretrain, finetune, scratch or probe"
        raise JetmaeError(f"{folder / 'config.yaml'} has task {task!r}, expected {expected}; name another run folder")
    return kind


def _latest_per_step(path: Path) -> tuple[MetricsLine, ...]:
    """After a resume a step may stand twice: the later line counts."""
    lines = [_metrics_line(content, path) for content in read_lines(path)]
    latest = {(line.split, line.step): line for line in lines}
    return tuple(sorted(latest.values(), key=lambda line: line.step))


def _metrics_line(content: Json, path: Path) -> MetricsLine:
    line = parse_metrics_line(content)
    if line is None:
        missing = next(name for name in NEEDED if name not in content)
        raise JetmaeError(f"{path} has a line without {missing!r}; was it written by jetmae?")
    return line


def _read_arrays(path: Path, expected: type[Predictions] | type[Reconstruction]) -> dict[str, NDArray[Any]] | None:
    """The arrays of an .npz that `expected` has fields for, others left out; None without a file."""
    if not path.is_file():
        return None
    names = [field.name for field in fields(expected)]
    required = [field.name for field in fields(expected) if field.default is not None]
    again = f"to evaluate again, delete {path.parents[1]}/COMPLETED and give the run's launch command"
    try:
        # Opened here: numpy leaves the file of a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); {again}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; {again}")
    return arrays


def _class_names(classes: NDArray[Any]) -> tuple[str, str]:
    """The data's names of class 0 and 1, or numbers where it does not say."""
    names = tuple(classes.astype(str).tolist())
    return names if len(names) == 2 else ("class 0", "class 1")


def _distinct_names(runs: list[RecordedRun]) -> list[RecordedRun]:
    names = [run.name for run in runs]
    return [replace(r, name=f"{r.folder.parent.name}/{r.name}") if names.count(r.name) > 1 else r for r in runs]
