"""Does the reconstruction close? Properties of whole jets: truth against what the reconstructed image gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jetmae.metrics import Floats
from jetmae.report.evaluation_results import ClosurePair

_UNITS = {"_gev": "GeV", "_hits": "hits"}


@dataclass(frozen=True)
class ClosureSummary:
    """How far the reconstructed is from the truth."""

    what: str
    num_jets: int  # with a truth above 0
    median_ratio: float  # reconstructed / truth
    half_width: float  # half of the interval that holds the central 68 % of the ratios


def unit_of(what: str) -> str | None:
    """`GeV` of jet_pt_gev; None where the name ends with no unit."""
    return next((unit for ending, unit in _UNITS.items() if what.endswith(ending)), None)


def split_by_unit(pairs: Sequence[ClosurePair], *, has_gev: bool) -> tuple[list[ClosurePair], str]:
    """Those whose unit is known, and a sentence on the others. Images that are not in GeV have no energies."""

    def is_known(pair: ClosurePair) -> bool:
        unit = unit_of(pair.what)
        return unit is not None and (has_gev or unit != "GeV")

    refused = [pair.what for pair in pairs if not is_known(pair)]
    sentence = f"No closure of {', '.join(refused)}: the unit is not known to be GeV or hits." if refused else ""
    return [pair for pair in pairs if is_known(pair)], sentence


def summary(pair: ClosurePair) -> ClosureSummary:
    ratio = ratios(pair)[1]
    low, median, high = np.quantile(ratio, (0.16, 0.5, 0.84)).tolist() if ratio.size else (float("nan"),) * 3
    return ClosureSummary(pair.what, ratio.size, median, (high - low) / 2)


def ratios(pair: ClosurePair) -> tuple[Floats, Floats]:
    """Truth, and reconstructed / truth, of the jets with a truth above 0."""
    some = (pair.truth > 0) & np.isfinite(pair.reconstructed)
    return pair.truth[some], pair.reconstructed[some] / pair.truth[some]
