"""Makes a flow of one step, with the options of both."""

from __future__ import annotations

from .exceptions import ConfigurationError
from .flow import Flow
from .function_options import FunctionOptions, split_options
from .handler import BaseTaskHandler
from .step import FlowStep


def make_flow(maker: str, handler: BaseTaskHandler, batch_size: int, options: FunctionOptions) -> Flow:
    """Make a flow of one step.

    Args:
        maker: What makes it, in messages.
        handler: The handler of the step.
        batch_size: As for `FlowStep`.
        options: The other options; ``name`` is the name of the flow and of the step.

    Raises:
        InvalidArgument: There is no such option.
        ConfigurationError: An option cannot work.
    """
    name = options["name"]
    of_step, of_flow = split_options(maker, options)
    try:
        step = FlowStep(handler, batch_size=batch_size, name=name, **of_step)
        return Flow(step, name=name, **of_flow)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{name} cannot run in workers as declared: {exc}") from exc
