"""Where the numbers come from."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "numpy",
    "aqueduct",
    "aiohttp",
    "mosec",
    "litserve",
    "gunicorn",
    "MLPool",
    "ray",
)


def surroundings() -> str:
    """Name date, machine and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC; {os.cpu_count()} cores of {_processor()}, "
        f"{memory:.0f} GiB, {platform.system()} {platform.release().partition('-')[0]}; "
        f"Python {platform.python_version()}, {', '.join(filter(None, map(_version, PACKAGES)))}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""
