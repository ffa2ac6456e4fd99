"""`in_worker`: one function as a flow of one step."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from .call import Callee, handler_for
from .engine.options import DEFAULT_CALL_TIMEOUT
from .exceptions import ConfigurationError, InvalidArgument, got
from .function_options import FunctionOptions
from .handler import form_of
from .one_step import make_flow
from .travel import local_function
from .worker_function import CallOptions, StreamingFunction, WorkerFunction

P = ParamSpec("P")
A = TypeVar("A")
M = TypeVar("M")
R = TypeVar("R")


class PlainDecorator(Protocol):
    """What ``in_worker(...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[P, AsyncIterator[R]], /
    ) -> StreamingFunction[P, R, Callable[P, AsyncIterator[R]]]: ...
    @overload
    def __call__(self, function: Callable[P, Iterator[R]], /) -> StreamingFunction[P, R, Callable[P, Iterator[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> WorkerFunction[P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> WorkerFunction[P, R, Callable[P, R]]: ...


class LoadingDecorator(Protocol[M]):
    """What ``in_worker(load=...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[M, P], AsyncIterator[R]], /
    ) -> StreamingFunction[P, R, Callable[Concatenate[M, P], AsyncIterator[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[M, P], Iterator[R]], /
    ) -> StreamingFunction[P, R, Callable[Concatenate[M, P], Iterator[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[M, P], Coroutine[Any, Any, R]], /
    ) -> WorkerFunction[P, R, Callable[Concatenate[M, P], Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[M, P], R], /
    ) -> WorkerFunction[P, R, Callable[Concatenate[M, P], R]]: ...


class BatchDecorator(Protocol):
    """What ``in_worker(batch_size=...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, Collection[R]]], /
    ) -> WorkerFunction[[A], R, Callable[[list[A]], Coroutine[Any, Any, Collection[R]]]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A]], list[R]], /
    ) -> WorkerFunction[[A], R, Callable[[list[A]], list[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A]], Collection[R]], /
    ) -> WorkerFunction[[A], R, Callable[[list[A]], Collection[R]]]: ...


class LoadingBatchDecorator(Protocol[M]):
    """What ``in_worker(load=..., batch_size=...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[[M, list[A]], Coroutine[Any, Any, Collection[R]]], /
    ) -> WorkerFunction[[A], R, Callable[[M, list[A]], Coroutine[Any, Any, Collection[R]]]]: ...
    @overload
    def __call__(
        self, function: Callable[[M, list[A]], list[R]], /
    ) -> WorkerFunction[[A], R, Callable[[M, list[A]], list[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[[M, list[A]], Collection[R]], /
    ) -> WorkerFunction[[A], R, Callable[[M, list[A]], Collection[R]]]: ...


@overload
def in_worker(function: Callable[P, AsyncIterator[R]], /) -> StreamingFunction[P, R, Callable[P, AsyncIterator[R]]]: ...
@overload
def in_worker(function: Callable[P, Iterator[R]], /) -> StreamingFunction[P, R, Callable[P, Iterator[R]]]: ...
@overload
def in_worker(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> WorkerFunction[P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
@overload
def in_worker(function: Callable[P, R], /) -> WorkerFunction[P, R, Callable[P, R]]: ...
@overload
def in_worker(
    *, load: Callable[[], Awaitable[M]], batch_size: int, timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]
) -> LoadingBatchDecorator[M]: ...
@overload
def in_worker(
    *, load: Callable[[], M], batch_size: int, timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]
) -> LoadingBatchDecorator[M]: ...
@overload
def in_worker(*, batch_size: int, timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]) -> BatchDecorator: ...
@overload
def in_worker(
    *, load: Callable[[], Awaitable[M]], timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]
) -> LoadingDecorator[M]: ...
@overload
def in_worker(
    *, load: Callable[[], M], timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]
) -> LoadingDecorator[M]: ...
@overload
def in_worker(*, timeout_sec: float = 5.0, **options: Unpack[FunctionOptions]) -> PlainDecorator: ...
def in_worker(
    function: Callable[..., Any] | None = None,
    /,
    *,
    load: Callable[[], Any] | None = None,
    batch_size: int | None = None,
    timeout_sec: float = DEFAULT_CALL_TIMEOUT,
    **options: Unpack[FunctionOptions],
) -> Any:
    """Run the calls of a function in worker processes.

        @in_worker(load=load_model, nprocs=2, batch_size=16, batch_timeout="auto")
        def stars(model: Model, texts: list[str]) -> list[int]:
            return model.predict(texts)

        app = FastAPI(lifespan=Aqueduct(stars).lifespan)

        @app.post("/stars")
        async def rate(text: str) -> int:
            return await stars(text)            # calls of many requests form batches

    A generator function streams: ``async for token in generate.stream(text)``. Calls of an ``async def`` function run
    side by side in the event loop of a worker, up to ``concurrency`` of them. Arrays, `bytes` and memoryviews travel in
    shared memory, and arrive read-only.

    Args:
        function: The function, where the decorator has no options: ``@in_worker``. Workers import it by its name, so
            it is defined at the top level of a module.
        load: Called once in each worker; what it returns is the first argument of the function. May be ``async def``.
        batch_size: The most calls that are answered together. The function then gets a list, and returns a list with
            one result for each element; a call has one argument. Default: a call of the function for each call.
        timeout_sec: Seconds in which a result must come; of a stream, its first item. See
            `WorkerFunction.with_options` for single calls.
        **options: As for `FlowStep` and `Flow`, such as ``nprocs`` and ``queue_size``. ``name`` is the name of the
            flow and of its step; default: that of the function.

    Returns:
        A `WorkerFunction`; of a generator function, a `StreamingFunction`.

    Raises:
        InvalidArgument: ``function`` is no function, or there is no such option.
        ConfigurationError: Workers could not import the function, or an option cannot work.
    """

    def decorate(function: Callable[..., Any]) -> WorkerFunction[Any, Any, Any]:
        callee = Callee(_checked_function(function), _checked_load(load))
        handler = handler_for(callee, batch_size is not None)
        named: FunctionOptions = {"name": function.__name__, **options}
        flow = make_flow("in_worker", handler, 1 if batch_size is None else batch_size, named)
        flow._configuration.declare_timeout(timeout_sec)
        kind = StreamingFunction if form_of(handler).yields else WorkerFunction
        made: WorkerFunction[Any, Any, Any] = kind(callee, flow, CallOptions(), batch_size is not None)
        if kind is WorkerFunction and batch_size is None:
            _show_signature(made)
        return made

    return decorate if function is None else decorate(function)


def _checked_function(function: Any) -> Callable[..., Any]:
    name = getattr(function, "__qualname__", None)
    if not callable(function) or isinstance(function, type | WorkerFunction) or not isinstance(name, str):
        raise InvalidArgument(f"in_worker needs a function, {got(function)}")
    if local := local_function(function):
        raise ConfigurationError(
            f"in_worker got {local}, which no other process can import; define a function at the top level of a module"
        )
    return cast(Callable[..., Any], function)


def _checked_load(load: Any) -> Callable[[], Any] | None:
    if load is None or callable(load):
        return cast(Callable[[], Any] | None, load)
    raise InvalidArgument(f"load must be a function, which each worker calls, {got(load)}")


def _show_signature(made: WorkerFunction[Any, Any, Any]) -> None:
    """Give a function the signature of its calls, so that FastAPI can call it as an endpoint or a dependency."""
    try:
        signature = inspect.signature(made.local, eval_str=True)
    except (NameError, AttributeError, TypeError, ValueError):
        return  # names for the type checker only, or a function of C
    parameters = list(signature.parameters.values())[made.callee.load is not None :]
    made.__signature__ = signature.replace(parameters=parameters)
