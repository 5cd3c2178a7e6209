"""What all figures share: colours by kind of run, panels, labels, and the picture file.

No pyplot: figures belong to the caller, and nothing global changes. One colour per kind of run everywhere (Okabe and
Ito's palette, safe for colour-blind readers); several runs of one kind differ in line style. Twelve inches of width
fill the page, so that type has the same size in every figure. Frames, ticks and labels are those of the field's papers,
set here: mplhep does the same for figures of pyplot, and asks for the newest matplotlib.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jetmae.report.run_reader import LOGISTIC, TREES, RecordedRun

KIND_COLOUR = {
    "finetune": "#0072B2",
    "scratch": "#D55E00",
    "probe": "#009E73",
    "random probe": "#CC79A7",
    LOGISTIC: "#000000",
    TREES: "#B87A00",
    "pretrain": "#4D4D4D",
}
SPLIT_COLOUR = {"train": "#9CC9E3", "test": "#0072B2"}
REFERENCE_COLOUR = "#D55E00"
_LINE_STYLES = ("-", "--", "-.", ":")
MINUS = "\N{MINUS SIGN}"
GREY = "#8A8A8A"
PIXELS_PER_INCH = 170  # 96 on the page; the rest is for screens with a high resolution

Style = dict[str, Any]  # keywords of matplotlib
Location = Literal["best", "upper left", "upper right", "lower center", "outside"]


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, on white."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, facecolor="white", metadata={"Software": None})
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


def make_panels(
    count: int, *, height_in: float, width_in: float = 12, per_row: int = 3, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes side by side, a new row after `per_row`."""
    num_columns, num_rows = min(count, per_row), -(-count // per_row)
    figure = Figure(figsize=(width_in, height_in * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=sharey).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    for ax in axes:
        finish_axes(ax)
    return figure, axes[:count]


def finish_axes(ax: Axes) -> None:
    """As in papers of the field: a closed frame, ticks on all sides that point inwards, small ones between."""
    ax.minorticks_on()
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.tick_params(which="major", length=6)
    ax.tick_params(which="minor", length=3)
    ax.set_axisbelow(True)


def label_axes(ax: Axes, x: str, y: str) -> None:
    """Labels at the ends of the axes, where papers of the field have them."""
    ax.set_xlabel(x, fontsize=11, loc="right")
    ax.set_ylabel(y, fontsize=11, loc="top")
    ax.tick_params(labelsize=9.5)


def legend(ax: Axes, loc: Location = "best", title: str | None = None, num_columns: int = 1) -> None:
    """Without a frame; `outside` is above the axes, where data may be everywhere inside."""
    where: Style = {"loc": loc}
    if loc == "outside":
        where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "columnspacing": 1.2, "handlelength": 1.4}
    ax.legend(**where, ncols=num_columns, title=title, fontsize=9, title_fontsize=8, frameon=False)


def plain_text(raw: str) -> str:
    """A name as a label: a dollar does not begin a formula, and what the font lacks becomes a question mark."""
    composed = unicodedata.normalize("NFKC", raw)
    known = "".join(c if c.isprintable() and ord(c) < 0x530 else "?" for c in composed)
    # A label that starts with an underscore would be left out of the legend.
    return (" " + known if known.startswith("_") else known).replace("$", r"\$")
