"""The figures of the report. Every function returns a matplotlib Figure or None when there is nothing to draw.

No pyplot: figures belong to the caller, and nothing global changes. One colour per kind of run everywhere (Okabe and
Ito's palette, safe for colour-blind readers); several runs of one kind differ in line style. Twelve inches of width
fill the page, so that type has the same size in every figure.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from jetmae import metrics
from jetmae.metrics import Floats, Measurement
from jetmae.report.run_reader import Predictions, Reconstruction, RecordedRun

KIND_COLOUR = {
    "finetune": "#0072B2",
    "scratch": "#D55E00",
    "probe": "#009E73",
    "random probe": "#CC79A7",
    "pretrain": "#4D4D4D",
}
_SPLIT_COLOUR = {"train": "#9CC9E3", "test": "#0072B2"}
_REFERENCE_COLOUR = "#D55E00"
_LINE_STYLES = ("-", "--", "-.", ":")
_MINUS = "\N{MINUS SIGN}"
_GREY = "#8A8A8A"
_HIDDEN_GREY = "#C9CDD2"  # masked patches in the pictures
_PIXELS_PER_INCH = 170  # 96 on the page; the rest is for screens with a high resolution
_SIGNED_CHANNELS = ("d0", "dz")

Style = dict[str, Any]  # keywords of matplotlib
Location = Literal["best", "upper left", "upper right", "lower center"]


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, on white."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PIXELS_PER_INCH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def run_styles(runs: Iterable[RecordedRun]) -> dict[str, Style]:
    """Colour by kind, line style by the run's number within its kind."""
    seen: Counter[str] = Counter()
    styles = {}
    for run in runs:
        line = _LINE_STYLES[seen[run.kind] % len(_LINE_STYLES)]
        styles[run.name] = {"color": KIND_COLOUR[run.kind], "linestyle": line}
        seen[run.kind] += 1
    return styles


# --- curves ----------------------------------------------------------------------------------------------------------


def loss_curves(runs: Sequence[RecordedRun]) -> Figure | None:
    """Pretraining loss, classification loss and validation AUC against jets seen, one panel each."""
    classifiers = [run for run in runs if run.kind != "pretrain"]
    panels = [
        ("pretraining loss", [run for run in runs if run.kind == "pretrain"], "loss", ("train", "validation")),
        ("classification loss", classifiers, "loss", ("train", "validation")),
        ("validation AUC", classifiers, "auc", ("validation",)),
    ]
    panels = [panel for panel in panels if any(_has(run, panel[2], panel[3]) for run in panel[1])]
    if not panels:
        return None
    figure, axes = _panels(len(panels), height_in=4.2)
    for ax, (title, members, key, splits) in zip(axes, panels, strict=True):
        _draw_series(ax, members, run_styles(runs), key, splits)
        _label(ax, "jets seen", title)
        if key == "loss":
            _log_if_wide(ax)
    return figure


def learning_rates(runs: Sequence[RecordedRun]) -> Figure | None:
    """Learning rate of every run against jets seen, on a logarithmic axis."""
    members = [run for run in runs if _has(run, "lr", ("train",))]
    if not members:
        return None
    figure, (ax,) = _panels(1, height_in=3.6, width_in=7.5)
    for run in members:
        samples, rate = run.series("train", "lr")
        ax.plot(samples, np.where(rate > 0, rate, np.nan), label=_text(run.name), **run_styles(runs)[run.name])
    ax.set_yscale("log")
    _label(ax, "jets seen", "learning rate")
    _legend(ax)
    return figure


def _has(run: RecordedRun, key: str, splits: Sequence[str]) -> bool:
    return any(run.series(split, key)[0].size for split in splits)


def _draw_series(
    ax: Axes, runs: Sequence[RecordedRun], styles: Mapping[str, Style], key: str, splits: Sequence[str]
) -> None:
    """Training: every step faintly, a running mean on top, thin. Validation: thick, with points."""
    for run in runs:
        style = styles[run.name]
        if "train" in splits:
            samples, values = run.series("train", key)
            ax.plot(*_thinned(samples, values), color=style["color"], alpha=0.15, linewidth=0.7)
            ax.plot(*_thinned(samples, _running_mean(values)), color=style["color"], alpha=0.75, linewidth=1.0)
        samples, values = run.series("validation", key)
        marker = "o" if samples.size <= 30 else None
        ax.plot(samples, values, label=_text(run.name), marker=marker, markersize=4, linewidth=2, **style)
    note = "thick: validation\nthin: training, running mean" if "train" in splits else None
    _legend(ax, title=note)


def _running_mean(values: Floats) -> Floats:
    """Mean over a window of a 30th of the run, centred, shorter at the ends."""
    half = len(values) // 60
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (total[high] - total[low]) / (high - low)
    return mean


def _thinned(samples: Floats, values: Floats, at_most: int = 4000) -> tuple[Floats, Floats]:
    every = max(1, -(-len(values) // at_most))
    return samples[::every], values[::every]


def _log_if_wide(ax: Axes) -> None:
    """A logarithmic axis where the loss falls by more than a factor of three, decades apart."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high / low > 3:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


# --- classification --------------------------------------------------------------------------------------------------


def roc_curves(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure:
    """Background rejection 1/eps_B against signal efficiency, with the binomial band of eps_B."""
    figure, (ax,) = _panels(1, height_in=4.8, width_in=6)
    for name, found in predictions.items():
        _draw_roc(ax, found, f"{_text(name)}  AUC {metrics.auc(found.score, found.label):.3f}", styles[name])
    random = np.linspace(0.01, 1, 200)
    ax.plot(random, 1 / random, color=_GREY, linewidth=1, linestyle=(0, (1, 2)), label="coin toss")
    for efficiency in (0.3, 0.5):
        ax.axvline(efficiency, color=_GREY, linewidth=0.6, alpha=0.6)
    # Headroom for the legend above the best curve, which ends low on the right.
    ax.set(yscale="log", xlim=(0, 1), ylim=(1, 4 * ax.dataLim.intervaly[1]))
    _label(ax, r"signal efficiency  $\varepsilon_S$", r"background rejection  $1/\varepsilon_B$")
    _legend(ax, loc="upper right")
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
    figure, axes = _panels(len(predictions), height_in=height_in, width_in=width_in, per_row=per_row, sharey=True)
    edges = np.linspace(0, 1, 31)
    for ax, (name, found) in zip(axes, predictions.items(), strict=True):
        for label, fill in ((0, True), (1, False)):
            scores = found.score[found.label == label]
            share = np.histogram(scores, edges)[0] / max(1, scores.size)
            style = {"color": "#BFC4CA"} if fill else {"color": styles[name]["color"], "linewidth": 1.8}
            ax.stairs(share, edges, fill=fill, label=_text(found.classes[label]), **style)
        ax.set_yscale("log")
        ax.set_xlim(0, 1)
        ax.set_title(_text(name), fontsize=11)
        _label(ax, "score" if ax in axes[-per_row:] else "", "share of jets" if ax in axes[::per_row] else "")
        if ax is axes[0]:
            _legend(ax, loc="lower center")
    return figure


def calibration(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure:
    """Share of signal against mean score, with Wilson uncertainties; on the diagonal a score is a probability."""
    figure, (ax,) = _panels(1, height_in=4.8, width_in=6)
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (1, 2)), label="calibrated")
    for name, found in predictions.items():
        bins = metrics.calibration_bins(found.score, found.label)
        some = bins.num_jets > 0
        points = bins.mean_score[some], bins.signal_fraction[some], bins.uncertainty[some]
        ax.errorbar(*points, marker="o", markersize=4, linewidth=1.4, capsize=2, label=_text(name), **styles[name])
    ax.set(xlim=(0, 1), ylim=(0, 1))
    _label(ax, "mean score in the bin", "share of signal in the bin")
    _legend(ax, loc="upper left")
    return figure


def auc_against_pt(predictions: Mapping[str, Predictions], styles: Mapping[str, Style]) -> Figure | None:
    """AUC with its DeLong uncertainty in six equally filled bins of jet pT; None when no run knows the pT."""
    pt_gev = {name: found.pt_gev for name, found in predictions.items() if found.pt_gev is not None}
    known = {name: pt for name, pt in pt_gev.items() if pt.size > 1}
    if not known:
        return None
    figure, (ax,) = _panels(1, height_in=4.8, width_in=6)
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
            centres + shift, value, sigma, marker="o", markersize=4, capsize=2, label=_text(name), **style
        )
        ax.hlines(value, edges[:-1], edges[1:], color=points[0].get_color(), linewidth=0.8, alpha=0.6)
    _label(ax, r"jet $p_T$ [GeV]", "AUC in the bin")
    _legend(ax, loc="best")
    return figure


# --- reconstruction --------------------------------------------------------------------------------------------------


def explained_variance_bars(
    per_split: Mapping[str, Mapping[str, Measurement]], by_mean_image: Mapping[str, Measurement]
) -> Figure:
    """Explained variance of masked pixels per channel, training beside test, with error bars.

    There is a line at what the mean training jet explains of test jets, if that is known.
    """
    figure, (ax,) = _panels(1, height_in=4.0)
    channels = list(next(iter(per_split.values())))
    width = 0.8 / len(per_split)
    for number, (split, values) in enumerate(per_split.items()):
        at = np.arange(len(channels), dtype=np.float64) + (number - (len(per_split) - 1) / 2) * width
        value, sigma = np.array([values[channel] for channel in channels]).T
        ax.bar(at, value, width * 0.92, color=_SPLIT_COLOUR[split], label=f"{split} jets")
        ax.errorbar(at, value, sigma, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        _write_above(ax, at, value, sigma)
        if split == "test" and by_mean_image:
            level = [by_mean_image[channel].value for channel in channels]
            ends = at - width / 2, at + width / 2
            ax.hlines(level, *ends, color=_REFERENCE_COLOUR, label="mean of the training jets, on test jets")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(np.arange(len(channels)), [_text(channel) for channel in channels])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.margins(y=0.15)
    _label(ax, "", "explained variance, masked pixels")
    _legend(ax, loc="best")
    return figure


def _write_above(ax: Axes, at: Floats, value: Floats, sigma: Floats) -> None:
    for x, y, error in zip(at, value, np.nan_to_num(sigma), strict=True):
        text, height = ("n/a", 0.0) if np.isnan(y) else (f"{round(100 * y, 1) + 0.0:.1f}", max(0.0, y + error))
        ax.annotate(text, (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=8, color="#333333")


def event_pictures(found: Reconstruction, example: int) -> Figure:
    """One jet: a row per channel; input, what the encoder saw, the input completed by the network, and the residual.

    The completed picture shows predictions in hidden patches and the input elsewhere; the residual, prediction minus
    input, exists in hidden patches only.
    """
    num_channels = len(found.channels)
    figure = Figure(figsize=(12, 2.45 * num_channels + 0.7))
    grid = figure.add_gridspec(
        num_channels, 7, width_ratios=(1, 1, 1, 0.05, 0.17, 1, 0.05), wspace=0.06, hspace=0.06,
        left=0.05, right=0.945, top=1 - 0.45 / figure.get_figheight(), bottom=0.25 / figure.get_figheight(),
    )  # fmt: skip
    for channel in range(num_channels):
        images = _event_images(found, example, channel)
        scale, colours = _scale(found.image[:, channel], found.channels[channel])
        row = [figure.add_subplot(grid[channel, column]) for column in (0, 1, 2, 5)]
        for ax, image in zip(row[:3], images[:3], strict=True):
            _picture(ax, image, scale, colours)
        residual_scale = _symmetric_scale(found.image[:, channel])
        _picture(row[3], images[3], residual_scale, _diverging())
        _colour_bar(figure.add_subplot(grid[channel, 3]), scale, colours, found.units[channel])
        _colour_bar(figure.add_subplot(grid[channel, 6]), residual_scale, _diverging(), found.units[channel])
        row[0].set_ylabel(_text(found.channels[channel]), fontsize=12, fontweight="bold")
        if channel == 0:
            titles = ("input", "masked input", "reconstruction", f"reconstruction {_MINUS} input")
            for ax, title in zip(row, titles, strict=True):
                ax.set_title(title, fontsize=12)
    return figure


def _event_images(found: Reconstruction, example: int, channel: int) -> tuple[NDArray[np.float32], ...]:
    """Input, masked input, the input completed by the prediction, and the residual, each (H, W).

    The masked input is nan where hidden, the residual 0 where visible.
    """
    image, prediction = found.image[example, channel], found.reconstruction[example, channel]
    hidden = found.mask[example]
    completed = np.where(hidden, prediction, image)
    return image, np.where(hidden, np.nan, image), completed, completed - image


def mean_pictures(found: Reconstruction) -> Figure:
    """Mean over jets where masked, per channel: input and reconstruction on one scale, two channels to a row."""
    num_rows = -(-len(found.channels) // 2)
    figure = Figure(figsize=(12, 2.85 * num_rows + 0.4))
    grid = figure.add_gridspec(
        num_rows, 7, width_ratios=(1, 1, 0.05, 0.32, 1, 1, 0.05), wspace=0.06, hspace=0.2,
        left=0.015, right=0.93, top=1 - 0.4 / figure.get_figheight(), bottom=0.1 / figure.get_figheight(),
    )  # fmt: skip
    for channel, name in enumerate(found.channels):
        pair = np.stack([found.mean_image[channel], found.mean_reconstruction[channel]])
        # One scale for both: otherwise a prediction below the smallest mean of the input would not be seen.
        scale, colours = _scale(pair, name)
        for number, title in enumerate(("input", "reconstruction")):
            ax = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + number])
            _picture(ax, pair[number], scale, colours)
            ax.set_title(f"{_text(name)}: {title}", fontsize=11)
        bar = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + 2])
        _colour_bar(bar, scale, colours, found.units[channel])
    return figure


def _scale(values: NDArray[np.float32], channel: str) -> tuple[Normalize, Colormap]:
    """Logarithmic up to the largest value; for channels with both signs, two colours from zero on."""
    if any(name in channel.lower() for name in _SIGNED_CHANNELS) or (values < 0).any():
        return _symmetric_scale(values), _diverging()
    floor, top = _floor_and_top(values, 0.05)
    return LogNorm(floor, top), _sequential()


def _symmetric_scale(values: NDArray[np.float32]) -> SymLogNorm:
    floor, top = _floor_and_top(values, 0.25)
    return SymLogNorm(linthresh=floor, linscale=0.5, vmin=-top, vmax=top)


def _floor_and_top(values: NDArray[np.float32], floor_quantile: float) -> tuple[float, float]:
    """Bounds of a logarithmic scale, a factor of 30 to 1000 apart: predictions are fainter than hits."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if size.size == 0:
        return 0.1, 1.0
    top = float(size.max())
    return min(max(float(np.quantile(size, floor_quantile)), top / 1e3), top / 30), top


def _sequential() -> Colormap:
    """White below the smallest value shown, grey where nothing is known."""
    # The brightest yellow would be lost on white, and most jets are single bright or faint pixels on white.
    colours = colormaps["viridis_r"](np.linspace(0.12, 1, 256))
    return ListedColormap(colours).with_extremes(under="white", bad=_HIDDEN_GREY)


def _diverging() -> Colormap:
    return colormaps["RdBu_r"].with_extremes(bad=_HIDDEN_GREY)


def _picture(ax: Axes, image_HW: NDArray[np.float32], scale: Normalize, colours: Colormap) -> None:
    # Zero and negative predictions have no logarithm: they belong below the scale (white), not to the unknown (grey).
    shown = np.where(image_HW <= 0, _ends(scale)[0] / 10, image_HW) if isinstance(scale, LogNorm) else image_HW
    shown = np.ma.masked_invalid(shown)
    ax.imshow(shown, norm=scale, cmap=colours, origin="lower", interpolation="nearest", aspect="equal")
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set(color="#9A9A9A", linewidth=0.6)


def _colour_bar(ax: Axes, scale: Normalize, colours: Colormap, unit: str) -> None:
    bar = ax.figure.colorbar(
        ScalarMappable(scale, colours), cax=ax, extend="min" if isinstance(scale, LogNorm) else None
    )
    ticks = _ticks(scale)
    bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", _MINUS) for tick in ticks], fontsize=8)
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=2.5)
    # Above the bar: beside it the unit would stand in the next picture.
    bar.ax.set_title(_text(unit), fontsize=8, pad=2)
    bar.outline.set_linewidth(0.5)


def _ends(scale: Normalize) -> tuple[float, float]:
    """Its smallest and its largest value."""
    if scale.vmin is None or scale.vmax is None:
        raise ValueError("a scale of these pictures is made with both of its ends")
    return scale.vmin, scale.vmax


def _ticks(scale: Normalize, spacing: float = 0.11) -> list[float]:
    """Zero and 1, 2, 5 times powers of ten, whole powers first, none closer than `spacing` of the bar's length."""
    low, high = _ends(scale)
    highest = int(np.floor(np.log10(high)))
    exponents = range(highest, highest - 8, -1)
    candidates = np.array([0.0] + [sign * f * 10.0**e for f in (1, 2, 5) for e in exponents for sign in (1, -1)])
    candidates = candidates[(candidates >= low) & (candidates <= high)]
    chosen: dict[float, float] = {}
    for tick, position in zip(candidates.tolist(), np.asarray(scale(candidates)).tolist(), strict=True):
        if all(abs(position - other) >= spacing for other in chosen.values()):
            chosen[tick] = position
    return sorted(chosen)


# --- shared ----------------------------------------------------------------------------------------------------------


def _panels(
    count: int, *, height_in: float, width_in: float = 12, per_row: int = 3, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes side by side, a new row after `per_row`."""
    num_columns, num_rows = min(count, per_row), -(-count // per_row)
    figure = Figure(figsize=(width_in, height_in * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=sharey).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.set_axisbelow(True)
    return figure, axes[:count]


def _label(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=11)
    ax.set_ylabel(y, fontsize=11)
    ax.tick_params(labelsize=9.5)


def _legend(ax: Axes, loc: Location = "best", title: str | None = None) -> None:
    ax.legend(loc=loc, title=title, fontsize=9, title_fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _text(raw: str) -> str:
    """A name as a label: a dollar does not begin a formula, and what the font lacks becomes a question mark."""
    composed = unicodedata.normalize("NFKC", raw)
    known = "".join(c if c.isprintable() and ord(c) < 0x530 else "?" for c in composed)
    # A label that starts with an underscore would be left out of the legend.
    return (" " + known if known.startswith("_") else known).replace("$", r"\$")
