"""The plots of the report, as SVG whose colors are those of the page around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from .costs import Curve, Point
from .model import API_PROCESS, CORES
from .result import StepFindings

SIZE = 3.6, 2.5
"""Inches of a plot; the page scales it."""

TEXT, GRID, MARK = "#010101", "#020202", "#030303"
SERIES = ("#040401", "#040402", "#040403", "#040404")
"""Colors that stand for those of the page."""

_OF_PAGE = {
    TEXT: "currentColor",
    GRID: "var(--grid)",
    MARK: "var(--mark)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}

_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
    "legend.frameon": False,
}

Value = Callable[[Point], float]


def plots_of(step: StepFindings) -> list[tuple[str, str]]:
    """Return the plots of a step, each with its title.

    Args:
        step: What was found of it.
    """
    if step.costs is None:
        return []
    size = "calls side by side" if step.costs.is_side_by_side else "batch size"
    curves = step.costs.curves
    plots = [
        ("Throughput of a worker", _over_size(curves, size, "tasks/s", lambda point: point.throughput, True)),
        ("Latency of a call", _over_size(curves, size, "ms", lambda point: point.seconds * 1000)),
        ("Memory of a worker", _over_size(curves, size, "MiB", lambda point: point.memory / 2**20)),
    ]
    if len(step.rates) > 1:
        plots.append(("Throughput of all workers", _over_workers(step.rates)))
    return plots


def limits_plot(limits: Mapping[str, float], bottleneck: str) -> str:
    """Return what each part of a flow could do.

    Args:
        limits: Tasks per second, by the name of the part.
        bottleneck: The part that can do the least.
    """
    names = sorted(limits, key=limits.__getitem__, reverse=True)
    labels = {API_PROCESS: "API process", CORES: "cores"}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2 * SIZE[0], 0.6 + 0.32 * len(names)), layout="constrained")
        axes = figure.subplots()
        values = [limits[name] for name in names]
        colors = [MARK if name == bottleneck else SERIES[0] for name in names]
        bars = axes.barh([labels.get(name, name) for name in names], values, color=colors, height=0.6)
        axes.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=4)
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 3)
        axes.set_xlabel("tasks/s")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", length=0)
        return _svg(figure)


def _over_size(curves: Mapping[int, Curve], label: str, unit: str, value: Value, shows_knee: bool = False) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for color, (threads, curve) in zip(SERIES, curves.items(), strict=False):
            sizes = [point.size for point in curve.points]
            name = f"{threads} thread{'s' * (threads > 1)}"
            axes.plot(sizes, list(map(value, curve.points)), "o-", color=color, label=name, markersize=3.5)
        if shows_knee:
            knee = next(iter(curves.values())).knee
            axes.plot([knee.size], [value(knee)], "o", color=MARK, markersize=9, fillstyle="none", label="knee")
            axes.legend()
        _label(axes, [point.size for curve in curves.values() for point in curve.points], label, unit)
        return _svg(figure)


def _over_workers(rates: Mapping[int, float]) -> str:
    counts = sorted(rates)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot(counts, [rates[count] for count in counts], "o-", color=SERIES[0], label="measured", markersize=3.5)
        ideal = [rates[counts[0]] * count / counts[0] for count in counts]
        axes.plot(counts, ideal, "--", color=GRID, label="if none slowed the others")
        axes.legend()
        _label(axes, counts, "workers", "tasks/s")
        return _svg(figure)


def _label(axes: Axes, sizes: Sequence[int], label: str, unit: str) -> None:
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.set_xticks(sorted(set(sizes)))
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.grid(axis="y")


def _svg(figure: Figure) -> str:
    """Return a figure as an element of a page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, of_page in _OF_PAGE.items():
        svg = svg.replace(color, of_page)
    return svg
