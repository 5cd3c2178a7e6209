"""The numbers of the report as files: a CSV for each table, and all of them with the conclusions in report.json.

A number that is not known is an empty field in a CSV and null in JSON. AUCs, efficiencies and shares are fractions.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

from jetmae import metrics
from jetmae.metrics import UNKNOWN, Measurement
from jetmae.report.closure import ClosureSummary
from jetmae.report.comparison import Row
from jetmae.report.evaluation_results import Predictions
from jetmae.report.explained_variance import HiddenScore
from jetmae.report.label_efficiency import LabelStudy

Record = dict[str, object]


def comparison_records(rows: Sequence[Row]) -> list[Record]:
    """One record per run."""
    return [
        {
            "run": row.name,
            "kind": row.kind,
            "state": row.state,
            "jets_seen": row.jets_seen,
            "steps": row.steps,
            **_both("accuracy", row.accuracy),
            **_both("auc", row.auc),
            **_both("calibration_error", row.calibration_error),
            **_both("rejection_at_30_percent", row.rejection_30),
            **_both("rejection_at_50_percent", row.rejection_50),
            **_both("auc_minus_scratch", row.delta_auc),
            "scratch": row.delta_reference,
        }
        for row in rows
    ]


def label_curve_records(study: LabelStudy | None) -> list[Record]:
    """One record per curve and number of labels."""
    return [
        {
            "curve": curve.name,
            "labels": point.num_labels,
            "runs": point.aucs.size,
            "auc": point.mean,
            "auc_spread_of_runs": point.spread,
            "auc_sigma_of_test_jets": point.test_sigma,
        }
        for curve in (study.curves if study else ())
        for point in curve.points
    ]


def label_difference_records(study: LabelStudy | None) -> list[Record]:
    """One record per number of labels: fine-tuned minus scratch."""
    return [
        {
            "labels": found.num_labels,
            "settings": found.settings,
            "pairs": found.mean.num_runs,
            "seeds": found.seeds,
            "pretrainings": found.pretrainings,
            "auc_fine_tuned": found.fine_tuned,
            "auc_scratch": found.scratch,
            **_both("auc_difference", found.mean.delta),
            "sigma_of_labels_and_pretrainings": found.training_sigma,
            "sigma_of_test_jets": found.test_sigma,
            "half_width_of_95_percent": found.mean.half_width,
        }
        for found in (study.differences if study else ())
    ]


def explained_variance_records(scores: Mapping[str, Sequence[HiddenScore]]) -> list[Record]:
    """One record per pretraining, mask, space, channel and predictor."""
    return [
        {
            "run": run,
            "mask": score.mask,
            "space": score.space,
            "channel": channel,
            "predictor": predictor,
            **_both("explained_variance", measured),
            **_both("network_minus_predictor", score.gain.get(predictor, {}).get(channel, UNKNOWN)),
        }
        for run, of_run in scores.items()
        for score in of_run
        for predictor, per_channel in score.explained.items()
        for channel, measured in per_channel.items()
    ]  # fmt: skip


def closure_records(closures: Mapping[str, Sequence[ClosureSummary]]) -> list[Record]:
    """One record per pretraining and property of a jet."""
    return [
        {
            "run": run,
            "what": summary.what,
            "jets": summary.num_jets,
            "median_of_reconstructed_over_truth": summary.median_ratio,
            "half_width_of_68_percent": summary.half_width,
        }
        for run, of_run in closures.items()
        for summary in of_run
    ]


def calibration_records(predictions: Mapping[str, Predictions]) -> list[Record]:
    """One record per classifier and bin of the score."""
    records: list[Record] = []
    for run, found in predictions.items():
        bins = metrics.calibration_bins(found.score, found.label)
        for number in range(len(bins.num_jets)):
            records.append(
                {
                    "run": run,
                    "score_from": float(bins.edges[number]),
                    "score_to": float(bins.edges[number + 1]),
                    "jets": int(bins.num_jets[number]),
                    "mean_score": float(bins.mean_score[number]),
                    "signal_fraction": float(bins.signal_fraction[number]),
                    "signal_fraction_sigma": float(bins.uncertainty[number]),
                }
            )
    return records


def csv_text(records: Sequence[Record]) -> str:
    """With a line of names at the top."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, records[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if _is_unknown(value) else value for name, value in record.items()} for record in records
    )
    return stream.getvalue()


def json_text(title: str, conclusions: Sequence[str], tables: Mapping[str, Sequence[Record]]) -> str:
    """Title, conclusions and all tables."""
    known = {
        name: [{key: None if _is_unknown(value) else value for key, value in record.items()} for record in records]
        for name, records in tables.items()
    }
    return json.dumps({"title": title, "conclusions": list(conclusions), "tables": known}, indent=1) + "\n"


def _both(name: str, measured: Measurement) -> Record:
    return {name: measured.value, f"{name}_sigma": measured.uncertainty}


def _is_unknown(value: object) -> bool:
    """Infinite too: JSON has no such number, and a rejection without a background jet is none."""
    return isinstance(value, float) and not math.isfinite(value)
