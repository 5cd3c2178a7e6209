"""The table of a study of recipes: what the pretrainings cost, how they are judged, and what they explain.

recipes.csv has one line per recipe, recipes.json all numbers. Everything is of validation jets.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from jetmae import metrics
from jetmae.errors import DataError
from jetmae.files import make_folder, write_json, write_text
from jetmae.records.attempts import EndLine, read_attempts
from jetmae.records.launch import readable_launch
from jetmae.run_folder import RunFolder
from jetmae.studies.choices import validation_auc
from jetmae.studies.protocol import RecipeProtocol, Settings
from jetmae.studies.recipe_runs import judge_path, pretraining_path

RESULTS = Path("evaluation") / "reconstruction_validation.npz"
SUMS = ("sse", "sum", "sum_of_squares", "count")  # of each place in it


@dataclass(frozen=True)
class RecipeRow:
    """One recipe. `cpu_s` and explained variances are means over its pretrainings; nan where it is not known."""

    recipe: str
    settings: Settings
    steps: int
    cpu_s: float  # of all ranks, one pretraining, its evaluation with it
    auc_by_run: dict[str, dict[str, float]] = field(default_factory=dict)  # method -> run -> AUC on validation jets
    explained_variance: dict[str, dict[str, float]] = field(default_factory=dict)  # mask/space -> channel -> fraction


def recipe_rows(protocol: RecipeProtocol, root: Path) -> list[RecipeRow]:
    """One row per recipe, in the order of the protocol.

    Raises:
        JetmaeError: a run has no results.
    """
    return [_row(protocol, root, recipe) for recipe in protocol.recipes]


def write_table(rows: list[RecipeRow], folder: Path) -> Path:
    """Write recipes.csv and recipes.json; the path of the first."""
    path = make_folder(folder) / "recipes.csv"
    write_json(folder / "recipes.json", [_without_nan(asdict(row)) for row in rows])
    cells = [_cells(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in cells for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_text(path, text.getvalue())
    return path


def cpu_seconds(run: Path) -> float:
    """CPU time of all starts and ranks of a run; nan if a start did not write it down."""
    ends = [line for line in read_attempts(RunFolder(run).attempts) if isinstance(line, EndLine)]
    return sum((math.nan if end.cpu_s is None else end.cpu_s for end in ends), 0.0)


def explained_variances(run: Path) -> dict[str, dict[str, float]]:
    """By mask and space, then by channel, of validation jets; `loss` is the space of the run's own loss.

    Raises:
        DataError: the results are missing or damaged.
    """
    path = run / RESULTS
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive if name.rpartition("/")[2] in (*SUMS, "channels")}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): delete {run}/COMPLETED, and give the command again"
        ) from error
    channels = arrays.pop("channels").astype(str).tolist()
    places = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    found = {place or "loss": _explained(arrays, f"{place}/" if place else "") for place in places}
    return {place: dict(zip(channels, values, strict=True)) for place, values in found.items() if values}


def _explained(arrays: Mapping[str, NDArray[np.float64]], prefix: str) -> list[float]:
    """For each channel; nothing if an array is missing."""
    if any(prefix + name not in arrays for name in SUMS):
        return []
    sse_NC, sum_NC, squares_NC, count = (arrays[prefix + name].astype(np.float64) for name in SUMS)
    count_NC = np.broadcast_to(count[:, None] if count.ndim == 1 else count, sse_NC.shape)
    channels = ((sse_NC[:, [c]], sum_NC[:, [c]], squares_NC[:, [c]], count_NC[:, c]) for c in range(sse_NC.shape[1]))
    return [float(metrics.explained_variance(*sums).value_C[0]) for sums in channels]


def _row(protocol: RecipeProtocol, root: Path, recipe: str) -> RecipeRow:
    pretrainings = [root / pretraining_path(recipe, seed) for seed in protocol.pretrain_seeds]
    auc_by_run = {
        method: {path: validation_auc(root / path) for path in _judges(protocol, recipe, method)}
        for method in protocol.methods
    }
    return RecipeRow(
        recipe=recipe,
        settings=protocol.recipes[recipe],
        steps=readable_launch(RunFolder(pretrainings[0]).launch).total_steps or protocol.steps,
        cpu_s=fmean(map(cpu_seconds, pretrainings)),
        auc_by_run=auc_by_run,
        explained_variance=_mean_of(list(map(explained_variances, pretrainings))),
    )


def _judges(protocol: RecipeProtocol, recipe: str, method: str) -> Iterable[str]:
    for source in protocol.pretrain_seeds:
        for seed in protocol.label_seeds:
            yield judge_path(recipe, method, source, seed)


def _mean_of(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Over pretrainings; a recipe's runs have the same masks, spaces and channels."""
    return {
        place: {channel: fmean(run[place][channel] for run in runs) for channel in channels}
        for place, channels in runs[0].items()
    }


def _cells(row: RecipeRow) -> dict[str, str | int]:
    line: dict[str, str | int] = {"recipe": row.recipe, "steps": row.steps, "cpu_s": _number(row.cpu_s, 1)}
    for method, auc_by_run in row.auc_by_run.items():
        values = list(auc_by_run.values())
        line[f"{method}_auc"] = _number(fmean(values), 4)
        line[f"{method}_auc_scatter"] = _number(stdev(values), 4) if len(values) > 1 else ""
    for place, channels in row.explained_variance.items():
        line |= {f"explained_variance/{place}/{channel}": _number(value, 4) for channel, value in channels.items()}
    return line


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _without_nan(content: object) -> object:
    """JSON has no nan: null."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content
