"""Percentiles of what a histogram has counted, of late or since the start."""

from __future__ import annotations

from ...flow import Histogram

PERCENTILES = (50, 95, 99)


def since(now: Histogram, before: Histogram | None) -> Histogram:
    """Return what was counted between two snapshots of one histogram.

    Args:
        now: The later one.
        before: The earlier one; None: since the start. One with more values is from before a restart of the flow.
    """
    if before is None or before.count > now.count or before.bounds != now.bounds:
        return now
    counts = tuple(late - early for late, early in zip(now.counts, before.counts, strict=True))
    return Histogram(now.bounds, counts, now.sum - before.sum)


def describe(now: Histogram | None, before: Histogram | None) -> dict[str, float | int | bool] | None:
    """Return the mean, the percentiles and the number of values between two snapshots, for JSON.

    Args:
        now: The later one; None: nothing was measured.
        before: The earlier one, as for `since`.

    Returns:
        If there is none between the two, those since the start, marked as not recent. None without any value.
    """
    if now is None or not now.count:
        return None
    recent = since(now, before)
    is_recent = before is not None and recent.count > 0
    shown = recent if is_recent else now
    percentiles = {f"p{percent}": percentile(shown, percent / 100) for percent in PERCENTILES}
    return {"mean": shown.sum / shown.count, **percentiles, "count": shown.count, "is_recent": is_recent}


def describe_part(now: object, before: object, name: str) -> dict[str, float | int | bool] | None:
    """Do the same for one of several histograms.

    Args:
        now: The later ones; None: nothing was measured.
        before: The earlier ones; None: there are none.
        name: Its name.
    """
    return describe(getattr(now, name, None), getattr(before, name, None))


def percentile(histogram: Histogram, part: float) -> float:
    """Return the value below which a part of the values lie.

    Values are taken to be spread evenly over their range; those of the last one, which has no end, to be its beginning.

    Args:
        histogram: At least one value.
        part: Between 0 and 1.
    """
    wanted, below = part * histogram.count, 0
    for place, count in enumerate(histogram.counts[:-1]):
        if count and below + count >= wanted:
            low = histogram.bounds[place - 1] if place else 0.0
            return low + (histogram.bounds[place] - low) * (wanted - below) / count
        below += count
    return histogram.bounds[-1]
