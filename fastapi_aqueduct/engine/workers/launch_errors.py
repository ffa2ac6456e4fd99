"""The errors for a start that has failed before there was a worker."""

from __future__ import annotations

from ...exceptions import StartError


def launch_error(flow: str, step: str, failure: BaseException) -> StartError:
    """Return the error for a worker that has no process, or none that can be watched.

    Args:
        flow: Name of the flow.
        step: Name of the step.
        failure: The exception.
    """
    message = f"a worker of {step} in flow {flow} could not be started: {type(failure).__name__}: {failure}"
    error = StartError(message, step=step)
    error.__cause__ = failure
    return error


def template_error(flow: str, failure: BaseException) -> StartError:
    """Return the error for a template that has no process.

    Args:
        flow: Name of the flow.
        failure: The exception.
    """
    error = StartError(f"the template of flow {flow} could not be started: {type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error


def memory_error(flow: str, failure: OSError) -> StartError:
    """Return the error for a flow for which the system has no shared memory or descriptors.

    Args:
        flow: Name of the flow.
        failure: The exception.
    """
    error = StartError(
        f"flow {flow} could not be started: the system gives it no shared memory or no descriptor for it: {failure}"
    )
    error.__cause__ = failure
    return error
