"""What the numbers of a check say, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...handler import BaseTaskHandler
from ..sizes import bytes_as_text, seconds_as_text
from .finding import Code, Finding, Severity
from .pickles import largest_part
from .report import Step, Travel

LARGE_HANDLER = 1 << 20
"""Bytes of a pickled handler from which it probably has a model."""

LARGE_FIELD = 64 << 10
"""Bytes of a pickled field from which its copies cost more than a step should."""

GAIN = 0.9
"""The time of a task in a batch, as a part of its time alone, from which the batch does not pay."""

SLOW_FIRST_CALL = 0.5
"""Seconds of a first call that a request would notice."""

MANY_CALLS = 5
"""How many later calls such a call takes."""


def handler_findings(name: str, handler: BaseTaskHandler, size: int) -> Iterator[Finding]:
    """Find a handler that is made with its model."""
    if size >= LARGE_HANDLER:
        kind = type(handler).__qualname__
        part = largest_part(kind, handler) or "its attributes"
        yield Finding(
            Code.LARGE_HANDLER,
            Severity.WARNING,
            f"the pickled handler has {bytes_as_text(size)}, most of it {part}, and every worker reads it: load that "
            f"in {kind}.on_start, so that it is neither in this process nor in a pickle",
            name,
        )


def worker_findings(steps: Sequence[Step], cores: int) -> Iterator[Finding]:
    """Find what the workers have that they should not have."""
    names = [step.name for step in steps if any(worker.fastapi_importers for worker in step.workers)]
    if names:
        importers = sorted({name for step in steps for worker in step.workers for name in worker.fastapi_importers})
        yield Finding(
            Code.FASTAPI_IN_WORKER,
            Severity.WARNING,
            f"the workers of {', '.join(names)} import FastAPI, because of {', '.join(importers)}: it costs each of "
            "them tens of megabytes and time at its start; put handlers, tasks and conditions into a module that does "
            "not import it",
            names[0] if len(names) == 1 else "",
        )
    yield from _thread_findings(steps, cores)


def _thread_findings(steps: Sequence[Step], cores: int) -> Iterator[Finding]:
    told = {step.name: [worker.numeric_threads for worker in step.workers] for step in steps if step.workers}
    total = sum(map(sum, told.values()))
    if total > cores:
        parts = ", ".join(f"{name} {len(counts)} x {max(counts)}" for name, counts in told.items())
        is_chosen = max(map(max, told.values())) > 1
        advice = (
            "leave out OMP_NUM_THREADS and WorkerOptions(threads=...), so that each worker gets its share"
            if is_chosen
            else "with more workers than cores they wait for each other, unless they wait for something else"
        )
        yield Finding(
            Code.THREADS,
            Severity.WARNING if is_chosen else Severity.NOTE,
            f"the workers may use {total} threads for numbers on {cores} cores ({parts}): {advice}",
        )
    for step in steps:
        counts = [worker.computing_threads for worker in step.workers if worker.computing_threads is not None]
        allotted = max((worker.numeric_threads for worker in step.workers), default=1)
        if counts and max(counts) > allotted and max(counts) * len(step.workers) > cores:
            yield Finding(
                Code.THREADS,
                Severity.WARNING,
                f"a worker computes in {max(counts)} threads, not {allotted}, with {len(step.workers)} workers on "
                f"{cores} cores: a library ignores OMP_NUM_THREADS; give it worker_info().threads, such as "
                "intra_op_num_threads of onnxruntime",
                step.name,
            )


def sample_findings(steps: Sequence[Step]) -> Iterator[Finding]:
    """Find what the way of the sample has shown."""
    for step in steps:
        if step.times is None:
            yield Finding(
                Code.NOT_VISITED,
                Severity.NOTE,
                "the sample has not come here, so nothing was measured: give one whose tasks meet its handle_condition",
                step.name,
            )
            continue
        yield from _batch_findings(step)
        yield from _first_call_findings(step)
        seen: set[str] = set()
        for field in (*(step.fields_in or ()), *(step.fields_out or ())):
            if field.travel is Travel.PICKLED and field.pickled >= LARGE_FIELD and field.name not in seen:
                seen.add(field.name)
                yield Finding(
                    Code.PICKLED_FIELD,
                    Severity.WARNING,
                    f"the field {field.name} of type {field.type} is pickled, {bytes_as_text(field.pickled)} of it, "
                    "and each process copies it: as a numpy array or as bytes it would stay in shared memory",
                    step.name,
                )


def _first_call_findings(step: Step) -> Iterator[Finding]:
    times = step.times
    if times is not None and times.warm_call and times.first_call > max(SLOW_FIRST_CALL, MANY_CALLS * times.warm_call):
        yield Finding(
            Code.SLOW_FIRST_CALL,
            Severity.WARNING,
            f"the first call in a worker takes {seconds_as_text(times.first_call)}, and later ones "
            f"{seconds_as_text(times.warm_call)}: call the model once in on_start, so that no request waits for it",
            step.name,
        )


def _batch_findings(step: Step) -> Iterator[Finding]:
    times = step.times
    if times is None or times.batched_time is None or times.single_time is None:
        return
    if times.batched_time <= GAIN * times.single_time:
        return
    if times.is_staggered:
        yield Finding(
            Code.BATCH_DOES_NOT_PAY,
            Severity.NOTE,
            f"{times.batch_size} tasks side by side take {seconds_as_text(times.batched_time)} each, and one alone "
            f"{seconds_as_text(times.single_time)}: they only begin sooner, and end as late as one after the other",
            step.name,
        )
    else:
        yield Finding(
            Code.BATCH_DOES_NOT_PAY,
            Severity.WARNING,
            f"a task takes {seconds_as_text(times.batched_time)} in a batch of {times.batch_size}, and "
            f"{seconds_as_text(times.single_time)} alone: the batch gains nothing, and its tasks wait for each other; "
            "let `handle` work on all tasks in one call of the model, or leave out batch_size",
            step.name,
        )
