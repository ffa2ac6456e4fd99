"""What a check has measured and found; `Report.as_json` is the stable form for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from ...engine.shape import Shape
from ...settings import Setting
from .finding import Finding, Severity

SCHEMA = 1
"""Version of the JSON. Fields may be added to it; a change of one is another version."""


class Travel(StrEnum):
    """How a field comes into a process.

    Attributes:
        REFERENCE: It lay in shared memory before, and is not copied.
        SHARED: It was copied into shared memory once, and is read there by all processes that follow.
        PICKLED: It is a part of a pickle, which each process makes and reads anew.
    """

    REFERENCE = "reference"
    SHARED = "shared"
    PICKLED = "pickled"


@dataclass(frozen=True)
class Field:
    """A field of a task.

    Attributes:
        name: Its name.
        type: Its type, with the shape of an array or the length of a collection.
        size: Bytes of it as it travels.
        pickled: Those of them that are in the pickle.
        travel: How most of it travels.
    """

    name: str
    type: str
    size: int
    pickled: int
    travel: Travel


@dataclass(frozen=True)
class Worker:
    """A worker process.

    Attributes:
        pid: Its process id.
        index: Its number in the step.
        device: Its device; None without `WorkerOptions.devices`.
        import_time: Seconds from its launch until the modules of the user were imported; None if not known.
        load_time: Seconds from its launch until it was ready.
        private_memory: Bytes of private memory after the sample; None where the system does not tell.
        model_memory: Bytes by which it has grown in `on_start`; None as for ``private_memory``.
        threads: Its threads without those of the engine: the one of ``handle``, and those of libraries. None as for
            ``private_memory``.
        computing_threads: Those of them that have computed for the sample; None if it was too short to tell.
        numeric_threads: What numeric libraries were told, as OMP_NUM_THREADS.
        fastapi_importers: Modules because of which FastAPI is imported; empty if it is not.
    """

    pid: int
    index: int
    device: str | None
    import_time: float | None
    load_time: float
    private_memory: int | None
    model_memory: int | None
    threads: int | None
    computing_threads: int | None
    numeric_threads: int
    fastapi_importers: Sequence[str] = ()


@dataclass(frozen=True)
class Times:
    """The calls of a handler with the sample, in seconds.

    Attributes:
        first_call: The first one in its worker.
        warm_call: The fastest of some that followed, with one task each; None if there was none.
        batch_size: The tasks in one call, or side by side; 1 if the step has no batches.
        batched_time: Seconds for each task of the fastest call with that number of tasks; None if there was none.
        single_time: The same with one task; None as for ``batched_time``.
        is_staggered: Whether tasks of one call are finished at different times, so these two are until the last answer.
    """

    first_call: float
    warm_call: float | None = None
    batch_size: int = 1
    batched_time: float | None = None
    single_time: float | None = None
    is_staggered: bool = False


@dataclass(frozen=True)
class Step:
    """A step of the flow.

    Attributes:
        name: Its name.
        handler: Class of the handler, with its module.
        form: ``"plain"``, ``"generator"``, ``"coroutine"`` or ``"async generator"``.
        handler_size: Bytes of the pickled handler, which each worker reads; None if it cannot be pickled.
        settings: Its effective numbers.
        workers: Its worker processes; empty if they were not started.
        fields_in: The fields of the sample on the way in; None if it has not come here.
        fields_out: The same on the way out.
        times: What its calls have taken; None as for ``fields_in``.
    """

    name: str
    handler: str
    form: str
    handler_size: int | None
    settings: Sequence[Setting]
    workers: Sequence[Worker] = ()
    fields_in: Sequence[Field] | None = None
    fields_out: Sequence[Field] | None = None
    times: Times | None = None


@dataclass(frozen=True)
class Run:
    """The way of the sample through the flow.

    Attributes:
        sample: The function that has made it.
        task: Its class.
        total_time: Seconds until the answer; None if it has failed.
        items: Number of items of a stream; None if it is none.
        first_item: Seconds until the first of them.
        item_type: Type of the first of them.
    """

    sample: str
    task: str
    total_time: float | None = None
    items: int | None = None
    first_item: float | None = None
    item_type: str | None = None


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        target: What was checked.
        flow: Name of the flow; None if there is none.
        shape: Its steps as `Flow.shape` has them.
        cores: Cores that this process may use.
        settings: The effective numbers of the flow.
        steps: Its steps.
        run: The way of the sample; None without one.
        findings: What is wrong.
        schema: Version of the JSON.
    """

    target: str
    flow: str | None
    shape: Shape
    cores: int
    settings: Sequence[Setting]
    steps: Sequence[Step]
    run: Run | None
    findings: Sequence[Finding]
    schema: int = SCHEMA

    @property
    def has_errors(self) -> bool:
        """Whether something does not work."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def as_json(self) -> str:
        """Return the report for programs."""
        return json.dumps({"ok": not self.has_errors, **asdict(self)}, indent=2)
