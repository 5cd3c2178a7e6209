"""What a classifier does: ROC curves, scores, calibration, AUC against jet pT."""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jetmae import metrics
from jetmae.metrics import Floats
from jetmae.report.evaluation_results import Predictions
from jetmae.report.figure_style import GREY, Style, label_axes, legend, make_panels, plain_text


def roc_curves(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure:
    """Background rejection 1/eps_B against signal efficiency, with the binomial band of eps_B."""
    figure, (ax,) = make_panels(1, height_in=5.2, width_in=6)
    for name, found in predictions.items():
        _draw_roc(ax, found, f"{plain_text(name)}  AUC {metrics.auc(found.score, found.label):.3f}", styles[name])
    random = np.linspace(0.01, 1, 200)
    ax.plot(random, 1 / random, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="coin toss")
    for efficiency in (0.3, 0.5):
        ax.axvline(efficiency, color=GREY, linewidth=0.6, alpha=0.6)
    ax.set(yscale="log", xlim=(0, 1), ylim=(1, 1.5 * ax.dataLim.intervaly[1]))
    label_axes(ax, r"signal efficiency  $\varepsilon_S$", r"background rejection  $1/\varepsilon_B$")
    _legend_above(ax)
    return figure


def _draw_roc(ax: Axes, found: Predictions, label: str, style: Style) -> None:
    curve = metrics.roc_curve(found.score, found.label)
    num_background = int(np.count_nonzero(found.label == 0))
    # Fewer than three background jets say nothing about a curve on a logarithmic axis.
    keep = curve.background_efficiency * num_background >= 3
    eps_S, eps_B = _sparser(curve.signal_efficiency[keep], curve.background_efficiency[keep])
    sigma = np.sqrt(eps_B * (1 - eps_B) / max(1, num_background))
    ax.plot(eps_S, 1 / eps_B, label=label, linewidth=1.8, **style)
    lowest = np.maximum(eps_B - sigma, eps_B / 10)
    ax.fill_between(eps_S, 1 / (eps_B + sigma), 1 / lowest, color=style["color"], alpha=0.13, linewidth=0)


def _sparser(eps_S: Floats, eps_B: Floats, at_most: int = 1500) -> tuple[Floats, Floats]:
    if eps_S.size == 0:
        return eps_S, eps_B
    index = np.unique(np.linspace(0, eps_S.size - 1, at_most).astype(int))
    return eps_S[index], eps_B[index]


def score_histograms(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure:
    """Share of the jets of each class per bin of the score, one panel per run."""
    per_row = 2 if len(predictions) in (2, 3, 4) else 4
    height_in = 4.8 / -(-len(predictions) // per_row) if len(predictions) <= 4 else 3.4
    width_in = 6 if len(predictions) <= 4 else 12
    figure, axes = make_panels(len(predictions), height_in=height_in, width_in=width_in, per_row=per_row, sharey=True)
    edges = np.linspace(0, 1, 31)
    for ax, (name, found) in zip(axes, predictions.items(), strict=True):
        for label, fill in ((0, True), (1, False)):
            scores = found.score[found.label == label]
            share = np.histogram(scores, edges)[0] / max(1, scores.size)
            style = {"color": "#BFC4CA"} if fill else {"color": styles[name]["color"], "linewidth": 1.8}
            ax.stairs(share, edges, fill=fill, label=plain_text(found.classes[label]), **style)
        ax.set_yscale("log")
        ax.set_xlim(0, 1)
        ax.set_title(textwrap.fill(plain_text(name), 26), fontsize=10)
        label_axes(ax, "score" if ax in axes[-per_row:] else "", "share of jets" if ax in axes[::per_row] else "")
        if ax is axes[0]:
            legend(ax, loc="lower center")
    return figure


def calibration(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure:
    """Share of signal against mean score, with Wilson uncertainties; on the diagonal a score is a probability."""
    figure, (ax,) = make_panels(1, height_in=5.2, width_in=6)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="calibrated")
    for name, found in predictions.items():
        bins = metrics.calibration_bins(found.score, found.label)
        some = bins.num_jets > 0
        points = bins.mean_score[some], bins.signal_fraction[some], bins.uncertainty[some]
        error = metrics.expected_calibration_error(found.score, found.label)
        label = f"{plain_text(name)}  ECE {error.value:.3f}"
        ax.errorbar(*points, marker="o", markersize=4, linewidth=1.4, capsize=2, label=label, **styles[name])
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_axes(ax, "mean score in the bin", "share of signal in the bin")
    _legend_above(ax)
    return figure


def auc_against_pt(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure | None:
    """AUC with its DeLong uncertainty in six equally filled bins of jet pT; None when no run knows the pT."""
    pt_gev = {name: found.pt_gev for name, found in predictions.items() if found.pt_gev is not None}
    known = {name: pt for name, pt in pt_gev.items() if pt.size > 1}
    if not known:
        return None
    figure, (ax,) = make_panels(1, height_in=5.2, width_in=6)
    edges = np.quantile(next(iter(known.values())).astype(np.float64), np.linspace(0, 1, 7))
    centres, half_widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    for number, (name, jet_pt_gev) in enumerate(known.items()):
        found = predictions[name]
        index = np.clip(np.searchsorted(edges, jet_pt_gev, side="right") - 1, 0, 5)
        values = [metrics.measure_auc(found.score[index == i], found.label[index == i]) for i in range(6)]
        shift = (number - (len(known) - 1) / 2) * half_widths * 0.12  # so that error bars do not hide each other
        value, sigma = np.array(values).T
        style = {**styles[name], "linestyle": "none"}
        points = ax.errorbar(
            centres + shift, value, sigma, marker="o", markersize=4, capsize=2, label=plain_text(name), **style
        )
        ax.hlines(value, edges[:-1], edges[1:], color=points[0].get_color(), linewidth=0.8, alpha=0.6)
    label_axes(ax, r"jet $p_T$ [GeV]", "AUC in the bin")
    _legend_above(ax)
    return figure


def _legend_above(ax: Axes) -> None:
    """In two columns if all names are short enough for them."""
    longest = max(map(len, ax.get_legend_handles_labels()[1]))
    legend(ax, loc="outside", num_columns=2 if longest <= 30 else 1)
