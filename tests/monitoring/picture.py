"""A picture of the dashboard: its expressions, answered by Prometheus, as Grafana would draw them."""

from __future__ import annotations

import io
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter
from PIL import Image

from ..support import ROOT
from . import dashboard
from .server import Series
from .watching import Watched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = ROOT / "docs" / "monitoring" / "dashboard.png"

RATE_INTERVAL = 5.0
"""Seconds."""

GROUND, PANEL, LINE, TEXT = "#111217", "#181b1f", "#34373e", "#ccccdc"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#c0d8ff")

STYLE: dict[str, object] = {
    "axes.edgecolor": LINE,
    "axes.facecolor": PANEL,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.facecolor": GROUND,
    "font.family": "sans-serif",
    "font.size": 7,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}

UNITS = {
    "ops": EngFormatter("/s", sep=""),
    "s": EngFormatter("s"),
    "short": EngFormatter(sep=""),
    "bytes": FuncFormatter(lambda value, _: format_bytes(value)),
    "percentunit": PercentFormatter(1.0, decimals=1),
}

MOST_LINES = 6
"""Lines of a graph: the highest ones."""


def draw(watched: Watched) -> None:
    """Draw all rows of the dashboard, over the time of the load."""
    rows = list(dashboard.ROWS.items())
    with rc_context(STYLE), io.BytesIO() as file:
        figure = Figure(figsize=(13, 2.7 * len(rows)))
        for part, (title, panels) in zip(figure.subfigures(len(rows), 1), rows, strict=True):
            part.suptitle(title, x=0.004, y=0.99, ha="left", fontsize=11, fontweight="bold")
            part.subplots_adjust(left=0.045, right=0.99, top=0.81, bottom=0.3, wspace=0.22)
            for axes, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                draw_panel(axes, panel, watched)
        figure.savefig(file, dpi=90)
        # A third of the size.
        Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(FILE, optimize=True)


def draw_panel(axes: Axes, panel: dashboard.Panel, watched: Watched) -> None:
    """Draw a panel, with the units of its values and a legend."""
    lines = {
        legend(query.legend, series): series.points
        for query in panel.queries
        for series in watched.answer(query.expression, RATE_INTERVAL)
    }
    highest = {label: max(value for _, value in line if math.isfinite(value)) for label, line in lines.items()}
    chosen = sorted((label for label in lines if highest[label]), key=highest.__getitem__)[-MOST_LINES:]
    axes.set_title(panel.title)
    for label, colour in zip(sorted(chosen), COLOURS, strict=False):
        times, values = zip(*lines[label], strict=True)
        axes.plot([datetime.fromtimestamp(time) for time in times], values, color=colour, linewidth=1, label=label)
    axes.set_xlim(datetime.fromtimestamp(watched.start), datetime.fromtimestamp(watched.end))
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=5))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(UNITS[panel.unit])
    if chosen:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.11), ncols=2, fontsize=6)
    else:
        axes.text(0.5, 0.5, "0", transform=axes.transAxes, ha="center", fontsize=16)


def format_bytes(value: float) -> str:
    """Return a size with its unit."""
    exponent = min(3, int(math.log2(value)) // 10) if value >= 1 else 0
    return f"{value / 1024**exponent:.3g} {('B', 'KiB', 'MiB', 'GiB')[exponent]}"


def legend(template: str, series: Series) -> str:
    """Return a legend with the labels of a series in it."""
    return re.sub(r"{{(\w+)}}", lambda found: series.labels.get(found[1], ""), template)
