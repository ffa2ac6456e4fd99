"""Measures everything, or what ONLY names, and prints tables; the exit status tells whether every promise held.

With ``--page`` it also writes what it measured into the documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from . import (
    actors,
    batching,
    calls,
    coalescing,
    crowd,
    fairness,
    groups,
    growth,
    keys,
    memory,
    noop,
    ocr,
    recovery,
    replacement,
    response,
    scaling,
    shapes,
    sharing,
    sleep,
    slow_clients,
    startup,
    steps,
    streams,
    upload,
    waiting,
    weights,
    worker,
)
from .contest import SUBJECTS
from .cores import ASLEEP, awake
from .report import Report
from .surroundings import surroundings
from .weather import Weather

if TYPE_CHECKING:
    from .page import Page

BENCHMARKS: dict[str, Callable[[], Report]] = {
    "calls": calls.measure,
    "calls-uvloop": calls.measure_uvloop,
    "memory": memory.measure,
    "worker": worker.measure,
    "noop": noop.measure,
    "noop-asleep": noop.measure,
    "latency": noop.measure_latency,
    "latency-asleep": noop.measure_latency,
    "upload-1mib": upload.measure_small,
    "upload-16mib": upload.measure_large,
    "crowd": crowd.measure,
    "response-16mib": response.measure,
    "batching": batching.measure,
    "keys": keys.measure,
    "steps": steps.measure,
    "coalescing": coalescing.measure,
    "fairness": fairness.measure,
    "groups": groups.measure,
    "ocr": ocr.measure,
    "waiting": waiting.measure,
    "startup": startup.measure,
    "recovery": recovery.measure,
    "replacement": replacement.measure,
    "sleep": sleep.measure,
    "weights": weights.measure,
    "sharing": sharing.measure,
    "sharing-memory": sharing.measure_memory,
    "sharing-batches": sharing.measure_batches,
    "scaling": scaling.measure,
    "scaling-uploads": scaling.measure_uploads,
    "ray": actors.measure,
    "slow-clients": slow_clients.measure,
    "streams": streams.measure,
    "shapes": shapes.measure,
    "growth-depth": growth.measure_depth,
    "growth-workers": growth.measure_workers,
    "growth-steps": growth.measure_steps,
    "growth-payload": growth.measure_payload,
}

DROWSY = {"noop-asleep", "latency-asleep"}
"""Those that take the processors as the system has them. Not all who are compared lose as much by it, and busy polling
is for nothing else."""


def main() -> int:
    only = os.environ.get("ONLY") or None
    if only is not None and only not in BENCHMARKS:
        print(f"ONLY={only} names no benchmark; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    where = surroundings()
    page = _page(where)
    print(where, flush=True)
    holds = True
    for name, measure in BENCHMARKS.items():
        if only in (None, name):
            with nullcontext(ASLEEP) if name in DROWSY else awake() as wakefulness:
                before = Weather.now()
                report = measure()
                weather = f"{before.until(Weather.now())}; {wakefulness}"
            print(f"\n{report}\n\n{weather}", flush=True)
            holds = holds and report.holds
            if page is not None:
                page.put(name, report, weather)
    return 0 if holds else 1


def _page(where: str) -> Page | None:
    if sys.argv[1:] != ["--page"]:
        return None
    if SUBJECTS:
        raise SystemExit("the page shows all subjects: leave SUBJECTS or --page away")
    from .page import Page  # needs matplotlib, which a quick look at a few numbers does not

    return Page(list(BENCHMARKS), where)


if __name__ == "__main__":
    sys.exit(main())
