"""Measures everything, or what ONLY names, and prints tables; the exit status tells whether every promise held."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version

from . import memory, throughput, worker
from .report import Report

BENCHMARKS: dict[str, Callable[[], Report]] = {
    "throughput": throughput.measure,
    "memory": memory.measure,
    "worker": worker.measure,
}


def main() -> int:
    only = os.environ.get("ONLY") or None
    if only is not None and only not in BENCHMARKS:
        print(f"ONLY={only} names no benchmark; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    print(_surroundings(), flush=True)
    holds = True
    for name, measure in BENCHMARKS.items():
        if only in (None, name):
            report = measure()
            print(f"\n{report}", flush=True)
            holds = holds and report.holds
    return 0 if holds else 1


def _surroundings() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("aqueduct", "fastapi", "uvicorn", "numpy"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"Python {platform.python_version()}, {packages}\n"
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, load {load}"
    )


if __name__ == "__main__":
    sys.exit(main())
