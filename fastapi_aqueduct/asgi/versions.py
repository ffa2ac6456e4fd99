"""The releases of other packages with which the use of their private parts is tested.

Each series is listed. An unlisted release is used only through its public interface until it is tested.
docs/contributing.md lists the private parts and the reasons for their use.
"""

from __future__ import annotations

KNOWN = {
    "fastapi": ("0.165",),
    "starlette": ("1.10",),
    "uvicorn": ("0.54",),
}
"""Tested release series by package."""


def unknown(package: str, version: str) -> str | None:
    """Return a sentence that says why a release is not known; None when it is known.

    Args:
        package: A key of `KNOWN`.
        version: The installed version.
    """
    series = KNOWN[package]
    if any(version == known or version.startswith(f"{known}.") for known in series):
        return None
    return f"{package} {version} is not among the tested releases ({', '.join(series)})"
