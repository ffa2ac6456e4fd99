"""Pictures of what was measured: small SVG files, the same to the byte for the same numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # to describe a picture takes no matplotlib
    from matplotlib.axes import Axes

# Middle tones on no background: they stand out from white paper and from a dark page alike.
GREY = "#7d7d7d"
OWN_COLOUR = "#e0731d"
COLOURS = ("#3d8fd1", OWN_COLOUR, "#3aa36b", "#b565c9", "#c9a227", "#d1495b", "#7d7d7d", "#2aa5a0")

WIDTH = 6.8
PLOT_HEIGHT = 3.8
BAR_HEIGHT = 0.32

STYLE: dict[str, object] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "savefig.transparent": True,
    # Text stays text: a tenth of the size, and a browser can find it.
    "svg.fonttype": "none",
    "svg.hashsalt": "fastapi_aqueduct",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis.

    Attributes:
        title: What is seen.
        x_label: Of the horizontal axis, with its unit.
        y_label: Of the vertical axis, with its unit.
        lines: The points of each line, by its name.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is; otherwise it begins at zero.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False

    def save(self, path: Path) -> None:
        """Write it as an SVG file."""
        with drawing(path, PLOT_HEIGHT, self.title) as axes:
            for name, points in self.lines.items():
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
            axes.set_xlabel(self.x_label)
            axes.set_ylabel(self.y_label)
            self._scale(axes)
            axes.grid()
            if len(self.lines) > 1:
                axes.legend()

    def _scale(self, axes: Axes) -> None:
        from matplotlib.ticker import EngFormatter

        if self.log_x:
            axes.set_xscale("log")
        if self.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))


@dataclass(frozen=True)
class Bars:
    """One quantity of several subjects: the median as a bar, minimum and maximum as a whisker.

    Attributes:
        title: What is seen.
        label: Of the axis of values, with its unit.
        values: What was measured in each round, by subject, from top to bottom.
        own: The subjects that stand out.
        digits: Decimal places of the number at each bar.
    """

    title: str
    label: str
    values: Mapping[str, Sequence[float]]
    own: Collection[str] = ()
    digits: int = 0

    def save(self, path: Path) -> None:
        """Write it as an SVG file."""
        names = list(self.values)
        medians = [median(values) for values in self.values.values()]
        lows = [middle - min(values) for middle, values in zip(medians, self.values.values(), strict=True)]
        highs = [max(values) - middle for middle, values in zip(medians, self.values.values(), strict=True)]
        with drawing(path, 1 + BAR_HEIGHT * len(names), self.title) as axes:
            colours = [OWN_COLOUR if name in self.own else COLOURS[0] for name in names]
            bars = axes.barh(names, medians, xerr=(lows, highs), color=colours, ecolor=GREY, capsize=2)
            axes.bar_label(bars, [f"{value:,.{self.digits}f}" for value in medians], padding=5)
            axes.set_xlabel(self.label)
            axes.set_xlim(left=0)
            axes.margins(x=0.12)
            axes.invert_yaxis()
            axes.grid(axis="x")
            axes.set_axisbelow(True)


@contextmanager
def drawing(path: Path, height: float, title: str) -> Iterator[Axes]:
    """Open axes to draw on, and write them as an SVG file at the end of the context."""
    from matplotlib import cycler, rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes
        # Date and version of matplotlib would make a new file of the same numbers.
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
