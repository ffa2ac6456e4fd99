"""`ModelPool`: workers that have loaded several models, and call any function with one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar, Unpack, cast

from .engine.options import DEFAULT_CALL_TIMEOUT
from .engine.scheduling.queue import level_of
from .exceptions import InvalidArgument, QueueFull, TaskNotPicklable, UsageError
from .flow import FlowState
from .function_options import FunctionOptions
from .model_call import ModelCall, ModelHandler, check_function, checked_loaders, unknown_model
from .one_step import make_flow
from .worker_function import CallOptions, InWorkers

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")


class ModelPool(InWorkers):
    """Worker processes that have loaded several models; each call says which function runs with which of them.

        pool = ModelPool({"sentiment": load_sentiment, "ocr": load_ocr}, nprocs=4)
        app = FastAPI(lifespan=Aqueduct(pool).lifespan)

        def score(model: Sentiment, text: str) -> float:        # at the top level of a module
            return model.predict(text)

        @app.post("/score")
        async def rate(text: str) -> float:
            return await pool.call("sentiment", score, text)

    Every worker loads every model, once and before it gets calls; a call goes to any worker that is free. Functions
    travel by reference: workers import them by module and name. What a function needs besides, such as a client of a
    database, the loader returns together with the model. One function with one model is simpler with `in_worker`, and
    models that need processes of their own are several pools.

    Args:
        models: The loader of each model, by its name: a function at the top level of a module, or a
            ``functools.partial`` of one. It may be ``async def``. What it returns is the first argument of functions.
        batch_size: The most calls that a worker gets together, for `call_batched`.
        timeout_sec: Seconds in which a result must come. See `with_options` for single calls.
        **options: As for `FlowStep` and `Flow`, such as ``nprocs`` and ``queue_size``. ``name`` is the name of the flow
            and of its step; default: ``"models"``.

    Attributes:
        flow: The flow of one step that makes the calls; for its state, statistics, start and stop.
        models: The loaders, as given.

    Raises:
        InvalidArgument: ``models`` is no mapping of names to functions, or there is no such option.
        ConfigurationError: Workers could not import a loader, or an option cannot work.
    """

    def __init__(
        self,
        models: Mapping[str, Callable[[], Any]],
        *,
        batch_size: int = 1,
        timeout_sec: float = DEFAULT_CALL_TIMEOUT,
        **options: Unpack[FunctionOptions],
    ) -> None:
        self.models: Mapping[str, Callable[[], Any]] = checked_loaders(models)
        flow = make_flow("ModelPool", ModelHandler(self.models), batch_size, {"name": "models", **options})
        flow._configuration.declare_timeout(timeout_sec)
        super().__init__(flow, CallOptions())
        self._waits_if_full = True
        self._known: set[Callable[..., Any]] = set()

    async def call(
        self, model: str, function: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function with a model, in a worker.

        Args:
            model: Name of the model.
            function: The function, which is at the top level of a module. Its first argument is the model.
            *args: Its other arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The result of the function.

        Raises:
            UnknownModel: The pool has no model of this name.
            InvalidArgument: ``function`` is no function, or one that is ``async def`` or has a ``yield``.
            ConfigurationError: Workers could not import it: a lambda, or a function inside another one.
            UsageError: The workers were not started.
            QueueFull: The queue is full, and the call is not to wait.
            TaskNotPicklable: An argument or the result cannot be sent to another process.
            Exception: As for `Flow.process`, such as `WorkerDied`; and what the function has raised, with the worker's
                traceback as its cause.

        A cancellation withdraws the call: it does not run unless a worker has begun it.
        """
        return cast(R, await self._process(self._made(model, function, args, kwargs)))

    def call_blocking(
        self, model: str, function: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function with a model, from a thread in which no event loop runs; see `Flow.process_blocking`.

        Args:
            model: As for `call`.
            function: As for `call`.
            *args: As for `call`.
            **kwargs: As for `call`.

        Returns:
            As `call`.

        Raises:
            BlockingCallError: An event loop runs in this thread.
            Exception: As for `call`.
        """
        return cast(R, self._process_blocking(self._made(model, function, args, kwargs)))

    async def call_batched(
        self, model: str, function: Callable[[Any, list[A]], Collection[R]], argument: A, /
    ) -> R:
        """Call a function with a model and a list, of which the argument is an element.

        Calls of the same function with the same model that a worker gets together, up to ``batch_size``, are one call
        of the function. If it raises, each of them runs once more, alone.

        Args:
            model: As for `call`.
            function: Gets the model and a list of arguments, and returns a list with one result for each.
            argument: The argument of this call.

        Returns:
            The result for this argument.

        Raises:
            ConfigurationError: As for `call`, or the function returned another number of results.
            Exception: As for `call`.
        """
        return cast(R, await self._process(self._made(model, function, [argument], {}, is_batched=True)))

    def call_batched_blocking(
        self, model: str, function: Callable[[Any, list[A]], Collection[R]], argument: A, /
    ) -> R:
        """Make a call as `call_batched` does, from a thread in which no event loop runs.

        Args:
            model: As for `call`.
            function: As for `call_batched`.
            argument: As for `call_batched`.

        Returns:
            As `call_batched`.

        Raises:
            BlockingCallError: An event loop runs in this thread.
            Exception: As for `call_batched`.
        """
        return cast(R, self._process_blocking(self._made(model, function, [argument], {}, is_batched=True)))

    def with_options(
        self, *, timeout_sec: float | None = None, priority: int | None = None, wait_if_full: bool | None = None
    ) -> Self:
        """Return this pool with other options: ``await pool.with_options(timeout_sec=30).call("ocr", read, page)``.

        Args:
            timeout_sec: Seconds in which the result must come; default: as before.
            priority: Priority of the calls, from 0 to ``queue_priorities - 1``; default: as before.
            wait_if_full: Whether a call waits for a place while the queue is full, for ``timeout_sec`` at most; if not,
                it raises `QueueFull` at once. Of calls that several threads or processes make at the same moment, for
                one place, one may wait nevertheless. Default: as before, at first True.
        """
        given: dict[str, Any] = {"timeout_sec": timeout_sec, "priority": priority}
        other = copy.copy(self)
        other.options = replace(self.options, **{key: value for key, value in given.items() if value is not None})
        if wait_if_full is not None:
            other._waits_if_full = wait_if_full
        return other

    def _made(
        self,
        model: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        is_batched: bool = False,
    ) -> ModelCall:
        if not isinstance(model, str) or model not in self.models:
            raise unknown_model(model, self.models)
        try:
            is_known = function in self._known
        except TypeError:  # not hashable, so no function
            is_known = False
        if not is_known:
            check_function(function)
            self._known.add(function)
        if self.flow.state is FlowState.STOPPED:
            raise UsageError(
                f"the pool {self.flow.name} was called, and its workers are not started: give it to the application, "
                "FastAPI(lifespan=Aqueduct(pool).lifespan), or use `async with pool.flow`; in a worker, and in this "
                "process, call the function itself"
            )
        if not self._waits_if_full:
            self._refuse_if_full()
        call = ModelCall(model, function, args, kwargs, is_batched)
        if self.options.priority:
            call.set_priority(self.options.priority)
        return call

    async def _process(self, call: ModelCall) -> Any:
        name = call.function.__qualname__
        try:
            await self.flow.process(call, self.timeout_sec)
        except TaskNotPicklable as exc:
            raise TaskNotPicklable(f"{name}(): {exc}") from exc
        return call.result

    def _process_blocking(self, call: ModelCall) -> Any:
        name = call.function.__qualname__
        try:
            self.flow.process_blocking(call, self.timeout_sec)
        except TaskNotPicklable as exc:
            raise TaskNotPicklable(f"{name}(): {exc}") from exc
        return call.result

    def _refuse_if_full(self) -> None:
        # From the statistics, which any thread can read. In the event loop of the flow the call takes its place before
        # anything else runs; elsewhere another one may take the last place meanwhile, and is waited for.
        (step,) = self.flow.statistics().steps
        levels = step.queued_by_priority or (step.queued,)
        queued = levels[level_of(self.options.priority, len(levels))]
        size = self.flow._configuration.options.queue_size
        if queued >= size:
            raise QueueFull(f"the queue of the pool {self.flow.name} is full: {queued} calls wait, queue_size={size}")

    def __reduce__(self) -> NoReturn:
        raise InvalidArgument(
            f"the pool {self.flow.name} cannot be sent to another process: its workers answer the process that has "
            "started it"
        )

    def __repr__(self) -> str:
        return f"<ModelPool {self.flow.name}: {', '.join(self.models)}>"
