"""Fields of a task that an endpoint sets beside those that come from the request."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from ...exceptions import ConfigurationError
from ...params import TaskField
from ...task import BaseTask

PRIORITY = "priority"
"""The field that is checked when it is set."""


def task_fields_in(signature: inspect.Signature) -> tuple[str, ...]:
    """Return the names of the parameters of a function that are fields of its task.

    Args:
        signature: Its signature, with evaluated annotations.
    """
    return tuple([name for name, item in signature.parameters.items() if is_task_field(item)])


def is_task_field(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter has the mark `TaskField`."""
    annotation = parameter.annotation
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    if get_origin(annotation) is not Annotated:
        return False
    return any(isinstance(item, TaskField) or item is TaskField for item in get_args(annotation)[1:])


def check_task_fields(owner: str, names: Iterable[str], in_form: Iterable[str]) -> None:
    """Refuse fields that an endpoint cannot set.

    Args:
        owner: Name of the function.
        names: The fields.
        in_form: The parameters of the function that come from a form beside an upload.

    Raises:
        ConfigurationError: The field.
    """
    for name in names:
        hidden = BaseTask.__dict__.get(name)
        if callable(hidden) or isinstance(hidden, property):
            raise ConfigurationError(
                f"{owner}: a field of a task cannot have the name `{name}`, which is that of BaseTask.{name}: rename it"
            )
        if name in in_form:
            raise ConfigurationError(
                f"{owner}: {name} is a field of a form, which is read after the task is admitted, so it cannot have "
                "TaskField(): take it from a header, the query, the path or a dependency"
            )


def set_field(task: BaseTask, name: str, value: Any) -> None:
    """Set a field of a task.

    Raises:
        ConfigurationError: It is the priority, and no integer.
    """
    if name == PRIORITY:
        task.set_priority(value)
    else:
        setattr(task, name, value)
