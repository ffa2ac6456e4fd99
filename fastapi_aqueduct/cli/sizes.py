"""Bytes and seconds as text."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def bytes_as_text(size: int | None) -> str:
    """Return a number of bytes with three digits; "-" for None."""
    if size is None:
        return "-"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def seconds_as_text(seconds: float | None) -> str:
    """Return a time with three digits; "-" for None."""
    if seconds is None:
        return "-"
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 0.0009995 else f"{seconds * 1e6:.3g} us"
