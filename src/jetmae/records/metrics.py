"""The lines of metrics.jsonl: one per logged step of training, and one per evaluation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from jetmae.records.json_object import Json, record_of

Metric = float | Mapping[str, float]  # one number, or one per channel


@dataclass(frozen=True, kw_only=True)
class TrainLine:
    """A step of training. Where an attempt repeats steps, they have several lines: the last one counts."""

    split: ClassVar[str] = "train"

    step: int  # optimizer updates, from 1
    samples: int | None = None  # jets seen, with repetition
    epoch: float | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    jets_per_s: float | None = None  # since the line before it, without validations
    attempt: int = 0
    time_s: float  # since 1970

    @property
    def metrics(self) -> dict[str, Metric]:
        """Its numbers by name, those that are known."""
        numbers = {"loss": self.loss, "lr": self.lr, "grad_norm": self.grad_norm, "jets_per_s": self.jets_per_s}
        return {name: number for name, number in numbers.items() if number is not None}

    def to_json(self) -> Json:
        return {"split": self.split, **vars(self)}


@dataclass(frozen=True, kw_only=True)
class EvaluationLine:
    """The metrics of a split at a step: `loss`, and what the task adds."""

    split: str
    step: int
    samples: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, Metric]
    attempt: int = 0
    time_s: float

    def to_json(self) -> Json:
        place = {"split": self.split, "step": self.step, "samples": self.samples, "epoch": self.epoch}
        return {**place, **self.metrics, "attempt": self.attempt, "time_s": self.time_s}


MetricsLine = TrainLine | EvaluationLine
NEEDED = ("split", "step", "time_s")
_PLACE = (*NEEDED, "samples", "epoch", "attempt")


def parse_metrics_line(content: Json) -> MetricsLine | None:
    """The line that an object holds; None if it lacks one of NEEDED."""
    if content.get("split") == TrainLine.split:
        return record_of(TrainLine, content)
    metrics = {name: value for name, value in content.items() if name not in _PLACE and _is_metric(value)}
    return record_of(EvaluationLine, {**content, "metrics": metrics})


def parse_train_lines(objects: Iterable[Json]) -> list[TrainLine]:
    """The lines about steps of training."""
    lines = (record_of(TrainLine, content) for content in objects if content.get("split") == TrainLine.split)
    return [line for line in lines if line is not None]


def number_of(line: MetricsLine, name: str) -> float | None:
    """A metric that is a single number; None if the line has none of that name."""
    value = line.metrics.get(name)
    return value if isinstance(value, int | float) else None


def _is_metric(value: object) -> bool:
    return isinstance(value, int | float | dict)
