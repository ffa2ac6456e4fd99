"""Tasks that share runs beside the same tasks with a run each, without HTTP; and the digest that is their key."""

from __future__ import annotations

import hashlib
import time

from .processes import MIB
from .report import Promise, Report, Series
from .subject import Subject
from .subjects.coalescing import CALLERS, MODEL_TIME

ROUNDS = 5
SHARED, ALONE = "with coalesce_key", "without"
KEYS = {SHARED: "digest", ALONE: ""}
POPULAR, DIFFERENT = "popular", "different"
QUANTITIES = {
    "rate": (POPULAR, "answers/s, popular", 0),
    "p50": (POPULAR, "p50, ms, popular", 1),
    "p99": (POPULAR, "p99, ms, popular", 1),
    "cpu": (DIFFERENT, "processor time of the API process for an answer, us, all different", 1),
}
PIECE = 64 << 10
"""Bytes that a server reads at once."""


def measure() -> Report:
    """Run all in turns."""
    series = {
        (quantity, how): Series(how, [], digits, unit)
        for quantity, (_, unit, digits) in QUANTITIES.items()
        for how in KEYS
    }
    digest = Series("SHA-256", [], 2, "digest of an upload, ms for each MiB")
    for _ in range(ROUNDS):
        for how, key in KEYS.items():
            for kind in (POPULAR, DIFFERENT):
                with Subject("-m", f"{__package__}.subjects.coalescing", key, kind) as subject:
                    answer = subject.read()
                for quantity, (of, _, _) in QUANTITIES.items():
                    if of == kind:
                        series[quantity, how].values.append(answer[quantity])
        digest.values.append(_hash_mib())
    rate = series["rate", SHARED].over(series["rate", ALONE], "answers/s, popular: with / without")
    cost = series["cpu", SHARED].minus(series["cpu", ALONE], "processor time, us, all different: with - without")
    return Report(
        title=f"coalescing: {CALLERS} callers, one worker",
        notes=[
            f"popular: a model of {MODEL_TIME * 1000:.0f} ms; one of 100 things is asked for by chance, each rank n "
            "1/n as often as the first",
            "all different: a model that takes no time, and no two tasks have the same key: what the key costs",
        ],
        rows=[*series.values(), digest],
        promises=[Promise(rate, 2.0, is_minimum=True), Promise(cost, 100)],
    )


def _hash_mib() -> float:
    """Return the milliseconds that the digest of one MiB takes, in pieces as they come from a socket."""
    piece, count = bytes(PIECE), 16 * MIB // PIECE
    found = hashlib.sha256()
    started = time.perf_counter()
    for _ in range(count):
        found.update(piece)
    return (time.perf_counter() - started) * 1e3 / 16
