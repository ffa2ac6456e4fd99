"""Calls of functions with models that each worker has loaded, as tasks, and the handler that makes them in a worker."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from .call import Call, Callee, find_function, give_results
from .exceptions import ConfigurationError, InvalidArgument, UnknownModel, got
from .handler import BaseTaskHandler
from .travel import local_function


class ModelCall(Call):
    """A call of a function with one of the models: as `Call`, with the function by reference.

    Args:
        model: Name of the model.
        function: The function.
        args: Its other positional arguments.
        kwargs: Its keyword arguments.
        is_batched: Whether the function gets a list, of which the argument is an element.
    """

    def __init__(
        self,
        model: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        is_batched: bool = False,
    ) -> None:
        super().__init__(args, kwargs)
        fields = self.__dict__
        fields["model"] = model
        fields["function"] = function
        fields["is_batched"] = is_batched

    def take_function(self) -> tuple[str, Callable[..., Any], bool]:
        """Return model, function and ``is_batched``, and remove them from the task, so that they do not travel back."""
        found = (self.model, self.function, self.is_batched)
        del self.model, self.function, self.is_batched
        return found

    model: str
    function: Callable[..., Any]
    is_batched: bool


class ModelHandler(BaseTaskHandler):
    """Loads models, and calls functions with them.

    Args:
        loaders: Loads each model, by its name.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]) -> None:
        self._loaders = loaders
        self._models: dict[str, Any] = {}

    def __reduce__(self) -> Any:
        return type(self), (dict(self._loaders),)

    def on_start(self) -> Awaitable[None] | None:
        """Call the loaders."""
        found = {name: _load(name, loader) for name, loader in self._loaders.items()}
        if any(inspect.isawaitable(model) for model in found.values()):
            return self._await(found)
        self._keep(found)
        return None

    async def _await(self, found: Mapping[str, Any]) -> None:
        self._keep({name: await model if inspect.isawaitable(model) else model for name, model in found.items()})

    def _keep(self, models: dict[str, Any]) -> None:
        for name, model in models.items():
            if model is None:
                raise ConfigurationError(
                    f"the loader of the model {name!r} returned None; it must return what functions get as their first "
                    "argument"
                )
        self._models = models

    def handle(self, *calls: ModelCall) -> None:
        """Call the functions: those with lists once for all calls of the same function with the same model."""
        groups: dict[tuple[str, Callable[..., Any]], list[ModelCall]] = {}
        single: list[tuple[ModelCall, Any, Callable[..., Any]]] = []
        for call in calls:
            name, function, is_batched = call.take_function()
            if name not in self._models:  # the caller has another version of the pool
                call.fail(unknown_model(name, self._models))
            elif is_batched:
                groups.setdefault((name, function), []).append(call)
            else:
                single.append((call, self._models[name], function))
        # The groups first: if one raises, all calls run again alone, and those without a list have not run yet.
        for (name, function), group in groups.items():
            arguments = [call.take_arguments()[0][0] for call in group]
            give_results(Callee(function, None), group, function(self._models[name], arguments))
        for call, model, function in single:
            args, kwargs = call.take_arguments()
            try:
                call.result = function(model, *args, **kwargs)
            except Exception as exc:
                if len(calls) == 1:
                    raise
                call.fail(exc)  # not raised, so that the others do not run again


def _load(name: str, loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except BaseException as exc:
        exc.add_note(f"This was the loader of the model {name!r}.")
        raise


def unknown_model(name: object, known: Mapping[str, Any]) -> UnknownModel:
    """Return the error for a name that no model has."""
    return UnknownModel(f"there is no model {name!r}; the pool has: {', '.join(known)}")


def checked_loaders(models: Any) -> dict[str, Callable[[], Any]]:
    """Check the loaders of a pool.

    Raises:
        InvalidArgument: They are no mapping of names to functions.
        ConfigurationError: There are none, or workers could not import one.
    """
    if not isinstance(models, Mapping):
        raise InvalidArgument(f"ModelPool needs a dict of names and loaders, {got(models)}")
    if not models:
        raise ConfigurationError("ModelPool needs at least one model")
    for name, loader in models.items():
        if not isinstance(name, str) or not name:
            raise InvalidArgument(f"ModelPool needs names that are strings, {got(name)}")
        if not callable(loader):
            raise InvalidArgument(f"the loader of the model {name!r} must be a function, {got(loader)}")
        if local := local_function(loader):
            raise ConfigurationError(
                f"the loader of the model {name!r} is {local}, which no other process can import; define a function at "
                "the top level of a module, and pass its arguments with functools.partial"
            )
    return dict(models)


def check_function(function: Any) -> None:
    """Check that workers find a function by its name, and that it is called and not awaited.

    Raises:
        InvalidArgument: It is no function, or one whose calls run side by side.
        ConfigurationError: Workers could not import it.
    """
    if isinstance(getattr(function, "callee", None), Callee):
        raise InvalidArgument(
            f"{function.__qualname__} is decorated with in_worker, so it has workers of its own: call it, or give the "
            "pool a function without the decorator"
        )
    if not callable(function) or isinstance(function, type) or not isinstance(_name_of(function), str):
        advice = "; pass the arguments in the call" if isinstance(function, functools.partial) else ""
        raise InvalidArgument(f"a pool calls a function of a module, {got(function)}{advice}")
    name = _name_of(function)
    if local := local_function(function):
        raise ConfigurationError(
            f"the pool got {local}, which no other process can import; define a function at the top level of a module"
        )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        kind = "`async def`" if inspect.iscoroutinefunction(function) else "a generator"
        raise InvalidArgument(
            f"{name} is {kind}, and a worker of a pool makes one call after the other; in_worker runs such functions"
        )
    if inspect.isasyncgenfunction(function):
        raise InvalidArgument(f"{name} is an asynchronous generator, which a pool does not run; in_worker does")
    if find_function(function) is not function:
        raise ConfigurationError(
            f"{function.__module__}.{name} is another object than the function, so workers would not find it by this "
            "name; a method of an object and a decorated function under its old name are such"
        )


def _name_of(function: Any) -> Any:
    return getattr(function, "__qualname__", None)
