"""What was found, in words: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterator

from ..sizes import bytes_as_text, seconds_as_text
from .load_run import Outcome
from .model import API_PROCESS, CORES
from .result import Comparison, Findings, StepFindings


def rate_text(rate: float) -> str:
    """Return a number of tasks per second."""
    return f"{rate:,.0f} tasks/s" if rate >= 100 else f"{rate:.3g} tasks/s"


def percent_text(part: float) -> str:
    """Return a difference in percent, with its sign."""
    percent = round(100 * part)
    return f"{percent:+} %" if percent else "0 %"


def verdict(findings: Findings) -> Iterator[str]:
    """Yield what was found, in sentences."""
    if findings.is_interrupted:
        yield "Interrupted: what follows is from the measurements until then."
    found = findings.recommendation
    if found is None:
        yield "Too little was measured for a recommendation."
        return
    if not found.is_met:
        yield f"No settings on this machine reach the goal, {findings.goal}. These are the best there are."
    capacity = rate_text(found.capacity.rate)
    yield f"The bottleneck is {_bottleneck(findings)}: with these settings the flow can do {capacity}."
    half, most = (seconds_as_text(found.expected.percentile(percent)) for percent in (50, 95))
    yield (
        f"At {found.load} expect {rate_text(found.expected.rate)}, half of the tasks within {half} and 95 % within "
        f"{most}, and {bytes_as_text(found.memory)} of memory for the workers."
    )
    yield from _compared(findings)


def _bottleneck(findings: Findings) -> str:
    assert findings.recommendation is not None
    name = findings.recommendation.capacity.bottleneck
    if name == CORES:
        return f"the processor ({findings.cores} core{'s' * (findings.cores > 1)})"
    return name if name == API_PROCESS else f"step {name}"


def _compared(findings: Findings) -> Iterator[str]:
    before, after = findings.before, findings.after
    if after is None:
        return
    if after.rate_error is not None and after.time_error is not None:
        memory = "" if after.memory_error is None else f", and {percent_text(after.memory_error)} of the memory"
        yield (
            f"A run with them did {rate_text(after.outcome.rate)} with a mean of {seconds_as_text(after.outcome.mean)} "
            f"and {bytes_as_text(after.outcome.memory)} of memory; the prediction was off by "
            f"{percent_text(after.rate_error)} of the rate, {percent_text(after.time_error)} of the mean{memory}."
        )
    if before is not None:
        yield from _against_own(findings.comparison, before.outcome, after.outcome)


def _against_own(comparison: Comparison, before: Outcome, after: Outcome) -> Iterator[str]:
    own = rate_text(before.rate)
    match comparison:
        case Comparison.SAME_RATE:
            yield f"At the same load its own settings did {own} with a mean of {seconds_as_text(before.mean)}."
        case Comparison.DISTURBED:
            yield (
                f"Its own settings did {own}, but that cannot be compared: other processes used "
                f"{before.foreign_cores:.1f} cores meanwhile, and {after.foreign_cores:.1f} during the other run."
            )
        case Comparison.FASTER:
            yield f"That is {100 * (after.rate / before.rate - 1):.0f} % more than the {own} that its own settings did."
        case Comparison.EQUAL:
            yield f"Its own settings did as much: {own}."
        case Comparison.SLOWER:
            yield f"Keep its own settings: they did {own}. No variables are recommended."


def step_words(step: StepFindings) -> Iterator[str]:
    """Yield what a step costs, in sentences."""
    if step.costs is None:
        yield "Not measured."
        return
    threads, curve = next(iter(step.costs.curves.items()))
    knee = curve.knee
    things = "calls side by side" if step.costs.is_side_by_side else "tasks"
    yield (
        f"A call takes {seconds_as_text(curve.fixed)}, and {seconds_as_text(curve.per_task)} more for each of its "
        f"{things} ({threads} thread{'s' * (threads > 1)}). The knee is at {knee.size}: {rate_text(knee.throughput)} "
        f"for each worker, at {seconds_as_text(knee.seconds)} for a call."
    )
    yield (
        f"A worker computes for {100 * min(1.0, knee.cpu / knee.seconds):.0f} % of that time and needs "
        f"{bytes_as_text(curve.memory(knee.size))}; it is ready {seconds_as_text(step.load_time)} after its launch."
    )
    if step.visits < 1:
        yield f"{100 * step.visits:.0f} % of the samples visit it."
    if len(step.rates) > 1:
        rates = [f"{count} do {rate_text(rate)}" for count, rate in sorted(step.rates.items())]
        yield f"Workers: {', '.join(rates)}."
