"""The releases of other packages whose private parts have been tried.

Each series is listed exactly: a newer one is used only through the public interface until it has been tried. What uses
private parts, and why, is in docs/contributing.md.
"""

from __future__ import annotations

KNOWN = {
    "fastapi": ("0.165",),
    "starlette": ("1.10",),
    "uvicorn": ("0.54",),
}
"""Release series by package."""


def unknown(package: str, version: str) -> str | None:
    """Return a sentence that says why a release is not known; None when it is known.

    Args:
        package: A key of `KNOWN`.
        version: What is installed.
    """
    series = KNOWN[package]
    if any(version == known or version.startswith(f"{known}.") for known in series):
        return None
    return f"{package} {version} is not among the releases that were tried ({', '.join(series)})"
