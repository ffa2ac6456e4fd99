"""What a worker needs beyond a bare interpreter."""

from __future__ import annotations

from .processes import MIB, Footprint
from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 7
MOST = 6.0

# A module of its own would import more than it is allowed to.
INTERPRETER = "import multiprocessing, numpy, sys; print(0, flush=True); sys.stdin.read()"


def measure() -> Report:
    """Look at idle workers and at an idle interpreter that are alive at the same time.

    PSS divides a page by the number of processes that map it, so all must be there, and all in equal shares.
    """
    bare: list[float] = []
    plain: list[float] = []
    with_numpy: list[float] = []
    for _ in range(ROUNDS):
        with Subject("-c", INTERPRETER) as interpreter, Subject("-m", f"{__package__}.subjects.workers") as workers:
            interpreter.read()
            pids = workers.read()
            for values, pid in ((bare, interpreter.pid), (plain, pids["plain"]), (with_numpy, pids["numpy"])):
                values.append(Footprint([pid]).total / MIB)
    interpreter_series = Series("interpreter that imported multiprocessing and numpy", bare, digits=1)
    rows = [
        interpreter_series,
        Series("worker whose handler's module does not import numpy", plain, digits=1),
        Series("worker whose handler's module imports numpy", with_numpy, digits=1),
    ]
    return Report(
        title="worker: memory of an idle worker of a trivial handler, PSS in MiB",
        notes=["each worker has answered one task; all processes are alive when they are measured"],
        rows=rows,
        promises=[
            Promise(_beyond(row, interpreter_series, f"{row.name}, beyond the interpreter"), limit=MOST)
            for row in rows[1:]
        ],
    )


def _beyond(row: Series, base: Series, name: str) -> Series:
    return Series(name, [one - two for one, two in zip(row.values, base.values, strict=True)], digits=2)
