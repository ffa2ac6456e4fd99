"""The declaration of a step: its handler, its processes and its batches."""

from __future__ import annotations

import copy
import inspect
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from .autoscale import Autoscale
from .cost import Cost, check_key
from .exceptions import ConfigurationError, got
from .handler import BaseTaskHandler, HandleConditionType, HandlerForm, check_methods, form_of
from .placement.ray_actor import RayActor
from .travel import local_function
from .worker_options import WorkerOptions

# Valid in a label of a metric, a token of an HTTP header and a line of a log without quotes.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

DEFAULT_CONCURRENCY = 100
"""Calls of an ``async def handle`` that a worker has under way at once: as many connections as HTTP clients have."""


class FlowStep:
    """A step of a flow: a handler, the processes that run it, and how its tasks are batched.

    Args:
        handler: An instance of a `BaseTaskHandler` subclass. It is pickled into each worker.
        handle_condition: Decides whether a task visits this step; other tasks go on to the next step. It is called
            in the process that the task comes from (the previous worker, or the process that calls
            ``Flow.process``), so it must be picklable: a function of a module, not a lambda.
        nprocs: Number of worker processes; with an `Autoscale` it follows the work, down to 0. The attribute is the
            number that the flow starts with.
        batch_size: The most tasks in one call of ``handle``.
        batch_timeout: Seconds to wait for a batch to fill, from the arrival of its first task; 0: never wait.
            ``"auto"``: a batch that is not full waits for further tasks while an idle worker could have it, but only
            as long as that has paid lately: when a further task saves more time than the waiting tasks lose. The
            policy learns from the times of the handler's calls and from the arrivals of tasks, with and without other
            tasks known to be uploading or in an earlier step. A handler whose call costs little beside its tasks
            never waits, and neither does one whose calls run side by side (``concurrency``).
        on_start_wait: Accepted for users of the package ``aqueduct`` and ignored.
        batch_key: Only tasks with the same key share a batch: the name of a field, or a function of the task, which is
            called where ``handle_condition`` is and must be one of a module. A key is a text, a number, `bytes`, a
            member of an `Enum`, or a tuple of them. The most urgent of the tasks that wait chooses the key of the next
            batch, so no key starves; ``batch_timeout`` counts for each key.
        batch_cost: What the tasks of a batch may cost together, beside ``batch_size``; see `Cost`. In a ``continuous``
            step those that are in the call cost no more together in any round.
        coalesce_key: Tasks with the same key that wait for this step or are in its hands share one run of it: the name
            of a field, or a function of the task, as for ``batch_key``; None as a key: the task shares none. Each gets
            the fields that the step has set, and nothing else of the task that has run. So **the key must contain
            whatever separates users**, if what the step sets depends on it. See "Identical requests".
        max_retries: How often a task runs again, alone, after the death of the worker that held it; 0 for a step that
            must run at most once. Calls that ran side by side (``continuous``, ``concurrency``) run again together
            first. With 0, an exception from a batch fails the whole batch; otherwise the batch runs
            again one by one, and only the task that raises fails; a batch that has run out of memory runs again in
            halves, and the worker remembers how many tasks have fitted. A task that carries a field shared with
            ``share_value`` never runs again, because its input may be half changed.
        handle_timeout: Seconds that one call of ``handle`` may take; one turn of a generator, from ``yield`` to
            ``yield``; one round of `BaseTaskHandler.rounds`. The stack of a worker that takes longer is logged, and the
            worker is killed and replaced, so this must exceed the slowest regular batch. A coroutine that takes longer
            is cancelled and fails with `HandlerTimeout`, and so does one item of an asynchronous generator; the worker
            is killed if they block its event loop for that time. None: no limit.
        check_timeout: Seconds that one call of `BaseTaskHandler.check` may take. A worker that takes longer is killed
            and replaced, after its stack was logged; a check that is ``async def`` is cancelled before, and the worker
            counts as unhealthy. None: no limit.
        max_tasks: Replace a worker after this number of tasks. The new one is ready before the old one stops.
        max_tasks_jitter: The most further tasks, a random number for each worker, so that workers are not replaced
            together.
        max_age: Replace a worker after this number of seconds.
        max_memory_growth: Replace a worker whose private memory has grown by this number of bytes since its first
            batch.
        busy_poll: Seconds for which a worker without a task polls for one before it sleeps, and for which the event
            loop does not sleep while it waits for that worker; 0: sleep at once. To wake a process takes 20 to 60 us
            each way, often more on a virtual machine, and it then runs with cold caches: a trip of 0.3 ms becomes one
            of about 0.1 ms. The price is processor time: after each task the worker keeps a core busy for this time,
            and until the answer comes the event loop another one, though it serves other callers. So it is for
            steps of well under a millisecond with a spare core for each worker. Choose about the time between
            two tasks, such as 0.001.
        continuous: Whether tasks join a call of ``handle`` that is under way, in each round of
            `BaseTaskHandler.rounds`, as long as fewer than ``batch_size`` are in it. Such a call goes on for as long as
            there are tasks, and one after a death of the worker has each of its tasks tried again alone.
        concurrency: Calls that one worker has under way at once if ``handle`` is a generator or ``async def``.
            Generators take turns in one thread, each from one ``yield`` to the next, so that a slow consumer pauses
            only its own stream; coroutines share an event loop. Default: 1 for a generator, since calls that take turns
            must keep no state in ``self`` or in a model that they share; 100 for ``async def``.
        worker: What each worker gets of its machine: devices, environment variables, threads; see `WorkerOptions`.
        name: Name of the step in logs, metrics, probes and errors, and in ``flow.steps``: letters, digits, ``_``,
            ``-`` and ``.``. Default: the numbered name, ``BaseTaskHandler.get_step_name``, such as ``step1_Classify``,
            by which ``flow.steps`` finds a named step too.

    Raises:
        ConfigurationError: A value cannot work.
    """

    def __init__(
        self,
        handler: BaseTaskHandler,
        handle_condition: HandleConditionType = operator.truth,
        nprocs: int | Autoscale = 1,
        batch_size: int = 1,
        batch_timeout: float | Literal["auto"] = 0.0,
        on_start_wait: float = 0.0,
        *,
        batch_key: str | Callable[[Any], Any] | None = None,
        batch_cost: Cost | None = None,
        coalesce_key: str | Callable[[Any], Any] | None = None,
        max_retries: int = 1,
        handle_timeout: float | None = None,
        check_timeout: float | None = 10.0,
        max_tasks: int | None = None,
        max_tasks_jitter: int = 0,
        max_age: float | None = None,
        max_memory_growth: int | None = None,
        busy_poll: float = 0.0,
        continuous: bool = False,
        concurrency: int | None = None,
        worker: WorkerOptions | None = None,
        name: str | None = None,
    ) -> None:
        self.handler = handler
        self._named_after = type(handler)  # names stay when the handler is replaced
        self.handle_condition = handle_condition
        self._set_nprocs(nprocs)
        self.batch_size = batch_size
        self.batch_timeout = batch_timeout
        self.batch_key = batch_key
        self.batch_cost = batch_cost
        self.coalesce_key = coalesce_key
        self.max_retries = max_retries
        self.handle_timeout = handle_timeout
        self.check_timeout = check_timeout
        self.max_tasks = max_tasks
        self.max_tasks_jitter = max_tasks_jitter
        self.max_age = max_age
        self.max_memory_growth = max_memory_growth
        self.busy_poll = busy_poll
        self.name = name
        self.continuous = continuous
        self.concurrency = concurrency
        self.worker = worker
        self._check()

    def numbered_name(self, number: int) -> str:
        """Return the name of the step by its number in the flow and the class of its first handler.

        Args:
            number: The number of the step, from 1.
        """
        return self._named_after.get_step_name(number)

    def with_handler(self, handler: BaseTaskHandler) -> FlowStep:
        """Return the same step with another handler.

        Args:
            handler: The handler.

        Raises:
            ConfigurationError: Its ``handle`` is of another form, such as a generator in the place of a plain method.
        """
        step = copy.copy(self)
        step.handler = handler
        step._check()
        if form_of(handler) is not form_of(self.handler):
            raise ConfigurationError(
                f"{type(handler).__name__} cannot take the place of {type(self.handler).__name__}: `handle` of both "
                "must be a plain method, both a generator, or both `async def`"
            )
        return step

    def with_stand_in(self, stand_in: BaseTaskHandler, handle_condition: Callable[[Any], Any]) -> FlowStep:
        """Return the same step without the user's code, for a process that does not have it.

        Args:
            stand_in: Stands for the handler; its ``handle`` has the same form.
            handle_condition: Stands for the condition.
        """
        step = self.with_handler(stand_in)
        step.handle_condition = handle_condition
        step._named_after = type(stand_in)
        return step

    def with_option(self, option: str, value: Any) -> FlowStep:
        """Return the same step with another value of an option.

        Args:
            option: Name of the option.
            value: Its value.

        Raises:
            ConfigurationError: The value cannot work.
        """
        step = copy.copy(self)
        if option == "nprocs":
            step._set_nprocs(value)
        else:
            setattr(step, option, value)
        step._check()
        return step

    @property
    def call_size(self) -> int:
        """The most tasks that are sent to a worker for one call of the handler."""
        return 1 if self.continuous else self.batch_size

    @property
    def places(self) -> int:
        """Calls that a worker has under way at once; 0: one after the other."""
        if self.continuous:
            return self.batch_size
        form = form_of(self.handler)
        if form is HandlerForm.PLAIN:
            return 0
        return self.concurrency or (DEFAULT_CONCURRENCY if form.is_async else 1)

    @property
    def placement(self) -> RayActor | None:
        """Where its handlers run; None: in processes of this machine."""
        return None if self.worker is None else self.worker.placement

    @property
    def sends_ahead(self) -> bool:
        """Whether a worker that makes one call after the other gets a second full batch while it works on one.

        On its way to another machine a batch takes time, which the worker would lose otherwise.
        """
        return self.placement is not None and not self.places

    @property
    def most_workers(self) -> int:
        """The most workers that it has at once, unless `Step.scale` asks for more."""
        return self.nprocs if self.autoscale is None else self.autoscale.maximum

    def _set_nprocs(self, nprocs: int | Autoscale) -> None:
        self.autoscale = nprocs if isinstance(nprocs, Autoscale) else None
        self.nprocs = nprocs.start if isinstance(nprocs, Autoscale) else nprocs

    def _check(self) -> None:
        if not isinstance(self.handler, BaseTaskHandler):
            raise ConfigurationError(
                f"FlowStep needs an instance of a BaseTaskHandler subclass, got {self.handler!r}"
                + ("; did you forget the parentheses?" if isinstance(self.handler, type) else "")
            )
        name = type(self.handler).__name__
        check_methods(name, self.handler)
        # Not checked when the class is made: it may be a common base of handlers.
        if getattr(self.handler.handle, "__func__", None) is BaseTaskHandler.handle:
            raise ConfigurationError(f"{name} has no method `handle`; define `def handle(self, *tasks)` in it")
        if self.worker is not None and not isinstance(self.worker, WorkerOptions):
            raise ConfigurationError(f"the step with {name} needs WorkerOptions as worker, {got(self.worker)}")
        self._check_form(name, form_of(self.handler))
        if self.placement is not None:
            self._check_placed(name)
        self._check_batches(name)
        self._check_coalescing(name)
        if not callable(self.handle_condition):
            raise ConfigurationError(f"handle_condition of the step with {name} is not callable")
        if inspect.iscoroutinefunction(self.handle_condition):
            raise ConfigurationError(
                f"handle_condition of the step with {name} is declared with `async def`, but it is called as an "
                "ordinary function, so it would be true for every task; write `def`"
            )
        local = local_function(self.handle_condition)
        if local:
            raise ConfigurationError(
                f"handle_condition of the step with {name} is {local}, which cannot be sent to a worker process; "
                "define a function at the top level of a module"
            )
        if self.name is not None and not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ConfigurationError(
                f"the step with {name} needs a name of letters (a to z), digits, '_', '-' and '.', {got(self.name)}"
            )
        for parameter in ("nprocs", "batch_size", "concurrency", "max_tasks", "max_memory_growth"):
            value = getattr(self, parameter)
            if value is not None and value < 1:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 1, got {value}")
        if isinstance(self.batch_timeout, str) and self.batch_timeout != "auto":
            raise ConfigurationError(
                f"the step with {name} needs a number of seconds or 'auto' as batch_timeout, got {self.batch_timeout!r}"
            )
        for parameter in ("batch_timeout", "max_retries", "max_tasks_jitter", "busy_poll"):
            value = getattr(self, parameter)
            if value != "auto" and value < 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 0, got {value}")
        for parameter in ("handle_timeout", "check_timeout", "max_age"):
            value = getattr(self, parameter)
            if value is not None and value <= 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} > 0, got {value}")

    def _check_batches(self, name: str) -> None:
        """Refuse keys and costs of batches that cannot work."""
        if self.batch_key is not None:
            check_key(f"batch_key of the step with {name}", self.batch_key)
        if self.batch_cost is not None and not isinstance(self.batch_cost, Cost):
            raise ConfigurationError(
                f'the step with {name} needs a Cost as batch_cost, such as Cost("tokens", limit=16_384), '
                f"{got(self.batch_cost)}"
            )
        if self.batch_key is not None and self.continuous:
            raise ConfigurationError(
                f"the step with {name} is continuous, so tasks of all keys join one call: leave out batch_key"
            )
        for parameter in ("batch_key", "batch_cost"):
            if getattr(self, parameter) is not None and form_of(self.handler).yields:
                raise ConfigurationError(
                    f"{name}.handle has a `yield`, so each task has a call of its own: leave out {parameter}"
                )

    def _check_coalescing(self, name: str) -> None:
        """Refuse a key of runs that cannot work."""
        if self.coalesce_key is None:
            return
        check_key(f"coalesce_key of the step with {name}", self.coalesce_key)
        if self.max_retries == 0:
            raise ConfigurationError(
                f"the step with {name} has max_retries=0, which says that each task must run, and once only; with "
                "coalesce_key tasks share a run, so leave out one of the two"
            )

    def _check_placed(self, name: str) -> None:
        """Refuse options that concern the process on this machine, where the handler does not run."""
        for parameter in ("busy_poll", "max_memory_growth"):
            if getattr(self, parameter):
                raise ConfigurationError(
                    f"the step with {name} has {parameter}, which concerns a process of this machine, and a placement "
                    f"on another one: leave out {parameter}"
                )

    def _check_form(self, name: str, form: HandlerForm) -> None:
        """Refuse options that the form of ``handle`` cannot have."""
        if form.yields and self.batch_size != 1:
            raise ConfigurationError(
                f"{name}.handle has a `yield`, which needs batch_size=1, got {self.batch_size}: of a batch it would "
                "not be known to which task a value belongs; send its items with task.emit(item)"
            )
        if self.continuous and form is not HandlerForm.PLAIN:
            raise ConfigurationError(
                f"continuous=True needs a plain `def handle(self, *tasks)` with self.rounds(tasks), and {name}.handle "
                f"{'has a `yield`' if form.yields else 'is declared with `async def`'}: its calls run side by side "
                "anyway, up to `concurrency` of them"
            )
        if form.is_async and self.busy_poll:
            raise ConfigurationError(
                f"busy_poll is not for {name}.handle, which is declared with `async def`: its event loop sleeps until "
                "there is something to do"
            )
        if self.continuous and self.batch_timeout:
            raise ConfigurationError(
                f"the step with {name} is continuous, so a task never waits for a batch: leave out batch_timeout"
            )
        if form is HandlerForm.PLAIN and (self.concurrency or 1) != 1:
            raise ConfigurationError(
                f"concurrency={self.concurrency} needs a generator or `async def`, and {name}.handle is neither: "
                + (
                    "batch_size says how many tasks a continuous call has at once"
                    if self.continuous
                    else "a worker makes one of its calls after the other; use nprocs"
                )
            )

    def __repr__(self) -> str:
        return (
            f"FlowStep({type(self.handler).__name__}, nprocs={self.autoscale or self.nprocs}, "
            f"batch_size={self.batch_size}, batch_timeout={self.batch_timeout}"
            + (f", name={self.name!r})" if self.name is not None else ")")
        )


Branch = FlowStep | BaseTaskHandler | tuple[Any, ...]
"""A branch of a group: a step, or a tuple of several, in which there may be groups again."""

Part = FlowStep | BaseTaskHandler | Sequence[Branch]
"""What a flow is declared with: a step; or a list of branches that run side by side."""
