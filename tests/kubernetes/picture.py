"""The picture of the documentation: what the clients saw, what was scaled by, and the life of each pod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..benchmarks.plot import GREY, STYLE
from .journal import Entry
from .manifests import DIRECTORY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = DIRECTORY / "run.svg"

WIDTH = 5
"""Seconds of traffic that a point stands for."""

GREEN, ORANGE, RED, BLUE, VIOLET = "#3aa36b", "#e0731d", "#d1495b", "#3d8fd1", "#b565c9"

STATES = {
    "starting": (GREY, "starts"),
    "unready": (VIOLET, "is not ready"),
    "ready": (BLUE, "serves"),
    "waiting": (RED, "has crashed, waits"),
    "terminating": (ORANGE, "drains and stops"),
}
"""Colour and name of each state of a pod."""


BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 8}
"""Where legends are: to the right of their row."""


class Span(NamedTuple):
    """A time of a pod in one state."""

    pod: str
    state: str
    start: float
    end: float


def draw(entries: Sequence[Entry]) -> None:
    """Draw a log."""
    pods = list(dict.fromkeys(entry.data["pod"] for entry in entries if entry.kind == "pod"))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.2 + 0.15 * len(pods)), layout="constrained")
        heights = [2.0, 1.2, 1.2, 0.6 + 0.15 * len(pods)]
        requests, values, numbers, lives = figure.subplots(4, 1, sharex=True, height_ratios=heights)
        draw_requests(requests, entries)
        draw_values(values, entries)
        draw_numbers(numbers, entries)
        draw_lives(lives, entries, pods)
        lives.set_xlabel("seconds")
        lives.set_xlim(0, entries[-1].time)
        mark_stages((requests, values, numbers, lives), entries)
        figure.savefig(FILE, format="svg", metadata={"Date": None, "Creator": None})


def mark_stages(rows: Sequence[Axes], entries: Sequence[Entry]) -> None:
    """Draw a line at the beginning of each stage, with its name above the first row."""
    for entry in entries:
        if entry.kind == "stage":
            for axes in rows:
                axes.axvline(entry.time, color=GREY, linewidth=0.6, linestyle=":")
            name = entry.data["name"]
            rows[0].text(entry.time, 1.02, name, transform=rows[0].get_xaxis_transform(), rotation=40, fontsize=8)


def draw_requests(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw what became of the requests, in each second."""
    traffic = [entry for entry in entries if entry.kind == "traffic"]
    groups = [traffic[start : start + WIDTH] for start in range(0, len(traffic) - WIDTH + 1, WIDTH)]
    times = [group[-1].time for group in groups]
    rates = {
        fate: [sum(entry.data.get(fate, 0) for entry in group) / WIDTH for group in groups]
        for fate in ("answered", "refused", "lost")
    }
    totals = {fate: sum(entry.data.get(fate, 0) for entry in traffic) for fate in rates}
    labels = [f"{total:,} {fate}" for fate, total in totals.items()]
    axes.stackplot(times, *rates.values(), labels=labels, colors=(GREEN, ORANGE, RED), alpha=0.85)
    axes.set_ylabel("requests/s")
    axes.legend(**BESIDE)


def draw_values(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw the metrics in relation to their targets, as the autoscaler saw them."""
    scales = [entry for entry in entries if entry.kind == "scale"]
    for index, (name, colour) in enumerate((("expected wait", ORANGE), ("busy share", BLUE))):
        points = [
            (entry.time, entry.data["values"][index] / entry.data["targets"][index])
            for entry in scales
            if index < len(entry.data["values"]) and entry.data["values"][index] is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=".", markersize=4, label=name)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("metric / target")
    axes.legend(**BESIDE)


def draw_numbers(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw how many pods were wanted, and how many served."""
    scales = [entry for entry in entries if entry.kind == "scale"]
    end = entries[-1].time
    wanted = [(0.0, scales[0].data["wanted"]), *((entry.time, entry.data["wanted"]) for entry in scales)]
    axes.step(*zip(*wanted, (end, wanted[-1][1]), strict=True), where="post", color=GREY, label="wanted")
    changes = sorted(
        (time, change)
        for span in spans(entries)
        if span.state == "ready"
        for time, change in ((span.start, 1), (span.end, -1))
    )
    ready = [(0.0, 0)]
    for time, change in changes:
        ready.append((time, ready[-1][1] + change))
    axes.step(*zip(*ready, strict=True), where="post", color=BLUE, label="ready")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("pods")
    axes.legend(**BESIDE)


def draw_lives(axes: Axes, entries: Sequence[Entry], pods: Sequence[str]) -> None:
    """Draw a line for each pod, from top to bottom."""
    found = list(spans(entries))
    for span in found:
        axes.barh(pods.index(span.pod), span.end - span.start, 0.7, span.start, color=STATES[span.state][0])
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_ylabel("one line for each pod")
    shown = {span.state for span in found if span.end - span.start > 1}
    patches = [Patch(color=colour, label=name) for state, (colour, name) in STATES.items() if state in shown]
    axes.legend(handles=patches, **BESIDE)


def spans(entries: Sequence[Entry]) -> Iterator[Span]:
    """Yield each time of a pod in a state."""
    for pod in dict.fromkeys(entry.data["pod"] for entry in entries if entry.kind == "pod"):
        own = [entry for entry in entries if entry.kind == "pod" and entry.data["pod"] == pod]
        for entry, following in pairwise([*own, entries[-1]]):
            if entry.data["state"] != "gone":
                yield Span(pod, entry.data["state"], entry.time, following.time)
