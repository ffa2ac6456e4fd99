"""What a worker does: it loads the model, and makes a prediction for each request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from ..exceptions import ConfigurationError, InvalidArgument, got
from ..handler import BaseTaskHandler
from ..params import Header, RawUpload
from ..task import BaseTask
from .accept import accepted
from .contract import Contract, check_acceptable
from .plugins import HookManager, PlugIn


class Invocation(BaseTask):
    """A request for a prediction.

    Args:
        body: The body; None if it is empty.
        content_type: The header Content-Type.
        accept: The headers Accept.

    Attributes:
        body: As given, until there is an answer.
        content_type: As given.
        accept: As one header; empty without one.
        answer: The prediction as bytes.
        media_type: The media type of the answer.
    """

    def __init__(
        self,
        body: RawUpload | None = None,
        content_type: Annotated[str | None, Header()] = None,
        accept: Annotated[tuple[str, ...], Header()] = (),
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.accept = ",".join(accept)
        self.answer = b""
        self.media_type = ""


class Inquiry(BaseTask):
    """Asks a worker what its hooks declare.

    Attributes:
        contract: What they declare.
    """

    contract: Contract

    def __init__(self) -> None:
        pass


class ModelHandler(BaseTaskHandler):
    """Calls the hooks of a model.

    Args:
        plugin: Where the hooks come from.
        model_dir: Where the files of the model are.
        default_accept: The media types for a client that accepts any.
        takes_lists: Whether `predict_fn` gets a list of inputs.
    """

    _manager: HookManager
    _model: Any

    def __init__(self, plugin: PlugIn, model_dir: str, default_accept: str, takes_lists: bool) -> None:
        self._plugin = plugin
        self._model_dir = model_dir
        self._default_accept = default_accept
        self._takes_lists = takes_lists

    def on_start(self) -> None:
        """Import the hooks and load the model.

        Raises:
            ConfigurationError: There are no such hooks.
        """
        self._manager = self._plugin.load()
        self._model = self._manager.hook.model_fn(model_dir=self._model_dir)

    def check(self) -> bool:
        """Return what `ping_fn` says."""
        return bool(self._manager.hook.ping_fn(model=self._model))

    def handle(self, *tasks: Invocation | Inquiry) -> None:
        """Make the predictions of a batch; a request that is refused does not fail the others."""
        pairs: list[tuple[Invocation, Any]] = []
        for task in tasks:
            if isinstance(task, Inquiry):
                task.contract = Contract.of(self._manager)
                continue
            try:
                pairs.append((task, self._read(task)))
            except Exception as exc:
                task.fail(exc)
        if pairs:
            predictions = self._predict([data for _, data in pairs])
            for (task, _), prediction in zip(pairs, predictions, strict=True):
                try:
                    self._write(task, prediction)
                except Exception as exc:
                    task.fail(exc)

    def _read(self, task: Invocation) -> Any:
        body = b"" if task.body is None else bytes(task.body)
        return self._manager.hook.input_fn(input_data=body, content_type=task.content_type)

    def _predict(self, inputs: list[Any]) -> Sequence[Any]:
        predict, model = self._manager.hook.predict_fn, self._model
        if not self._takes_lists:
            return [predict(data=data, model=model) for data in inputs]
        found: Any = predict(data=inputs, model=model)
        if not hasattr(found, "__len__") or isinstance(found, str | bytes | dict) or len(found) != len(inputs):
            raise ConfigurationError(
                f"predict_fn must return one prediction for each of {len(inputs)} inputs, as a list, since the service "
                f"has a batch_size, {got(found)}"
            )
        predictions: Sequence[Any] = found
        return predictions

    def _write(self, task: Invocation, prediction: Any) -> None:
        accept = accepted(task.accept, self._default_accept)
        found: Any = self._manager.hook.output_fn(prediction=prediction, accept=accept)
        match found:
            case (str() | bytes() | bytearray() | memoryview() as answer, str(media_type)):
                check_acceptable([media_type], accept)
            case _:
                raise InvalidArgument(f"output_fn must return bytes and their media type, {got(found)}")
        if isinstance(answer, str):
            answer = answer.encode()
        task.answer, task.media_type, task.body = bytes(answer), media_type, None
